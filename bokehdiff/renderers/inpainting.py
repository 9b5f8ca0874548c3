"""What stands behind a subject, made up: our own diffusion, OpenCV's two classics, or a network such as LaMa."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.errors import InputError
from bokehdiff.tiling import pad_to_multiple

OPENCV_RADIUS_PX = 5  # of the neighbourhood that OpenCV's methods look at
DISPLAY_GAMMA = 2.2  # networks know pictures as screens show them
WHITE_8_BIT = 255
N_RELAXED = 4  # rounds per level that make it as smooth as a membrane
LAMA_MULTIPLE = 8  # LaMa halves its input three times


@runtime_checkable
class Inpainter(Protocol):
    """Makes up the colours of hidden surfaces."""

    def __call__(
        self, image_linear: Float[Tensor, "b 3 h w"], known: Float[Tensor, "b h w"], hole: Float[Tensor, "b h w"]
    ) -> Float[Tensor, "b 3 h w"]:
        """Fill the hole.

        Args:
            image_linear: The photograph; means nothing where it is not known.
            known: How far each pixel may be built upon, in [0, 1].
            hole: Pixels that are wanted are above 0; the rest of the result is not used.
        """
        ...


def diffuse(
    image_linear: Float[Tensor, "b 3 h w"], known: Float[Tensor, "b h w"], hole: Float[Tensor, "b h w"] | None = None
) -> Float[Tensor, "b 3 h w"]:
    """Fill what is not known smoothly from all sides, by pulling up a pyramid and pushing down; differentiable.

    Concretely, each level of the pyramid halves the one before, out = w * c + (1 - w) * enlarged(level above), where w
    is what is known of a pixel, at most 1, and c its known mean. Source: Gortler et al., "The Lumigraph", 1996.

    Args:
        image_linear: The photograph.
        known: Weight of each pixel, in [0, 1].
        hole: Not used: what is not known is filled everywhere.
    """
    return _pull_push(image_linear, known[:, None])


def _pull_push(colour: Tensor, weight: Tensor) -> Tensor:
    height, width = colour.shape[-2:]
    if height == width == 1:
        return colour
    both = F.pad(torch.cat([colour * weight, weight], dim=1), (0, width % 2, 0, height % 2))
    summed = F.avg_pool2d(both, 2, divisor_override=1)
    total = summed[:, -1:]
    mean = summed[:, :-1] / total.clamp_min(torch.finfo(colour.dtype).tiny)
    above = _pull_push(mean, total.clamp_max(1.0))
    # The same numbers with "antialias", whose bits do not depend on the number of threads.
    enlarged = F.interpolate(above, scale_factor=2, mode="bilinear", antialias=True)[..., :height, :width]
    filled = weight * colour + (1.0 - weight) * enlarged
    for _ in range(N_RELAXED):
        filled = weight * colour + (1.0 - weight) * _mean_of_neighbours(filled)
    return filled


def _mean_of_neighbours(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    across = padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
    return (across + padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]) / 4


def inpaint_opencv(
    image_linear: Float[Tensor, "b 3 h w"],
    known: Float[Tensor, "b h w"],
    hole: Float[Tensor, "b h w"],
    *,
    flag: int = cv2.INPAINT_TELEA,
) -> Float[Tensor, "b 3 h w"]:
    """Fill the hole by OpenCV, over a diffused surrounding; no gradients within the hole.

    Lights beyond 1 are clipped, and colours have 8 bits, within the hole only.

    Args:
        image_linear: The photograph.
        known: Weight of each pixel, in [0, 1].
        hole: Pixels above 0 are filled.
        flag: cv2.INPAINT_TELEA or cv2.INPAINT_NS.
    """
    surrounded, wanted = diffuse(image_linear, known), (hole > 0) & (known < 1)
    filled = []
    for display, mask in zip(_display(surrounded), wanted.cpu().numpy(), strict=True):
        # OpenCV's Telea overshoots wildly on floats.
        pixels = (display.permute(1, 2, 0) * WHITE_8_BIT).round().byte().cpu().numpy()
        colours = cv2.inpaint(np.ascontiguousarray(pixels), mask.astype(np.uint8), OPENCV_RADIUS_PX, flag)
        filled.append(torch.from_numpy(colours).permute(2, 0, 1) / WHITE_8_BIT)
    return torch.where(wanted[:, None], (torch.stack(filled) ** DISPLAY_GAMMA).to(image_linear), surrounded)


def _display(image_linear: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    return image_linear.detach().float().clamp(0.0, 1.0) ** (1.0 / DISPLAY_GAMMA)


def inpaint_network(
    image_linear: Float[Tensor, "b 3 h w"],
    known: Float[Tensor, "b h w"],
    hole: Float[Tensor, "b h w"],
    *,
    network: torch.nn.Module,
) -> Float[Tensor, "b 3 h w"]:
    """Fill the hole by a network that takes a display image and a mask, as LaMa does; no gradients within the hole.

    Lights beyond 1 are clipped where the network fills, and only there.

    Args:
        image_linear: The photograph.
        known: Weight of each pixel, in [0, 1].
        hole: Pixels above 0 are filled.
        network: Called with (image [b 3 h w] in [0, 1], mask [b 1 h w] of 0 and 1); sides are multiples of 8.
    """
    surrounded, wanted = diffuse(image_linear, known), (hole > 0) & (known < 1)
    padded = pad_to_multiple(_display(surrounded), LAMA_MULTIPLE)
    mask = pad_to_multiple(wanted[:, None].float(), LAMA_MULTIPLE)
    with torch.no_grad():
        filled = padded.crop(network(padded.image, mask.image)).clamp(0.0, 1.0) ** DISPLAY_GAMMA
    return torch.where(wanted[:, None], filled.to(image_linear), surrounded)


INPAINTERS: dict[str, Inpainter] = {
    "diffusion": diffuse,
    "telea": inpaint_opencv,
    "navier-stokes": partial(inpaint_opencv, flag=cv2.INPAINT_NS),
}


def inpainter(name_or_path: str, *, device: torch.device | str = "cpu") -> Inpainter:
    """One of `INPAINTERS` by its name, or a TorchScript file such as LaMa's.

    Args:
        name_or_path: "diffusion", "telea", "navier-stokes", or the path of a TorchScript file.
        device: Where a network is put.
    """
    if name_or_path in INPAINTERS:
        return INPAINTERS[name_or_path]
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise InputError(
            f"inpainting must be one of {', '.join(INPAINTERS)} or a TorchScript file; got {name_or_path!r}"
        )
    try:
        with warnings.catch_warnings():
            # TorchScript is what networks for inpainting are published as, deprecated or not.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: is not a TorchScript file: {str(error).splitlines()[0]}") from error
    return partial(inpaint_network, network=network)
