from __future__ import annotations

import math

import pytest
import torch

from bokehdiff import optics
from bokehdiff.errors import InputError
from tests.helpers import assert_close


def test_circle_of_confusion_is_positive_in_front_and_grows_with_strength():
    disparity = torch.tensor([[[0.0, 0.5, 1.0]]])
    assert_close(optics.circle_of_confusion(disparity, 0.5, 20.0), torch.tensor([[[-10.0, 0.0, 10.0]]]))
    assert_close(optics.circle_of_confusion(disparity, 0.5, 40.0), torch.tensor([[[-20.0, 0.0, 20.0]]]))


def test_circle_of_confusion_takes_one_lens_per_image_and_passes_gradients():
    disparity = torch.rand(2, 3, 4)
    focus = torch.tensor([0.1, 0.9], requires_grad=True)
    strength = torch.tensor([10.0, 30.0], requires_grad=True)
    coc_px = optics.circle_of_confusion(disparity, focus, strength)
    assert_close(coc_px[1], 30.0 * (disparity[1] - 0.9))
    coc_px.sum().backward()
    assert_close(focus.grad, torch.tensor([-120.0, -360.0]))
    assert_close(strength.grad, (disparity - focus.detach()[:, None, None]).sum(dim=(1, 2)))


def test_lens_refuses_what_is_not_a_lens():
    with pytest.raises(InputError, match="strength_px must be 0 or more"):
        optics.Lens(0.5, -1.0)
    with pytest.raises(InputError, match="focus_disparity must be finite"):
        optics.Lens(math.nan, 1.0)


def test_lens_of_a_camera_is_the_thin_lens():
    """A 50 mm f/2 lens on full frame, 6000 px wide, focused at 2 m, a point at 4 m."""
    lens = optics.lens_from_camera(f_number=2.0, focal_length_mm=50.0, focus_distance_m=2.0, image_width_px=6000)
    coc_px = lens.coc_px(torch.full((1, 1, 1), 1 / 4.0))
    focal_px = 50.0 / 36.0 * 6000
    assert_close(coc_px, torch.full((1, 1, 1), focal_px * 0.0125 * (1 / 4 - 1 / 2)))
    assert (
        optics.lens_from_camera(
            f_number=2.0, focal_length_mm=50.0, focus_distance_m=math.inf, image_width_px=6000
        ).focus_disparity
        == 0.0
    )


def test_camera_refuses_zero():
    with pytest.raises(InputError, match="f_number must be above 0; got 0"):
        optics.lens_from_camera(f_number=0.0, focal_length_mm=50.0, focus_distance_m=2.0, image_width_px=100)


def test_normalised_and_resized_lenses_keep_the_blur():
    metric = torch.rand(1, 5, 6) * 3 + 0.2
    lens = optics.Lens(0.7, 40.0)
    normalised = (metric - 0.2) / 3.0
    assert_close(lens.normalised(0.2, 3.2).coc_px(normalised), lens.coc_px(metric))
    assert_close(lens.resized(0.5).coc_px(metric), 0.5 * lens.coc_px(metric))
    with pytest.raises(InputError, match="nearest must exceed farthest"):
        lens.normalised(1.0, 1.0)


def test_camera_settings_need_what_they_need():
    settings = optics.CameraSettings(f_number=1.8, focal_length_mm=6.0, focal_length_35mm_mm=26.0)
    with pytest.raises(InputError, match="does not tell focus_distance_m"):
        settings.lens(image_width_px=4000)
    phone = settings.lens(image_width_px=4000, focus_distance_m=1.0)
    width_mm = 36.0 * 6.0 / 26.0
    assert phone.strength_px == pytest.approx(6.0 / width_mm * 4000 * 0.006 / 3.6)


def test_normalise_disparity_ignores_speckles_and_survives_constants():
    disparity = torch.full((1, 9, 9), 2.0)
    disparity[:, :, 5:] = 4.0
    speckled = disparity.clone()
    speckled[0, 2, 2] = 100.0
    assert_close(optics.normalise_disparity(disparity), (disparity - 2.0) / 2.0)
    assert_close(optics.normalise_disparity(speckled)[0, 4:], optics.normalise_disparity(disparity)[0, 4:])
    assert_close(optics.normalise_disparity(torch.full((1, 4, 4), 7.0)), torch.zeros(1, 4, 4))
    with pytest.raises(InputError, match="must be finite"):
        optics.normalise_disparity(torch.tensor([[[0.0, math.nan]]]))


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 3), (17, 31)])
def test_focus_in_all_its_forms(size_hw):
    height, width = size_hw
    disparity = torch.rand(2, height, width)
    mask = torch.zeros(2, height, width)
    mask[:, 0, 0] = 1.0
    assert_close(optics.focus_from_mask(disparity, mask), disparity[:, 0, 0])
    assert_close(optics.focus_from_box(disparity, (0.0, 0.0, 1.0, 1.0)), disparity[:, 0, 0])
    centre = optics.focus_from_centre(disparity)
    assert_close(optics.focus_from_mask(disparity, torch.zeros_like(disparity)), centre)
    flat = torch.full_like(disparity, 0.25)
    assert_close(optics.focus_from_pixel(flat, width - 0.5, height - 0.5), torch.full((2,), 0.25))


def test_focus_refuses_what_lies_outside():
    disparity = torch.rand(1, 4, 5)
    with pytest.raises(InputError, match="focus point must lie in the 5 x 4 image"):
        optics.focus_from_pixel(disparity, 5.0, 0.0)
    with pytest.raises(InputError, match="overlap the 5 x 4 image"):
        optics.focus_from_box(disparity, (6.0, 0.0, 8.0, 2.0))
    with pytest.raises(InputError, match="size of the disparity"):
        optics.focus_from_mask(disparity, torch.zeros(1, 5, 4))


def test_aperture_points_fill_the_unit_disc_evenly():
    points = optics.Aperture().sample(500)
    radius = points.norm(dim=1)
    assert radius.max() <= 1.001
    assert_close(points.mean(dim=0), torch.zeros(2))
    assert radius.square().mean() == pytest.approx(0.5, abs=1e-3)  # second moment of a disc
    assert_close(optics.Aperture().sample(1), torch.zeros(1, 2))
    with pytest.raises(InputError, match="at least 1; got 0"):
        optics.Aperture().sample(0)
