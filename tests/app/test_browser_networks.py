"""The page with networks: the small ones in the clone render a sample, tell how far they are, and can be ended."""

from __future__ import annotations

import pytest
import torch
import yaml
from PIL import Image

from bokehdiff.images import load_disparity, srgb_to_linear
from tests.app.driving import (
    DESKTOP,
    bring_depth,
    changed,
    click_at,
    number_of,
    open_sample,
    rendered,
    serving,
    set_slider,
    shown,
    source_of,
    visit,
)
from tests.app.scenes import picture_of, two_halves
from tests.helpers import EMBEDDED, REPOSITORY

pytestmark = [pytest.mark.browser]

ADAPTER = EMBEDDED.with_name("tiny-sdxl-bokeh")
STRENGTH_PX = 20.0
SHARP_PX, BLURRED_PX = 0.5, 6.0  # radius of the blur: what must stay as it is, and what must not
# Remembers every length that the bar has had.
WATCH_BAR = """() => {
    window.lengths = [];
    new MutationObserver(() => {
        const bar = document.querySelector("#progress progress");
        if (bar && window.lengths.at(-1) !== bar.value) window.lengths.push(bar.value);
    }).observe(document.querySelector("#progress"), {childList: true, subtree: true, attributes: true});
}"""


@pytest.fixture(scope="module")
def painting(tmp_path_factory):
    """The page's address and the folder of its results; the program has networks."""
    words = ["--pretrained-model-name-or-path", str(EMBEDDED), "--resume-from-checkpoint", str(ADAPTER)]
    with serving(tmp_path_factory.mktemp("app"), words) as place:
        yield place


@pytest.fixture
def page(painting, browser):
    context = browser.new_context(viewport=DESKTOP, color_scheme="dark", accept_downloads=True)
    yield visit(context, painting[0])
    context.close()


def steepness(image_srgb: torch.Tensor, where: torch.Tensor) -> float:
    """Mean difference between neighbours."""
    grey = image_srgb.mean(1)[0]
    steep = (grey[1:, 1:] - grey[1:, :-1]).abs() + (grey[1:, 1:] - grey[:-1, 1:]).abs()
    return float(steep[where[1:, 1:]].mean())


@pytest.mark.parametrize("renderer", ["neural", "hybrid"])
def test_networks_blur_what_is_behind_and_leave_what_is_in_focus(page, painting, renderer, tmp_path):
    open_sample(page, "Motorcycle")
    click_at(page, 0.55, 0.55)
    before = source_of(page)
    set_slider(page, "strength", STRENGTH_PX)
    before = changed(page, before)
    page.get_by_label(renderer.capitalize(), exact=True).check()
    page.evaluate(WATCH_BAR)
    page.click("#render")
    assert f"_{renderer}.jpg" in rendered(page)
    lengths = page.evaluate("window.lengths")
    assert len(lengths) > 1
    assert lengths == sorted(lengths)
    assert any(0.0 < length < 1.0 for length in lengths)  # all of it while the file is written
    changed(page, before)
    with page.expect_download() as coming:
        page.click("#download")
    coming.value.save_as(tmp_path / "got.jpg")
    with Image.open(tmp_path / "got.jpg") as picture:
        said = yaml.safe_load(picture.info["comment"])
    assert said["renderer"] == renderer
    assert said["networks"] == f"{EMBEDDED.name} with {ADAPTER.name}"
    assert said["focus_disparity"] == number_of(page, "focus")

    got, photograph = picture_of(tmp_path / "got.jpg"), picture_of(REPOSITORY / "test_data/input/motorcycle.jpg")
    disparity = load_disparity(REPOSITORY / "test_data/depth/motorcycle_pred.npy")[0]
    radius_px = (STRENGTH_PX * (disparity - said["focus_disparity"])).abs()
    subject, background = radius_px < SHARP_PX, radius_px > BLURRED_PX
    assert got.shape == shown(page).shape == photograph.shape
    assert steepness(got, subject) > 0.8 * steepness(photograph, subject)
    assert steepness(got, background) < 0.5 * steepness(photograph, background)
    assert float(srgb_to_linear(got).mean()) == pytest.approx(float(srgb_to_linear(photograph).mean()), rel=0.05)


@pytest.mark.parametrize("renderer", ["neural", "hybrid"])
def test_networks_can_be_cancelled(page, painting, renderer, tmp_path):
    photograph, disparity = two_halves(tmp_path, size_hw=(800, 1200))
    page.set_input_files("#top input[type=file]", photograph)
    page.wait_for_selector("#stage img")
    bring_depth(page, disparity)
    page.get_by_label(renderer.capitalize(), exact=True).check()
    files = set(painting[1].iterdir())
    page.click("#render")
    page.wait_for_function("() => document.querySelector('#progress progress')?.value > 0")
    page.click("#cancel")
    page.wait_for_function("() => document.querySelector('#progress')?.innerText.includes('Cancelled')")
    assert page.locator("#render").is_enabled()
    assert set(painting[1].iterdir()) == files
