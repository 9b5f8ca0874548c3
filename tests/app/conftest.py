from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bokehdiff.app import Equipment, Places, Session
from tests.app.driving import DESKTOP, bring_depth, serving, visit
from tests.app.scenes import two_halves

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
    with serving(tmp_path_factory.mktemp("app"), ["--max-upload-mb", "2", "--max-megapixels", "4"]) as place:
        yield place


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
    yield visit(context, served[0], requested)
    context.close()


@pytest.fixture
def halves(page, tmp_path):
    """The page with the two halves open, and their map."""
    photograph, disparity = two_halves(tmp_path, size_hw=(480, 720))
    page.set_input_files("#top input[type=file]", photograph)
    page.wait_for_selector("#stage img")
    bring_depth(page, disparity)
    return page
