from __future__ import annotations

import sys

import pytest
import torch
import transformers.dynamic_module_utils

from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.preparation import BiRefNetMatting, DisparitySubject, TransformersMatting, load_matting
from tests.preparation.tiny_models import save_depth_anything, save_remote_code_model, save_segformer


def person_before_a_wall(size_hw=(90, 120)):
    """A near box right of the centre, over ground that comes nearer towards the bottom; the box is bright."""
    height, width = size_hw
    rows = torch.linspace(0.0, 0.5, height)[:, None].expand(height, width)
    inside = torch.zeros(height, width)
    inside[height // 5 : height * 9 // 10, width * 9 // 20 : width * 3 // 4] = 1.0
    disparity = torch.where(inside > 0, 0.85, rows)
    image_srgb = 0.2 + 0.6 * inside.expand(3, height, width)
    return image_srgb[None], disparity[None], inside[None]


def overlap(mask, expected):
    chosen = mask > 0.5
    return float((chosen & (expected > 0)).sum() / (chosen | (expected > 0)).sum())


@pytest.mark.parametrize("size_hw", [(90, 120), (333, 517), (700, 400)])
@pytest.mark.parametrize("refine", [True, False])
def test_the_near_central_thing_is_the_subject(size_hw, refine):
    image_srgb, disparity, expected = person_before_a_wall(size_hw)
    mask = DisparitySubject(refine=refine).predict(image_srgb, disparity)
    assert mask.shape == disparity.shape
    assert mask.min() >= 0.0
    assert mask.max() <= 1.0
    assert overlap(mask, expected) > 0.9


def test_refining_brings_the_mask_to_the_photographs_edge():
    """A disparity map whose edge is 2 px off, as those of networks are."""
    image_srgb, disparity, expected = person_before_a_wall((600, 800))
    shifted = disparity.roll(2, dims=2)
    mask = DisparitySubject().predict(image_srgb, shifted)
    plain = DisparitySubject(refine=False).predict(image_srgb, shifted)
    assert overlap(mask, expected) > 0.999 > overlap(plain, expected)


def test_of_two_near_things_the_central_one_is_chosen():
    disparity = torch.full((1, 60, 100), 0.1)
    disparity[:, 10:50, 40:60] = 0.8
    disparity[:, 10:50, 80:100] = 0.8
    mask = DisparitySubject(refine=False).predict(torch.rand(1, 3, 60, 100), disparity)
    assert mask[0, 30, 50] == 1.0
    assert mask[0, 30, 90] == 0.0


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 7), (2, 3)])
def test_tiny_photographs_have_masks(size_hw):
    mask = DisparitySubject().predict(torch.rand(1, 3, *size_hw), torch.rand(1, *size_hw))
    assert mask.shape == (1, *size_hw)
    assert torch.isfinite(mask).all()


def test_mirrored_photographs_have_mirrored_masks():
    image_srgb, disparity, _ = person_before_a_wall()
    mask = DisparitySubject(refine=False).predict(image_srgb, disparity)
    mirrored = DisparitySubject(refine=False).predict(image_srgb.flip(3), disparity.flip(2))
    assert torch.equal(mirrored, mask.flip(2))


def test_constant_disparity_has_no_subject():
    assert not DisparitySubject().predict(torch.rand(1, 3, 9, 9), torch.full((1, 9, 9), 0.3)).any()


def test_disparity_out_of_range_or_of_another_size_is_refused():
    with pytest.raises(InputError, match=r"disparity must be in \[0, 1\]; got 0 ... 255"):
        DisparitySubject().predict(torch.rand(1, 3, 1, 2), torch.tensor([[[0.0, 255.0]]]))
    with pytest.raises(InputError, match="got 5 x 4 for 2 x 3"):
        DisparitySubject().predict(torch.rand(1, 3, 3, 2), torch.rand(1, 4, 5))


def test_of_two_near_things_the_one_unlike_the_border_is_chosen():
    """Alike in disparity and place; one has the colour of the wall around."""
    disparity = torch.full((1, 60, 100), 0.1)
    disparity[:, 10:50, 20:45] = 0.8
    disparity[:, 10:50, 55:80] = 0.8
    image_srgb = 0.5 + 0.02 * torch.rand(1, 3, 60, 100)
    image_srgb[:, 0, 10:50, 55:80] = 0.9
    mask = DisparitySubject(refine=False).predict(image_srgb, disparity)
    assert (mask[0, 30, 67], mask[0, 30, 32]) == (1.0, 0.0)
    mirrored = DisparitySubject(refine=False).predict(image_srgb.flip(3), disparity)
    assert (mirrored[0, 30, 67], mirrored[0, 30, 32]) == (0.0, 1.0)


