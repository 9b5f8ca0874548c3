"""Which lens points a token sees, by rays that are traced only where something may be in the way.

A ray is looked at a hundred times, and nearly everywhere the answer is known before: nothing within reach of the token,
or of a small group of neighbouring rays, is nearer than the ray is at that moment. Largest and smallest disparities of
cells of a few pixels, widened by as many cells as the rays are away, tell so. What is left is sampled. The bounds
leave out nothing that could be blocked: the result is bit by bit that of all looks at all rays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bokehdiff.attention.visibility import token_centres
from bokehdiff.optics import Aperture

LENS_POINTS = 256  # shares of the lens are known to 1/256; a disc of 9 tokens' radius still has one point per token
GROUP_POINTS = 8  # neighbouring lens points whose rays are bounded together; changes speed, not the result
BLOCKED_MARGIN = 2.0 / 255.0  # two grey levels of an 8-bit map: rounding and interpolation block nothing
STEPS_PER_TOKEN = 16  # a ray moves at most a sixteenth of a token between two looks at the scene ...
MIN_STEPS, MAX_STEPS = 16, 256  # ... unless it crosses more than 16 tokens on its way
LOOKS_PER_CHUNK = 2**17  # bounds memory to some 20 MB; does not change the result
CELL_PX = 4  # cells of the bounds; larger where rays go far ...
MOST_CELLS = 64  # ... so that they go this many cells at most
ROUNDING = 1e-5  # of disparities: what interpolation in float32 may add to the largest of its pixels


@torch.no_grad()
def lens_points_seen(
    disparity: Float[Tensor, "b h w"],
    token_disparity: Float[Tensor, "b n"],
    strength_px: Float[Tensor, " b"],
    grid_hw: tuple[int, int],
) -> Bool[Tensor, "b n m"]:
    """Which lens points each token sees: the ray to them meets nothing nearer than itself.

    Concretely, sees[b, k, m] is false if at some d between d_k and the nearest disparity of the image
    disparity[b, x(d)] > d + 2/255, where x(d) = x_k + strength_px[b] (d_k - d) u_m: the ray from token k through lens
    point u_m, in all-in-focus image coordinates. At d_k it is at the token, at the disparity in focus where it lands.
    What lies under a surface counts as solid; beyond the border the image continues as it ends. An image's result does
    not depend on the others of the batch.

    Args:
        disparity: Of the scene at image size, 1 nearest.
        token_disparity: d_k of each token.
        strength_px: Radius of the circle of confusion at one unit of defocus [px].
        grid_hw: Tokens down and across.
    """
    pitch_px = (disparity.shape[1] / grid_hw[0], disparity.shape[2] / grid_hw[1])
    centres = token_centres(grid_hw, pitch_px, device=disparity.device)
    images = zip(disparity, token_disparity, strength_px, strict=True)
    return torch.stack([_seen(*image, centres, min(pitch_px)) for image in images])


def _seen(scene: Tensor, d_token: Tensor, strength_px: Tensor, centres: Tensor, pitch_px: float) -> Tensor:
    """`lens_points_seen` of one image."""
    nearest = scene.max()
    travel_px = float(strength_px * (nearest - d_token.min()))
    n_steps = min(max(math.ceil(STEPS_PER_TOKEN * travel_px / pitch_px), MIN_STEPS), MAX_STEPS)
    share = torch.tensor([(step + 0.5) / n_steps for step in range(n_steps)], device=scene.device)
    groups, bounds = _groups(scene.device), _Bounds.of(scene, centres, travel_px)
    sees = torch.ones(len(centres), len(groups.half), GROUP_POINTS, dtype=torch.bool, device=scene.device)
    for some in share.split(max(1, LOOKS_PER_CHUNK // len(centres))):
        d_ray = d_token + (nearest - d_token) * some[:, None]
        moved_px = strength_px * (d_token - d_ray)
        step, token = (bounds.largest_around_tokens(moved_px) > d_ray + (BLOCKED_MARGIN - ROUNDING)).nonzero(
            as_tuple=True
        )
        _look(scene, sees, token, d_ray[step, token], moved_px[step, token], centres, groups, bounds)
    return sees.flatten(1)[:, groups.place]


def _look(
    scene: Tensor,
    sees: Tensor,
    token: Tensor,
    d_ray: Tensor,
    moved_px: Tensor,
    centres: Tensor,
    groups: _Groups,
    bounds: _Bounds,
) -> None:
    """Find what blocks the rays of some tokens at some steps, and note it in `sees`."""
    x, y = centres[token].unbind(dim=1)
    limit = d_ray + BLOCKED_MARGIN
    for group in range(len(groups.half)):
        least, largest = bounds.around(x, y, moved_px, groups, group)
        sees_group = sees[:, group]
        sees_group[token[least > limit + ROUNDING]] = False
        open_yet = (sees_group.view(torch.int64)[:, 0] != 0)[token]  # eight points in one number
        look = (open_yet & (largest > limit - ROUNDING)).nonzero().flatten()
        met = _sample(scene, *_moved(x[look], y[look], moved_px[look], groups.points[..., group, None]))
        point, ray = (met > limit[look]).nonzero(as_tuple=True)
        sees_group[token[look[ray]], point] = False


def _moved(x: Tensor, y: Tensor, moved_px: Tensor, points: Float[Tensor, "2 p 1"]) -> list[Tensor]:
    """Where rays through lens points are that started at (x, y): two times [p l]."""
    return [(moved_px * point).add_(start) for point, start in zip(points, (x, y), strict=True)]


def _sample(scene: Float[Tensor, "h w"], x: Float[Tensor, "p l"], y: Float[Tensor, "p l"]) -> Float[Tensor, "p l"]:
    """The scene at positions [px], between pixels interpolated, beyond the border continued."""
    height, width = scene.shape
    grid = torch.stack([x.mul_(2.0 / width).sub_(1.0), y.mul_(2.0 / height).sub_(1.0)], dim=-1)
    met = F.grid_sample(scene[None, None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)
    return met[0, 0]


@dataclass(frozen=True, eq=False)
class _Groups:
    """The lens points in groups of neighbours.

    Args:
        points: Of each group, across and down.
        centre: Middle of its bounding square, across and down.
        half: Half the side of that square.
        place: Where each lens point is among the points of all groups.
        farthest: Largest coordinate of all points.
    """

    points: Float[Tensor, "2 p g"]
    centre: Float[Tensor, "2 1 g"]
    half: Float[Tensor, " g"]
    place: Int[Tensor, " m"]
    farthest: float


@cache
def _groups_on_cpu() -> _Groups:
    points = lens_points()
    order = torch.arange(LENS_POINTS)[None]
    axis = 0
    while order.shape[1] > GROUP_POINTS:  # halve every group, across and down in turn
        order = order.gather(1, points[order][..., axis].argsort(dim=1)).reshape(2 * len(order), -1)
        axis = 1 - axis
    grouped = points[order].permute(2, 1, 0).contiguous()
    low, high = grouped.amin(dim=1, keepdim=True), grouped.amax(dim=1, keepdim=True)
    half = (high - low).amax(dim=(0, 1)) / 2
    return _Groups(grouped, (low + high) / 2, half, order.flatten().argsort(), float(points.abs().max()))


def _groups(device: torch.device) -> _Groups:
    on_cpu = _groups_on_cpu()
    return replace(
        on_cpu,
        points=on_cpu.points.to(device),
        centre=on_cpu.centre.to(device),
        half=on_cpu.half.to(device),
        place=on_cpu.place.to(device),
    )


@cache
def lens_points() -> Float[Tensor, "m 2"]:
    """The points u of the lens that rays go through."""
    return Aperture().sample(LENS_POINTS)


@dataclass(frozen=True, eq=False)
class _Bounds:
    """Largest and smallest disparity around a place, out to a number of cells in each direction.

    Args:
        largest: Around each cell, out to 0, 1, 2 ... cells.
        least: The same.
        at_tokens: The largest around the cell of each token, out to more cells.
        cell_px: Side of a cell [px].
    """

    largest: Float[Tensor, "radii rows columns"]
    least: Float[Tensor, "radii rows columns"]
    at_tokens: Float[Tensor, "more_radii n"]
    cell_px: int

    @classmethod
    def of(cls, scene: Tensor, centres: Tensor, travel_px: float) -> _Bounds:
        """Of an image whose rays go as far as `travel_px`."""
        groups = _groups_on_cpu()
        cell_px = max(CELL_PX, math.ceil(travel_px * groups.farthest / MOST_CELLS))
        n_around_tokens = math.ceil((travel_px * groups.farthest + 1) / cell_px) + 1
        n_around_groups = math.ceil((travel_px * float(groups.half.max()) + 1) / cell_px) + 1
        column, row = (centres / cell_px).long().unbind(dim=-1)
        maps = [_cell_maxima(torch.stack([scene, -scene]), cell_px)]
        for _ in range(n_around_groups):
            maps.append(_widened(maps[-1]))
        largest = maps[-1][0]
        at_tokens = [both[0, row, column] for both in maps]
        for _ in range(n_around_groups, n_around_tokens):
            largest = _widened(largest)
            at_tokens.append(largest[row, column])
        largest, least = torch.stack(maps).unbind(dim=1)
        return cls(largest, -least, torch.stack(at_tokens), cell_px)

    def _cells(self, distance_px: Tensor) -> Tensor:
        """How many cells away a pixel can lie that a lookup at a distance reaches: one pixel more than the distance."""
        return ((distance_px + 1.0) / self.cell_px).ceil().long()

    def largest_around_tokens(self, moved_px: Float[Tensor, "steps n"]) -> Float[Tensor, "steps n"]:
        """What no lookup of a token's rays exceeds that have moved by up to `moved_px`."""
        cells = self._cells(moved_px.abs() * _groups_on_cpu().farthest)
        return self.at_tokens.gather(0, cells)

    def around(self, x: Tensor, y: Tensor, moved_px: Tensor, groups: _Groups, group: int) -> tuple[Tensor, Tensor]:
        """What no lookup of a group's rays falls below, and what none exceeds, for every look."""
        cells = self._cells(moved_px.abs() * groups.half[group])
        n_rows, n_columns = self.largest.shape[1:]
        across, down = (
            moved * (1.0 / self.cell_px) for moved in _moved(x, y, moved_px, groups.centre[..., group, None])
        )
        column, row = across[0].long().clamp_(0, n_columns - 1), down[0].long().clamp_(0, n_rows - 1)
        where = (cells * n_rows + row) * n_columns + column
        return self.least.take(where), self.largest.take(where)


def _cell_maxima(maps: Float[Tensor, "c h w"], cell_px: int) -> Float[Tensor, "c rows columns"]:
    """The largest value of each square cell; those at the right and lower border may be smaller."""
    padded = F.pad(maps, (0, -maps.shape[2] % cell_px, 0, -maps.shape[1] % cell_px), value=-math.inf)
    return padded.unflatten(2, (-1, cell_px)).amax(dim=3).unflatten(1, (-1, cell_px)).amax(dim=2)


def _widened(cells: Float[Tensor, "*maps rows columns"]) -> Float[Tensor, "*maps rows columns"]:
    """The largest value of each cell and its eight neighbours."""
    for axis in (-1, -2):
        wide = cells.clone()
        size = cells.shape[axis]
        for to, of in ((0, 1), (1, 0)):
            part = wide.narrow(axis, to, size - 1)
            torch.maximum(part, cells.narrow(axis, of, size - 1), out=part)
        cells = wide
    return cells
