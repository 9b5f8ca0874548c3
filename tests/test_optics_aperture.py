"""The laws of the opening: shapes, weights, cat's eyes, and the lens of each colour."""

from __future__ import annotations

import math

import pytest
import torch

from bokehdiff import optics
from bokehdiff.errors import InputError
from tests.helpers import assert_close

HALF = torch.zeros(8, 8)
HALF[:, 4:] = 1.0
PINHOLES = torch.rand(16, 16, generator=torch.Generator().manual_seed(5)) * (torch.eye(16) > 0)
APERTURES = {
    "disc": optics.Aperture(),
    "triangle": optics.Aperture(blades=3),
    "pentagon": optics.Aperture(blades=5, rotation_deg=17.0),
    "rounded": optics.Aperture(blades=7, rounding=0.6),
    "ring": optics.Aperture(edge=1.0),
    "soft": optics.Aperture(blades=6, edge=-0.8),
    "half": optics.Aperture(transmission=HALF),
    "pinholes": optics.Aperture(transmission=PINHOLES, rotation_deg=40.0, edge=0.5),
}
every_aperture = pytest.mark.parametrize("aperture", APERTURES.values(), ids=list(APERTURES))


@every_aperture
@pytest.mark.parametrize("n_samples", [1, 2, 7, 400])
def test_every_aperture_gives_as_many_points_as_asked_with_weights_of_sum_one(aperture, n_samples):
    points, weights = aperture.sample(n_samples), aperture.weights(n_samples)
    assert points.shape == (n_samples, 2)
    assert weights.shape == (n_samples,)
    assert float(weights.min()) >= 0.0
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5)
    assert points.norm(dim=1).max() <= 1.01
    assert 0.0 < aperture.spacing(n_samples) <= math.sqrt(math.pi / n_samples) * 1.001


@every_aperture
def test_points_and_weights_say_the_same_as_the_transmittance(aperture):
    """The mean of smooth functions over the points is their mean over the plane, weighted by what passes."""
    side = torch.linspace(-1.0, 1.0, 801, dtype=torch.float64)
    plane = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1)
    light = aperture.transmittance(plane, softness=0.0025)
    points, weights = aperture.sample(4000).double(), aperture.weights(4000).double()
    for moment in (
        lambda p: p[..., 0],
        lambda p: p[..., 1],
        lambda p: p.square().sum(-1),
        lambda p: (3 * p).sin().prod(-1),
    ):
        expected = float((moment(plane) * light).sum() / light.sum())
        assert float((moment(points) * weights).sum()) == pytest.approx(expected, abs=6e-3)
    filled = float((light > 0).double().sum() * 0.0025**2)
    assert aperture.spacing(4000) == pytest.approx(math.sqrt(filled / 4000), rel=0.03)


def test_blades_have_their_corner_up_and_turn_clockwise():
    corner = optics.Aperture(blades=5).sample(5000)
    assert float(corner[:, 1].min()) == pytest.approx(-1.0, abs=0.03)
    assert float(corner[:, 1].max()) == pytest.approx(math.cos(math.pi / 5), abs=0.01)
    right = optics.Aperture(blades=5, rotation_deg=90.0).sample(5000)
    assert float(right[:, 0].max()) == pytest.approx(1.0, abs=0.03)
    inside = torch.tensor([[0.0, -0.99], [0.0, 0.9], [0.0, 0.8]])
    assert_close(optics.Aperture(blades=5).transmittance(inside), torch.tensor([1.0, 0.0, 1.0]))


def test_fully_rounded_blades_are_the_disc():
    assert optics.Aperture(blades=5, rounding=1.0).spacing(100) == pytest.approx(0.1 * math.pi**0.5)
    direction = torch.linspace(0.0, 6.0, 50)
    rim = torch.stack([direction.cos(), direction.sin()], dim=1)
    assert_close(optics.Aperture(blades=5, rounding=1.0).transmittance(0.999 * rim), torch.ones(50))
    for straight, rounded in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0)):
        smaller = optics.Aperture(blades=5, rounding=straight).transmittance(0.9 * rim)
        assert (optics.Aperture(blades=5, rounding=rounded).transmittance(0.9 * rim) >= smaller).all()


