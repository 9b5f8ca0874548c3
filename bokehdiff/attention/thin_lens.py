"""Which lens points a token sees, and what of its light gets through to others: the physical occlusion.

Derivation and accuracy stand in docs/attention.md; positions are in pixels, x to the right and y down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bokehdiff.attention.blocks import BlockPairs, VisibilityTiles
from bokehdiff.attention.sheets import pick
from bokehdiff.attention.tracing import LENS_POINTS, lens_points
from bokehdiff.attention.visibility import token_centres

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

    def visibility(self, sources: slice = slice(None)) -> Float[Tensor, "b n s"]:
        """Share of those lens points that carry source k's light into token q, and are not blocked.

        Concretely, with U[q, k] = {m: x_k + coc_px[k] u_m lies in token q}, visibility[q, k] is the mean of
        sees[k, m] over U[q, k]. Where U is empty (q lies at or beyond the edge of the disc, or between points) the
        lens point nearest to (x_q - x_k) / coc_px[k] decides; a source blurred by less than half a token takes the
        whole lens for every q, so that nothing jumps when it passes through focus.

        Args:
            sources: Which sources k; all by default.
        """
        centres = token_centres(self.grid_hw, self.pitch_px, device=self.sees.device)
        n_images, n_tokens = self.coc_px.shape
        every = torch.arange(n_tokens, device=self.sees.device)
        image, source = torch.meshgrid(torch.arange(n_images, device=self.sees.device), every[sources], indexing="ij")
        light = _Light.of(self, image.flatten(), source.flatten(), centres)
        ray = torch.arange(len(light.source), device=self.sees.device)[:, None]
        where = torch.where(light.cell >= 0, ray * n_tokens + light.cell, -1)
        share = light.shares(where, ray.flatten(), centres.expand(len(ray), -1, 2))
        return share.unflatten(0, (n_images, -1)).transpose(1, 2)

    def tiles(self, pairs: BlockPairs, dtype: torch.dtype = torch.float32) -> VisibilityTiles:
        """The same numbers, only for pairs of blocks that light can cross; tokens that see the whole lens cost nothing.

        Args:
            pairs: Which.
            dtype: What visibility is stored in.
        """
        blocks = pairs.blocks
        image, source = (~self.sees.all(dim=2)).nonzero().unbind(dim=1)
        place = blocks.place[source].long()
        starts = pairs.source_starts.long()
        source_block = image * blocks.n_blocks + place // blocks.tokens_per_block
        touched = torch.zeros(pairs.n_pairs + 1, dtype=torch.int64, device=image.device)
        touched.index_add_(0, starts[source_block], torch.ones_like(source_block))
        touched.index_add_(0, starts[source_block + 1], -torch.ones_like(source_block))
        chosen = touched.cumsum(dim=0)[:-1].nonzero().flatten()
        tile = torch.full_like(touched, -1)
        tile[chosen] = torch.arange(len(chosen), device=image.device)
        tiles = torch.ones(len(chosen), blocks.tokens_per_block, blocks.tokens_per_block, device=image.device)
        some = max(1, RAYS_PER_CHUNK // LENS_POINTS)
        for first in range(0, len(source), some):
            part = slice(first, first + some)
            row_source, pair, share = self._rows(pairs, image[part], source[part])
            tiles[tile[pair], place[part][row_source] % blocks.tokens_per_block] = share
        return VisibilityTiles.compressed(pairs, chosen, tiles, dtype)

    def _rows(self, pairs: BlockPairs, image: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of some sources all rows of tiles: which source, which pair, and visibility at the receiver's places."""
        blocks, per_block = pairs.blocks, pairs.blocks.tokens_per_block
        centres = token_centres(self.grid_hw, self.pitch_px, device=image.device)
        first_block = image * blocks.n_blocks
        source_block = first_block + blocks.place[source].long() // per_block
        first_pair, n_rows = pairs.source_starts[source_block].long(), pairs.source_starts.diff()[source_block].long()
        first_row = n_rows.cumsum(dim=0) - n_rows
        row_source = torch.arange(len(source), device=image.device).repeat_interleave(n_rows)
        shift = first_pair - first_row
        pair = torch.arange(len(row_source), device=image.device) + shift[row_source]
        light = _Light.of(self, image, source, centres)
        landed = pick(blocks.place, light.cell.clamp_min(0))
        met = pairs.find(source_block[:, None], first_block[:, None] + landed // per_block)
        row = met - shift[:, None]
        where = (row * per_block).add_(landed % per_block).masked_fill_((light.cell < 0) | (met < 0), -1)
        receiver = blocks.order.clamp_min(0).long().reshape(-1, per_block)[pairs.receiver[pair] % blocks.n_blocks]
        return row_source, pair, light.shares(where, row_source, centres[receiver])

    def to(self, device: torch.device | str) -> LensOcclusion:
        """The same on another device."""
        return replace(self, sees=self.sees.to(device), coc_px=self.coc_px.to(device))


@dataclass(frozen=True, eq=False)
class _Light:
    """Some sources, where their rays land, and what of each arrives where.

    Args:
        source: Place in the list of sources.
        sees: Whether the ray through lens point m meets nothing nearer.
        centre: Of the source [px].
        radius_px: Of its disc, signed; 1 in its place for a source that is blurred by less than half a token.
        in_focus: Which those are.
        cell: Token in which each ray lands, -1 beyond the image.
    """

    source: Int[Tensor, " j"]
    sees: Bool[Tensor, "j m"]
    centre: Float[Tensor, "j 2"]
    radius_px: Float[Tensor, " j"]
    in_focus: Bool[Tensor, " j"]
    cell: Int[Tensor, "j m"]

    @classmethod
    def of(cls, lens: LensOcclusion, image: Tensor, source: Tensor, centres: Tensor) -> _Light:
        """Of tokens `source` of images `image`."""
        coc_px = lens.coc_px[image, source]
        in_focus = coc_px.abs() < min(lens.pitch_px) / 2
        radius_px = coc_px.masked_fill(in_focus, 1.0)
        points = lens_points().to(source.device)
        n_rows, n_columns = lens.grid_hw
        x, y = torch.addcmul(centres[source].T[..., None], radius_px[:, None], points.T[:, None])
        column, row = x.div_(lens.pitch_px[1]).floor_(), y.div_(lens.pitch_px[0]).floor_()
        beyond = (row != row.clamp(0, n_rows - 1)) | (column != column.clamp(0, n_columns - 1))
        cell = row.mul_(n_columns).add_(column).masked_fill_(beyond, -1.0).long()
        return cls(source, lens.sees[image, source], centres[source], radius_px, in_focus, cell)

    def shares(self, where: Tensor, row_source: Tensor, receiver: Tensor) -> Tensor:
        """The formula of `LensOcclusion.visibility` for rows of receivers.

        Args:
            where: Entry of the result in which each ray lands [j m], counted over rows; -1 in none.
            row_source: Source of each row.
            receiver: Centres of the receivers [rows t 2] in pixels.
        """
        n_entries = receiver.shape[0] * receiver.shape[1]
        counts = torch.zeros(n_entries + 1, dtype=torch.int32, device=where.device)
        counted = 1 + MANY_POINTS * self.sees.int()
        counts.scatter_add_(0, where.masked_fill(where < 0, n_entries).flatten(), counted.flatten())
        n_points, n_open = counts[:-1] % MANY_POINTS, torch.div(counts[:-1], MANY_POINTS, rounding_mode="floor")
        share = n_open / n_points.clamp_min(1)
        row, column = (n_points == 0).reshape(receiver.shape[:2]).nonzero().unbind(dim=1)
        source = row_source[row]
        position = (receiver[row, column] - self.centre[source]) / self.radius_px[source, None]
        share[n_points == 0] = self.sees[source, _nearest_point(position)].float()
        whole = self.sees.float().mean(dim=1)[row_source, None]
        return torch.where(self.in_focus[row_source, None], whole, share.reshape(receiver.shape[:2]))


def _nearest_point(lens_position: Float[Tensor, "e 2"]) -> Int[Tensor, " e"]:
    """The lens point nearest to a position, which is first pulled back to the lens's edge."""
    nearest_point = _nearest_points_on_cpu().to(lens_position.device)
    beyond = lens_position.norm(dim=-1, keepdim=True).clamp_min(1.0)
    cell = ((lens_position / beyond + 1.0) * (LENS_CELLS / 2)).long().clamp(0, LENS_CELLS - 1)
    return nearest_point[cell[..., 1], cell[..., 0]]


@cache
def _nearest_points_on_cpu() -> Tensor:
    middles = (torch.arange(LENS_CELLS) + 0.5) * (2.0 / LENS_CELLS) - 1.0
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    return torch.cdist(torch.stack([x, y], dim=-1), lens_points()[None]).argmin(dim=-1)
