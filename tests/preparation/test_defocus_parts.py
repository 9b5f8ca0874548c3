"""The parts of depth from defocus: photographs laid over one another, depths tried one by one."""

from __future__ import annotations

import math

import pytest
import torch

from bokehdiff.errors import InputError
from bokehdiff.images import linear_to_srgb, srgb_to_linear
from bokehdiff.optics import Aperture, Lens
from bokehdiff.preparation import depth_from_defocus
from bokehdiff.preparation.defocus import joint_db
from bokehdiff.preparation.defocus.alignment import NONE, Alignment, moved_back, roughly_aligned
from bokehdiff.preparation.defocus.candidates import tried
from bokehdiff.preparation.defocus.focal_sweep import sweep_radii
from bokehdiff.preparation.defocus.labelling import labelled
from bokehdiff.preparation.defocus.lens_search import lens_model
from bokehdiff.renderers import render_photo
from tests.helpers import assert_close
from tests.preparation.defocused import median_error, view

COSINE, SINE = 1.01 * math.cos(0.01), 1.01 * math.sin(0.01)
MOVED = Alignment(((COSINE, -SINE, 0.9), (SINE, COSINE, -1.7)), 1.0)  # 1 % larger, turned by 0.01 rad
BACK = torch.linalg.inv(torch.tensor([*MOVED.matrix, (0.0, 0.0, 1.0)]))[:2]


@pytest.fixture(scope="module")
def seen():
    return view(96, [Lens(1.0, 9.0), Lens(0.0, 9.0)])


def taken_askew(seen, *, gain=1.06):
    """The defocused images as a hand-held camera would have taken them, a little brighter."""
    forth = Alignment(tuple(tuple(row) for row in BACK.tolist()), 1.0)
    light = srgb_to_linear(seen.blurred_srgb)
    askew = torch.cat([moved_back(image, forth) for image in light.split(1)])
    return linear_to_srgb(gain * askew).clamp(0.0, 1.0)


def test_no_alignment_changes_nothing_and_a_whole_pixel_moves_pixels():
    image = torch.rand(1, 3, 9, 12)
    assert moved_back(image, NONE) is image
    right = moved_back(image, Alignment(((1.0, 0.0, 1.0), (0.0, 1.0, 0.0)), 2.0))
    assert_close(right[..., :-1], image[..., 1:] / 2.0)
    assert NONE.largest_px((9, 12)) == 0
    assert MOVED.resized(2.0).largest_px((18, 24)) == pytest.approx(2.0 * MOVED.largest_px((9, 12)))


def test_photographs_taken_askew_are_laid_over_the_sharp_one(seen):
    lens = {"strength_px": (9.0, 9.0), "focus_disparity": (1.0, 0.0), "n_steps": 2}
    askew = taken_askew(seen)
    found = depth_from_defocus(seen.sharp_srgb, askew, **lens)
    as_taken = depth_from_defocus(seen.sharp_srgb, askew, align=False, **lens)
    assert median_error(found.disparity, seen) < 0.04
    assert median_error(found.disparity, seen) < median_error(as_taken.disparity, seen)
    assert found.gain_db > as_taken.gain_db + 3.0
    assert as_taken.alignments == (NONE, NONE)
    for alignment in found.alignments:
        assert_near(alignment)


def assert_near(alignment):
    off = torch.tensor(alignment.matrix) - torch.tensor(MOVED.matrix)
    corners = torch.tensor([[x, y, 1.0] for x in (0.0, 96.0) for y in (0.0, 96.0)])
    assert float((corners @ off.T).norm(dim=1).max()) < 0.8
    assert alignment.gain == pytest.approx(1.06, abs=0.02)


@pytest.mark.slow
def test_aligned_photographs_are_left_as_they_are(seen):
    lens = {"strength_px": (9.0, 9.0), "focus_disparity": (1.0, 0.0), "n_steps": 0}
    found = depth_from_defocus(seen.sharp_srgb, seen.blurred_srgb, **lens)
    assert max(alignment.largest_px((96, 96)) for alignment in found.alignments) < 0.5


