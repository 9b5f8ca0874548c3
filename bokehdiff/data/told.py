"""What the network is told of a scene's depth: wrong in the ways in which depth estimators are wrong."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.data.randomness import generator_for
from bokehdiff.data.recipe import Told
from bokehdiff.images import resize

WAVE_PX = 24  # length over which edges are misplaced alike [px]


def told_disparity(disparity: Float[Tensor, "h w"], told: Told) -> Float[Tensor, "h w"]:
    """The disparity as an estimator might give it; the target never sees it.

    Concretely, in this order: near things grow (a maximum over (2 r + 1)^2 pixels; a minimum where r < 0), places are
    looked up where a smooth random field displaces them, a Gaussian blurs, d becomes scale * d + shift, and d is
    rounded to steps of 1 / (levels - 1).

    Args:
        disparity: True, in [0, 1].
        told: How wrong.
    """
    image = disparity[None, None]
    if told.growth_px:
        radius = abs(told.growth_px)
        sign = 1 if told.growth_px > 0 else -1
        image = sign * F.max_pool2d(sign * image, 2 * radius + 1, stride=1, padding=radius)
    if told.misplaced_px:
        image = _displaced(image, told)
    if told.blur_px:
        image = _blurred(image, told.blur_px)
    scale, shift = told.squeeze
    image = (scale * image + shift).clamp(0.0, 1.0)
    if told.levels is not None:
        steps = told.levels - 1
        image = (image * steps).round() / steps
    return image[0, 0]


def _displaced(image: Float[Tensor, "1 1 h w"], told: Told) -> Float[Tensor, "1 1 h w"]:
    height, width = image.shape[2:]
    coarse_hw = tuple(max(round(side / WAVE_PX), 1) + 1 for side in (height, width))
    dice = generator_for(told.dice, 0, purpose="told").standard_normal((1, 2, *coarse_hw), dtype="float32")
    walk_px = told.misplaced_px * resize(torch.from_numpy(dice), (height, width)).to(image.device)
    y, x = torch.meshgrid(*(torch.arange(side, device=image.device) + 0.5 for side in (height, width)), indexing="ij")
    places = torch.stack([(x + walk_px[0, 0]) / width, (y + walk_px[0, 1]) / height], dim=-1) * 2 - 1
    return F.grid_sample(image, places[None], padding_mode="border", align_corners=False)


def _blurred(image: Float[Tensor, "1 1 h w"], sigma_px: float) -> Float[Tensor, "1 1 h w"]:
    from kornia.filters import gaussian_blur2d

    kernel = 2 * math.ceil(3 * sigma_px) + 1
    return gaussian_blur2d(image, (kernel, kernel), (sigma_px, sigma_px), border_type="replicate")
