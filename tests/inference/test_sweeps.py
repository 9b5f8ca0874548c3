"""Pictures that follow each other must not flicker: the network's, and what is laid over and matched afterwards."""

from __future__ import annotations

import itertools

import pytest
import torch

from bokehdiff.images import load_disparity, load_photo
from bokehdiff.inference import BokehDiffPipeline, RenderSettings
from bokehdiff.optics import Lens
from tests.helpers import EMBEDDED, REPOSITORY

CUT = (..., slice(20, 116), slice(20, 148))


@pytest.fixture(scope="module")
def pipeline():
    return BokehDiffPipeline.from_pretrained(EMBEDDED)


@pytest.fixture(scope="module")
def scene():
    photo_srgb = load_photo(REPOSITORY / "test_data" / "input" / "leaves.jpg").image_srgb[CUT]
    disparity = load_disparity(REPOSITORY / "test_data" / "depth" / "leaves_pred.npy")[CUT]
    return photo_srgb, (disparity - disparity.min()) / (disparity.max() - disparity.min())


def drawn(pipeline, scene, lenses, **settings):
    results = pipeline.render_lenses(*scene, lenses, RenderSettings(**settings))
    return [result.images_srgb for result in results]


@pytest.mark.parametrize("renderer", ["neural", "hybrid"])
def test_equal_lenses_give_equal_pictures_wherever_they_stand_in_a_sweep(pipeline, scene, renderer):
    there_and_back = [Lens(0.2, 6.0), Lens(0.8, 6.0), Lens(0.2, 6.0)]
    first, between, last = drawn(pipeline, scene, there_and_back, renderer=renderer)
    assert torch.equal(first, last)
    assert not torch.equal(first, between)


def test_an_opening_lens_moves_away_from_the_photograph_without_going_back(pipeline, scene):
    """Ever less of the photograph is laid over the picture: the share kept, and so the likeness, only falls."""
    photo_srgb = scene[0]
    strengths = [0.0, 2.0, 4.0, 8.0, 16.0]
    pictures = drawn(pipeline, scene, [Lens(1.0, strength) for strength in strengths])
    assert torch.equal(pictures[0], photo_srgb), "a lens that blurs nothing changes nothing"
    kept = [float((picture == photo_srgb).all(dim=1).float().mean()) for picture in pictures]
    assert all(more >= less for more, less in itertools.pairwise(kept))
    assert kept[-1] < 0.5 < kept[0]


def test_a_small_step_of_the_lens_is_a_small_step_of_the_picture(pipeline, scene):
    """A hundredth of a sweep: no pixel jumps, as it would where something switches from one way to another."""
    for one, other in (
        (Lens(0.5, 8.0), Lens(0.5, 8.08)),
        (Lens(0.5, 8.0), Lens(0.51, 8.0)),
    ):
        first, second = drawn(pipeline, scene, [one, other])
        assert float((first - second).abs().mean()) < 2.0 / 255.0
