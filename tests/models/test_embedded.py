"""The backbone that ships with the repository."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bokehdiff.data.procedural.crops import picture
from bokehdiff.images import load_photo
from bokehdiff.metrics import psnr
from bokehdiff.models import OneStepGenerator, load_sdxl, weights_origin
from tests.helpers import EMBEDDED, SHARED

SIDE_PX = 256
NOT_TAUGHT_SEED = 2**33


@pytest.fixture(scope="module")
def autoencoder():
    return OneStepGenerator(load_sdxl(EMBEDDED), pisa_layers=None)


def through(generator, image_srgb):
    with torch.no_grad():
        return generator.decode(generator.encode(image_srgb)).clamp(0, 1)


def square_photographs():
    for file in sorted((SHARED / "photos").glob("*.jpg")):
        if file.stem.endswith(("_depth", "_disparity")):
            continue
        image = load_photo(file).image_srgb
        scale = SIDE_PX / min(image.shape[-2:])
        small = F.interpolate(image, scale_factor=scale, mode="area", recompute_scale_factor=True)
        top, left = ((side - SIDE_PX) // 2 for side in small.shape[-2:])
        yield small[..., top : top + SIDE_PX, left : left + SIDE_PX]


def test_it_is_small_taught_and_says_by_what():
    assert sum(file.stat().st_size for file in EMBEDDED.rglob("*") if file.is_file()) <= 24e6
    assert weights_origin(EMBEDDED)["weights"] == "taught"
    card = (EMBEDDED / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert "bokehdiff pretrain-tiny" in card


@pytest.mark.skipif(not (SHARED / "photos").is_dir(), reason="needs ../shared/photos")
def test_its_autoencoder_keeps_photographs_it_was_never_taught_with(autoencoder):
    images = torch.cat(list(square_photographs()))
    assert float(psnr(through(autoencoder, images), images).mean()) > 28.0


def test_its_autoencoder_keeps_composites_it_was_never_taught_with(autoencoder):
    drawn = [torch.from_numpy(picture(NOT_TAUGHT_SEED, n, size_px=SIDE_PX)).permute(2, 0, 1) for n in (2, 5, 14)]
    images = torch.stack(drawn)
    assert float(psnr(through(autoencoder, images), images).mean()) > 24.0