def test_the_edge_moves_light_between_middle_and_rim_and_keeps_the_mean():
    radius = torch.linspace(0.0, 1.0, 11)
    line = torch.stack([radius, torch.zeros(11)], dim=1)
    assert_close(optics.Aperture(edge=1.0).transmittance(line), 2 * radius.square())
    assert_close(optics.Aperture(edge=-1.0).transmittance(line), 2 - 2 * radius.square())


def test_the_rim_cuts_more_towards_the_corners_from_their_side_and_nothing_in_the_middle():
    aperture = optics.Aperture(cat_eye=0.8)
    points = aperture.sample(600)
    along = torch.linspace(0.0, 1.0, 5)
    places = torch.stack([along, torch.zeros(5)])[:, None]  # from the middle to the right
    passed = aperture.unvignetted(points, places, spacing=aperture.spacing(600))[:, 0]
    assert_close(passed[:, 0], torch.ones(600))
    light = passed.mean(dim=0)
    assert (light.diff() < -0.05).all()
    shift = 0.8
    lens_area = 2 * math.acos(shift / 2) - shift / 2 * math.sqrt(4 - shift**2)
    assert float(light[-1]) == pytest.approx(lens_area / math.pi, abs=5e-3)
    assert float((points[:, 0] * passed[:, -1]).sum()) < 0.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"blades": 2}, r"blades must be 0 \(a disc\) or 3 ... 64; got 2"),
        ({"rounding": 1.5}, r"rounding must be in \[0, 1\]; got 1.5"),
        ({"edge": -2.0}, r"edge must be in \[-1, 1\]; got -2"),
        ({"cat_eye": math.nan}, r"cat_eye must be in \[0, 1\]; got nan"),
        ({"rotation_deg": math.inf}, "rotation_deg must be finite; got inf"),
        ({"transmission": torch.zeros(3, 3)}, r"in \[0, 1\] and not all 0; got 0 ... 0"),
        ({"transmission": torch.full((3, 3), 255.0)}, "got 255 ... 255"),
        ({"transmission": torch.full((3, 3), math.nan)}, "got nan"),
        ({"transmission": torch.zeros(0, 3)}, r"must have pixels; got shape \[0, 3\]"),
        ({"transmission": HALF, "blades": 5}, "blades or a transmission map, not both; got 5 blades"),
    ],
)
def test_what_is_no_aperture_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        optics.Aperture(**wrong)


def test_a_map_that_only_its_corners_let_light_through_has_no_points():
    corner = torch.zeros(32, 32)
    corner[0, 0] = 1.0
    with pytest.raises(InputError, match="lets less than 4 in 1048576 points through"):
        optics.Aperture(transmission=corner).sample(4)


def test_each_colour_has_its_own_lens():
    lens = optics.Lens(0.5, 20.0, focus_shift_rgb=(0.1, 0.0, -0.1), magnification_rgb=(1.0, 1.0, 1.01))
    assert lens.is_chromatic
    assert not optics.Lens(0.5, 20.0, focus_shift_rgb=(0.1, 0.1, 0.1)).is_chromatic
    red, blue = lens.of_channel(0), lens.of_channel(2)
    assert not red.is_chromatic
    assert red.focus_disparity == pytest.approx(0.6)
    assert blue.focus_disparity == pytest.approx(0.4)
    assert blue.magnification_rgb == (1.01, 1.01, 1.01)
    assert lens.normalised(0.0, 2.0).of_channel(0).focus_disparity == pytest.approx(0.3)
    with pytest.raises(InputError, match="focus_shift_rgb must be finite"):
        optics.Lens(0.5, 1.0, focus_shift_rgb=(0.0, math.nan, 0.0))
    with pytest.raises(InputError, match=r"magnification_rgb must be within 0.9 ... 1.1; got \(1, 1, 2\)"):
        optics.Lens(0.5, 1.0, magnification_rgb=(1, 1, 2))
