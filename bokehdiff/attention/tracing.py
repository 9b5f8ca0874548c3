"""Which lens points a token sees, by rays that are looked at only where something may be in their way.

A ray is looked at a hundred times, and nearly everywhere the answer is known before: of all levels of disparity few
occur within reach of the token, or of a small group of neighbouring rays, and rarely the one that the ray is at. Which
occur is told by sets of 62 bits, one per cell of a few pixels, joined over as many cells as the rays are away. What is
left is looked up. The sets leave out nothing that could be met: the result is bit by bit that of all looks at all rays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, reduce

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from bokehdiff.attention.sheets import Sheets, pick, widened
from bokehdiff.attention.visibility import token_centres
from bokehdiff.optics import Aperture

LENS_POINTS = 256  # shares of the lens are known to 1/256; a disc of 9 tokens' radius still has one point per token
GROUP_POINTS = 8  # neighbouring lens points whose rays are bounded together; changes speed, not the result
LOOKS_PER_CHUNK = 2**18  # bounds memory to some 20 MB; does not change the result
CELL_PX = 4  # cells of the sets; larger where rays go far ...
MOST_CELLS = 64  # ... so that they go this many cells at most
SET_BITS = 61  # for the levels of a ray; a signed number of 64 bits has two more


@torch.no_grad()
def lens_points_seen(
    disparity: Float[Tensor, "b h w"],
    token_disparity: Float[Tensor, "b n"],
    strength_px: Float[Tensor, " b"],
    grid_hw: tuple[int, int],
) -> Bool[Tensor, "b n m"]:
    """Which lens points each token sees: the ray to them meets no surface.

    Concretely, with the levels of `Sheets`, sees[b, k, m] is false if for some j, d_j > d_k, the pixel at
    x(d_j) = x_k + strength_px[b] (d_k - d_j) u_m has the level j + 1 or j + 2: there, in all-in-focus image
    coordinates, is the ray from token k through lens point u_m when its disparity is d_j. At d_k it is at the token, at
    the disparity in focus where it lands. Two levels, since a surface falls by one at most while a ray climbs by one.
    Beyond the border the image continues as it ends. An image's result does not depend on the others of the batch.

    Args:
        disparity: Of the scene at image size, 1 nearest.
        token_disparity: d_k of each token.
        strength_px: Radius of the circle of confusion at one unit of defocus [px].
        grid_hw: Tokens down and across.
    """
    pitch_px = (disparity.shape[1] / grid_hw[0], disparity.shape[2] / grid_hw[1])
    centres = token_centres(grid_hw, pitch_px, device=disparity.device)
    seen = []
    for scene, d_token, strength in zip(disparity, token_disparity, strength_px.tolist(), strict=True):
        sheets = Sheets.of(scene, float(d_token.min()), strength, min(pitch_px))
        everything = torch.ones(len(centres), LENS_POINTS, dtype=torch.bool, device=scene.device)
        seen.append(everything if sheets is None else _seen(sheets, d_token, centres))
    return torch.stack(seen)


def _seen(sheets: Sheets, d_token: Tensor, centres: Tensor) -> Tensor:
    """`lens_points_seen` of one image."""
    device = centres.device
    groups, sets = _groups(device), _Sets.of(sheets, centres)
    first_level, levels = sheets.first_levels(d_token, centres), torch.arange(len(sheets.disparity), device=device)
    sees = torch.ones(len(centres), groups.points.shape[1], GROUP_POINTS, dtype=torch.bool, device=device)
    for some in levels.split(max(1, LOOKS_PER_CHUNK // len(centres))):
        moved_px = sheets.strength_px * (d_token - sheets.disparity[some, None])
        occur = sets.around_tokens(moved_px) & sets.of_levels[some, None] != 0
        at, token = (occur & (some[:, None] >= first_level)).nonzero(as_tuple=True)
        for part in torch.arange(len(token), device=device).split(max(1, LOOKS_PER_CHUNK // LENS_POINTS)):
            k, j = token[part], at[part]
            _look(sheets, sees, k, some[j], moved_px[j, k], centres, groups, sets)
    return sees.flatten(1)


def _look(
    sheets: Sheets,
    sees: Bool[Tensor, "n g p"],
    token: Int[Tensor, " l"],
    level: Int[Tensor, " l"],
    moved_px: Float[Tensor, " l"],
    centres: Float[Tensor, "n 2"],
    groups: _Groups,
    sets: _Sets,
) -> None:
    """Find what the rays of some tokens meet at some levels, and note it in `sees`."""
    n_groups = groups.points.shape[1]
    start, here = centres.index_select(0, token).T, sets.of_levels.index_select(0, level)
    ways = sees.view(torch.int64).view(-1)  # of eight points, in one number
    way = token[:, None] * n_groups + torch.arange(n_groups, device=token.device)
    occur = sets.around_groups(start, moved_px, groups) & here[:, None] != 0
    rest = (occur & (pick(ways, way) != 0)).view(-1).nonzero().view(-1)
    look, group = rest // n_groups, rest % n_groups
    at = torch.addcmul(
        start.index_select(1, look)[..., None],
        moved_px.index_select(0, look)[:, None],
        groups.points.index_select(1, group),
    )
    above = sheets.at(*at) - level.byte().index_select(0, look)[:, None]
    met = above - 1 < torch.full_like(above, 2)  # 1 or 2 above: bytes wrap
    some = met.view(torch.int64).view(-1).nonzero().view(-1)
    ray, point = met.index_select(0, some).nonzero(as_tuple=True)
    blocked = pick(way, rest.index_select(0, some)).index_select(0, ray) * GROUP_POINTS + point
    sees.view(-1).index_fill_(0, blocked, False)


@dataclass(frozen=True, eq=False)
class _Groups:
    """The lens points in groups of neighbours.

    Args:
        points: Of each group, across and down.
        offset: Middle of its bounding square, across and down.
        half: Half the side of the largest of those squares.
        farthest: Largest coordinate of all points.
    """

    points: Float[Tensor, "2 g p"]
    offset: Float[Tensor, "2 1 g"]
    half: float
    farthest: float


@cache
def _groups_on_cpu() -> _Groups:
    grouped = lens_points().unflatten(0, (-1, GROUP_POINTS))
    low, high = grouped.amin(dim=1), grouped.amax(dim=1)
    return _Groups(
        points=grouped.permute(2, 0, 1).contiguous(),
        offset=((low + high) / 2).T[:, None].contiguous(),
        half=float((high - low).max()) / 2,
        farthest=float(grouped.abs().max()),
    )


def _groups(device: torch.device) -> _Groups:
    on_cpu = _groups_on_cpu()
    return replace(
        on_cpu,
        points=on_cpu.points.to(device),
        offset=on_cpu.offset.to(device),
    )


@cache
def lens_points() -> Float[Tensor, "m 2"]:
    """The points u of the lens that rays go through, neighbours beside each other."""
    points = Aperture().sample(LENS_POINTS)[None]
    axis = 0
    while points.shape[1] > GROUP_POINTS:  # halve every group, across and down in turn
        order = points[..., axis].argsort(dim=1)[..., None].expand_as(points)
        points = points.gather(1, order).reshape(2 * len(points), -1, 2)
        axis = 1 - axis
    return points.reshape(LENS_POINTS, 2)


@dataclass(frozen=True, eq=False)
class _Sets:
    """Which levels occur around a place, out to a number of cells in each direction, in one number each.

    Args:
        cells: Around each cell, out to 0, 1, 2 ... cells.
        at_tokens: Around the cell of each token, out to more cells.
        of_levels: The two levels of the formula, as a set, for each level that a ray can be at.
        cell_px: Side of a cell [px].
    """

    cells: Int[Tensor, "radii rows columns"]
    at_tokens: Int[Tensor, "more_radii n"]
    of_levels: Int[Tensor, " levels"]
    cell_px: int

    @classmethod
    def of(cls, sheets: Sheets, centres: Tensor) -> _Sets:
        """Of an image, for the rays of its tokens."""
        groups = _groups_on_cpu()
        cell_px = max(CELL_PX, math.ceil(sheets.travel_px * groups.farthest / MOST_CELLS))
        n_around_tokens = math.ceil((sheets.travel_px * groups.farthest + 1) / cell_px) + 1
        n_around_groups = math.ceil((sheets.travel_px * groups.half + 1) / cell_px) + 1
        n_levels = len(sheets.disparity)
        levels_per_bit = math.ceil(n_levels / SET_BITS)
        of_level = 1 << torch.arange(n_levels + 2, device=centres.device) // levels_per_bit
        of_level[0] = 0  # what is no nearer than the farthest token is in nobody's way
        column, row = (centres / cell_px).long().unbind(dim=-1)
        maps = [_cell_sets(sheets.level, of_level, cell_px)]
        for _ in range(n_around_groups):
            maps.append(widened(maps[-1], torch.bitwise_or))
        wide, at_tokens = maps[-1], [cells[row, column] for cells in maps]
        for _ in range(n_around_groups, n_around_tokens):
            wide = widened(wide, torch.bitwise_or)
            at_tokens.append(wide[row, column])
        return cls(torch.stack(maps), torch.stack(at_tokens), of_level[1:-1] | of_level[2:], cell_px)

    def _radius(self, distance_px: Tensor) -> Tensor:
        """How many cells away a pixel can lie that a lookup at a distance reaches: one pixel more than the distance."""
        return ((distance_px + 1.0) / self.cell_px).ceil().long()

    def around_tokens(self, moved_px: Float[Tensor, "levels n"]) -> Int[Tensor, "levels n"]:
        """The levels among which are those of all pixels where a token's rays can be that have moved so far."""
        return self.at_tokens.gather(0, self._radius(moved_px.abs() * _groups_on_cpu().farthest))

    def around_groups(
        self, start: Float[Tensor, "2 l"], moved_px: Float[Tensor, " l"], groups: _Groups
    ) -> Int[Tensor, "l g"]:
        """The same for each group of rays, which started at `start`."""
        n_rows, n_columns = self.cells.shape[1:]
        at = torch.addcmul(start[..., None], moved_px[:, None], groups.offset).mul_(1.0 / self.cell_px).int()
        column, row = at[0].clamp_(0, n_columns - 1), at[1].clamp_(0, n_rows - 1)
        first = self._radius(moved_px.abs() * groups.half).int() * (n_rows * n_columns)
        return pick(self.cells, row.mul_(n_columns).add_(column).add_(first[:, None]))


def _cell_sets(level: UInt8[Tensor, "h w"], of_level: Int[Tensor, " levels"], cell_px: int) -> Int[Tensor, "rows cols"]:
    """Which levels occur in each square cell; those at the right and lower border may be smaller."""
    padded = F.pad(level, (0, -level.shape[1] % cell_px, 0, -level.shape[0] % cell_px))
    rows = _joined(pick(of_level, padded[i::cell_px].int()) for i in range(cell_px))
    return _joined(rows[:, i::cell_px] for i in range(cell_px))


def _joined(parts: Iterable[Tensor]) -> Tensor:
    return reduce(torch.bitwise_or, parts)
