"""The ray tracer of layers on plain torch operations: the definition that the other backends are held to."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bokehdiff.optics import image_field
from bokehdiff.renderers.layers import LayerStack, composite_by_disparity, pixel_centres
from bokehdiff.renderers.raytraced.rays import RAYS_PER_SUM, Gathered, Rays


def trace_torch(stack: LayerStack, rays: Rays) -> Gathered:
    """The reference `Trace`: every step in the open, on any device and with gradients to everything.

    Args:
        stack: Layers.
        rays: What to trace.
    """
    centres = pixel_centres(stack.size_hw, like=stack.rgba_linear)
    field = image_field(centres, stack.size_hw)
    gathered, light = torch.zeros_like(stack.rgba_linear[:, 0]), torch.zeros_like(centres[0])
    for first in range(0, len(rays.points), RAYS_PER_SUM):
        some_gathered, some_light = torch.zeros_like(gathered), torch.zeros_like(light)
        for i in range(first, min(first + RAYS_PER_SUM, len(rays.points))):
            # Recomputed in the backward pass: keeping the lookups of all points would cost n times the memory.
            inputs = (stack.rgba_linear, stack.planes, rays.walks_px[i], centres)
            seen = checkpoint(_seen_through, *inputs, use_reentrant=False)
            carried = rays.light(i, field)
            some_gathered = some_gathered + carried * seen
            some_light = some_light + carried
        gathered, light = gathered + some_gathered, light + some_light
    return Gathered(gathered, light)


def _seen_through(
    rgba: Float[Tensor, "b l 4 h w"],
    planes: Float[Tensor, "b l 3"],
    walk: Float[Tensor, "b l 2 3"],
    centres: Float[Tensor, "2 h w"],
) -> Float[Tensor, "b 4 h w"]:
    """The image as one point of the lens sees it."""
    across, down, constant = walk[..., None, None].unbind(dim=3)
    x, y = (centres + (across * centres[0] + down * centres[1] + constant)).unbind(dim=2)
    c0, cx, cy = planes[..., None, None].unbind(dim=2)
    return composite_by_disparity(lookup(rgba, x, y), c0 + cx * x + cy * y)


def lookup(
    rgba: Float[Tensor, "b l c h w"], x: Float[Tensor, "b l h w"], y: Float[Tensor, "b l h w"]
) -> Float[Tensor, "b l c h w"]:
    """Bilinear lookup with edge pixels repeated beyond the border; differentiable in the image and the place.

    Args:
        rgba: Layers.
        x: Where to look, to the right [px]; the first column's centre is at 0.5.
        y: Where to look, down [px].
    """
    height, width = rgba.shape[-2:]
    column = (x - 0.5).clamp(0, width - 1)
    row = (y - 0.5).clamp(0, height - 1)
    left, top = column.detach().floor().long(), row.detach().floor().long()
    right, bottom = (left + 1).clamp_max(width - 1), (top + 1).clamp_max(height - 1)
    flat = rgba.flatten(3)

    def texels(rows: Tensor, columns: Tensor) -> Tensor:
        index = (rows * width + columns).flatten(2)[:, :, None].expand(-1, -1, rgba.shape[2], -1)
        return flat.gather(3, index).unflatten(3, (height, width))

    across, down = (column - left)[:, :, None], (row - top)[:, :, None]
    above = torch.lerp(texels(top, left), texels(top, right), across)
    below = torch.lerp(texels(bottom, left), texels(bottom, right), across)
    return torch.lerp(above, below, down)
