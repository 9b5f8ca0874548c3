"""Gaussian blur of layers before a lens of few points samples them, so that the points do not show."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.optics import circle_of_confusion
from bokehdiff.renderers.layers import LayerStack
from bokehdiff.renderers.lens_values import LensValues

# Standard deviation over the spacing of the lens points on the image; .45 measured best for Vogel's spiral.
SIGMA_PER_SPACING = 0.45
TRUNCATION = 4.0  # of the Gaussian, in standard deviations: 6e-5 of the weight is left out
LEAST_SIGMA_PX = 0.1  # below it a sampled Gaussian is the identity to float32
N_LEVELS = 4  # blurs between which a tilted layer is interpolated
EVEN_PX = 0.05  # a layer whose sigma varies less than this gets one blur


def prefiltered(stack: LayerStack, lens: LensValues, *, n_samples: int) -> LayerStack:
    """The stack, each layer blurred by a Gaussian in proportion to the gaps that n lens points leave in its disc.

    Concretely, sigma = 0.45 * |coc| * sqrt(pi / n) at each pixel of the layer: one blur per layer where it faces the
    camera, an interpolation in variance between four blurs where it is tilted. In focus nothing changes.

    Args:
        stack: Layers.
        lens: The lens that will sample them.
        n_samples: How many points of the lens will.
    """
    share = SIGMA_PER_SPACING * math.sqrt(math.pi / n_samples)
    disparity = stack.disparity().flatten(1, 2)
    coc_px = circle_of_confusion(disparity, lens.focus_disparity, lens.strength_px).abs()
    sigma_px = (share * coc_px).reshape(stack.rgba_linear[:, :, 0].shape)
    least, most = sigma_px.amin(dim=(2, 3)), sigma_px.amax(dim=(2, 3))
    if float(most.detach().max()) < LEAST_SIGMA_PX:
        return stack
    if float((most - least).detach().max()) < EVEN_PX:
        return LayerStack(gaussian_blur(stack.rgba_linear, sigma_px.mean(dim=(2, 3))), stack.planes)
    return LayerStack(_varying_blur(stack.rgba_linear, sigma_px, least=least, most=most), stack.planes)


def _varying_blur(
    rgba: Float[Tensor, "b l 4 h w"],
    sigma_px: Float[Tensor, "b l h w"],
    *,
    least: Float[Tensor, "b l"],
    most: Float[Tensor, "b l"],
) -> Float[Tensor, "b l 4 h w"]:
    levels = [least + (most - least) * i / (N_LEVELS - 1) for i in range(N_LEVELS)]
    blurred = gaussian_blur(rgba, levels[0])
    for below, above in pairwise(levels):
        rise = (above.square() - below.square()).clamp_min(torch.finfo(rgba.dtype).tiny)[..., None, None]
        share = ((sigma_px.square() - below.square()[..., None, None]) / rise).clamp(0.0, 1.0)
        blurred = torch.lerp(blurred, gaussian_blur(rgba, above), share[:, :, None])
    return blurred


def gaussian_blur(rgba: Float[Tensor, "b l c h w"], sigma_px: Float[Tensor, "b l"]) -> Float[Tensor, "b l c h w"]:
    """Blur each layer by its own Gaussian; beyond the border the edge pixels go on.

    Args:
        rgba: Premultiplied layers.
        sigma_px: Standard deviation of each [px]; 0 leaves a layer as it is.
    """
    radius = math.ceil(TRUNCATION * float(sigma_px.detach().max()))
    offset = torch.arange(-radius, radius + 1, dtype=rgba.dtype, device=rgba.device)
    # An offset of one pixel underflows to weight 0 far above this sigma, which only keeps 0 / 0 away.
    spread = sigma_px.clamp_min(LEAST_SIGMA_PX / 10)[..., None]
    weight = torch.exp(-0.5 * (offset / spread).square())
    kernel = (weight / weight.sum(dim=-1, keepdim=True)).flatten(0, 1).repeat_interleave(rgba.shape[2], dim=0)
    image = rgba.flatten(0, 2)[None]
    image = F.conv2d(_extended(image, radius, dim=3), kernel[:, None, None, :], groups=len(kernel))
    image = F.conv2d(_extended(image, radius, dim=2), kernel[:, None, :, None], groups=len(kernel))
    return image.reshape(rgba.shape)


def _extended(image: Float[Tensor, "b c h w"], radius: int, *, dim: int) -> Float[Tensor, "b c eh ew"]:
    """Edge pixels repeated along one axis, by a lookup: unlike padding, its gradient is deterministic everywhere."""
    size = image.shape[dim]
    return image.index_select(dim, torch.arange(-radius, size + radius, device=image.device).clamp(0, size - 1))
