"""Gaussian blur of layers before a lens of few points samples them, so that the points do not show."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.optics import circle_of_confusion
from bokehdiff.renderers.layers import LayerStack
from bokehdiff.renderers.lens_values import LensValues

# Standard deviation over the spacing of the lens points on the image. Less leaves points visible in highlights, more
# softens the rims of discs: .35 is up to 1 dB better for clipped images and up to 2 dB worse with highlights.
SIGMA_PER_SPACING = 0.4
TRUNCATION = 4.0  # of the Gaussian, in standard deviations: 6e-5 of the weight is left out
LEAST_SIGMA_PX = 0.1  # below it a sampled Gaussian is the identity to float32
MOST_STEPS = 8  # between the blurs from which a layer is interpolated that passes through the focus
EVEN_PX = 0.05  # a layer whose sigma varies less than this gets one blur

Box = tuple[slice, slice]  # rows and columns


def prefiltered(stack: LayerStack, lens: LensValues, *, spacing: float) -> LayerStack:
    """The stack, each layer blurred by a Gaussian in proportion to the gaps that the lens points leave in its disc.

    Concretely, sigma = 0.4 * |coc| * spacing at each pixel of the layer: one blur where the layer faces the camera, an
    interpolation in variance between up to nine blurs where it is tilted. In focus nothing changes.

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


def inset(points: Float[Tensor, "n 2"], weights: Float[Tensor, " n"], *, spacing: float) -> Float[Tensor, "n 2"]:
    """Lens points drawn together by so much that a disc, with the blur of `prefiltered`, keeps its second moment.

    Concretely, points move to m + (u - m) * sqrt(1 - (0.4 * spacing)^2 / v) with their mean m and variance v per axis.

    Args:
        points: Of the opening.
        weights: Light that passes them; they sum to 1.
        spacing: Distance between neighbours [radii].
    """
    mean = weights @ points
    variance = 0.5 * float(weights @ (points - mean).square().sum(dim=1))
    kept = 1.0 - (SIGMA_PER_SPACING * spacing) ** 2 / variance if variance > 0 else 1.0
    return mean + (points - mean) * math.sqrt(max(kept, 0.0))


def _blurred(rgba: Float[Tensor, "4 h w"], sigma_px: Float[Tensor, "h w"]) -> Float[Tensor, "4 h w"]:
    """One layer, blurred by what each of its pixels needs."""
    least, most = sigma_px.aminmax()
    if float(most.detach()) < LEAST_SIGMA_PX:
        return rgba
    spread = float((most - least).detach())
    if spread < EVEN_PX:
        return gaussian_blur(rgba, sigma_px.mean())
    # What counts is the step between neighbouring blurs over their size: a mild tilt needs two or three.
    n_steps = math.ceil(min(MOST_STEPS * spread / float(most.detach()), spread / EVEN_PX))
    levels = [least + (most - least) * i / n_steps for i in range(n_steps + 1)]
    blurred = torch.zeros_like(rgba)
    for i, level in enumerate(levels):
        below, above = levels[i - 1] if i else None, levels[i + 1] if i < n_steps else None
        needed = torch.ones_like(sigma_px, dtype=torch.bool)
        needed = needed if below is None else needed & (sigma_px > below)
        needed = needed if above is None else needed & (sigma_px < above)
        if bool(needed.any()):
            box = _box(needed)
            variance = sigma_px[box].square()
            share = torch.ones_like(variance)
            share = share if below is None else share - _fallen(variance, level, below)
            share = share if above is None else share - _fallen(variance, level, above)
            blurred[(slice(None), *box)] += share * gaussian_blur(rgba, level, box)
    return blurred


def _box(needed: Bool[Tensor, "h w"]) -> Box:
    """Rows and columns that hold every pixel that is needed."""
    rows, columns = (needed.any(dim=dim).nonzero()[:, 0] for dim in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _fallen(
    variance: Float[Tensor, "h w"], sigma_px: Float[Tensor, ""], towards: Float[Tensor, ""]
) -> Float[Tensor, "h w"]:
    """From 0 at the variance of one blur linearly to 1 at that of a neighbour."""
    rise = towards.square() - sigma_px.square()
    return ((variance - sigma_px.square()) / rise).clamp(0.0, 1.0)


def gaussian_blur(
    rgba: Float[Tensor, "c h w"], sigma_px: Float[Tensor, ""], box: Box | None = None
) -> Float[Tensor, "c bh bw"]:
    """Blur a layer by a Gaussian; beyond the border the edge pixels go on.

    Args:
        rgba: Premultiplied layer.
        sigma_px: Standard deviation [px]; 0 leaves the layer as it is.
        box: Rows and columns to compute, as those of the whole; None for all.
    """
    rows, columns = box or (slice(0, rgba.shape[1]), slice(0, rgba.shape[2]))
    radius = math.ceil(TRUNCATION * float(sigma_px.detach()))
    offset = torch.arange(-radius, radius + 1, dtype=rgba.dtype, device=rgba.device)
    # An offset of one pixel underflows to weight 0 far above this sigma, which only keeps 0 / 0 away.
    weight = torch.exp(-0.5 * (offset / sigma_px.clamp_min(LEAST_SIGMA_PX / 10)).square())
    kernel = weight / weight.sum()
    if _opencv_can(rgba, kernel):
        return _convolved_by_opencv(rgba, kernel, (rows, columns))
    image = _extended(_extended(rgba, radius, rows, dim=1), radius, columns, dim=2)
    image = F.conv2d(image[:, None], kernel[None, None, None, :])
    return F.conv2d(image, kernel[None, None, :, None])[:, 0]


def _opencv_can(rgba: Tensor, kernel: Tensor) -> bool:
    """Ten times faster than torch on the CPU, where no gradient is asked for."""
    wants_gradients = torch.is_grad_enabled() and (rgba.requires_grad or kernel.requires_grad)
    return rgba.device.type == "cpu" and rgba.dtype == torch.float32 and not wants_gradients


def _convolved_by_opencv(
    rgba: Float[Tensor, "c h w"], kernel: Float[Tensor, " k"], box: Box
) -> Float[Tensor, "c bh bw"]:
    taps, radius = kernel.detach().numpy(), len(kernel) // 2
    reach = tuple(slice(max(side.start - radius, 0), side.stop + radius) for side in box)
    inner = tuple(slice(s.start - r.start, s.stop - r.start) for s, r in zip(box, reach, strict=True))
    planes = [
        cv2.sepFilter2D(np.ascontiguousarray(plane[reach]), -1, taps, taps, borderType=cv2.BORDER_REPLICATE)[inner]
        for plane in rgba.detach().numpy()
    ]
    return torch.from_numpy(np.stack(planes))


def _extended(image: Float[Tensor, "c h w"], radius: int, side: slice, *, dim: int) -> Float[Tensor, "c eh ew"]:
    """Part of an axis and what lies around it, edge pixels repeated beyond the border.

    A lookup: unlike padding, its gradient is deterministic everywhere.
    """
    places = torch.arange(side.start - radius, side.stop + radius, device=image.device)
    return image.index_select(dim, places.clamp(0, image.shape[dim] - 1))
