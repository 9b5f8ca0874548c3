"""Gaussian blur of layers before a lens of few points samples them, so that the points do not show."""

from __future__ import annotations

import math
from itertools import pairwise

import cv2
import numpy as np
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
MOST_LEVELS = 4  # blurs between which a layer is interpolated that passes through the focus
EVEN_PX = 0.05  # a layer whose sigma varies less than this gets one blur


def prefiltered(stack: LayerStack, lens: LensValues, *, spacing: float) -> LayerStack:
    """The stack, each layer blurred by a Gaussian in proportion to the gaps that the lens points leave in its disc.

    Concretely, sigma = 0.45 * |coc| * spacing at each pixel of the layer: one blur where the layer faces the camera, an
    interpolation in variance between up to four blurs where it is tilted. In focus nothing changes.

    Args:
        stack: Layers.
        lens: The lens that will sample them.
        spacing: Distance between neighbouring points of it [radii].
    """
    disparity = stack.disparity().flatten(1, 2)
    coc_px = circle_of_confusion(disparity, lens.focus_disparity, lens.strength_px).abs()
    sigma_px = (SIGMA_PER_SPACING * spacing * coc_px).reshape(stack.rgba_linear[:, :, 0].shape)
    most = sigma_px.detach().amax(dim=(2, 3)).tolist()
    if max(max(row) for row in most) < LEAST_SIGMA_PX:
        return stack
    layers = [
        torch.stack([_blurred(layer, sigma) for layer, sigma in zip(image, sigmas, strict=True)])
        for image, sigmas in zip(stack.rgba_linear, sigma_px, strict=True)
    ]
    return LayerStack(torch.stack(layers), stack.planes)


def _blurred(rgba: Float[Tensor, "4 h w"], sigma_px: Float[Tensor, "h w"]) -> Float[Tensor, "4 h w"]:
    """One layer, blurred by what each of its pixels needs."""
    least, most = sigma_px.aminmax()
    if float(most.detach()) < LEAST_SIGMA_PX:
        return rgba
    if float((most - least).detach()) < EVEN_PX:
        return gaussian_blur(rgba, sigma_px.mean())
    # Levels further apart than the blur itself changes are no use: a mild tilt needs two.
    n_steps = math.ceil((MOST_LEVELS - 1) * (1.0 - float(least.detach() / most.detach()) ** 2))
    levels = [least + (most - least) * i / n_steps for i in range(n_steps + 1)]
    blurred = gaussian_blur(rgba, levels[0])
    for below, above in pairwise(levels):
        rise = (above.square() - below.square()).clamp_min(torch.finfo(rgba.dtype).tiny)
        share = ((sigma_px.square() - below.square()) / rise).clamp(0.0, 1.0)
        blurred = torch.lerp(blurred, gaussian_blur(rgba, above), share)
    return blurred


def gaussian_blur(rgba: Float[Tensor, "c h w"], sigma_px: Float[Tensor, ""]) -> Float[Tensor, "c h w"]:
    """Blur a layer by a Gaussian; beyond the border the edge pixels go on.

    Args:
        rgba: Premultiplied layer.
        sigma_px: Standard deviation [px]; 0 leaves the layer as it is.
    """
    radius = math.ceil(TRUNCATION * float(sigma_px.detach()))
    offset = torch.arange(-radius, radius + 1, dtype=rgba.dtype, device=rgba.device)
    # An offset of one pixel underflows to weight 0 far above this sigma, which only keeps 0 / 0 away.
    weight = torch.exp(-0.5 * (offset / sigma_px.clamp_min(LEAST_SIGMA_PX / 10)).square())
    kernel = weight / weight.sum()
    if _opencv_can(rgba, kernel):
        return _convolved_by_opencv(rgba, kernel)
    image = F.conv2d(_extended(rgba, radius, dim=2)[:, None], kernel[None, None, None, :])
    return F.conv2d(_extended(image[:, 0], radius, dim=1)[:, None], kernel[None, None, :, None])[:, 0]


def _opencv_can(rgba: Tensor, kernel: Tensor) -> bool:
    """Ten times faster than torch on the CPU, where no gradient is asked for."""
    wants_gradients = torch.is_grad_enabled() and (rgba.requires_grad or kernel.requires_grad)
    return rgba.device.type == "cpu" and rgba.dtype == torch.float32 and not wants_gradients


def _convolved_by_opencv(rgba: Float[Tensor, "c h w"], kernel: Float[Tensor, " k"]) -> Float[Tensor, "c h w"]:
    taps = kernel.detach().numpy()
    planes = [
        cv2.sepFilter2D(np.ascontiguousarray(plane), -1, taps, taps, borderType=cv2.BORDER_REPLICATE)
        for plane in rgba.detach().numpy()
    ]
    return torch.from_numpy(np.stack(planes))


def _extended(image: Float[Tensor, "c h w"], radius: int, *, dim: int) -> Float[Tensor, "c eh ew"]:
    """Edge pixels repeated along one axis, by a lookup: unlike padding, its gradient is deterministic everywhere."""
    size = image.shape[dim]
    return image.index_select(dim, torch.arange(-radius, size + radius, device=image.device).clamp(0, size - 1))
