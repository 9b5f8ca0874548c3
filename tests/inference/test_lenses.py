from __future__ import annotations

import math

import pytest
import torch

from bokehdiff.errors import InputError
from bokehdiff.inference import Distance, FNumber, MetricRange, ShareOfWidth, parse_strength, resolve_lens
from bokehdiff.optics import CameraSettings, lens_from_camera

DISPARITY = torch.linspace(0, 1, 60 * 40).reshape(1, 40, 60)
CAMERA = CameraSettings(f_number=2.0, focal_length_mm=50.0, sensor_width_mm=36.0, focus_distance_m=2.0)
DISTANCES = MetricRange(1.0, 4.0)


@pytest.mark.parametrize(
    ("text", "strength"),
    [
        ("20", 20.0),
        ("2.5%", ShareOfWidth(0.025)),
        ("f/1.8", FNumber(1.8)),
        ("F1.8", FNumber(1.8)),
        ("camera", FNumber(None)),
    ],
)
def test_strength_is_read_in_all_its_forms(text, strength):
    assert parse_strength(text) == strength


@pytest.mark.parametrize("text", ["", "wide", "f/2%", "1.2.3", "-4", "f/"])
def test_strength_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="must be K in px such as 20, a share"):
        parse_strength(text)


def test_a_share_of_the_width_means_the_same_at_any_size():
    assert resolve_lens(DISPARITY, focus=0.5, strength="2%").strength_px == pytest.approx(1.2)


def test_an_opening_blurs_as_the_thin_lens_does():
    """A point at 4 m, in focus at 2 m, against the metric lens of the same camera."""
    lens = resolve_lens(DISPARITY, focus="2m", strength="camera", camera=CAMERA, distances=DISTANCES)
    metric = lens_from_camera(
        f_number=2.0, focal_length_mm=50.0, focus_distance_m=2.0, image_width_px=60, sensor_width_mm=36.0
    )
    for distance_m in (1.0, 2.0, 3.0, 4.0):
        disparity = (1 / distance_m - 1 / 4) / (1 - 1 / 4)
        expected = metric.coc_px(torch.full((1, 1, 1), 1 / distance_m))
        assert float(lens.coc_px(torch.full((1, 1, 1), disparity))) == pytest.approx(float(expected), abs=1e-5)


def test_a_standing_photograph_has_the_sensors_width_along_its_height():
    lying, standing = (
        resolve_lens(disparity, focus=0.5, strength=FNumber(2.0), camera=CAMERA, distances=DISTANCES).strength_px
        for disparity in (DISPARITY, DISPARITY.transpose(1, 2).contiguous())
    )
    assert lying == standing


def test_exif_tells_where_the_focus_was():
    lens = resolve_lens(DISPARITY, focus="camera", strength=1.0, camera=CAMERA, distances=DISTANCES)
    assert float(lens.focus_disparity) == pytest.approx((1 / 2 - 1 / 4) / (1 - 1 / 4))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"focus": Distance(2.0)}, "a focus in metres needs to know how far"),
        ({"strength": "f/2", "camera": CAMERA}, "an f-number needs to know how far"),
        ({"focus": "camera", "distances": DISTANCES}, "EXIF does not tell the distance in focus"),
        ({"strength": "f/2", "distances": DISTANCES}, "EXIF does not tell focal_length_mm"),
        ({"focus": "9m", "distances": DISTANCES}, "must lie in the scene, 1 m to 4 m; got 9 m"),
        ({"focus": 2.0}, r"must be in \[0, 1\]"),
    ],
)
def test_what_is_not_known_is_asked_for(words, message):
    with pytest.raises(InputError, match=message):
        resolve_lens(DISPARITY, **{"focus": 0.5, "strength": 1.0} | words)


def test_distances_that_cannot_be_are_refused():
    assert MetricRange(2.0).farthest == 0.0
    for nearest_m, farthest_m in ((0.0, 1.0), (2.0, 2.0), (3.0, 1.0), (math.nan, 2.0)):
        with pytest.raises(InputError, match="0 < nearest < farthest"):
            MetricRange(nearest_m, farthest_m)
