"""The page in a real browser: what a user sees, clicks and gets. Needs the extra browser and a Chromium."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.app.scenes import detail, two_halves
from tests.helpers import REPOSITORY

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")

pytestmark = [pytest.mark.browser]

CHROMIUM = os.environ.get("BOKEHDIFF_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE_MS = 60_000  # on a busy machine; a quiet one needs a second
DESKTOP, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The page's address and the folder of its results; the program is `bokehdiff app`, as users start it."""
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


@pytest.fixture(scope="module")
def browser():
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


def bring_depth(page, disparity: Path) -> None:
    before = source_of(page)
    page.click("#depth > button")
    page.set_input_files("#depth input[type=file]", disparity)
    page.locator("#depth").get_by_text(f"From {disparity.name}.").wait_for(state="attached")
    changed(page, before)


def source_of(page) -> str:
    return page.get_attribute("#stage img", "src")


def changed(page, before: str) -> str:
    """The address of the picture once it is another."""
    page.wait_for_function("before => document.querySelector('#stage img')?.src !== before", arg=before)
    return source_of(page)


def shown(page) -> torch.Tensor:
    """The picture that the page shows, as it came over the wire."""
    with Image.open(io.BytesIO(page.request.get(source_of(page)).body())) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float() / 255.0


def click_at(page, x_share: float, y_share: float = 0.5) -> None:
    """Click the picture and wait for the one that comes of it."""
    before = source_of(page)
    box = page.locator("#stage img").bounding_box()
    page.mouse.click(box["x"] + x_share * box["width"], box["y"] + y_share * box["height"])
    changed(page, before)


def set_slider(page, name: str, value: float) -> None:
    field = page.locator(f"#{name} input[type=number]")
    field.fill(str(value))
    field.press("Enter")
    field.press("Tab")


def number_of(page, name: str) -> float:
    return float(page.input_value(f"#{name} input[type=number]"))


def test_the_page_loads_and_asks_nobody_else(page, served, requested):
    assert page.title() == "bokehdiff"
    assert page.get_by_role("button", name="Open a photo").is_visible()
    assert page.get_by_role("button", name="Render").is_disabled()
    elsewhere = [url for url in requested if not url.startswith((served[0], "data:", "blob:"))]
    assert not elsewhere
    policy = page.request.get(served[0]).headers["content-security-policy"]
    assert "default-src 'self'" in policy


def test_a_click_moves_the_sharp_plane(halves):
    click_at(halves, 0.75)
    assert number_of(halves, "focus") == 0.0
    far = detail(shown(halves))
    click_at(halves, 0.25)
    assert number_of(halves, "focus") == 1.0
    near = detail(shown(halves))
    assert far[1] > 2 * far[0]
    assert near[0] > 2 * near[1]


def test_sliders_change_the_picture_and_keep_f_number_and_k_together(halves):
    click_at(halves, 0.25)
    before, strength = source_of(halves), number_of(halves, "strength")
    blurred = detail(shown(halves))[1]
    set_slider(halves, "f-number", 16)
    changed(halves, before)
    assert number_of(halves, "strength") == pytest.approx(strength * 1.8 / 16, rel=0.05)
    assert detail(shown(halves))[1] > 1.5 * blurred
    before = source_of(halves)
    set_slider(halves, "strength", strength)
    changed(halves, before)
    assert number_of(halves, "f-number") == pytest.approx(1.8, abs=0.05)


def test_the_keyboard_moves_the_focus(halves):
    click_at(halves, 0.25)
    before = source_of(halves)
    halves.focus("#focus input[type=range]")
    halves.keyboard.press("Home")
    changed(halves, before)
    assert number_of(halves, "focus") == 0.0
    left, right = detail(shown(halves))
    assert right > 2 * left


def test_views_show_the_photograph_its_depth_and_both(halves):
    click_at(halves, 0.25)
    before = source_of(halves)
    halves.get_by_label("Sharp", exact=True).check()
    before = changed(halves, before)
    left, right = detail(shown(halves))
    assert left == pytest.approx(right, rel=0.1)
    halves.get_by_label("Depth", exact=True).check()
    changed(halves, before)
    depth = shown(halves)
    assert depth[..., :100].mean() > depth[..., -100:].mean() + 0.3
    halves.get_by_label("Compare", exact=True).check()
    halves.wait_for_selector("#compare img")
    assert halves.locator("#compare img").count() == 2


def test_rendering_gives_a_download_with_the_settings(halves, served, tmp_path):
    click_at(halves, 0.25)
    before = source_of(halves)
    halves.click("#render")
    halves.wait_for_function("() => document.querySelector('#progress')?.innerText.includes('Rendered')")
    changed(halves, before)
    left, right = detail(shown(halves))
    assert left > 2 * right
    with halves.expect_download() as coming:
        halves.click("#download")
    coming.value.save_as(tmp_path / "got.jpg")
    with Image.open(tmp_path / "got.jpg") as picture:
        assert picture.size == (720, 480)
        said = yaml.safe_load(picture.info["comment"])
    assert said["renderer"] == "physical"
    assert said["focus_disparity"] == 1.0
    assert [file.suffix for file in served[1].glob("halves_K*")] == [".jpg"]


