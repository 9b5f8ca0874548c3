"""Where to focus: what a person says, turned into a disparity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.optics import focus_from_box, focus_from_mask, focus_from_pixel


@dataclass(frozen=True)
class Distance:
    """A focus in metres.

    Args:
        m: From the camera [m]; None for what the photograph's EXIF says.
    """

    m: float | None = None


Focus: TypeAlias = float | Literal["subject"] | tuple[float, float] | tuple[float, float, float, float] | Distance

SWEEP_SHARE = 0.6  # how far the released tool's second and third picture move the focus towards the ends of the range


def parse_focus(text: str) -> Focus:
    """Read a focus from the command line.

    Args:
        text: "subject", a disparity such as 0.4, a point "X,Y" or a box "LEFT,TOP,RIGHT,BOTTOM" [px], a distance such
            as "2.5m", or "camera" for the distance that EXIF tells.
    """
    if text == "subject":
        return "subject"
    if text == "camera":
        return Distance()
    if text.endswith("m") and text[:-1].replace(".", "", 1).isdigit() and float(text[:-1]) > 0:
        return Distance(float(text[:-1]))
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) == 2 or len(numbers) == 4:
        return numbers
    raise InputError(
        f"must be subject, a disparity, a point X,Y, a box LEFT,TOP,RIGHT,BOTTOM, 2.5m or camera; got {text!r}"
    )


def resolve_focus(
    disparity: Float[Tensor, "b h w"], focus: Focus, mask: Float[Tensor, "b mh mw"] | None = None
) -> Float[Tensor, " b"]:
    """The disparity in focus.

    Args:
        disparity: In [0, 1], 1 nearest.
        focus: "subject" for the median under the mask (without a mask, of the image's centre); a disparity; a point
            (x, y) or a box (left, top, right, bottom) [px]. Distances are `resolve_lens`'s matter.
        mask: The subject, in [0, 1].
    """
    if isinstance(focus, Distance):
        raise InputError("a focus in metres needs to know the scene's distances: use resolve_lens")
    if isinstance(focus, tuple):
        if len(focus) == 2:
            return focus_from_pixel(disparity, focus[0], focus[1])
        return focus_from_box(disparity, focus)
    if focus == "subject":
        return focus_from_mask(disparity, torch.zeros_like(disparity) if mask is None else mask)
    if not 0.0 <= focus <= 1.0:
        raise InputError(f"the disparity in focus must be in [0, 1], 1 nearest; got {focus:g}")
    return torch.full((len(disparity),), float(focus), device=disparity.device)


def focus_sweep(subject: float) -> tuple[float, ...]:
    """The released tool's three pictures: the subject, then 0.6 of the way from it to the nearest and to the farthest.

    A subject that is itself the nearest or the farthest has two pictures only.

    Args:
        subject: Disparity of the subject, in [0, 1].
    """
    nearer, farther = subject + SWEEP_SHARE * (1.0 - subject), subject * (1.0 - SWEEP_SHARE)
    return tuple(dict.fromkeys((subject, nearer, farther)))
