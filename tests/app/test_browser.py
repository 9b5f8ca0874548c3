"""The page in a real browser: what a user sees, clicks and gets. Needs the extra browser and a Chromium."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request

import pytest
import yaml
from PIL import Image

from tests.app.driving import (
    bring_depth,
    changed,
    click_at,
    number_of,
    pictures_of,
    rendered,
    set_slider,
    shown,
    source_of,
)
from tests.app.scenes import detail, two_halves

pytestmark = [pytest.mark.browser]


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
    rendered(halves)
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
    assert re.fullmatch(r"halves_K[\d.]+_1\.000_physical\.jpg", coming.value.suggested_filename)
    assert (served[1] / coming.value.suggested_filename).read_bytes() == (tmp_path / "got.jpg").read_bytes()


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
    page.get_by_text("exceed the maximum allowed size of 2", exact=False).first.wait_for()
    many = tmp_path / "many.png"
    Image.new("L", (3000, 2000)).save(many)
    page.set_input_files("#top input[type=file]", many)
    page.get_by_text("more than the limit", exact=False).wait_for()


def test_a_sample_opens_and_the_guess_is_called_one(page):
    page.click("#samples button[aria-label^='Thumbnail'] >> nth=-1")
    page.wait_for_selector("#stage img")
    page.click("#depth > button")
    page.get_by_text("A guess, from where things are", exact=False).wait_for()


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


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_a_focus_pull_is_made_and_shown(halves, tmp_path, kind):
    if kind == "mp4":
        pytest.importorskip("imageio_ffmpeg")
    halves.click("#pull > button")
    halves.get_by_label(kind.upper()).check()
    halves.locator("#pull").get_by_label("number input for Pictures").fill("3")
    halves.keyboard.press("Tab")
    halves.click("#make-pull")
    halves.wait_for_function("() => document.querySelector('#progress')?.innerText.includes('Made')")
    halves.locator({"gif": "#pull img", "mp4": "#pull video"}[kind]).wait_for()
    with halves.expect_download() as coming:
        halves.click("#download-pull")
    film = tmp_path / coming.value.suggested_filename
    assert film.suffix == f".{kind}"
    coming.value.save_as(film)
    far, middle, near = (detail(picture) for picture in pictures_of(film)[:3])
    assert far[1] > 1.5 * far[0]
    assert near[0] > 1.5 * near[1]
    assert far[0] < middle[0] < near[0]


@pytest.mark.parametrize("place", ["/etc/passwd", "../../etc/passwd", "pyproject.toml"])
def test_files_outside_the_two_folders_are_not_served(served, place):
    with pytest.raises(urllib.error.HTTPError, match="40[34]"):
        urllib.request.urlopen(f"{served[0]}/gradio_api/file={place}", timeout=60)


def test_no_handler_is_an_interface_for_programs(served):
    with urllib.request.urlopen(f"{served[0]}/gradio_api/info", timeout=60) as answer:
        assert not json.load(answer)["named_endpoints"]
