"""Maps fitted to the edges of their photograph: networks work at a lower resolution, and blur or misplace edges."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.images import resize
from bokehdiff.tiling import map_tiles

GUIDE_SHARE = 0.01  # radius of the guided filter as a share of the longer side: how far an edge may be off
GUIDE_EDGE = 0.02  # contrast that counts as an edge in the photograph
REACH_PX = 6  # of the bilateral filter, whose cost is its square
WORKING_PX = (
    1024  # longer side from which it works at a smaller size: edges are as far off as networks' pixels are large
)
SAME_COLOUR = 0.05  # difference of display colours within one surface, summed over the channels
SURE_STEP = 0.03  # change of disparity to a neighbour beyond which a value may belong to either side
LEAST_SURE = 1e-4  # where nothing nearby is sure, values stand for themselves
TILE_PX = 256  # the bilateral filter holds a copy of the tile for each pixel of its window


def fit_mask(mask: Float[Tensor, "1 h w"], image_srgb: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 h w"]:
    """A mask that ends where the photograph's colours change: the guided filter (He et al. 2010).

    Args:
        mask: Share of each pixel that is subject, in [0, 1].
        image_srgb: The photograph.
    """
    from kornia.filters import guided_blur

    radius = max(1, round(GUIDE_SHARE * max(mask.shape[-2:])))
    subsample = max(1, radius // 4)  # the fast guided filter: its statistics need no more than 4 steps across a radius
    fitted = guided_blur(
        image_srgb, mask[:, None], 2 * radius + 1, GUIDE_EDGE**2, border_type="replicate", subsample=subsample
    )
    return fitted[:, 0].clamp(0.0, 1.0)


def fit_disparity(disparity: Float[Tensor, "1 h w"], image_srgb: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 h w"]:
    """Disparity whose steps lie where the photograph's colours change: a joint bilateral filter that trusts flats.

    Concretely, s = exp(-(step / 0.03)^2) says how sure a value is, with `step` the range of its 3 x 3 neighbours; the
    result is s d + (1 - s) m, where m is the mean of d over 13 x 13 pixels weighted by s, by nearness, and by
    likeness of colour. Values on a blurred step come from the side whose colour they have; others stay. Trusting all
    values alike, as a plain joint bilateral or guided filter does, mixes the blur back in.

    Args:
        disparity: In [0, 1], 1 nearest.
        image_srgb: The photograph.
    """
    height, width = disparity.shape[1:]
    factor = min(1.0, WORKING_PX / max(height, width))
    size_hw = (max(1, round(height * factor)), max(1, round(width * factor)))
    small = resize(disparity[None], size_hw)
    step = F.max_pool2d(small, 3, stride=1, padding=1) + F.max_pool2d(-small, 3, stride=1, padding=1)
    sure = torch.exp(-((step / SURE_STEP) ** 2)) + LEAST_SURE
    stacked = torch.cat([small, sure, resize(image_srgb, size_hw)], dim=1)
    mean = map_tiles(_sure_mean, stacked, tile_px=TILE_PX, overlap_px=4 * REACH_PX)
    change = (1.0 - sure.clamp(max=1.0)) * (mean - small)
    return (disparity + resize(change, (height, width))[0]).clamp(0.0, 1.0)


def _sure_mean(tile: Float[Tensor, "1 5 h w"]) -> Float[Tensor, "1 1 h w"]:
    from kornia.filters import joint_bilateral_blur

    disparity, sure, guide = tile[:, :1], tile[:, 1:2], tile[:, 2:]
    size, spread = 2 * REACH_PX + 1, (REACH_PX / 2, REACH_PX / 2)
    blurred = partial(joint_bilateral_blur, guidance=guide, kernel_size=size, sigma_color=SAME_COLOUR)
    sums = blurred(torch.cat([disparity * sure, sure], dim=1), sigma_space=spread, border_type="replicate")
    return sums[:, :1] / sums[:, 1:]
