"""The ray tracer of layers on CUDA, compiled and launched by CuPy on torch's stream and memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.renderers.layers import LayerStack
from bokehdiff.renderers.raytraced.cuda_source import CUDA_SOURCE, kernel_name
from bokehdiff.renderers.raytraced.rays import Gathered, Rays

CUPY_MISSING = "CuPy is needed for backend 'cupy': pip install bokehdiff[gpu]"
BLOCK = (32, 8, 1)  # a warp reads 32 neighbours of one row


@dataclass(frozen=True)
class KernelArguments:
    """What the kernel takes, in its order: pointers to tensors that are kept alive here, sizes, numbers.

    Args:
        layers: Premultiplied, channels last, so that one load fetches a pixel.
        bounds: (left, top, right, bottom) of what is not empty in each layer; infinite where it touches the border,
            beyond which it goes on [px].
        rays: Walks to the right and down, and disparities met, each as an affine function of the pixel; see
            `Rays.walks_px`. The fourth column only fills up what one load fetches.
        points: x, y, weight and a filler.
        gathered: Written: sum over the rays.
        light: Written: light of the rays.
        cat_eye: See `Aperture`.
        spacing: See `Rays`.
    """

    layers: Float[Tensor, "b l h w 4"]
    bounds: Float[Tensor, "b l 4"]
    rays: Float[Tensor, "n b l 3 4"]
    points: Float[Tensor, "n 4"]
    gathered: Float[Tensor, "b h w 4"]
    light: Float[Tensor, "h w"]
    cat_eye: float
    spacing: float

    @property
    def grid(self) -> tuple[int, int, int]:
        """Blocks in x, y and over the images."""
        n_images, height, width, _ = self.gathered.shape
        return -(-width // BLOCK[0]), -(-height // BLOCK[1]), n_images

    def in_order(self) -> tuple[np.generic, ...]:
        """As the kernel counts its arguments."""
        tensors = (self.layers, self.bounds, self.rays, self.points, self.gathered, self.light)
        sizes = (*self.layers.shape[:4], len(self.points))
        pointers = [np.uintp(tensor.data_ptr()) for tensor in tensors]
        return (*pointers, *(np.int32(size) for size in sizes), np.float32(self.cat_eye), np.float32(self.spacing))


def cupy_is_there() -> bool:
    """Whether CuPy can be imported; it is not, by this."""
    return find_spec("cupy") is not None


def trace_cupy(stack: LayerStack, rays: Rays) -> Gathered:
    """The `Trace` in CUDA C: float32 on a CUDA device, no gradients.

    Args:
        stack: Layers.
        rays: What to trace.
    """
    import cupy

    arguments = kernel_arguments(stack, rays)
    device = stack.rgba_linear.device
    with cupy.cuda.Device(device.index), _torch_stream(cupy, device):
        _kernel(kernel_name(arguments.layers.shape[1]))(arguments.grid, BLOCK, arguments.in_order())
    return gathered_by(arguments)


def kernel_arguments(stack: LayerStack, rays: Rays) -> KernelArguments:
    """Memory as the kernel reads and writes it.

    Args:
        stack: Layers.
        rays: What to trace.
    """
    with torch.no_grad():
        layers = stack.rgba_linear.permute(0, 1, 3, 4, 2).contiguous()
        return KernelArguments(
            layers=layers,
            bounds=filled_bounds(layers),
            rays=F.pad(torch.cat([rays.walks_px, _disparity_met(stack, rays)], dim=3), (0, 1)).to(layers),
            points=F.pad(torch.cat([rays.points, rays.weights[:, None]], dim=1), (0, 1)).to(layers),
            gathered=torch.empty_like(layers[:, 0]),
            light=torch.empty_like(layers[0, 0, :, :, 0], memory_format=torch.contiguous_format),
            cat_eye=rays.aperture.cat_eye,
            spacing=rays.spacing,
        )


def _disparity_met(stack: LayerStack, rays: Rays) -> Float[Tensor, "n b l 1 3"]:
    """Disparity where the ray of a pixel p meets a layer: D[0] * p.x + D[1] * p.y + D[2]."""
    planes = stack.planes.double()
    maps = rays.walks_px.double() + torch.eye(2, 3).to(planes)
    met = (planes[..., 1:, None] * maps).sum(dim=-2)
    return (met + F.pad(planes[..., :1], (2, 0))).to(rays.walks_px)[..., None, :]


def filled_bounds(layers: Float[Tensor, "b l h w 4"]) -> Float[Tensor, "b l 4"]:
    """Edges (left, top, right, bottom) of all places where a lookup finds something in a layer [px].

    Concretely, from the centre of the last empty pixel before what is filled to that of the first one behind it.

    Args:
        layers: Channels last.
    """
    filled = (layers != 0).any(dim=-1)
    edges = []
    for across in (2, 3):  # the axis that is looked through to find columns, then rows
        along = filled.any(dim=across)
        size = along.shape[-1]
        place = torch.arange(size, device=layers.device).expand_as(along)
        first = torch.where(along, place, size).amin(dim=-1)
        last = torch.where(along, place, -1).amax(dim=-1)
        # An empty layer keeps its impossible edges: everything lies beyond both.
        edges.append(torch.where(first == 0, -torch.inf, first - 0.5))
        edges.append(torch.where(last == size - 1, torch.inf, last + 1.5))
    left, right, top, bottom = edges
    return torch.stack([left, top, right, bottom], dim=-1).to(layers)


def gathered_by(arguments: KernelArguments) -> Gathered:
    """What the kernel wrote.

    Args:
        arguments: Those it was called with.
    """
    return Gathered(arguments.gathered.permute(0, 3, 1, 2), arguments.light)


@cache
def _kernel(name: str) -> Any:
    import cupy

    return cupy.RawModule(code=CUDA_SOURCE, options=("--std=c++14",)).get_function(name)


class _TorchStream:
    """A stream of torch's as the CUDA stream protocol hands it on."""

    def __init__(self, device: torch.device) -> None:
        self.pointer = torch.cuda.current_stream(device).cuda_stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


def _torch_stream(cupy: Any, device: torch.device) -> Any:
    """Torch's current stream for CuPy: by the protocol from CuPy 14.1 on, by its pointer before."""
    stream = _TorchStream(device)
    by_protocol = getattr(cupy.cuda.Stream, "from_external", None)
    return by_protocol(stream) if by_protocol else cupy.cuda.ExternalStream(stream.pointer)
