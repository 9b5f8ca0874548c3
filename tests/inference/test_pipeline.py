"""The one-step pipeline on the tiny backbone, whose weights are random: sizes, determinism, tiles, errors."""

from __future__ import annotations

import pytest
import torch

from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.inference import BokehDiffPipeline
from bokehdiff.models import add_lora, load_sdxl, save_adapter
from tests.helpers import assert_close


@pytest.fixture(scope="module")
def pipeline(tiny_base):
    return BokehDiffPipeline.from_pretrained(tiny_base)


def scene(size_hw: tuple[int, int], n_images: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    disparity = torch.linspace(0, 1, size_hw[1]).expand(n_images, *size_hw).contiguous()
    return torch.rand(n_images, 3, *size_hw), disparity


@pytest.mark.parametrize("size_hw", [(1, 1), (7, 130), (65, 33), (64, 96)])
def test_any_size_in_same_size_out(pipeline, size_hw):
    image_srgb, disparity = scene(size_hw)
    result = pipeline(image_srgb, disparity, focus=0.5, strength=10.0)
    assert result.images_srgb.shape == image_srgb.shape
    assert result.images[0].size == (size_hw[1], size_hw[0])
    assert 0.0 <= float(result.images_srgb.min()) <= float(result.images_srgb.max()) <= 1.0
    assert_close(result.coc_px, 10.0 * (disparity - 0.5))


def test_nothing_is_random(pipeline):
    image_srgb, disparity = scene((64, 64))
    first, second = (pipeline(image_srgb, disparity, focus=0.3).images_srgb for _ in range(2))
    assert torch.equal(first, second)


def test_a_batch_equals_its_images_one_by_one(pipeline):
    image_srgb, disparity = scene((64, 64), n_images=2)
    both = pipeline(image_srgb, disparity, focus=0.3).images_srgb
    for index in range(2):
        one = pipeline(image_srgb[index : index + 1], disparity[index : index + 1], focus=0.3).images_srgb
        assert_close(both[index : index + 1], one)


def test_focus_and_strength_change_the_picture(pipeline):
    image_srgb, disparity = scene((64, 128))
    near, far = (pipeline(image_srgb, disparity, focus=focus, strength=40.0).images_srgb for focus in (1.0, 0.0))
    sharp = pipeline(image_srgb, disparity, focus=1.0, strength=0.0).images_srgb
    assert not torch.allclose(near, far)
    assert not torch.allclose(near, sharp)


def test_one_tile_as_large_as_the_image_is_the_whole(pipeline):
    image_srgb, disparity = scene((64, 96))
    whole = pipeline(image_srgb, disparity, focus=0.5, tile_px=0).images_srgb
    assert_close(pipeline(image_srgb, disparity, focus=0.5, tile_px=96).images_srgb, whole)


def test_tiles_see_their_own_part_of_the_scene(pipeline):
    """The left tile of a picture whose right half is another scene is what it is alone, where no blending reaches."""
    image_srgb, disparity = scene((64, 224))
    other = image_srgb.clone()
    other[..., 160:] = torch.rand(1, 3, 64, 64)
    first, second = (pipeline(image, disparity, focus=0.5, tile_px=64).images_srgb for image in (image_srgb, other))
    assert first.shape == image_srgb.shape
    assert not torch.allclose(first[..., 160:], second[..., 160:])


def test_upsampling_keeps_the_size(pipeline):
    image_srgb, disparity = scene((40, 48))
    assert pipeline(image_srgb, disparity, upsample=2).images_srgb.shape == image_srgb.shape


@pytest.mark.parametrize("visibility", ["thin_lens", "released"])
def test_adapter_says_what_it_was_trained_with(tiny_base, tmp_path, visibility):
    networks = load_sdxl(tiny_base)
    add_lora(networks.unet, rank=2)
    save_adapter(tmp_path, networks.unet, networks.vae, metadata={"visibility": visibility})
    pipeline = BokehDiffPipeline.from_pretrained(tiny_base, adapter=tmp_path)
    assert pipeline.convention == visibility
    image_srgb, disparity = scene((64, 64))
    assert torch.isfinite(pipeline(image_srgb, disparity).images_srgb).all()


def test_adapter_of_an_unknown_convention_is_refused(tiny_base, tmp_path):
    networks = load_sdxl(tiny_base)
    add_lora(networks.unet, rank=2)
    save_adapter(tmp_path, networks.unet, networks.vae, metadata={"visibility": "magic"})
    with pytest.raises(InputError, match="trained with visibility 'magic'"):
        BokehDiffPipeline.from_pretrained(tiny_base, adapter=tmp_path)


def test_missing_weights_name_the_flag(tiny_base):
    with pytest.raises(MissingWeightsError, match=r"^--pretrained-model-name-or-path: .*nobase"):
        BokehDiffPipeline.from_pretrained("./nobase")
    with pytest.raises(MissingWeightsError, match=r"^--resume-from-checkpoint: .*noadapter"):
        BokehDiffPipeline.from_pretrained(tiny_base, adapter="./noadapter")


def test_what_does_not_fit_is_refused(pipeline):
    image_srgb, disparity = scene((64, 64))
    with pytest.raises(InputError, match=r"size of the image, \[64, 64\]; got \[64, 60\]"):
        pipeline(image_srgb, disparity[..., :60])
    with pytest.raises(InputError, match="tile_px must be a multiple of 32 for this backbone; got 50"):
        pipeline(image_srgb, disparity, tile_px=50)
