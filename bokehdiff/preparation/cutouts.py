"""Subjects cut out of photographs as training foregrounds: trimmed, and without the colours of what was behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.errors import InputError
from bokehdiff.images import linear_to_srgb, resize, srgb_to_linear
from bokehdiff.optics import MASK_THRESHOLD
from bokehdiff.preparation.foreground_colour import unmix

HAZE = 0.02  # networks leave as much where nothing is, and lack as much where all is
SPECK = 0.01  # parts below this share of the largest one are dropped: what the network saw elsewhere
SURROUNDINGS = 0.05  # of the box's longer side that is looked at around it, to know the background's colour
SPREAD_PX = 1  # by which shrinking widens a soft edge
RIM_PX = 1  # transparent pixels around the cut-out, so that its outermost ones stay as soft as they are
SIDES = ("left", "top", "right", "bottom")


class UnusableSubjectError(InputError):
    """The subject of a photograph makes no foreground; the message says why."""


@dataclass(frozen=True)
class CutoutLimits:
    """Which subjects make a foreground.

    Args:
        smallest_px: Shorter side of the subject's box, at least [px].
        least_share: Of the photograph that the subject covers, at least [1].
        most_cut_sides: Sides of the photograph, 0 to 4, that may cut the subject off. What is cut off has a straight
            edge there, which shows wherever a sample places it inside: one, as under a portrait, is common.
        longest_px: Longer cut-outs are shrunk to this [px]; the compositor keeps about 1536 px of one at 512 px.
    """

    smallest_px: int = 64
    least_share: float = 0.005
    most_cut_sides: int = 1
    longest_px: int = 2048


def cut_out(
    image_srgb: Float[Tensor, "1 3 h w"], mask: Float[Tensor, "1 h w"], *, limits: CutoutLimits
) -> Float[Tensor, "1 4 ch cw"]:
    """A subject as display RGB with straight alpha, in its own box.

    Concretely: what the mask has below 2 % becomes 0 and above 98 % becomes 1; parts that are nowhere more subject than
    not, or under 1 % of the largest, go. Photograph and mask are shrunk in light if need be, the photograph is parted
    into subject and background (see `unmix`), and the subject's colour goes with its alpha.

    Args:
        image_srgb: The photograph.
        mask: Share of each pixel that is subject, in [0, 1].
        limits: Which subjects make a foreground.

    Raises:
        UnusableSubjectError: Nothing found, too small, or cut off on too many sides.
    """
    alpha = _one_subject(mask)
    top, bottom, left, right = _box(alpha > 0)
    _refuse_unusable(alpha, (bottom - top, right - left), limits)
    margin = math.ceil(SURROUNDINGS * max(bottom - top, right - left))
    rows = slice(max(top - margin, 0), bottom + margin)
    columns = slice(max(left - margin, 0), right + margin)
    light, alpha = srgb_to_linear(image_srgb[..., rows, columns]), alpha[:, rows, columns]
    factor = (limits.longest_px - 2 * (RIM_PX + SPREAD_PX)) / max(bottom - top, right - left)
    if factor < 1:
        size_hw = (max(1, round(alpha.shape[1] * factor)), max(1, round(alpha.shape[2] * factor)))
        light, alpha = resize(light, size_hw), resize(alpha[None], size_hw)[0].clamp(0.0, 1.0)
    near_srgb = linear_to_srgb(unmix(light, alpha).near).clamp(0.0, 1.0)
    top, bottom, left, right = _box(alpha > 0)
    rgba = torch.cat([near_srgb, alpha[:, None]], dim=1)[..., top:bottom, left:right]
    return torch.cat([_padded(rgba[:, :3], mode="replicate"), _padded(rgba[:, 3:], mode="constant")], dim=1)


def _padded(image: Tensor, *, mode: str) -> Tensor:
    return F.pad(image, (RIM_PX,) * 4, mode=mode)


def _one_subject(mask: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """The mask without haze and specks."""
    from scipy import ndimage

    alpha = ((mask - HAZE) / (1 - 2 * HAZE)).clamp(0.0, 1.0)
    values = alpha[0].cpu().numpy()
    parts, n_parts = ndimage.label(values > 0, structure=np.ones((3, 3)))
    numbers = np.arange(1, n_parts + 1)
    if n_parts == 0:
        raise UnusableSubjectError("the mask marks nothing")
    covered = np.asarray(ndimage.sum_labels(values, parts, numbers))
    peaks = np.asarray(ndimage.maximum(values, parts, numbers))
    kept = (peaks > MASK_THRESHOLD) & (covered >= SPECK * covered.max())
    if not kept.any():
        raise UnusableSubjectError(f"the mask marks nothing: it is {float(mask.max()):.2g} at most")
    return alpha * torch.from_numpy(np.isin(parts, numbers[kept])).to(alpha)


def _box(inside: Bool[Tensor, "1 h w"]) -> tuple[int, int, int, int]:
    """First and one past the last row, then column, of a region that is not empty."""
    rows, columns = (inside[0].any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _refuse_unusable(alpha: Float[Tensor, "1 h w"], box_hw: tuple[int, int], limits: CutoutLimits) -> None:
    size = f"{box_hw[1]} x {box_hw[0]} px, {float(alpha.mean()):.1%} of the photograph"
    if min(box_hw) < limits.smallest_px or float(alpha.mean()) < limits.least_share:
        raise UnusableSubjectError(
            f"the subject is too small: {size}; at least {limits.smallest_px} px and {limits.least_share:.1%} needed"
        )
    cut = cut_sides(alpha)
    if len(cut) > limits.most_cut_sides:
        where = "on all sides" if len(cut) == len(SIDES) else f"at the {' and '.join(cut)}"
        raise UnusableSubjectError(
            f"the photograph cuts the subject off {where} ({size}); "
            f"at most {limits.most_cut_sides} of {len(SIDES)} sides may"
        )


def cut_sides(alpha: Float[Tensor, "1 h w"]) -> tuple[str, ...]:
    """Names of the photograph's sides at which the subject does not end.

    Args:
        alpha: Share of each pixel that is subject, in [0, 1].
    """
    borders = (alpha[0, :, 0], alpha[0, 0], alpha[0, :, -1], alpha[0, -1])
    return tuple(side for side, border in zip(SIDES, borders, strict=True) if bool((border > MASK_THRESHOLD).any()))
