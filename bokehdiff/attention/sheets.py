"""A disparity map as sheets: surfaces of no thickness, each pixel at one of a few levels of disparity, edges sharp.

What a ray meets on its way to the lens is a surface at the ray's own disparity. Whether objects are solid a disparity
map does not say; to take all that lies under a surface for solid would block the light that passes behind a pole. Why
sheets are nearer to the truth, and by how much, stands in docs/attention.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Num, Shaped, UInt8
from torch import Tensor

BLOCKED_MARGIN = 2.0 / 255.0  # two grey levels of an 8-bit map: rounding of the source's own surface blocks nothing
LEVELS_PER_TOKEN = 16  # a ray moves at most a sixteenth of a token from level to level ...
MIN_LEVELS, MAX_LEVELS = 61, 254  # ... but there are no fewer levels, as a set has bits, and no more, as a byte has
SHARPENINGS = 3  # pixels on either side that belong to a soft edge
NEARLY_HALF = 0.49  # of a pixel: so far around its centre a token lies on the pixels that its disparity was taken from


@dataclass(frozen=True, eq=False)
class Sheets:
    """The scene of one image in levels of disparity.

    Args:
        level: How many of the levels each pixel is nearer than.
        disparity: d_j of each level j, ascending.
        strength_px: Radius of the circle of confusion at one unit of defocus [px].
        travel_px: How far a ray goes at most, from the farthest token to the nearest pixel.
    """

    level: UInt8[Tensor, "h w"]
    disparity: Float[Tensor, " levels"]
    strength_px: float
    travel_px: float

    @classmethod
    def of(cls, scene: Float[Tensor, "h w"], farthest: float, strength_px: float, pitch_px: float) -> Sheets | None:
        """Levels from the farthest token to the nearest pixel; None where nothing can be in the way of light.

        Concretely, with levels d_j = d_0 + j step, level[y, x] = ceil((scene[y, x] - 2/255 - d_0) / step);
        then soft edges are sharpened.

        Args:
            scene: Disparity, 1 nearest.
            farthest: Disparity of the farthest token.
            strength_px: Radius of the circle of confusion at one unit of defocus [px].
            pitch_px: Side of a token.
        """
        depth = float(scene.max()) - farthest
        travel_px = strength_px * depth
        if depth <= BLOCKED_MARGIN or travel_px <= 0:
            return None
        n_levels = min(max(math.ceil(LEVELS_PER_TOKEN * travel_px / pitch_px), MIN_LEVELS), MAX_LEVELS)
        step = depth / n_levels
        disparity = farthest + step * torch.arange(n_levels, device=scene.device)
        level = scene.sub(farthest + BLOCKED_MARGIN).div_(step).ceil_().clamp_min_(0.0).to(torch.uint8)
        # A plane that rises by 1 / strength per pixel goes through the lens: half of that is an edge, not a surface.
        rise = min(max(round(n_levels / travel_px), 1), n_levels)
        return cls(_sharpened(level, rise), disparity, strength_px, travel_px)

    def at(self, x: Float[Tensor, "*any"], y: Float[Tensor, "*any"]) -> UInt8[Tensor, "*any"]:
        """The level of the pixel at a place [px]; beyond the border the image continues as it ends."""
        height, width = self.level.shape
        column, row = x.int().clamp_(0, width - 1), y.int().clamp_(0, height - 1)
        return pick(self.level, row.mul_(width).add_(column))

    def first_levels(self, token_disparity: Float[Tensor, " n"], centres: Float[Tensor, "n 2"]) -> Int[Tensor, " n"]:
        """The first level at which each token's rays can meet something: above the token, and what is at its place.

        Args:
            token_disparity: d_k of each token.
            centres: Of the tokens, (x, y) [px].
        """
        step = self.disparity[1] - self.disparity[0]
        own = ((token_disparity - self.disparity[0]) / step).floor() + 1
        (left, top), (right, bottom) = (centres - NEARLY_HALF).unbind(1), (centres + NEARLY_HALF).unbind(1)
        there = torch.stack([self.at(x, y) for x in (left, right) for y in (top, bottom)]).amin(dim=0)
        return torch.maximum(own.long(), there.long())


def _sharpened(level: UInt8[Tensor, "h w"], rise: int) -> UInt8[Tensor, "h w"]:
    """Levels without what lies between the two sides of an edge: each such pixel joins the nearer side.

    Args:
        level: Of each pixel.
        rise: From side to side within 3 x 3 pixels, more than which is an edge.
    """
    surface = torch.full_like(level, rise)
    for _ in range(SHARPENINGS):
        high, low = widened(level, torch.maximum), widened(level, torch.minimum)
        upward, edge = (level - low > high - level).byte(), (high - low > surface).byte()
        level = level + edge * (
            low + upward * (high - low) - level
        )  # bytes wrap to and fro; `where` takes 10 x as long
    return level


def widened(cells: Num[Tensor, "*maps rows columns"], join: Callable[..., Tensor]) -> Num[Tensor, "*maps rows columns"]:
    """Each cell joined with its eight neighbours.

    Args:
        cells: Of any maps.
        join: An operation like `torch.maximum`.
    """
    for axis in (-1, -2):
        wide = cells.clone()
        size = cells.shape[axis]
        for to, of in ((0, 1), (1, 0)):
            part = wide.narrow(axis, to, size - 1)
            join(part, cells.narrow(axis, of, size - 1), out=part)
        cells = wide
    return cells


def pick(table: Shaped[Tensor, "*any"], place: Int[Tensor, "*places"]) -> Shaped[Tensor, "*places"]:
    """The entries of a table at places that are counted over all of it; on the CPU several times as fast as an index.

    Args:
        table: Of any shape, dense in memory.
        place: From 0 to the number of entries.
    """
    return table.view(-1).index_select(0, place.flatten()).view(place.shape)
