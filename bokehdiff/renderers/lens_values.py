"""A lens as numbers for each image of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.optics import Lens


@dataclass(frozen=True)
class LensValues:
    """What a renderer needs of a lens, one number per image.

    Args:
        focus_disparity: Disparity of the plane in focus.
        strength_px: Radius of the circle of confusion at one unit of defocus [px].
    """

    focus_disparity: Float[Tensor, " b"]
    strength_px: Float[Tensor, " b"]


def lens_values(lens: Lens, like: Float[Tensor, "b ..."]) -> LensValues:
    """The lens of each image of a batch, in its dtype and on its device; gradients flow through.

    Args:
        lens: Its fields are numbers, meant for every image, or [b].
        like: The batch.
    """
    values = {}
    for name in ("focus_disparity", "strength_px"):
        value = torch.as_tensor(getattr(lens, name), dtype=like.dtype, device=like.device)
        if value.ndim and len(value) not in (1, len(like)):
            raise InputError(f"the lens's {name} must be a number or one per image; got {len(value)} for {len(like)}")
        values[name] = value.expand(len(like))
    return LensValues(**values)
