"""The share of a near surface in the pixels of its edge, from their colours: one disparity per pixel does not tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.renderers.scatter import opacity

REACH_PX = 4  # of the window that is searched for pure colours; strands of hair leave few nearby
WINDOW_SIGMA_PX = 1.3  # nearer colours count more
MIXED_WEIGHT = 0.02  # of a pixel that may be mixed itself, where pure ones are to be averaged
DISPLAY_WHITE = 1.0  # lights beyond it would outweigh every colour nearby
NOISE = 0.03  # standard deviation of the colour of even surfaces [linear light]
SIDE_VARIANCE = 0.1  # how far a share may well be from the whole that disparity alone tells, squared


@dataclass(frozen=True)
class EdgeMatte:
    """Both surfaces of the pixels on depth edges.

    Args:
        band: Pixels that two surfaces may share; the rest of this means nothing elsewhere.
        share: What the near surface has of each [1].
        near_light: What the near surface sends, linear: its colour times its share.
        behind: Colour of the far surface, as if the near one were not there, linear.
        near_px: Signed circle of confusion of the near surface [px].
        far_px: Of the far one [px].
    """

    band: Bool[Tensor, "b h w"]
    share: Float[Tensor, "b h w"]
    near_light: Float[Tensor, "b 3 h w"]
    behind: Float[Tensor, "b 3 h w"]
    near_px: Float[Tensor, "b h w"]
    far_px: Float[Tensor, "b h w"]


def edge_matte(image_linear: Float[Tensor, "b 3 h w"], coc_px: Float[Tensor, "b h w"]) -> EdgeMatte:
    """Part the pixels along depth edges into what a near and a far surface send.

    Concretely, I = a F + (1 - a) B in linear light, with B the mean colour of the far surface nearby, F that of the
    near one, where pixels count by their contrast to B, and a = <I - B, F - B> / |F - B|^2 within [0, 1]. The less F
    and B differ against the texture of B, the more a is that of the side which the disparity gives the pixel to. What
    this leaves of I goes to both by their shares: in sum they are the photograph.

    Args:
        image_linear: The photograph.
        coc_px: Signed circle of confusion [px], with steep edges.
    """
    near_px, far_px = _neighbours(coc_px)
    band = opacity(near_px, far_px) > 0
    pixels = band.flatten().nonzero()[:, 0]
    light = image_linear.permute(0, 2, 3, 1).reshape(-1, 3)
    colour = light.clamp_max(DISPLAY_WHITE)
    side = _Side(coc_px.flatten(), band.flatten(), coc_px.shape[1], coc_px.shape[2])
    own_px, near, far = coc_px.flatten()[pixels], near_px.flatten()[pixels], far_px.flatten()[pixels]
    is_near = (near - own_px) < (own_px - far)
    behind, spread = _far_colour(colour, side, pixels, far)
    front = _near_colour(colour, side, pixels, near, behind)
    own = light[pixels]
    share = _share(colour[pixels], front, behind, spread, is_near)
    # A light is brighter than any mixture with it tells; it lies where the disparity says.
    share = torch.where((own > DISPLAY_WHITE).any(dim=1, keepdim=True) & ~is_near[:, None], 0.0, share)
    residual = own - share * front - (1.0 - share) * behind
    near_light = (share * (front + residual)).clamp_min(0.0).minimum(own)
    plate = own - near_light + share * behind

    def image(values: Tensor, base: Tensor) -> Tensor:
        return base.index_copy(0, pixels, values)

    def planar(flat: Tensor) -> Tensor:
        return flat.view(*coc_px.shape, 3).permute(0, 3, 1, 2)

    return EdgeMatte(
        band=band,
        share=image(share[:, 0], torch.ones_like(side.coc_px)).view_as(coc_px),
        near_light=planar(image(near_light, light)),
        behind=planar(image(plate, light)),
        near_px=torch.where(band, near_px, coc_px),
        far_px=torch.where(band, far_px, coc_px),
    )


def _neighbours(coc_px: Float[Tensor, "b h w"]) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:
    nearest = F.max_pool2d(coc_px[:, None], 3, stride=1, padding=1)[:, 0]
    farthest = -F.max_pool2d(-coc_px[:, None], 3, stride=1, padding=1)[:, 0]
    return nearest, farthest


@dataclass(frozen=True)
class _Side:
    """All pixels of a batch in one row."""

    coc_px: Float[Tensor, " n"]
    band: Bool[Tensor, " n"]
    height: int
    width: int

    def window(self, pixels: Int[Tensor, " m"]) -> Iterator[tuple[Int[Tensor, " m"], Bool[Tensor, " m"], float]]:
        """Each neighbour within reach: its index, whether it lies in the image, and its weight by distance."""
        row, column = (pixels // self.width) % self.height, pixels % self.width
        for down in range(-REACH_PX, REACH_PX + 1):
            for right in range(-REACH_PX, REACH_PX + 1):
                inside = (row + down >= 0) & (row + down < self.height)
                inside &= (column + right >= 0) & (column + right < self.width)
                weight = float(torch.exp(torch.tensor(-(down**2 + right**2) / (2.0 * WINDOW_SIGMA_PX**2))))
                yield torch.where(inside, pixels + down * self.width + right, pixels), inside, weight

    def belongs(self, there: Int[Tensor, " m"], inside: Bool[Tensor, " m"], surface_px: Tensor) -> Bool[Tensor, " m"]:
        """Whether neighbours lie on a surface."""
        return inside & (opacity(surface_px, self.coc_px[there]) + opacity(self.coc_px[there], surface_px) == 0)


def _far_colour(
    colour: Float[Tensor, "n 3"], side: _Side, pixels: Int[Tensor, " m"], far_px: Float[Tensor, " m"]
) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 1"]]:
    """Mean colour of the far surface around each pixel, and its variance there."""
    total, square = colour.new_zeros(len(pixels), 4), colour.new_zeros(len(pixels), 1)
    for there, inside, near_by in side.window(pixels):
        weight = side.belongs(there, inside, far_px) * torch.where(side.band[there], MIXED_WEIGHT, 1.0) * near_by
        there_colour = colour[there]
        total = total + weight[:, None] * torch.cat([there_colour, torch.ones_like(weight)[:, None]], dim=1)
        square = square + weight[:, None] * there_colour.square().sum(dim=1, keepdim=True)
    mean = total[:, :3] / total[:, 3:]
    return mean, (square / total[:, 3:] - mean.square().sum(dim=1, keepdim=True)).clamp_min(0.0)


def _near_colour(
    colour: Float[Tensor, "n 3"],
    side: _Side,
    pixels: Int[Tensor, " m"],
    near_px: Float[Tensor, " m"],
    behind: Float[Tensor, "m 3"],
) -> Float[Tensor, "m 3"]:
    """Colour of the near surface around each pixel, purest pixels first."""
    total = colour.new_zeros(len(pixels), 4)
    for there, inside, near_by in side.window(pixels):
        there_colour = colour[there]
        contrast = (there_colour - behind).square().sum(dim=1) + NOISE**2
        weight = side.belongs(there, inside, near_px) * contrast * near_by
        total = total + weight[:, None] * torch.cat([there_colour, torch.ones_like(weight)[:, None]], dim=1)
    return total[:, :3] / total[:, 3:]


def _share(
    own: Float[Tensor, "m 3"],
    front: Float[Tensor, "m 3"],
    behind: Float[Tensor, "m 3"],
    spread: Float[Tensor, "m 1"],
    is_near: Bool[Tensor, " m"],
) -> Float[Tensor, "m 1"]:
    """The mean of what colour and disparity tell, each by its certainty."""
    contrast = (front - behind).square().sum(dim=1, keepdim=True)
    seen = ((own - behind) * (front - behind)).sum(dim=1, keepdim=True) / contrast.clamp_min(NOISE**2)
    side = is_near[:, None].to(seen)
    variance = spread + NOISE**2
    return torch.lerp(seen, side, variance / (SIDE_VARIANCE * contrast + variance)).clamp(0.0, 1.0)
