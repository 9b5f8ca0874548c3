"""Which lens points a token sees, and what of its light gets through to others: the physical occlusion.

Derivation and accuracy stand in docs/attention.md; positions are in pixels, x to the right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bokehdiff.attention.sheets import pick
from bokehdiff.attention.tracing import LENS_POINTS, lens_points

MANY_POINTS = 512  # more than there are: two counts in one number
LENS_CELLS = 128  # cells across the lens of the table that finds the nearest lens point
RAYS_PER_CHUNK = 2**18  # bounds memory to some 20 MB; does not change the result


@dataclass(frozen=True, eq=False)
class LensOcclusion:
    """Which points of the lens each source sees: `thin_lens` in 256 bits per token.

    Args:
        sees: Whether source k's ray through lens point m meets nothing nearer, as of `lens_points_seen`.
        coc_px: Signed circle of confusion of each token [px]: where on the image a lens point sends the light.
        grid_hw: Tokens down and across.
        pitch_px: Height and width of a token [px].
    """

    sees: Bool[Tensor, "b n m"]
    coc_px: Float[Tensor, "b n"]
    grid_hw: tuple[int, int]
    pitch_px: tuple[float, float]

    def between(
        self, image: Int[Tensor, " e"], source: Int[Tensor, " e"], receiver: Int[Tensor, " e"]
    ) -> Float[Tensor, " e"]:
        """Share of those lens points that carry source k's light into token q, and are not blocked.

        Concretely, with U[q, k] = {m: x_k + coc_px[k] u_m lies in token q}, the share is the mean of sees[k, m] over
        U[q, k]. Where U is empty (q lies at or beyond the edge of the disc, or between points) the lens point nearest
        to (x_q - x_k) / coc_px[k] decides; a source blurred by less than half a token takes the whole lens for every q,
        so that nothing jumps when it passes through focus. Sources that see the whole lens cost nothing.

        Args:
            image: Of each pair.
            source: k.
            receiver: q.
        """
        share = torch.ones(len(image), device=image.device)
        token = image * self.coc_px.shape[1] + source
        some = pick(self._is_dimmed, token).nonzero().flatten()
        token, receiver = token[some], receiver[some]
        is_there = torch.zeros(self.coc_px.numel(), dtype=torch.bool, device=image.device).index_fill_(0, token, True)
        row = pick(is_there.cumsum(dim=0), token) - 1
        for first, light in self._lights(is_there.nonzero().flatten()):
            here = ((row >= first) & (row < first + len(light.token))).nonzero().flatten()
            share[some[here]] = light.shares(row[here] - first, receiver[here])
        return share

    @cached_property
    def _is_dimmed(self) -> Bool[Tensor, "b n"]:
        """Which tokens do not see the whole lens."""
        return ~self.sees.all(dim=2)

    def _lights(self, token: Int[Tensor, " j"]) -> Iterator[tuple[int, _Light]]:
        """Sources, counted over the batch, so many at a time as fit into memory, and the place of the first."""
        if not len(token):
            return
        coc_px = self.coc_px.view(-1)[token]
        cells_hw = [int(coc_px.abs().max() / pitch_px + 0.5) for pitch_px in self.pitch_px]
        some = max(1, RAYS_PER_CHUNK // max(LENS_POINTS, math.prod(2 * cells + 1 for cells in cells_hw)))
        for first in range(0, len(token), some):
            part = slice(first, first + some)
            sees = self.sees.flatten(0, 1)[token[part]]
            yield first, _Light(token[part], coc_px[part], sees, (cells_hw[0], cells_hw[1]), self)

    def to(self, device: torch.device | str) -> LensOcclusion:
        """The same on another device."""
        return replace(self, sees=self.sees.to(device), coc_px=self.coc_px.to(device))


@dataclass(frozen=True, eq=False)
class _Light:
    """Where the rays of some sources land, counted in tokens from the source.

    Args:
        token: The sources, counted over the batch.
        coc_px: Their signed circles of confusion.
        sees: Which lens points they see.
        cells_hw: How many tokens down and across a ray goes at most.
        lens: Of the image.
    """

    token: Int[Tensor, " j"]
    coc_px: Float[Tensor, " j"]
    sees: Bool[Tensor, "j m"]
    cells_hw: tuple[int, int]
    lens: LensOcclusion

    def shares(self, row: Int[Tensor, " e"], receiver: Int[Tensor, " e"]) -> Float[Tensor, " e"]:
        """The formula of `LensOcclusion.between`.

        Args:
            row: Which of the sources.
            receiver: Token of its image.
        """
        (pitch_y, pitch_x), n_columns, (rows, columns) = self.lens.pitch_px, self.lens.grid_hw[1], self.cells_hw
        source = self.token[row] % self.lens.coc_px.shape[1]
        down = torch.div(receiver, n_columns, rounding_mode="floor") - torch.div(
            source, n_columns, rounding_mode="floor"
        )
        across = receiver % n_columns - source % n_columns
        within = (down.abs() <= rows) & (across.abs() <= columns)
        n_cells = (2 * rows + 1) * (2 * columns + 1)
        cell = row * n_cells + (down + rows) * (2 * columns + 1) + (across + columns)
        count = pick(self._counts(), cell.masked_fill_(~within, len(self.token) * n_cells))
        n_points, n_open = count % MANY_POINTS, torch.div(count, MANY_POINTS, rounding_mode="floor")
        share = n_open / n_points.clamp_min(1)
        in_focus = self.coc_px.abs() < min(self.lens.pitch_px) / 2
        empty = (n_points == 0).nonzero().flatten()
        of = row[empty]
        radius_px = self.coc_px.masked_fill(in_focus, 1.0)[of]
        point = _nearest_point(pitch_x * across[empty] / radius_px, pitch_y * down[empty] / radius_px)
        share[empty] = self.sees[of, point].float()
        return torch.where(in_focus[row], self.sees.float().mean(dim=1)[row], share)

    def _counts(self) -> Int[Tensor, " cells"]:
        """How many rays land in each token of the window around each source, and how many of them are open: two counts
        in one number; at last 0 for all beyond the windows."""
        rows, columns = self.cells_hw
        n_cells = (2 * rows + 1) * (2 * columns + 1)
        points, (pitch_y, pitch_x) = lens_points().to(self.token.device), self.lens.pitch_px
        down = (self.coc_px[:, None] * (points[:, 1] / pitch_y)).add_(rows + 0.5).floor_()
        across = (self.coc_px[:, None] * (points[:, 0] / pitch_x)).add_(columns + 0.5).floor_()
        first = n_cells * torch.arange(len(self.token), device=points.device)
        cell = down.mul_(2 * columns + 1).add_(across).int() + first[:, None]
        counts = torch.zeros(len(self.token) * n_cells + 1, dtype=torch.int32, device=points.device)
        return counts.scatter_add_(0, cell.flatten(), (1 + MANY_POINTS * self.sees.int()).flatten())


def _nearest_point(x: Float[Tensor, " e"], y: Float[Tensor, " e"]) -> Int[Tensor, " e"]:
    """The lens point nearest to a position, which is first pulled back to the lens's edge."""
    scale = torch.hypot(x, y).clamp_min_(1.0).reciprocal_().mul_(LENS_CELLS / 2)
    column, row = ((position * scale).add_(LENS_CELLS / 2).long().clamp_(0, LENS_CELLS - 1) for position in (x, y))
    return pick(_nearest_points_on_cpu().to(x.device), row * LENS_CELLS + column)


@cache
def _nearest_points_on_cpu() -> Tensor:
    middles = (torch.arange(LENS_CELLS) + 0.5) * (2.0 / LENS_CELLS) - 1.0
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    return torch.cdist(torch.stack([x, y], dim=-1), lens_points()[None]).argmin(dim=-1)
