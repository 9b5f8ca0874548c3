"""Every depth of every pixel tried by itself, with all others where a first guess has put them.

Where depth breaks off, a blurred image shows two surfaces at once, and no disc that is the same everywhere explains it.
Here the photograph is taken apart into slices of a first guess, and what a pixel would look like at another depth is
put together from what nearer slices leave free, its own few pixels, and what is seen past them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.images import Transfer, linear_to_srgb
from bokehdiff.optics import Aperture
from bokehdiff.preparation.defocus.focal_sweep import Blurrer, Sweep, difference
from bokehdiff.preparation.defocus.labelling import STEP_PX, guided

OWN_PX = 3.0  # radius of what moves in depth together: a hair and its neighbours
GAP_PX = 2.0  # of circles of confusion in the first image: surfaces so far apart hide each other
BURIED_COST = 1e-4  # of what other surfaces wholly cover: nobody can say that it is not there


def tried(
    sharp_linear: Float[Tensor, "1 3 h w"],
    blurred_srgb: Float[Tensor, "n 3 h w"],
    coc_px: Float[Tensor, "1 h w"],
    levels_px: Float[Tensor, " k"],
    scales: tuple[float, ...],
    shifts: Float[Tensor, " n"],
    *,
    aperture: Aperture,
    transfer: Transfer,
) -> Sweep:
    """Costs of every level in every image, the rest of the picture being as guessed.

    Args:
        sharp_linear: All in focus.
        blurred_srgb: Defocused images, display values in [0, 1].
        coc_px: Guess of the circle of confusion in the first image [px].
        levels_px: To try, signed, ascending by STEP_PX.
        scales: Of each image's circle of confusion over the first's.
        shifts: Added to it [px].
        aperture: Shape of the opening.
        transfer: How light becomes display values.
    """
    sharp_srgb = linear_to_srgb(sharp_linear, transfer=transfer).clamp(0.0, 1.0)
    share = (1.0 - (coc_px - levels_px.view(-1, 1, 1)).abs() / STEP_PX).clamp_min(0.0)
    costs = []
    for seen, scale, shift in zip(blurred_srgb, scales, shifts.tolist(), strict=True):
        picture, buried = _rendered(_slices(sharp_linear[0], share, scale * levels_px + shift, aperture))
        shown = linear_to_srgb(picture, transfer=transfer).clamp(0.0, 1.0)
        error = torch.stack([difference(one, seen) for one in shown]) + BURIED_COST * buried
        costs.append(guided(error, sharp_srgb))
    first_px = torch.tensor(scales) * levels_px[0] + shifts
    return Sweep(torch.stack(costs), first_px, torch.tensor(scales) * STEP_PX, signed=True)


@dataclass(frozen=True)
class _Slices:
    """What each slice sends to each pixel: to its own few pixels, and to all others.

    Args:
        others: Light and weight that come from elsewhere.
        own: Light of the pixel's own surroundings, if they belong to the slice.
        own_share: Of the weight.
        uniform: All of the sharp image, if it belongs to the slice.
    """

    others: Float[Tensor, "k 4 h w"]
    own: Float[Tensor, "k 3 h w"]
    own_share: Float[Tensor, "k 1 1 1"]
    uniform: Float[Tensor, "k 3 h w"]


def _slices(
    sharp_linear: Float[Tensor, "3 h w"],
    share: Float[Tensor, "k h w"],
    coc_px: Float[Tensor, " k"],
    aperture: Aperture,
) -> _Slices:
    size_hw = (sharp_linear.shape[1], sharp_linear.shape[2])
    blurrer = Blurrer(size_hw, float(coc_px.abs().max()), aperture)
    whole = blurrer.transform(sharp_linear)
    content = torch.cat([sharp_linear, torch.ones_like(sharp_linear[:1])])
    others, own, own_share, uniform = [], [], [], []
    for k, radius_px in enumerate(coc_px.tolist()):
        kernel = blurrer.kernel(radius_px)
        middle = _middle(kernel)
        uniform.append(blurrer.blurred(whole, kernel))
        own.append(_near_by(sharp_linear, middle))
        own_share.append(middle.sum())
        if bool((share[k] > 0).any()):
            elsewhere = blurrer.blurred(blurrer.transform(content * share[k]), kernel - middle)
            others.append(elsewhere.clamp_min(0.0))
        else:
            others.append(torch.zeros_like(content))
    return _Slices(
        torch.stack(others), torch.stack(own), torch.stack(own_share).view(-1, 1, 1, 1), torch.stack(uniform)
    )


def _middle(kernel: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """The part of a disc that comes from within OWN_PX."""
    offset = torch.arange(len(kernel)) - len(kernel) // 2
    return kernel * (torch.hypot(offset[:, None].float(), offset.float()) <= OWN_PX + 0.5)


def _near_by(image: Float[Tensor, "3 h w"], kernel: Float[Tensor, "k k"]) -> Float[Tensor, "3 h w"]:
    reach = min(len(kernel) // 2, math.ceil(OWN_PX))
    first = len(kernel) // 2 - reach
    cut = kernel[first : len(kernel) - first, first : len(kernel) - first].flip(0, 1)
    return F.conv2d(F.pad(image[:, None], (reach,) * 4, mode="replicate"), cut[None, None])[:, 0]


def _rendered(slices: _Slices) -> tuple[Float[Tensor, "k 3 h w"], Float[Tensor, "k h w"]]:
    """What each pixel looks like with its surroundings at each level, and how much of them others cover.

    Concretely, with o_j and a_j light and weight of slice j from elsewhere, own light s_k and weight e_k, near(k) the
    slices at least GAP_PX nearer than k, far(k) those as much farther, V_j = 1 - min(1, sum of a over near(j)), the
    picture is sum_{j not in far(k)} V_j o_j + V_k s_k + (1 - e_k) sum_{j in far(k)} V_j o_j over the same sum of
    weights; what they lack to 1 is hidden, and taken from the sharp image blurred by level k.
    """
    gap = round(GAP_PX / STEP_PX)
    n_levels = len(slices.others)
    up_to = torch.arange(n_levels)
    nearer = slices.others[:, 3:].flip(0).cumsum(0).flip(0)  # coverage of each slice and all nearer ones
    buried = torch.where((up_to + gap < n_levels).view(-1, 1, 1, 1), nearer[(up_to + gap).clamp(max=n_levels - 1)], 0.0)
    buried = buried.clamp(max=1.0)
    seen = ((1.0 - buried) * slices.others).cumsum(0)
    far = torch.where((up_to >= gap).view(-1, 1, 1, 1), seen[(up_to - gap).clamp_min(0)], 0.0)
    picture = seen[-1] - slices.own_share * far
    picture[:, :3] += (1.0 - buried) * slices.own
    picture[:, 3:] += (1.0 - buried) * slices.own_share
    hidden = (1.0 - picture[:, 3:]).clamp_min(0.0)
    colour = (picture[:, :3] + hidden * slices.uniform) / (picture[:, 3:] + hidden)
    return colour.clamp_min(0.0), buried[:, 0]