def test_a_rendering_can_be_cancelled(page, served, tmp_path):
    photograph, disparity = two_halves(tmp_path, size_hw=(1600, 2400))
    page.set_input_files("#top input[type=file]", photograph)
    page.wait_for_selector("#stage img")
    bring_depth(page, disparity)
    files = set(served[1].iterdir())
    page.click("#render")
    page.wait_for_selector("#progress progress")
    page.click("#cancel")
    page.wait_for_function("() => document.querySelector('#progress')?.innerText.includes('Cancelled')")
    assert page.locator("#render").is_enabled()
    assert page.locator("#cancel").is_disabled()
    assert set(served[1].iterdir()) == files


def test_a_broken_upload_is_told_in_a_sentence_and_the_page_goes_on(halves, tmp_path):
    click_at(halves, 0.25)
    still = source_of(halves)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0" + bytes(60))
    halves.set_input_files("#top input[type=file]", broken)
    halves.get_by_text("is not an image that can be read", exact=False).wait_for()
    assert "Traceback" not in halves.content()
    assert source_of(halves) == still
    click_at(halves, 0.75)
    assert number_of(halves, "focus") == 0.0


def test_what_is_too_large_is_told_in_a_sentence(page, tmp_path):
    large = tmp_path / "large.jpg"
    large.write_bytes(b"\xff\xd8\xff\xe0" + bytes(3 * 2**20))
    page.set_input_files("#top input[type=file]", large)
    page.get_by_text("exceeds", exact=False).first.wait_for()
    many = tmp_path / "many.png"
    Image.new("L", (3000, 2000)).save(many)
    page.set_input_files("#top input[type=file]", many)
    page.get_by_text("more than the limit", exact=False).wait_for()


def test_a_sample_opens_and_the_guess_is_called_one(page):
    page.click("#samples button[aria-label^='Thumbnail'] >> nth=-1")
    page.wait_for_selector("#stage img")
    page.click("#depth > button")
    assert page.get_by_text("A guess, from where things are", exact=False).is_visible()


def test_a_photo_can_be_dropped_or_pasted_anywhere(page, tmp_path):
    photograph, _ = two_halves(tmp_path)
    for kind in ("drop", "paste"):
        page.evaluate(
            """([bytes, kind]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], `${kind}ped.png`, {type: "image/png"}));
                const event = kind === "drop" ? new DragEvent(kind, {dataTransfer: data, bubbles: true})
                                              : new ClipboardEvent(kind, {clipboardData: data, bubbles: true});
                document.body.dispatchEvent(event);
            }""",
            [list(photograph.read_bytes()), kind],
        )
        page.get_by_text(f"{kind}ped.png", exact=False).wait_for()


def test_two_users_have_a_photo_each(halves, browser, served):
    context = browser.new_context(viewport=DESKTOP)
    other = context.new_page()
    other.set_default_timeout(PATIENCE_MS)
    other.goto(served[0])
    other.click("#samples button[aria-label='Thumbnail 1 of 7']")
    other.wait_for_selector("#stage img")
    click_at(halves, 0.25)
    assert shown(halves).shape[2:] == (480, 720)
    assert shown(other).shape[2:] != (480, 720)
    context.close()


def test_a_focus_pull_is_made_and_shown(halves):
    halves.click("#pull > button")
    halves.get_by_label("GIF").check()
    halves.locator("#pull").get_by_label("number input for Pictures").fill("3")
    halves.keyboard.press("Tab")
    halves.click("#make-pull")
    halves.wait_for_function("() => document.querySelector('#progress')?.innerText.includes('Made')")
    with halves.expect_download() as coming:
        halves.click("#download-pull")
    assert coming.value.suggested_filename.endswith(".gif")


@pytest.mark.parametrize("place", ["/etc/passwd", "../../etc/passwd", "pyproject.toml"])
def test_files_outside_the_two_folders_are_not_served(served, place):
    with pytest.raises(urllib.error.HTTPError, match="40[34]"):
        urllib.request.urlopen(f"{served[0]}/gradio_api/file={place}", timeout=60)


def test_no_handler_is_an_interface_for_programs(served):
    with urllib.request.urlopen(f"{served[0]}/gradio_api/info", timeout=60) as answer:
        assert not json.load(answer)["named_endpoints"]


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_is_wider_than_the_window(halves, viewport):
    halves.set_viewport_size(viewport)
    assert halves.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert halves.locator("#stage img").is_visible()
