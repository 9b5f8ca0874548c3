"""What an autoencoder does to a photograph, undone where the photograph itself knows better: detail and colour.

Where a picture is in focus the photograph is the truth, pixel by pixel; where it is blurred the photograph still tells
the colour of a neighbourhood, because a lens moves light and loses none.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.images import linear_to_srgb, resize, srgb_to_linear

SHARP_PX = 0.5  # blur of at most a pixel's width cannot be told from none
BLURRED_PX = 1.5  # from here on nothing of the photograph is left
COLOUR_BLURS = 2.0  # colours are compared over so many times the widest blur, where it has moved no light out of reach
COLOUR_SHARE = 1.0 / 16.0  # of the shorter side at least: drift is smooth, texture is not to be touched
SURE_SHARE = 0.01  # with less of the light made up, physics is sure
UNTOLD = 1e-6  # share of a neighbourhood: where physics is sure of less, nothing is told of the network: wrong by 1
GUESS_ERROR = 0.3  # squared error of made-up light over the contrast around: 0.3 to 2 where rays tell the truth
HARDER_AT_EDGES = 4.0  # squared error of the network where light is made up over that elsewhere: 1.3 to 4.3 there
NO_ERROR = 1e-7  # squared: a tenth of a step of 8-bit sRGB, and less than any network is taken to err
MOST_GAIN = 2.0  # what differs by more is not drift
DARKEST = 1.0 / 2**12  # light below which ratios are noise: a step of 8-bit sRGB at black
SAMPLES_PER_SIGMA = 4.0  # of the grid that neighbourhoods are compared on


def keep_focus(
    rendered_srgb: Float[Tensor, "b 3 h w"],
    photo_srgb: Float[Tensor, "b 3 h w"],
    coc_px: Float[Tensor, "b h w"],
) -> Float[Tensor, "b 3 h w"]:
    """Lay the photograph over the rendering where it is in focus and no blurred foreground reaches.

    Concretely, out = w * photo + (1 - w) * rendered with w[p] = s(|coc[p]|; 0.5, 1.5) * s(spill[p]; 0, 1), where s
    falls smoothly from 1 to 0 and spill[p] is how far the disc of any pixel in front of the focus reaches over p.

    Args:
        rendered_srgb: What a network made, in [0, 1].
        photo_srgb: The all-in-focus photograph.
        coc_px: Signed circle of confusion [px].
    """
    weight = _falling(coc_px.abs(), SHARP_PX, BLURRED_PX) * _falling(spill_px(coc_px.clamp_min(0.0)), 0.0, 1.0)
    return torch.lerp(rendered_srgb, photo_srgb, weight[:, None].expand_as(photo_srgb))


def spill_px(reach_px: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """How far the reach of any other pixel goes beyond each pixel; 0 where none comes.

    Concretely, spill[p] = max(0, max over q != p with reach[q] >= 1 of reach[q] - d(p, q)), d the larger of the two
    coordinate differences, which is never more than the distance: the answer errs towards more.

    Args:
        reach_px: From each pixel [px].
    """
    spill = torch.where(reach_px >= 1.0, reach_px, torch.zeros_like(reach_px))[:, None]
    step, farthest = 1, math.ceil(float(reach_px.max()))
    while step <= farthest:  # steps of 1, 2, 4, ... together make every distance
        side = 2 * step + 1
        pooled = F.max_pool2d(spill, (1, side), stride=1, padding=(0, step))
        spill = torch.maximum(spill, F.max_pool2d(pooled, (side, 1), stride=1, padding=(step, 0)) - step)
        step *= 2
    return spill[:, 0]


def match_colour(
    rendered_srgb: Float[Tensor, "b 3 h w"],
    photo_srgb: Float[Tensor, "b 3 h w"],
    coc_px: Float[Tensor, "b h w"],
) -> Float[Tensor, "b 3 h w"]:
    """Give neighbourhoods the light that the photograph has there; details are the rendering's own.

    Concretely, in linear light out = rendered * clip((G * photo) / (G * rendered), 1/2, 2) with a gaussian G of
    sigma = max(2 * max |coc|, shorter side / 16): over such distances a lens moves no light.

    Args:
        rendered_srgb: What a network made, in [0, 1].
        photo_srgb: The all-in-focus photograph.
        coc_px: Signed circle of confusion [px].
    """
    rendered, photo = (srgb_to_linear(image) for image in (rendered_srgb, photo_srgb))
    there, here = neighbourhoods(photo, coc_px), neighbourhoods(rendered, coc_px)
    gains = ((there + DARKEST) / (here + DARKEST)).clamp(1.0 / MOST_GAIN, MOST_GAIN)
    return linear_to_srgb(rendered * gains).clamp(0.0, 1.0)


def mix_where_guessed(
    neural_srgb: Float[Tensor, "b 3 h w"],
    physical_srgb: Float[Tensor, "b 3 h w"],
    photo_srgb: Float[Tensor, "b 3 h w"],
    made_up: Float[Tensor, "b h w"],
    coc_px: Float[Tensor, "b h w"],
) -> Float[Tensor, "b 3 h w"]:
    """Physics, but where it had to guess, and the network has shown nearby that it guesses better, the network.

    Concretely, out = w * neural + (1 - w) * physical in linear light, w = max(0, 1 - e_neural^2 / e_physical^2). What
    physics may be wrong by is e_physical = 0.55 m c, with m the made-up share of the light and c^2 = G * photo^2 -
    (G * photo)^2 the contrast that a guess is drawn from. What the network may be wrong by is told by physics where it
    is sure: e_neural^2 = 4 (G * [s (neural - physical)^2]) / (G * s) with s = 1 where m < 0.01, else 0. G is that of
    `match_colour`. Both factors are fitted to path-traced scenes (`python benchmarks/hybrid.py`).

    Args:
        neural_srgb: What a network made.
        physical_srgb: What `render_photo` made.
        photo_srgb: The all-in-focus photograph.
        made_up: Of the physical picture, `made_up_share`.
        coc_px: Signed circle of confusion [px].
    """
    sure = (made_up < SURE_SHARE).to(neural_srgb)[:, None]
    disagreement = sure * (neural_srgb - physical_srgb).square().mean(dim=1, keepdim=True)
    told = neighbourhoods(torch.cat([disagreement, sure], dim=1), coc_px) + UNTOLD
    by_network = HARDER_AT_EDGES * told[:, :1] / told[:, 1:]
    by_physics = GUESS_ERROR * made_up[:, None].clamp(0.0, 1.0).square() * contrast(photo_srgb, coc_px)
    weight = (1.0 - by_network / by_physics.clamp_min(NO_ERROR)).clamp_min(0.0)
    neural, physical = (srgb_to_linear(image) for image in (neural_srgb, physical_srgb))
    return torch.where(
        weight > 0.0, linear_to_srgb(torch.lerp(physical, neural, weight)).clamp(0.0, 1.0), physical_srgb
    )


def contrast(photo_srgb: Float[Tensor, "b 3 h w"], coc_px: Float[Tensor, "b h w"]) -> Float[Tensor, "b 1 h w"]:
    """Variance of the colours around each pixel, G * photo^2 - (G * photo)^2, the mean of the three channels.

    Args:
        photo_srgb: The all-in-focus photograph.
        coc_px: Signed circle of confusion [px].
    """
    wide = neighbourhoods(torch.cat([photo_srgb, photo_srgb.square()], dim=1), coc_px)
    return (wide[:, 3:] - wide[:, :3].square()).mean(dim=1, keepdim=True).clamp_min(0.0)


def neighbourhoods(maps: Float[Tensor, "b c h w"], coc_px: Float[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
    """The gaussian mean G of `match_colour`; each image by itself: what else is in the batch changes nothing.

    Args:
        maps: Of anything.
        coc_px: Signed circle of confusion [px], which tells how far light was moved.
    """
    means = [_wide_mean(maps[index : index + 1], _sigma_px(coc)) for index, coc in enumerate(coc_px)]
    return torch.cat(means)


def _sigma_px(coc_px: Float[Tensor, "h w"]) -> float:
    """Of a neighbourhood out of which the lens has moved no light [px]."""
    return max(COLOUR_BLURS * float(coc_px.abs().max()), COLOUR_SHARE * min(coc_px.shape))


def _falling(value: Tensor, start: float, end: float) -> Tensor:
    """1 up to `start`, 0 from `end` on, smooth in between."""
    progress = ((value - start) / (end - start)).clamp(0.0, 1.0)
    return 1.0 - progress * progress * (3.0 - 2.0 * progress)


def _wide_mean(image: Float[Tensor, "b c h w"], sigma_px: float) -> Float[Tensor, "b c h w"]:
    """A wide gaussian mean, taken on a grid that is coarse enough to be cheap; beyond the border the border goes on."""
    height, width = image.shape[2:]
    factor = max(sigma_px / SAMPLES_PER_SIGMA, 1.0)
    small = resize(image, (max(round(height / factor), 1), max(round(width / factor), 1)))
    for axis in (2, 3):
        small = _gaussian(small, sigma_px * small.shape[axis] / image.shape[axis], axis)
    return F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)


def _gaussian(image: Float[Tensor, "b c h w"], sigma: float, axis: int) -> Float[Tensor, "b c h w"]:
    reach = max(math.ceil(3.0 * sigma), 1)
    offsets = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    weights = torch.exp(-0.5 * (offsets / max(sigma, 1e-3)) ** 2)
    weights = weights / weights.sum()
    places = torch.arange(-reach, image.shape[axis] + reach, device=image.device).clamp(0, image.shape[axis] - 1)
    padded = image.index_select(axis, places)
    kernel = weights.reshape(1, 1, *((-1, 1) if axis == 2 else (1, -1))).expand(image.shape[1], 1, -1, -1)
    return F.conv2d(padded, kernel, groups=image.shape[1])