def test_without_disparity_a_network_looks_in_the_middle_and_the_heuristic_gives_up(tmp_path):
    image_srgb, disparity, _ = person_before_a_wall()
    mask = load_matting(save_segformer(tmp_path / "segformer")).predict(image_srgb, None)
    assert mask.shape == disparity.shape
    with pytest.raises(InputError, match="without disparity the heuristic finds no subject: pass a depth model or"):
        DisparitySubject().predict(image_srgb, None)


def test_a_semantic_model_gives_the_class_that_agrees_with_disparity(tmp_path):
    model = load_matting(save_segformer(tmp_path / "segformer"))
    assert isinstance(model, TransformersMatting)
    image_srgb, disparity, expected = person_before_a_wall()
    mask = model.predict(image_srgb, disparity)
    assert mask.shape == disparity.shape

    class Trained(torch.nn.Module):
        """Class 2 is what is bright; class 0 everything."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, pixel_values):
            bright = pixel_values.mean(dim=1, keepdim=True) * 20.0
            logits = torch.cat([torch.zeros_like(bright), torch.full_like(bright, -20.0), bright], dim=1)
            return transformers.modeling_outputs.SemanticSegmenterOutput(logits=logits)

    trained = TransformersMatting(Trained(), model.processor, "bright")
    assert overlap(trained.predict(image_srgb, disparity), expected) > 0.9


def test_a_mask_former_gives_the_query_that_agrees_with_disparity(tmp_path):
    image_srgb, disparity, expected = person_before_a_wall()
    processor = load_matting(save_segformer(tmp_path / "segformer")).processor

    class Queries(torch.nn.Module):
        """Three queries: the left half, the bright subject, and the subject again, but as "nothing"."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, pixel_values):
            bright = pixel_values.mean(dim=1) * 20.0
            left = torch.where(torch.arange(bright.shape[2]) < bright.shape[2] // 2, 20.0, -20.0).expand_as(bright)
            return transformers.models.maskformer.modeling_maskformer.MaskFormerForInstanceSegmentationOutput(
                masks_queries_logits=torch.stack([left, bright, bright], dim=1),
                class_queries_logits=torch.tensor([[[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]]]),
            )

    mask = TransformersMatting(Queries(), processor, "queries").predict(image_srgb, disparity)
    assert overlap(mask, expected) > 0.9
    assert mask.max() > 0.9


def test_a_model_that_does_not_segment_is_refused(tmp_path):
    folder = save_depth_anything(tmp_path / "depth")
    with pytest.raises(InputError, match="holds DepthAnythingForDepthEstimation; expected a model for semantic"):
        load_matting(folder)


def test_missing_mask_weights_say_what_else_there_is():
    with pytest.raises(MissingWeightsError, match="or no model: masks then come from disparity"):
        load_matting("nvidia/segformer-b0-finetuned-ade-512-512")


def test_remote_code_needs_consent_and_a_commit(tmp_path):
    with pytest.raises(InputError, match="BiRefNet runs code of its own repository.*pass trust_remote_code"):
        load_matting("ZhengPeng7/BiRefNet")
    with pytest.raises(InputError, match="pass trust_remote_code"):
        load_matting(save_remote_code_model(tmp_path / "remote"))
    with pytest.raises(InputError, match="pass trust_remote_code"):
        BiRefNetMatting.from_pretrained("ZhengPeng7/BiRefNet", revision="a" * 40)
    with pytest.raises(InputError, match="its revision must be a commit of 40 digits; got main"):
        load_matting("ZhengPeng7/BiRefNet", revision="main", trust_remote_code=True)
    with pytest.raises(MissingWeightsError, match="HF_HUB_OFFLINE"):
        load_matting("ZhengPeng7/BiRefNet", revision="a" * 40, trust_remote_code=True)


def test_with_consent_remote_code_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    model = load_matting(save_remote_code_model(tmp_path / "remote"), trust_remote_code=True)
    image_srgb, disparity, expected = person_before_a_wall()
    mask = model.predict(image_srgb, disparity)
    assert mask.shape == disparity.shape
    assert overlap(mask, expected) > 0.95
