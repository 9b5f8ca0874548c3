"""Which lens points a token sees, and what of its light gets through to others: the physical occlusion.

Derivation and accuracy stand in docs/attention.md; positions are in pixels, x to the right and y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bokehdiff.attention.blocks import BlockPairs, VisibilityTiles
from bokehdiff.attention.visibility import token_centres
from bokehdiff.optics import Aperture

LENS_POINTS = 256  # shares of the lens are known to 1/256; a disc of 9 tokens' radius still has one point per token
MANY_POINTS = 512  # more than there are: two counts in one number
LENS_CELLS = 128  # cells across the lens of the table that finds the nearest lens point
BLOCKED_MARGIN = 2.0 / 255.0  # two grey levels of an 8-bit map: rounding and interpolation block nothing
STEPS_PER_TOKEN = 16  # a ray moves at most a sixteenth of a token between two looks at the scene ...
MIN_STEPS, MAX_STEPS = 16, 256  # ... unless it crosses more than 16 tokens on its way
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
        landed = blocks.place[light.cell.clamp_min(0)].long()
        met = pairs.find(source_block[:, None], first_block[:, None] + landed // per_block)
        row = met - shift[:, None]
        where = torch.where((light.cell >= 0) & (met >= 0), row * per_block + landed % per_block, -1)
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
        points, _ = _lens(source.device)
        pitch = torch.tensor([lens.pitch_px[1], lens.pitch_px[0]], device=source.device)
        column, row = ((centres[source][:, None] + radius_px[:, None, None] * points) / pitch).floor().long().unbind(-1)
        inside = (row >= 0) & (column >= 0) & (row < lens.grid_hw[0]) & (column < lens.grid_hw[1])
        cell = torch.where(inside, row * lens.grid_hw[1] + column, -1)
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
        counts.scatter_add_(0, torch.where(where < 0, n_entries, where).flatten(), counted.flatten())
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
    _, nearest_point = _lens(lens_position.device)
    beyond = lens_position.norm(dim=-1, keepdim=True).clamp_min(1.0)
    cell = ((lens_position / beyond + 1.0) * (LENS_CELLS / 2)).long().clamp(0, LENS_CELLS - 1)
    return nearest_point[cell[..., 1], cell[..., 0]]


@cache
def _lens_on_cpu() -> tuple[Tensor, Tensor]:
    points = Aperture().sample(LENS_POINTS)
    middles = (torch.arange(LENS_CELLS) + 0.5) * (2.0 / LENS_CELLS) - 1.0
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    return points, torch.cdist(torch.stack([x, y], dim=-1), points[None]).argmin(dim=-1)


def _lens(device: torch.device | str) -> tuple[Float[Tensor, "m 2"], Int[Tensor, "cells cells"]]:
    """The lens points u, and the index of the one nearest to each cell [row, column] of the square around the lens."""
    points, nearest = _lens_on_cpu()
    return points.to(device), nearest.to(device)


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
    What lies under a surface counts as solid; beyond the border the image continues as it ends.

    Args:
        disparity: Of the scene at image size, 1 nearest.
        token_disparity: d_k of each token.
        strength_px: Radius of the circle of confusion at one unit of defocus [px].
        grid_hw: Tokens down and across.
    """
    height, width = disparity.shape[1:]
    pitch_px = (height / grid_hw[0], width / grid_hw[1])
    centres = token_centres(grid_hw, pitch_px, device=disparity.device)
    points, _ = _lens(disparity.device)
    n_images, n_tokens = token_disparity.shape
    nearest = disparity.amax(dim=(1, 2))
    travel_px = (strength_px * (nearest - token_disparity.amin(dim=1))).max()
    n_steps = min(max(math.ceil(STEPS_PER_TOKEN * float(travel_px) / min(pitch_px)), MIN_STEPS), MAX_STEPS)
    chunk = max(1, RAYS_PER_CHUNK // (n_images * LENS_POINTS))
    seen = []
    for start in range(0, n_tokens, chunk):
        d_source = token_disparity[:, start : start + chunk]
        sees = torch.ones(n_images, d_source.shape[1], LENS_POINTS, dtype=torch.bool, device=disparity.device)
        for step in range(n_steps):
            d_ray = d_source + (nearest[:, None] - d_source) * ((step + 0.5) / n_steps)
            moved = (strength_px[:, None] * (d_source - d_ray))[..., None, None] * points
            met = _sample(disparity, centres[start : start + chunk, None] + moved)
            sees &= met <= d_ray[..., None] + BLOCKED_MARGIN
        seen.append(sees)
    return torch.cat(seen, dim=1)


def _sample(image: Float[Tensor, "b h w"], position_px: Float[Tensor, "b s m 2"]) -> Float[Tensor, "b s m"]:
    """The image at positions (x, y) [px], between pixels interpolated, beyond the border continued."""
    size = torch.tensor([image.shape[2], image.shape[1]], device=image.device)
    grid = position_px * (2.0 / size) - 1.0
    return F.grid_sample(image[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]
