"""Pictures that are made in parts must not show it: skies through the networks that ship with the repository.

Nothing hides a seam less than a sky, and nothing makes one more easily: where nothing varies, a network that normalises
by a part's own deviation gives each part a tone of its own.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import avg_pool2d

from bokehdiff.inference import BokehDiffPipeline, RenderSettings, match_colour
from bokehdiff.optics import Lens
from tests.helpers import EMBEDDED

HEIGHT, WIDTH, TILE_PX = 256, 448, 256  # 64 latents a tile, the smallest that is taken where memory is short
BLENDED = slice(192, 256)  # columns that both tiles reach
RIM_PX = 32  # along the picture's border, where convolutions see zeros in any case
STEP = 1.0 / 255.0  # what a display can show


@pytest.fixture(scope="module")
def pipeline():
    return BokehDiffPipeline.from_pretrained(EMBEDDED)


def flat() -> torch.Tensor:
    return torch.tensor([0.55, 0.68, 0.85])[None, :, None, None].expand(1, 3, HEIGHT, WIDTH).contiguous()


def brightening() -> torch.Tensor:
    """As skies are: darker and bluer above, with a sun on the right."""
    y, x = torch.linspace(0, 1, HEIGHT)[:, None], torch.linspace(0, 1, WIDTH)[None]
    return torch.stack([0.3 + 0.35 * y + 0.1 * x, 0.45 + 0.3 * y + 0.1 * x, 0.75 + 0.1 * y + 0.05 * x])[None]


def inner(picture: torch.Tensor) -> torch.Tensor:
    return picture[..., RIM_PX:-RIM_PX, RIM_PX:-RIM_PX]


@pytest.mark.parametrize("sky", [flat, brightening])
def test_no_seam_shows_between_tiles(pipeline, sky):
    """Neither as the network gives it, where a step would show, nor in its colours, which are matched as a default."""
    photo_srgb, coc_px = sky(), torch.full((1, HEIGHT, WIDTH), -12.0)
    raw = RenderSettings(preserve_focus=False, match_colour=False)
    whole, tiled = (
        next(pipeline.render_lenses(photo_srgb, torch.zeros(1, HEIGHT, WIDTH), [Lens(1.0, 12.0)], settings)).images_srgb
        for settings in (replace(raw, tile_px=0), replace(raw, tile_px=TILE_PX))
    )
    assert not torch.equal(whole, tiled), "it was made in tiles"
    jumps, usual = (inner(picture).mean(dim=2).diff(dim=-1).abs().amax(dim=(0, 1)) for picture in (tiled, whole))
    between = slice(BLENDED.start - RIM_PX, BLENDED.stop - RIM_PX)
    elsewhere = torch.cat([jumps[: between.start], jumps[between.stop :]])
    assert float(jumps[between].max()) < float(elsewhere.max()) + 0.5 * STEP
    assert float(jumps[between].max()) < float(usual[between].max()) + 0.5 * STEP
    drift = match_colour(tiled, photo_srgb, coc_px) - match_colour(whole, photo_srgb, coc_px)
    assert float(avg_pool2d(inner(drift), 16).abs().max()) < 2.0 * STEP


@pytest.mark.parametrize("sky", [flat, brightening])
def test_an_autoencoder_in_strips_has_no_seams_at_all(pipeline, monkeypatch, sky):
    """diffusers' own tiles change the tone of whole neighbourhoods."""
    monkeypatch.setattr("bokehdiff.models.strips.STRIP_NUMBERS", 2**17)
    generator, photo_srgb = pipeline.generator, sky()
    whole, strips = (generator.decode(generator.encode(photo_srgb, in_strips=on), in_strips=on) for on in (False, True))
    assert float((strips - whole).abs().max()) < 0.02 * STEP
    monkeypatch.setattr(generator.vae, "tile_sample_min_size", TILE_PX)
    monkeypatch.setattr(generator.vae, "tile_latent_min_size", TILE_PX // generator.vae_factor)
    monkeypatch.setattr(generator.vae, "use_tiling", True)
    tiles = generator.decode(generator.encode(photo_srgb))
    assert float(avg_pool2d(inner(tiles - whole), 16).abs().max()) > 20.0 * STEP
