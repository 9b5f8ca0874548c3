"""Fitting maps to the photograph's edges, measured where the truth is known."""

from __future__ import annotations

import pytest
import torch

from bokehdiff.data import Told, find_scenes, load_scene
from bokehdiff.data.told import told_disparity
from bokehdiff.preparation.edges import fit_disparity, fit_mask
from tests.helpers import REPOSITORY, assert_close


def step_scene(size_hw=(60, 80)):
    """Near on the right, in another colour."""
    inside = (torch.arange(size_hw[1]) >= size_hw[1] // 2).float().expand(1, *size_hw)
    return 0.2 + 0.6 * inside[:, None].expand(1, 3, *size_hw), 0.1 + 0.7 * inside


@pytest.mark.parametrize(("name", "share"), [("motorcycle", 0.85), ("hair", 0.97), ("leaves", 0.55)])
def test_disparity_as_wrong_as_networks_make_it_gets_better(name, share):
    """Grown by a pixel, misplaced, blurred: the mean error falls, most where colours part the surfaces."""
    (paths,) = find_scenes(REPOSITORY / "test_data" / "input" / f"{name}.jpg")
    scene = load_scene(paths)
    wrong = told_disparity(scene.disparity[0], Told(growth_px=1, misplaced_px=1.0, blur_px=2.0, dice=1))[None]
    maps = (wrong, fit_mask(wrong, scene.image_srgb), fit_disparity(wrong, scene.image_srgb))
    before, guided, after = (float((each - scene.disparity).abs().mean()) for each in maps)
    print(f"{name}: mean error {before:.4f}, by a guided filter {guided:.4f}, fitted {after:.4f}")
    assert after < share * before < share * guided


def test_a_blurred_step_becomes_steep_where_the_colour_changes():
    from kornia.filters import gaussian_blur2d

    image_srgb, disparity = step_scene()
    blurred = gaussian_blur2d(disparity[None], (13, 13), (2.0, 2.0))[0]
    fitted = fit_disparity(blurred, image_srgb)
    assert float((blurred - disparity).abs().max()) > 0.25
    assert float((fitted - disparity).abs().max()) < 0.05


def test_what_is_right_stays():
    image_srgb, disparity = step_scene()
    torch.testing.assert_close(fit_disparity(disparity, image_srgb), disparity, atol=1e-3, rtol=0)
    flat = torch.full((1, 33, 47), 0.3)
    assert_close(fit_disparity(flat, torch.rand(1, 3, 33, 47)), flat)
    ramp = torch.linspace(0, 1, 200).expand(1, 40, 200)
    torch.testing.assert_close(fit_disparity(ramp, torch.rand(1, 3, 40, 200)), ramp, atol=2e-3, rtol=0)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 7), (3, 300), (300, 40)])
def test_any_size_serves_and_stays_in_range(size_hw):
    fitted = fit_disparity(torch.rand(1, *size_hw), torch.rand(1, 3, *size_hw))
    assert fitted.shape == (1, *size_hw)
    assert 0 <= fitted.min() <= fitted.max() <= 1


def test_large_photographs_are_worked_on_at_a_smaller_size(monkeypatch):
    monkeypatch.setattr("bokehdiff.preparation.edges.WORKING_PX", 40)
    image_srgb, disparity = step_scene()
    fitted = fit_disparity(disparity, image_srgb)
    assert fitted.shape == disparity.shape
    torch.testing.assert_close(fitted[..., :36], disparity[..., :36], atol=1e-3, rtol=0)