def test_another_view_is_refused(seen):
    other = view(96, [Lens(1.0, 4.0)], seed=11)
    with pytest.raises(InputError, match="does not show the view of the sharp one: their correlation is"):
        roughly_aligned(
            srgb_to_linear(seen.sharp_srgb),
            srgb_to_linear(1.0 - other.blurred_srgb.flip(3)),
            transfer="gamma22",
            aperture=Aperture(),
        )


def test_on_one_surface_a_level_costs_what_its_disc_costs():
    sharp = torch.rand(1, 3, 24, 26)
    blurred = linear_to_srgb(render_photo(sharp, torch.zeros(1, 24, 26), Lens(1.0, 3.0), method="scatter"))
    levels_px = torch.arange(-8, 1) * 0.5
    guess = torch.full((1, 24, 26), -3.0)
    options = {"aperture": Aperture(), "transfer": "gamma22"}
    sweep, _ = sweep_radii(sharp, blurred, largest_px=4.0, **options)
    trial = tried(sharp, blurred, guess, levels_px, (1.0,), torch.zeros(1), **options)
    at_truth = torch.tensor([-3.0])
    assert_close(trial.at(0, at_truth), sweep.at(0, at_truth))
    assert float(trial.costs[0].argmin(dim=0).float().sub(2).abs().max()) == 0


def test_trying_depths_makes_edges_right(seen):
    """Beside a depth edge two surfaces show through each other, and no disc explains both."""
    light = srgb_to_linear(seen.sharp_srgb)
    levels_px, shifts, both = torch.arange(-18, 1) * 0.5, torch.tensor([0.0, 9.0]), range(2)
    options = {"aperture": Aperture(), "transfer": "gamma22"}
    sweep, _ = sweep_radii(light, seen.blurred_srgb, largest_px=9.0, **options)
    first = labelled(sweep.explained(levels_px, (1.0, 1.0), shifts, both), seen.sharp_srgb, levels_px)
    trial = tried(light, seen.blurred_srgb, first.coc_px, levels_px, (1.0, 1.0), shifts, **options)
    second = labelled(trial.explained(levels_px, (1.0, 1.0), shifts, both), seen.sharp_srgb, levels_px)
    errors = [float((1.0 + guess.coc_px / 9.0 - seen.disparity).abs().mean()) for guess in (first, second)]
    assert errors[1] < 0.8 * errors[0]


def test_residuals_of_several_images_add_up_as_squares():
    assert joint_db((20.0, 20.0)) == pytest.approx(20.0)
    assert joint_db((10.0, 20.0)) == pytest.approx(-10.0 * math.log10((0.1 + 0.01) / 2))


def model_of(*, focus_disparity=None, n_images=2):
    """Lenses of images of 100 px, the first focused nearest; of a strength of their own that nobody knows."""
    return lens_model(
        n_images,
        strength_px=None,
        focus_disparity=focus_disparity,
        first_focus="nearest",
        largest_px=None,
        size_px=100,
    )


def test_what_seems_to_lie_right_beyond_an_outermost_focus_is_mirrored_in_it():
    """In focus are u = 0 in the first image and u = -6 in the second."""
    shift = torch.tensor([6.0])
    found = torch.linspace(-6.6, 0.4, 200).view(1, 10, 20)
    folded = model_of().folded(shift, found)
    inside = (found >= -6.0) & (found <= 0.0)
    assert_close(folded[inside], found[inside])
    assert_close(folded[found < -6.0], -12.0 - found[found < -6.0])
    assert_close(folded[found > 0.0], -found[found > 0.0])
    assert model_of().lenses(shift, folded).strength_px[0] == pytest.approx(6.0, abs=0.2)


@pytest.mark.parametrize("ends_px", [(-8.0, 2.0), (-5.0, -1.0)])
def test_scenes_that_end_well_beyond_or_before_the_focus_stay_as_they_are(ends_px):
    found = torch.linspace(*ends_px, 200).view(1, 10, 20)
    assert_close(model_of().folded(torch.tensor([6.0]), found), found)


def test_nothing_is_mirrored_where_focus_is_known_or_one_image_is_all():
    found = torch.linspace(-6.6, 0.4, 200).view(1, 10, 20)
    assert_close(model_of(focus_disparity=(1.0, 0.0)).folded(torch.tensor([6.0]), found), found)
    assert_close(model_of(n_images=1).folded(torch.zeros(0), found), found)
