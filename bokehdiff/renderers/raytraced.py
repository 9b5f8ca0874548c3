"""Lens blur of planar layers by tracing rays through points of the lens: exact but for the number of points."""

from __future__ import annotations

import logging
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bokehdiff.errors import InputError
from bokehdiff.optics import Lens, circle_of_confusion
from bokehdiff.renderers.layers import LayerStack, composite_by_disparity, evaluate_planes, pixel_centres
from bokehdiff.renderers.lens_values import LensValues, lens_values
from bokehdiff.renderers.prefilter import prefiltered
from bokehdiff.renderers.raytraced_cpu import trace_cpu

logger = logging.getLogger(__name__)


class Trace(Protocol):
    """A backend: the mean of what the rays through `points` of the lens bring to each pixel."""

    def __call__(
        self, stack: LayerStack, walk_planes_px: Float[Tensor, "n b l 3"], points: Float[Tensor, "n 2"]
    ) -> Float[Tensor, "b 4 h w"]:
        """Trace every ray.

        Args:
            stack: Layers.
            walk_planes_px: Of each point and layer, the coefficients of the walk; see `walk_planes`.
            points: Points (x, y) of the unit disc.
        """
        ...


def render_layers(
    stack: LayerStack, lens: Lens, *, n_samples: int = 256, backend: str = "auto"
) -> Float[Tensor, "b 4 h w"]:
    """Photograph a stack of layers through a thin lens.

    Concretely, out[b, :, p] = mean over lens points u of the layers laid over one another, nearest first, where the ray
    from pixel p through u meets layer l at x = p + coc[l](x) * u, with coc[l](x) = K * (disparity[l](x) - focus). Every
    ray sees one order and one coverage of its own, so crossing layers and doubly blurred edges come out right. The
    ray of a lens point on the right goes right in front of the focus and left behind it.

    Layers go on beyond the border with their edge pixels; within the largest circle of confusion of the border the
    result depends on that.

    Args:
        stack: Layers, premultiplied and in linear light.
        lens: What is in focus, and strength_px at the size of the layers.
        n_samples: Points of the lens; more give smoother discs: 256 is invisible for clipped images, HDR
            highlights under wide blur profit from 512. Layers are blurred a little to hide the gaps between the points.
        backend: "torch" (any device and float dtype, gradients to layers, planes, focus and strength), "cpu" (OpenCV,
            float32, no gradients), or "auto": "cpu" where that is possible, else "torch".

    Returns:
        Premultiplied linear colour with coverage in the fourth channel; no background is added.
    """
    values = lens_values(lens, stack.rgba_linear)
    name = _choose(backend, stack, values)
    points = lens.aperture.sample(n_samples).to(stack.rgba_linear)
    layers = prefiltered(stack, values, n_samples=n_samples)
    return BACKENDS[name](layers, walk_planes(stack.planes, values, points), points)


def _choose(backend: str, stack: LayerStack, lens: LensValues) -> str:
    if backend not in ("auto", *BACKENDS):
        raise InputError(f"backend must be one of auto, {', '.join(BACKENDS)}; got {backend!r}")
    inputs = (stack.rgba_linear, stack.planes, lens.focus_disparity, lens.strength_px)
    wants_gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    on_cpu = stack.rgba_linear.device.type == "cpu" and stack.rgba_linear.dtype == torch.float32
    cpu_can = on_cpu and not wants_gradients
    if backend == "auto":
        chosen = "cpu" if cpu_can else "torch"
        logger.info("render_layers: backend %s", chosen)
        return chosen
    if backend == "cpu" and not cpu_can:
        tensor = stack.rgba_linear
        raise InputError(
            "backend 'cpu' takes float32 on the CPU without gradients; got "
            f"{tensor.dtype} on {tensor.device}{' with gradients' if wants_gradients else ''}: use 'torch'"
        )
    return backend


def walk_planes(
    planes: Float[Tensor, "b l 3"], lens: LensValues, points: Float[Tensor, "n 2"]
) -> Float[Tensor, "n b l 3"]:
    """How far a ray walks from its pixel to where it meets a layer, as affine functions of the pixel.

    Concretely, walk(p) = w0 + wx * p.x + wy * p.y is the solution of x = p + coc(x) * u, x = p + walk(p) * u:
    walk(p) = coc(p) / (1 - K * (cx * u.x + cy * u.y)), where coc(p) is the layer's signed circle at p.

    Args:
        planes: Layers; refused where one is as steep as a ray, K * |(cx, cy)| >= 1.
        lens: Of each image.
        points: Points u of the unit disc.
    """
    strength = lens.strength_px[:, None, None]
    slope = strength * planes[..., 1:]
    steepest = float(slope.detach().norm(dim=-1).max())
    if steepest >= 1.0:
        raise InputError(
            f"a layer is too steep for this lens: strength_px * |(cx, cy)| must stay below 1; got {steepest:g}"
        )
    coc_at_corner = circle_of_confusion(planes[..., :1], lens.focus_disparity, lens.strength_px)
    return torch.cat([coc_at_corner, slope], dim=-1) / (1.0 - (slope * points[:, None, None]).sum(-1, keepdim=True))


def trace_torch(
    stack: LayerStack, walk_planes_px: Float[Tensor, "n b l 3"], points: Float[Tensor, "n 2"]
) -> Float[Tensor, "b 4 h w"]:
    """The reference `Trace`: every step in the open, on any device and with gradients to everything.

    Args:
        stack: Layers.
        walk_planes_px: See `walk_planes`.
        points: Points (x, y) of the unit disc.
    """
    centres = pixel_centres(stack.size_hw, like=stack.rgba_linear)
    total = torch.zeros_like(stack.rgba_linear[:, 0])
    for walk, point in zip(walk_planes_px, points, strict=True):
        # Recomputed in the backward pass: keeping the lookups of all points would cost n times the memory.
        total = total + checkpoint(
            _seen_through, stack.rgba_linear, stack.planes, walk, point, centres, use_reentrant=False
        )
    return total / len(points)


def _seen_through(
    rgba: Float[Tensor, "b l 4 h w"],
    planes: Float[Tensor, "b l 3"],
    walk: Float[Tensor, "b l 3"],
    point: Float[Tensor, " 2"],
    centres: Float[Tensor, "2 h w"],
) -> Float[Tensor, "b 4 h w"]:
    """The image as one point of the lens sees it."""
    walk_px = evaluate_planes(walk, centres)
    x = centres[0] + walk_px * point[0]
    y = centres[1] + walk_px * point[1]
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


BACKENDS: dict[str, Trace] = {"torch": trace_torch, "cpu": trace_cpu}
