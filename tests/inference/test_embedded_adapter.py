"""The adapter that ships with the repository renders lens blur: sharp where it should be, blurred elsewhere, by K."""

from __future__ import annotations

import pytest
import torch

from bokehdiff.data import find_scenes, load_scene
from bokehdiff.images import linear_to_srgb, srgb_to_linear
from bokehdiff.inference import BokehDiffPipeline
from bokehdiff.metrics import psnr
from bokehdiff.optics import Lens, focus_from_mask
from bokehdiff.renderers import render_photo
from tests.helpers import EMBEDDED, REPOSITORY

ADAPTER = EMBEDDED.with_name("tiny-sdxl-bokeh")
SHELVES = 0.1  # disparity of what stands behind the motorcycle
STRENGTHS_PX = (8.0, 24.0)


@pytest.fixture(scope="module")
def motorcycle():
    (paths,) = find_scenes(str(REPOSITORY / "test_data" / "input" / "motorcycle*"))
    return load_scene(paths)


@pytest.fixture(scope="module")
def pictures(motorcycle):
    """By focus and strength."""
    pipe = BokehDiffPipeline.from_pretrained(EMBEDDED, adapter=ADAPTER)
    subject = float(focus_from_mask(motorcycle.disparity, motorcycle.mask))
    lenses = {("motorcycle", strength): Lens(subject, strength) for strength in STRENGTHS_PX}
    lenses["shelves", STRENGTHS_PX[-1]] = Lens(SHELVES, STRENGTHS_PX[-1])
    made = pipe.render_lenses(motorcycle.image_srgb, motorcycle.disparity, lenses.values())
    return {which: result.images_srgb for which, result in zip(lenses, made, strict=True)}


def detail(image_srgb, where):
    """Energy of differences between neighbouring rows, over some of the picture."""
    steps = image_srgb.diff(dim=2).square().mean(dim=1)
    return float(steps[where[:, 1:]].mean())


def test_it_is_small_and_tells_how_it_was_made():
    assert sum(file.stat().st_size for file in ADAPTER.iterdir()) <= 8e6
    assert "configs/tiny_full.yaml" in (ADAPTER / "README.md").read_text(encoding="utf-8")


def test_more_strength_is_more_blur(motorcycle, pictures):
    far = motorcycle.disparity < 0.3
    shown = [motorcycle.image_srgb, *(pictures["motorcycle", strength] for strength in STRENGTHS_PX)]
    sharp, softer, softest = (detail(image_srgb, far) for image_srgb in shown)
    assert softer < 0.5 * sharp
    assert softest < 0.5 * softer


def test_the_sharp_plane_is_where_the_focus_is(motorcycle, pictures):
    near, far = motorcycle.mask > 0.5, (motorcycle.disparity - SHELVES).abs() < 0.02
    there, behind = (pictures[focus, STRENGTHS_PX[-1]] for focus in ("motorcycle", "shelves"))
    assert detail(there, near) > 4.0 * detail(behind, near)
    assert detail(behind, far) > 4.0 * detail(there, far)


@pytest.mark.parametrize("focus", ["motorcycle", "shelves"])
def test_it_is_far_nearer_to_physics_than_the_photograph_is(motorcycle, pictures, focus):
    picture = pictures[focus, STRENGTHS_PX[-1]]
    centre = float(focus_from_mask(motorcycle.disparity, motorcycle.mask)) if focus == "motorcycle" else SHELVES
    light = render_photo(srgb_to_linear(motorcycle.image_srgb), motorcycle.disparity, Lens(centre, STRENGTHS_PX[-1]))
    physical = linear_to_srgb(light).clamp(0.0, 1.0)
    assert float(psnr(picture, physical)) > float(psnr(motorcycle.image_srgb, physical)) + 5.0


def test_light_is_kept(motorcycle, pictures):
    """Of the whole picture, to a hundredth of white in each channel."""
    light = srgb_to_linear(motorcycle.image_srgb).mean(dim=(0, 2, 3))
    for picture in pictures.values():
        torch.testing.assert_close(srgb_to_linear(picture).mean(dim=(0, 2, 3)), light, atol=0.01, rtol=0.0)
