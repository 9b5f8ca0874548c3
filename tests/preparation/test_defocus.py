"""Depth from defocus finds the depth of views that another renderer has blurred, and says what cannot be told."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
import torch

from bokehdiff.errors import InputError
from bokehdiff.images import linear_to_srgb
from bokehdiff.optics import Aperture, Lens
from bokehdiff.preparation import depth_from_defocus
from bokehdiff.preparation.defocus.descent import smoothness
from bokehdiff.preparation.defocus.focal_sweep import sweep_radii
from bokehdiff.preparation.defocus.labelling import filled, labelled, links
from bokehdiff.renderers import render_photo
from tests.helpers import SHARED, assert_close
from tests.preparation.defocused import error_up_to_a_line, median_error, path_traced, view

FLOOR = 0.03  # of the range of disparity
GAUGE = 0.05  # without a lens, which disparities are called 0 and 1 hangs on few pixels
GAIN_DB = 10.0


@pytest.fixture(scope="module")
def near_and_far():
    return view(96, [Lens(1.0, 9.0), Lens(0.0, 9.0)])


def recovered(seen, *, images=slice(None), **known):
    return depth_from_defocus(seen.sharp_srgb, seen.blurred_srgb[images], n_steps=3, **known)


def test_known_lenses_give_depth(near_and_far):
    found = recovered(near_and_far, strength_px=(9.0, 9.0), focus_disparity=(1.0, 0.0))
    assert median_error(found.disparity, near_and_far) < FLOOR
    assert found.disparity.min() >= 0
    assert found.disparity.max() <= 1
    assert found.gain_db > GAIN_DB
    assert all(after > swept for swept, after in zip(found.residual_swept_db, found.residual_after_db, strict=True))
    assert [(lens.focus_disparity, lens.strength_px) for lens in found.lenses] == [(1.0, 9.0), (0.0, 9.0)]


def test_the_same_images_give_the_same_depth():
    seen = view(40, [Lens(1.0, 4.0), Lens(0.0, 4.0)])
    found, again = (recovered(seen, strength_px=(4.0, 4.0), focus_disparity=(1.0, 0.0)) for _ in range(2))
    assert torch.equal(again.disparity, found.disparity)


@pytest.mark.parametrize(("image", "side"), [(0, "nearest"), pytest.param(1, "farthest", marks=pytest.mark.slow)])
def test_one_image_is_enough_if_its_side_is_said(near_and_far, image, side):
    found = recovered(near_and_far, images=slice(image, image + 1), first_focus=side)
    assert found.focus_disparity == pytest.approx((1.0 if side == "nearest" else 0.0,))
    assert found.strength_px == pytest.approx((9.0,), rel=0.15)
    assert error_up_to_a_line(found.disparity, near_and_far) < FLOOR
    assert median_error(found.disparity, near_and_far) < GAUGE
    assert found.gain_db > GAIN_DB


@pytest.mark.parametrize(
    "known",
    [
        {"first_focus": "nearest"},
        pytest.param({"focus_disparity": (1.0, 0.0)}, marks=pytest.mark.slow),
        pytest.param({"strength_px": (9.0, 9.0), "first_focus": "nearest"}, marks=pytest.mark.slow),
    ],
)
def test_unknown_lenses_are_found(near_and_far, known):
    found = recovered(near_and_far, **known)
    assert found.strength_px == pytest.approx((9.0, 9.0), rel=0.1)
    assert found.focus_disparity == pytest.approx((1.0, 0.0), abs=0.07)
    apart_px = found.strength_px[0] * (found.focus_disparity[0] - found.focus_disparity[1])
    assert apart_px == pytest.approx(9.0, rel=0.03)  # whatever is called 0 and 1
    assert error_up_to_a_line(found.disparity, near_and_far) < FLOOR
    assert median_error(found.disparity, near_and_far) < GAUGE


@pytest.mark.slow
def test_the_order_of_unknown_focus_may_be_the_other_one(near_and_far):
    seen = replace(near_and_far, blurred_srgb=near_and_far.blurred_srgb.flip(0))
    found = recovered(seen, first_focus="farthest")
    assert found.focus_disparity == pytest.approx((0.0, 1.0), abs=0.07)
    assert error_up_to_a_line(found.disparity, seen) < FLOOR


@pytest.mark.slow
def test_one_focus_known_tells_the_strength(near_and_far):
    found = recovered(near_and_far, images=slice(0, 1), focus_disparity=(1.0,))
    assert found.strength_px == pytest.approx((9.0,), rel=0.1)


@pytest.mark.slow
def test_more_images_of_unknown_focus_are_put_in_order():
    seen = view(48, [Lens(1.0, 6.0), Lens(0.4, 6.0), Lens(0.0, 6.0)])
    found = recovered(seen, first_focus="nearest")
    assert found.focus_disparity == pytest.approx((1.0, 0.4, 0.0), abs=0.08)


@pytest.mark.slow
def test_a_disc_that_is_not_round_and_other_strengths(near_and_far):
    aperture = Aperture(blades=6)
    seen = view(64, [Lens(1.0, 7.0, aperture), Lens(0.0, 5.0, aperture)], seed=5)
    found = recovered(seen, strength_px=(7.0, 5.0), focus_disparity=(1.0, 0.0), aperture=aperture)
    assert median_error(found.disparity, seen) < FLOOR


def test_where_nothing_shows_depth_comes_from_beside_and_is_not_sure():
    """All radii explain the middle alike; all around, 3.1 px does best."""
    levels_px = -torch.arange(10, -1, -1) * 0.5
    costs = (0.01 * (levels_px + 3.1).square()).view(11, 1, 1).repeat(1, 12, 14)
    costs[:, 4:8, 5:9] = 0.02
    grey = torch.full((1, 3, 12, 14), 0.5)
    found = filled(labelled(costs, grey, levels_px), grey)
    assert (found.coc_px + 3.1).abs().max() < 0.1  # a fifth of the step between levels
    assert found.confidence[0, 4:8, 5:9].max() < 1e-3
    assert found.confidence[0, 0, 0] > 0.5


def test_smoothness_is_the_loop_over_neighbours_and_has_its_gradient():
    coc_px = torch.rand(1, 4, 5, dtype=torch.float64, requires_grad=True)
    sharp = torch.rand(1, 3, 4, 5, dtype=torch.float64)
    right, below = links(sharp)
    total = 0.0
    for y in range(4):
        for x in range(5):
            for y2, x2, link in ((y, x + 1, right), (y + 1, x, below)):
                if y2 < 4 and x2 < 5:
                    change = float((coc_px[0, y2, x2] - coc_px[0, y, x]).detach())
                    colour = float((sharp[0, :, y2, x2] - sharp[0, :, y, x]).abs().max())
                    weight = max(math.exp(-colour / 0.05), 0.02)
                    assert float(link[0, y, x]) == pytest.approx(weight)
                    total += weight * (math.sqrt(change**2 + 0.05**2) - 0.05)
    assert float(smoothness(coc_px.detach(), right, below)) == pytest.approx(total / 20)
    assert torch.autograd.gradcheck(lambda coc_px: smoothness(coc_px, right, below), (coc_px,))


def test_a_sweep_is_least_at_the_radius_that_was_used():
    sharp = torch.rand(1, 3, 25, 31)
    seen = render_photo(sharp, torch.zeros(1, 25, 31), Lens(1.0, 3.0), method="scatter")
    sweep, uniform = sweep_radii(sharp, linear_to_srgb(seen), largest_px=5.0, aperture=Aperture(), transfer="gamma22")
    assert sweep.costs[0].argmin(dim=0).unique().tolist() == [6]
    assert uniform.best_px(torch.arange(-5.0, 1.0), (1.0,), torch.zeros(1)) == -3.0
    halfway = sweep.at(0, torch.tensor([-2.25]))[0]
    assert_close(halfway, 0.5 * (sweep.costs[0, 4] + sweep.costs[0, 5]))


BAD = {
    "sizes differ": (lambda s, b: (s, b[..., 1:]), {}, "must have one size; got 20 x 16 and 19 x 16 px"),
    "none": (lambda s, b: (s, b[:0]), {}, "at least one defocused image; got none"),
    "sharp NaN": (lambda s, b: (s * float("nan"), b), {}, "the sharp image must be finite"),
    "defocused NaN": (lambda s, b: (s, b / 0.0), {}, "the defocused images must be finite"),
    "no texture": (lambda s, b: (s * 0 + 0.5, b * 0 + 0.5), {"first_focus": "nearest"}, "has no texture"),
    "one image": (lambda s, b: (s, b[:1]), {}, "one defocused image does not tell"),
    "one image focused inside": (
        lambda s, b: (s, b[:1]),
        {"strength_px": (5.0,), "focus_disparity": (0.4,)},
        "one defocused image does not tell what is before its focus from what is behind: pass first_focus",
    ),
    "unknown focus": (lambda s, b: (s, b), {"strength_px": (5.0, 5.0)}, "unknown focus do not tell near from far"),
    "focused alike": (lambda s, b: (s, b), {"focus_disparity": (0.5, 0.5)}, "images focused alike, at 0.5"),
    "equal images": (lambda s, b: (s, b[[0, 0]]), {"first_focus": "nearest"}, "are focused alike: pass images"),
    "sharp images": (lambda s, b: (s, s), {"first_focus": "nearest"}, "as sharp as the sharp one"),
    "contradiction": (
        lambda s, b: (s, b[:1]),
        {"focus_disparity": (0.0,), "first_focus": "nearest"},
        "'nearest' contradicts the focus",
    ),
    "too few": (lambda s, b: (s, b), {"strength_px": (5.0,)}, "strength_px must have one number per .* 2; got 1"),
    "not finite": (lambda s, b: (s, b[:1]), {"focus_disparity": (math.inf,)}, "focus_disparity must be finite"),
    "no strength": (lambda s, b: (s, b[:1]), {"strength_px": (0.0,)}, "strength_px must be above 0; got 0"),
    "no radius": (lambda s, b: (s, b[:1]), {"largest_coc_px": 0.0}, "must be above 0 px; got 0"),
    "steps": (lambda s, b: (s, b[:1]), {"n_steps": -1}, "n_steps must be 0 or more; got -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_told_is_refused_in_one_line(name):
    change, known, message = BAD[name]
    sharp = torch.rand(1, 3, 16, 20)
    blurred = torch.nn.functional.avg_pool2d(sharp, 3, stride=1, padding=1).expand(2, 3, 16, 20)
    with pytest.raises(InputError, match=message) as error:
        depth_from_defocus(*change(sharp, blurred), **known)
    assert "\n" not in str(error.value)


def test_a_wrong_lens_is_noticed(near_and_far, caplog):
    recovered(near_and_far, images=slice(0, 2), strength_px=(4.0, 4.0), first_focus="nearest")
    assert "of the disparities lay outside [0, 1] and were clipped: is the lens right?" in caplog.text


@pytest.mark.slow
def test_floors_at_320_px_on_our_own_view():
    seen = view(320, [Lens(1.0, 20.0), Lens(0.0, 20.0)])
    start = time.process_time()
    found = depth_from_defocus(seen.sharp_srgb, seen.blurred_srgb, first_focus="nearest")
    assert time.process_time() - start < 2 * 300
    assert error_up_to_a_line(found.disparity, seen) < FLOOR
    assert median_error(found.disparity, seen) < GAUGE
    assert found.gain_db > GAIN_DB


# Of s0_hair GAIN_DB cannot be asked: with the true depth the renderer gains 9.6 dB (lights that the sharp image clips
# alone take more than 1 dB from it), with the one found as much.
@pytest.mark.slow
@pytest.mark.parametrize(("name", "least_gain_db"), [("s4_spheres", GAIN_DB), ("s0_hair", 9.0)])
def test_floors_on_path_traced_views(name, least_gain_db):
    if not (SHARED / "lens_ground_truth").is_dir():
        pytest.skip("the path-traced views are not here")
    seen, lenses = path_traced(SHARED / "lens_ground_truth" / name, ("near_wide", "far_wide"))
    found = depth_from_defocus(
        seen.sharp_srgb,
        seen.blurred_srgb,
        strength_px=[float(lens.strength_px) for lens in lenses],
        focus_disparity=[float(lens.focus_disparity) for lens in lenses],
    )
    assert median_error(found.disparity, seen) < FLOOR
    assert found.gain_db > least_gain_db
