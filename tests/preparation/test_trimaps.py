"""ViTMatte decides in a band along edges; what is sure stays."""

from __future__ import annotations

import pytest
import torch
from transformers.models.vitmatte.modeling_vitmatte import ImageMattingOutput

from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.preparation import DisparitySubject, FittedMatting, RefinedMatting, trimap_of
from tests.preparation.test_matting import overlap, person_before_a_wall
from tests.preparation.tiny_models import save_segformer, save_vitmatte


@pytest.fixture(scope="module")
def vitmatte(tmp_path_factory):
    return save_vitmatte(tmp_path_factory.mktemp("models") / "vitmatte")


class Brightness(torch.nn.Module):
    """Takes brightness for coverage where the trimap does not know; refuses a trimap that knows nothing."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.sizes = []

    def forward(self, pixel_values):
        self.sizes.append(tuple(pixel_values.shape[2:]))
        assert set(pixel_values[0, 3].unique().tolist()) <= {0.0, 0.5, 1.0}
        return ImageMattingOutput(alphas=(pixel_values[:, :1] > 0).float())


def coarse():
    """A matting whose edges are off by a few pixels."""

    class Coarse:
        name = "coarse"

        def predict(self, image_srgb, disparity):
            return DisparitySubject(refine=False).predict(image_srgb, disparity.roll(2, dims=2))

    return Coarse()


def test_random_weights_change_only_the_band(vitmatte):
    image_srgb, disparity, _ = person_before_a_wall((100, 130))
    plain = DisparitySubject(refine=False)
    refined = RefinedMatting.from_pretrained(vitmatte, matting=plain)
    before, after = (each.predict(image_srgb, disparity) for each in (plain, refined))
    band = trimap_of(before) == 0.5
    assert band.any()
    assert torch.equal(after[~band], before[~band].round())
    assert not torch.equal(after[band], before[band])
    assert refined.name == f"{plain.name}, edges by {vitmatte}"


def test_in_the_band_the_photograph_decides(vitmatte):
    image_srgb, disparity, expected = person_before_a_wall((200, 260))
    processor = RefinedMatting.from_pretrained(vitmatte, matting=coarse()).processor
    refined = RefinedMatting(coarse(), Brightness(), processor, "brightness")
    before, after = (overlap(each.predict(image_srgb, disparity), expected) for each in (coarse(), refined))
    assert before < 0.97
    assert after > 0.995
    assert refined.model.sizes == [(224, 288)]  # padded to multiples of 32


def test_large_photographs_are_shown_smaller(vitmatte, monkeypatch):
    monkeypatch.setattr("bokehdiff.preparation.trimaps.MOST_PX", 96)
    image_srgb, disparity, expected = person_before_a_wall((180, 240))
    processor = RefinedMatting.from_pretrained(vitmatte, matting=coarse()).processor
    refined = RefinedMatting(coarse(), Brightness(), processor, "brightness")
    mask = refined.predict(image_srgb, disparity)
    assert mask.shape == expected.shape
    assert overlap(mask, expected) > 0.95
    assert refined.model.sizes == [(96, 96)]


def test_a_trimap_is_sure_away_from_edges_only():
    mask = torch.zeros(1, 100, 200)
    mask[:, :, 100:] = 1.0
    trimap = trimap_of(mask)
    assert torch.equal(trimap[0, 50].unique(), torch.tensor([0.0, 0.5, 1.0]))
    assert (trimap[0, 50] == 0.5).nonzero()[:, 0].tolist() == list(range(97, 103))
    assert bool((trimap_of(torch.full((1, 9, 9), 0.4)) == 0.5).all())


def test_an_empty_mask_stays_empty(vitmatte):
    refined = RefinedMatting.from_pretrained(vitmatte, matting=DisparitySubject())
    assert not refined.predict(torch.rand(1, 3, 40, 40), torch.full((1, 40, 40), 0.5)).any()


def test_a_guided_filter_serves_without_weights():
    image_srgb, disparity, expected = person_before_a_wall((300, 400))
    fitted = FittedMatting(coarse())
    before, after = (overlap(each.predict(image_srgb, disparity), expected) for each in (coarse(), fitted))
    assert after > 0.985 > before
    assert fitted.name == "coarse, fitted to edges"


def test_other_models_and_missing_weights_are_told(tmp_path):
    with pytest.raises(InputError, match="holds a model of type segformer; expected vitmatte"):
        RefinedMatting.from_pretrained(save_segformer(tmp_path / "segformer"), matting=coarse())
    with pytest.raises(MissingWeightsError, match="HF_HUB_OFFLINE.*or --mask-refine guided, which needs no weights"):
        RefinedMatting.from_pretrained("hustvl/vitmatte-small-composition-1k", matting=coarse())
