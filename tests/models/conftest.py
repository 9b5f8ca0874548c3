"""The tiny base's networks, prompt and scenes, for all tests of the networks."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from bokehdiff.attention import INFERENCE_HARDNESS, PisaInputs, TokenOptics
from bokehdiff.models import (
    OneStepGenerator,
    PromptEmbedding,
    SdxlNetworks,
    load_sdxl,
    prompt_embedding,
)


@pytest.fixture(scope="session")
def prompt(tiny_base, tmp_path_factory) -> PromptEmbedding:
    return prompt_embedding(tiny_base, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def loaded(tiny_base) -> SdxlNetworks:
    return load_sdxl(tiny_base)


@pytest.fixture
def networks(loaded) -> SdxlNetworks:
    """Fresh for each test: adapters and processors change networks in place."""
    return replace(loaded, unet=copy.deepcopy(loaded.unet), vae=copy.deepcopy(loaded.vae))


@pytest.fixture
def pisa_of():
    """PisaInputs of a random scene for a generator and a size."""

    def make(generator: OneStepGenerator, size_hw: tuple[int, int], n_images: int = 1) -> PisaInputs:
        disparity = torch.rand(n_images, *size_hw)
        coc_px = 40.0 * (disparity - 0.5)
        optics = TokenOptics.from_maps(disparity, coc_px, generator.token_grid(size_hw), focus_disparity=0.5)
        return PisaInputs(optics, hardness=INFERENCE_HARDNESS)

    return make
