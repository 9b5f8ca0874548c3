"""The autoencoder in strips against the autoencoder: the same numbers, in less memory."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL

from bokehdiff.models import load_sdxl, strips
from bokehdiff.training.memory import StorageCounter
from tests.helpers import EMBEDDED, assert_close


@pytest.fixture(scope="module")
def taught():
    return load_sdxl(EMBEDDED).vae


@pytest.fixture(scope="module")
def as_sdxl():
    """SDXL's in small: four levels, attention in the middle, nothing around the latents."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16, 16), layers_per_block=2, norm_num_groups=4, use_quant_conv=False,
        use_post_quant_conv=False, **blocks,
    )  # fmt: skip
    return vae.eval().requires_grad_(False)


def picture(n_images: int, size_hw: tuple[int, int]) -> torch.Tensor:
    """Half of it a sky: groups that hardly vary are where moments are hard to tell."""
    image = 2.0 * torch.rand(n_images, 3, *size_hw) - 1.0
    image[:, :, : size_hw[0] // 2] = 0.3
    return image


@pytest.mark.parametrize("numbers", [2**24, 2**13, 1])
@pytest.mark.parametrize("size_hw", [(16, 16), (64, 96), (176, 32)])
@pytest.mark.parametrize("which", ["taught", "as_sdxl"])
def test_strips_change_nothing(request, monkeypatch, which, size_hw, numbers):
    vae = request.getfixturevalue(which)
    monkeypatch.setattr(strips, "STRIP_NUMBERS", numbers)
    image = picture(2, size_hw)
    with torch.no_grad():
        latents = vae.encode(image).latent_dist.mode()
        decoded = vae.decode(latents).sample
    assert_close(strips.encode_in_strips(vae, image), latents)
    assert_close(strips.decode_in_strips(vae, latents), decoded)


def test_half_precision_stays_half(as_sdxl, monkeypatch):
    monkeypatch.setattr(strips, "STRIP_NUMBERS", 2**13)
    vae = AutoencoderKL.from_config(as_sdxl.config).eval().requires_grad_(False)
    vae.load_state_dict(as_sdxl.state_dict())
    vae.to(torch.bfloat16)
    image = picture(1, (64, 64)).bfloat16()
    with torch.no_grad():
        latents = vae.encode(image).latent_dist.mode()
        decoded = vae.decode(latents).sample
    assert_close(strips.encode_in_strips(vae, image), latents)
    assert_close(strips.decode_in_strips(vae, latents), decoded)


def test_strips_take_half_the_memory(taught, monkeypatch):
    monkeypatch.setattr(strips, "STRIP_NUMBERS", 2**15)
    latents = torch.randn(1, 16, 64, 64)
    peaks = {}
    for name, decode in {
        "whole": lambda: taught.decode(latents).sample,
        "strips": lambda: strips.decode_in_strips(taught, latents),
    }.items():
        counter = StorageCounter()
        counter.ignore(taught)
        with torch.no_grad(), counter:
            decode()
        peaks[name] = counter.peak
    assert peaks["strips"] < 0.55 * peaks["whole"]
