"""Small layered scenes for the attention's tests."""

from __future__ import annotations

import torch
from torch import Tensor

from bokehdiff.attention import TokenOptics
from bokehdiff.optics import circle_of_confusion


def layered_disparity(seed: int, size_hw: tuple[int, int], *, n_layers: int = 4) -> Tensor:
    """Rectangles of constant disparity before a background, [1 h w]; the nearer covers the farther."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size_hw
    disparity = torch.full((1, height, width), 0.1)
    for level in torch.linspace(0.25, 0.95, n_layers).tolist():
        top, bottom = sorted(torch.randint(0, height + 1, (2,), generator=generator).tolist())
        left, right = sorted(torch.randint(0, width + 1, (2,), generator=generator).tolist())
        disparity[:, top:bottom, left:right] = level
    return disparity


def optics_of(
    disparity: Tensor, grid_hw: tuple[int, int], *, focus: float = 0.4, strength_px: float = 30.0, **options: object
) -> TokenOptics:
    """Optics of tokens of a scene whose circles of confusion are the lens's own."""
    coc_px = circle_of_confusion(disparity, focus, strength_px)
    return TokenOptics.from_maps(disparity, coc_px, grid_hw, focus_disparity=focus, **options)  # type: ignore[arg-type]
