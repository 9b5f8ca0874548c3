"""Small layered scenes for the attention's tests."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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


@dataclass(frozen=True)
class Layer:
    """Something flat, all of it, also where nearer layers hide it.

    Args:
        mask: Its pixels [h w].
        disparity: 1 nearest.
    """

    mask: Tensor
    disparity: float


def layered_scene(seed: int, size_hw: tuple[int, int], *, n_layers: int = 6) -> list[Layer]:
    """A background with poles, discs and boxes before it, in places that nothing binds together; far first."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size_hw
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    layers = [Layer(torch.ones(size_hw, dtype=torch.bool), 0.05)]
    for disparity in sorted((0.15 + 0.8 * torch.rand(n_layers, generator=generator)).tolist()):
        kind, across, down, a, b = torch.rand(5, generator=generator).tolist()
        right, below = x - across * width, y - down * height
        if kind < 1 / 3:  # a pole, 3 to 12 px thick
            mask = (right * math.cos(math.pi * a) + below * math.sin(math.pi * a)).abs() < 1.5 + 4.5 * b
        elif kind < 2 / 3:
            mask = right.square() + below.square() < (8 + 20 * a) ** 2
        else:
            mask = (right.abs() < 5 + 25 * a) & (below.abs() < 5 + 25 * b)
        layers.append(Layer(mask, disparity))
    return layers


def disparity_of(layers: list[Layer], *, softness_px: float = 0.0) -> Tensor:
    """What a camera sees of them [1 h w], with edges blurred by a Gaussian of so many pixels."""
    disparity = torch.zeros(1, *layers[0].mask.shape)
    for layer in layers:
        disparity[:, layer.mask] = layer.disparity
    if not softness_px:
        return disparity
    weights = torch.exp(-(torch.arange(-6.0, 7.0) ** 2) / (2 * softness_px**2))
    weights /= weights.sum()
    padded = F.pad(disparity[None], (6, 6, 6, 6), mode="replicate")
    return F.conv2d(F.conv2d(padded, weights[None, None, None]), weights[None, None, :, None])[0]


def optics_of(
    disparity: Tensor, grid_hw: tuple[int, int], *, focus: float = 0.4, strength_px: float = 30.0, **options: object
) -> TokenOptics:
    """Optics of tokens of a scene whose circles of confusion are the lens's own."""
    coc_px = circle_of_confusion(disparity, focus, strength_px)
    return TokenOptics.from_maps(disparity, coc_px, grid_hw, focus_disparity=focus, **options)  # type: ignore[arg-type]
