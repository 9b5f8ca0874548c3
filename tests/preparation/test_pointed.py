"""Segment Anything: where it is pointed at, and which of its offers is taken."""

from __future__ import annotations

import pytest
import torch
from transformers.models.sam2.modeling_sam2 import Sam2ImageSegmentationOutput

from bokehdiff.errors import InputError
from bokehdiff.preparation import PointedMatting, load_matting
from bokehdiff.preparation.pointed import deepest_point
from tests.preparation.test_matting import overlap, person_before_a_wall
from tests.preparation.tiny_models import save_sam2, save_sam3, save_segformer


@pytest.fixture(scope="module")
def sam2(tmp_path_factory):
    return save_sam2(tmp_path_factory.mktemp("models") / "sam2")


class Offers(torch.nn.Module):
    """Offers what is bright, its upper half, and everything; notes where it was pointed at."""

    def __init__(self, scores=(0.5, 0.6, 0.4)):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.scores = torch.tensor(scores)
        self.points = []

    def forward(self, pixel_values, input_points, input_labels, multimask_output):
        assert multimask_output
        assert input_labels.tolist() == [[[1]]]
        self.points.append(input_points[0, 0, 0].tolist())
        bright = pixel_values.mean(dim=1)[0] * 20.0
        upper = bright.clone()
        upper[len(upper) // 2 :] = -20.0
        masks = torch.stack([bright, upper, torch.full_like(bright, 20.0)])
        return Sam2ImageSegmentationOutput(pred_masks=masks[None, None], iou_scores=self.scores[None, None])


@pytest.mark.parametrize("save", [save_sam2, save_sam3])
def test_random_weights_give_a_mask_of_the_photographs_size(save, tmp_path):
    model = load_matting(save(tmp_path / "model"))
    assert isinstance(model, PointedMatting)
    image_srgb, disparity, _ = person_before_a_wall()
    for known in (disparity, None):
        mask = model.predict(image_srgb, known)
        assert mask.shape == disparity.shape
        assert 0 <= mask.min() <= mask.max() <= 1


def test_it_is_pointed_at_the_heuristics_subject_and_the_offer_that_agrees_is_taken(sam2):
    image_srgb, disparity, expected = person_before_a_wall()
    offers = Offers()
    matting = PointedMatting(offers, load_matting(sam2).processor, "offers")
    mask = matting.predict(image_srgb, disparity)
    assert overlap(mask, expected) > 0.9
    ((x, y),) = offers.points
    height, width = expected.shape[1:]
    assert expected[0, int(y * height / 64), int(x * width / 64)] == 1


def test_a_given_point_is_taken_and_the_models_own_score_decides(sam2):
    image_srgb, disparity, expected = person_before_a_wall()
    offers = Offers(scores=(0.2, 0.9, 0.4))
    matting = PointedMatting(offers, load_matting(sam2).processor, "offers", point_xy=(0.75, 0.25))
    mask = matting.predict(image_srgb, disparity)
    assert offers.points == [pytest.approx([48.0, 16.0])]
    assert mask[:, :40].sum() > 0.8 * expected[:, :40].sum()
    assert mask[:, 50:].max() < 0.5


def test_without_disparity_it_is_pointed_at_the_middle(sam2):
    offers = Offers()
    PointedMatting(offers, load_matting(sam2).processor, "offers").predict(person_before_a_wall()[0], None)
    assert offers.points == [pytest.approx([32.0, 32.0], abs=2.0)]


def test_the_deepest_point_is_farthest_from_every_edge():
    mask = torch.zeros(1, 40, 100)
    mask[:, 5:36, 10:41] = 0.9
    mask[:, 18:22, 41:90] = 0.9
    x, y = deepest_point(mask)
    assert (x * 100, y * 40) == (pytest.approx(25.5), pytest.approx(20.5))


def test_a_point_for_a_model_that_takes_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="a point is for Segment Anything .sam2.*segments without one"):
        load_matting(save_segformer(tmp_path / "segformer"), point_xy=(0.5, 0.5))
