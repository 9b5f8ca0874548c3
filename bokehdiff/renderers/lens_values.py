"""A lens as numbers for each image of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.optics import Lens

GREEN = 1  # the channel in the middle of the spectrum, whose lens is the nominal one


@dataclass(frozen=True)
class LensValues:
    """What a renderer needs of a lens, one number per image.

    Args:
        focus_disparity: Disparity of the plane in focus.
        strength_px: Radius of the circle of confusion at one unit of defocus [px].
        magnification: Size of the image over the nominal one, the same for every image of the batch [1].
    """

    focus_disparity: Float[Tensor, " b"]
    strength_px: Float[Tensor, " b"]
    magnification: float = 1.0


def lens_values(lens: Lens, like: Float[Tensor, "b ..."]) -> LensValues:
    """The lens of each image of a batch, in its dtype and on its device, for green light; gradients flow through.

    Args:
        lens: Its fields are numbers, meant for every image, or [b].
        like: The batch.
    """
    green = lens.of_channel(GREEN)
    values = {}
    for name in ("focus_disparity", "strength_px"):
        value = torch.as_tensor(getattr(green, name), dtype=like.dtype, device=like.device)
        if value.ndim and len(value) not in (1, len(like)):
            raise InputError(f"the lens's {name} must be a number or one per image; got {len(value)} for {len(like)}")
        values[name] = value.expand(len(like))
    return LensValues(**values, magnification=green.magnification_rgb[GREEN])
