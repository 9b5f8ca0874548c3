"""Lens blur of planar layers by tracing rays through points of the lens: exact but for the number of points."""

from __future__ import annotations

import logging
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError, MissingDependencyError
from bokehdiff.optics import Lens
from bokehdiff.renderers.layers import LayerStack
from bokehdiff.renderers.lens_values import GREEN, LensValues, lens_values
from bokehdiff.renderers.raytraced.on_cpu import trace_cpu
from bokehdiff.renderers.raytraced.on_cupy import CUPY_MISSING, cupy_is_there, trace_cupy
from bokehdiff.renderers.raytraced.on_torch import trace_torch
from bokehdiff.renderers.raytraced.prefilter import prefiltered
from bokehdiff.renderers.raytraced.rays import Gathered, Rays, trace_through

logger = logging.getLogger(__name__)


class Trace(Protocol):
    """A backend: sums up what the rays of a lens bring to each pixel."""

    def __call__(self, stack: LayerStack, rays: Rays) -> Gathered:
        """Trace every ray.

        Args:
            stack: Layers.
            rays: What to trace.
        """
        ...


def render_layers(
    stack: LayerStack, lens: Lens, *, n_samples: int = 256, backend: str = "auto"
) -> Float[Tensor, "b 4 h w"]:
    """Photograph a stack of layers through a thin lens.

    Concretely, out[b, :, p] = weighted mean over lens points u of the layers laid over one another, nearest first,
    where the ray from pixel p through u meets layer l at x = p + coc[l](x) * u, with coc[l](x) = K * (disparity[l](x) -
    focus). Every ray sees one order and one coverage of its own, so crossing layers and doubly blurred edges come out
    right. The ray of a lens point on the right goes right in front of the focus and left behind it. Points and weights
    are the aperture's; colours that the lens treats differently are traced one by one, at three times the cost, with
    green's coverage.

    Layers go on beyond the border with their edge pixels; within the largest circle of confusion of the border the
    result depends on that.

    Args:
        stack: Layers, premultiplied and in linear light.
        lens: What is in focus, strength_px at the size of the layers, the shape of the opening, and aberrations.
        n_samples: Points of the lens; more give smoother discs: 256 is invisible for clipped images, HDR
            highlights under wide blur profit from 512. Layers are blurred a little to hide the gaps between the points.
        backend: "torch" (any device and float dtype, gradients to layers, planes, focus and strength), "cpu" (OpenCV,
            float32, no gradients), "cupy" (CUDA, float32, no gradients; the extra `gpu`), or "auto": "cpu" or "cupy"
            where that is possible, else "torch".

    Returns:
        Premultiplied linear colour with coverage in the fourth channel; no background is added. With the aperture's
        fall-off the colour is darker towards the corners, the coverage is not.
    """
    name = _choose(backend, stack, lens_values(lens, stack.rgba_linear))
    if not lens.is_chromatic:
        return _render(stack, lens, n_samples=n_samples, backend=name)
    pictures = [_render(stack, lens.of_channel(c), n_samples=n_samples, backend=name) for c in range(3)]
    colours = [picture[:, c] for c, picture in enumerate(pictures)]
    return torch.stack([*colours, pictures[GREEN][:, 3]], dim=1)


def _render(stack: LayerStack, lens: Lens, *, n_samples: int, backend: str) -> Float[Tensor, "b 4 h w"]:
    """Through a lens that treats all colours alike."""
    values = lens_values(lens, stack.rgba_linear)
    rays = trace_through(
        stack.planes.to(stack.rgba_linear), values, lens.aperture, n_samples=n_samples, size_hw=stack.size_hw
    )
    gathered = BACKENDS[backend](prefiltered(stack, values, spacing=rays.spacing), rays)
    rgba = gathered.rgba / gathered.light
    if not lens.aperture.falloff:
        return rgba
    return torch.cat([rgba[:, :3] * gathered.light, rgba[:, 3:]], dim=1)


def _choose(backend: str, stack: LayerStack, lens: LensValues) -> str:
    if backend not in ("auto", *BACKENDS):
        raise InputError(f"backend must be one of auto, {', '.join(BACKENDS)}; got {backend!r}")
    if backend == "cupy" and not cupy_is_there():
        raise MissingDependencyError(CUPY_MISSING)
    tensor = stack.rgba_linear
    inputs = (tensor, stack.planes, lens.focus_disparity, lens.strength_px)
    wants_gradients = torch.is_grad_enabled() and any(value.requires_grad for value in inputs)
    plain = tensor.dtype == torch.float32 and not wants_gradients
    able = {name for name, kind in DEVICE_OF.items() if plain and tensor.device.type == kind}
    if backend == "auto":
        chosen = next((name for name in sorted(able) if name != "cupy" or cupy_is_there()), "torch")
        logger.info("render_layers: backend %s", chosen)
        return chosen
    if backend in DEVICE_OF and backend not in able:
        raise InputError(
            f"backend {backend!r} takes float32 on {DEVICE_OF[backend]} without gradients; got "
            f"{tensor.dtype} on {tensor.device}{' with gradients' if wants_gradients else ''}: use 'torch'"
        )
    return backend


BACKENDS: dict[str, Trace] = {"torch": trace_torch, "cpu": trace_cpu, "cupy": trace_cupy}
DEVICE_OF = {"cpu": "cpu", "cupy": "cuda"}  # backends that take one kind of device, in float32 and without gradients
