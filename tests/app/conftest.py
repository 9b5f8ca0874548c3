from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bokehdiff.app import Equipment, Places, Session
from tests.app.driving import DESKTOP, PATIENCE_MS, bring_depth
from tests.app.scenes import two_halves
from tests.helpers import REPOSITORY

CHROMIUM = os.environ.get("BOKEHDIFF_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def places(tmp_path):
    places = Places.under(tmp_path / "results")
    yield places
    places.remove_passing()


@pytest.fixture
def session(places):
    return Session(Equipment(places))


@pytest.fixture
def opened(session, tmp_path):
    photograph, disparity = two_halves(tmp_path)
    session.open(photograph, disparity=disparity)
    return session


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The page's address and the folder of its results; the program is `bokehdiff app`, as users start it."""
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("app")
    words = ["app", "--port", "0", "--disparity-model", "none", "--output-dir", str(folder / "results")]
    words += ["--max-upload-mb", "2", "--max-megapixels", "4"]
    passing = folder / "passing"
    passing.mkdir()
    program = subprocess.Popen(
        [sys.executable, "-m", "bokehdiff", *words], stdout=subprocess.PIPE, text=True,
        cwd=REPOSITORY, env={**os.environ, "TMPDIR": str(passing)},
    )  # fmt: skip
    try:
        found = re.search(r"http://\S+", program.stdout.readline())
        yield found[0], folder / "results"
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == 0
        assert not list(passing.iterdir())
    finally:
        program.kill()
        program.wait()
        program.stdout.close()


@pytest.fixture(scope="session")
def browser():
    """A Chromium; tests that want one are skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        if CHROMIUM is None and not Path(playwright.chromium.executable_path).is_file():
            pytest.skip("no Chromium: playwright install chromium, or apt install chromium")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def requested():
    """Addresses that the page has asked for."""
    return []


@pytest.fixture
def page(served, browser, requested):
    context = browser.new_context(viewport=DESKTOP, color_scheme="dark", accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.on("request", lambda request: requested.append(request.url))
    page.goto(served[0])
    page.wait_for_selector("#samples img")
    yield page
    context.close()


@pytest.fixture
def halves(page, tmp_path):
    """The page with the two halves open, and their map."""
    photograph, disparity = two_halves(tmp_path, size_hw=(480, 720))
    page.set_input_files("#top input[type=file]", photograph)
    page.wait_for_selector("#stage img")
    bring_depth(page, disparity)
    return page
