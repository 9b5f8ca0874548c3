"""Tokens in 2-D blocks, the pairs of blocks that light can cross, and what is visible between them.

What every fast back end stands on. Tokens are put in the order of small rectangles of the grid (`TokenBlocks`), so that
a circle of confusion touches few blocks; `block_pairs` finds the pairs (source block, receiver block) that a
source's light can cross before it is weaker than anybody can tell (`BlockPairs`, in compressed rows by source and
again by receiver); `VisibilityTiles` holds the share of light that gets through, only for pairs where something is
in the way; `ReachedTokens` tells the receivers of a source block one by one, where whole blocks would be too many.
All depend on the image and the token grid, not on layer or head: they are made once.

Blocks are counted over the batch: block i of image b has number b * n_blocks + i.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from bokehdiff.attention.visibility import Occlusion
from bokehdiff.errors import InputError

BLOCK_HW = (8, 8)
LOGIT_RANGE = 40.0  # a likeness exp(40) times another's; trained attention stays within half of it
DROPPED_MASS = 1e-6  # of the light of a source, at most, in pairs of blocks that are left out
ROUNDING = 1e-5  # units of 10 px by which distances in float32 may be off
NOT_A_TOKEN = -1
ALL_VISIBLE = -1
GAPS_PER_CHUNK = 2**22  # distances between blocks held at a time, 16 MB; does not change the result
DISTANCES_PER_CHUNK = 2**19  # distances between tokens held at a time, 2 MB; does not change the result


@dataclass(frozen=True, eq=False)
class TokenBlocks:
    """The order of tokens in blocks; blocks at the right and lower border are filled up with places without token.

    Args:
        order: Token at each place, `NOT_A_TOKEN` where there is none; block after block, row by row in both.
        grid_hw: Tokens down and across.
        block_hw: Tokens of a block down and across.
    """

    order: Int[Tensor, " m"]
    grid_hw: tuple[int, int]
    block_hw: tuple[int, int]

    @classmethod
    def of_grid(
        cls,
        grid_hw: tuple[int, int],
        block_hw: tuple[int, int] = BLOCK_HW,
        *,
        device: torch.device | str = "cpu",
    ) -> TokenBlocks:
        """Cut a grid of tokens into blocks.

        Args:
            grid_hw: Tokens down and across.
            block_hw: Tokens of a block down and across; changes speed, not the result of attention.
            device: Where the order is put.
        """
        if min(block_hw) < 1:
            raise InputError(f"block_hw must be at least 1 x 1 tokens; got {block_hw[0]} x {block_hw[1]}")
        (rows, columns), (height, width) = grid_hw, block_hw
        tokens = torch.arange(rows * columns, device=device, dtype=torch.int32).reshape(rows, columns)
        padded = F.pad(tokens, (0, -columns % width, 0, -rows % height), value=NOT_A_TOKEN)
        order = padded.unflatten(0, (-1, height)).unflatten(2, (-1, width)).transpose(1, 2).flatten()
        return cls(order, grid_hw, block_hw)

    @property
    def blocks_hw(self) -> tuple[int, int]:
        """Blocks down and across."""
        return -(-self.grid_hw[0] // self.block_hw[0]), -(-self.grid_hw[1] // self.block_hw[1])

    @property
    def n_blocks(self) -> int:
        """Blocks of one image."""
        return self.blocks_hw[0] * self.blocks_hw[1]

    @property
    def tokens_per_block(self) -> int:
        """Places in a block, with or without a token."""
        return self.block_hw[0] * self.block_hw[1]

    def arrange(
        self, tokens: Shaped[Tensor, "*batch n"], *, padding: float
    ) -> Shaped[Tensor, "*batch n_blocks per_block"]:
        """Values of tokens, put into their blocks.

        Args:
            tokens: One value per token, in the grid's order.
            padding: What stands at places without a token.
        """
        arranged = tokens.index_select(-1, self.order.clamp_min(0))
        return arranged.masked_fill(self.order == NOT_A_TOKEN, padding).unflatten(-1, (-1, self.tokens_per_block))


@dataclass(frozen=True, eq=False)
class BlockPairs:
    """Pairs of blocks that light can cross, sorted by source block and then by receiver block.

    The pairs of source block i are source_starts[i] to source_starts[i + 1]; those of receiver block j are
    by_receiver[receiver_starts[j]] to by_receiver[receiver_starts[j + 1] - 1]. Each block is paired with itself.

    Args:
        blocks: The order of the tokens.
        reach: How far the light of each token goes, in units of 10 px.
        position: Of the tokens, in units of 10 px.
        source: Number of each pair's source block, counted over the batch.
        receiver: Number of each pair's receiver block.
        source_starts: Where the pairs of each source block begin, and at last the number of pairs.
    """

    blocks: TokenBlocks
    reach: Float[Tensor, "b n"]
    position: Float[Tensor, "n 2"]
    source: Int[Tensor, " p"]
    receiver: Int[Tensor, " p"]
    source_starts: Int[Tensor, " starts"]

    @property
    def n_pairs(self) -> int:
        """How many pairs of blocks light can cross, over the batch."""
        return self.source.shape[0]

    @cached_property
    def by_receiver(self) -> Int[Tensor, " p"]:
        """The pairs, sorted by receiver and then by source."""
        return self.receiver.argsort(stable=True).int()

    @cached_property
    def receiver_starts(self) -> Int[Tensor, " starts"]:
        """Where in `by_receiver` the pairs of each receiver block begin, and at last the number of pairs."""
        return _starts(self.receiver, self.source_starts.shape[0] - 1)

    def tokens(self, blocks: Int[Tensor, " p"]) -> Int[Tensor, "p per_block"]:
        """The tokens in blocks, each of its own image; `NOT_A_TOKEN` at places without one.

        Args:
            blocks: Numbers of blocks, counted over the batch.
        """
        return self.blocks.order.view(-1, self.blocks.tokens_per_block)[blocks % self.blocks.n_blocks]

    def chunks(self) -> Iterator[slice]:
        """All pairs, so many at a time that those of their tokens fit into memory."""
        some = max(1, DISTANCES_PER_CHUNK // self.blocks.tokens_per_block**2)
        return (slice(first, min(first + some, self.n_pairs)) for first in range(0, self.n_pairs, some))

    def visibility(
        self,
        occlusion: Occlusion,
        part: slice,
        pair: Int[Tensor, " e"],
        source: Int[Tensor, " e"],
        receiver: Int[Tensor, " e"],
    ) -> Float[Tensor, " e"]:
        """What gets through between tokens.

        Args:
            occlusion: What blocks light.
            part: Some pairs of blocks.
            pair: Which of these.
            source: Place in its source block.
            receiver: Place in its receiver block.
        """
        block, other = self.source[part][pair], self.receiver[part][pair]
        image = torch.div(block, self.blocks.n_blocks, rounding_mode="floor").long()
        order, n_places = self.blocks.order.long(), self.blocks.tokens_per_block
        place_k, place_q = (b % self.blocks.n_blocks * n_places for b in (block, other))
        return occlusion.between(image, order[place_k + source], order[place_q + receiver])

    def beyond_reach(self, part: slice) -> Float[Tensor, "p s r"]:
        """How far receivers lie beyond the reach of sources, in units of 10 px; infinite where one is no token.

        Args:
            part: Which pairs.
        """
        source, receiver = self.tokens(self.source[part]), self.tokens(self.receiver[part])
        image = torch.div(self.source[part], self.blocks.n_blocks, rounding_mode="floor")
        reach = self.reach[image[:, None], source].masked_fill_(source == NOT_A_TOKEN, -math.inf)
        x_q, y_q = self.position[receiver].unbind(dim=-1)
        x_k, y_k = self.position[source].unbind(dim=-1)
        across, down = x_q[:, None] - x_k[:, :, None], y_q[:, None] - y_k[:, :, None]
        beyond = across.square_().add_(down.square_()).sqrt_().sub_(reach[:, :, None])
        return beyond.masked_fill_((receiver == NOT_A_TOKEN)[:, None], math.inf)


@dataclass(frozen=True, eq=False)
class VisibilityTiles:
    """Visibility of pairs of blocks; where everything is visible nothing is stored.

    Concretely, of pair p the visibility of place s of its source block at place r of its receiver block is
    tiles[index[p], s, r], or 1 if index[p] is `ALL_VISIBLE`. 1 is also held for receivers beyond the source's reach,
    whose light does not count, and at places without a token.

    Args:
        index: Tile of each pair, or `ALL_VISIBLE`.
        tiles: Share of the light that gets through, source first, in [0, 1].
    """

    index: Int[Tensor, " p"]
    tiles: Float[Tensor, "tiles s r"]

    @classmethod
    def of(cls, pairs: BlockPairs, occlusion: Occlusion) -> VisibilityTiles:
        """Ask what gets through, and keep those tiles in which something is blocked, or all where gradients are asked.

        Args:
            pairs: Which blocks light can cross.
            occlusion: What blocks it.
        """
        index, tiles, n_tiles = torch.full_like(pairs.source, ALL_VISIBLE), [], 0
        for part in pairs.chunks():
            beyond = pairs.beyond_reach(part)
            pair, s, r = (beyond <= 0).nonzero().unbind(dim=1)
            share = pairs.visibility(occlusion, part, pair, s, r)
            some = share.new_ones(beyond.shape).index_put((pair, s, r), share)
            kept = ((some < 1).flatten(1).any(dim=1) | some.requires_grad).nonzero().flatten()
            index[kept + part.start] = torch.arange(n_tiles, n_tiles + len(kept), device=kept.device).to(index)
            tiles.append(some[kept])
            n_tiles += len(kept)
        return cls(index, torch.cat(tiles))


@dataclass(frozen=True, eq=False)
class ReachedTokens:
    """The receivers of each source block, token by token: not half of those in the blocks that its light crosses.

    The receivers of source block i are starts[i] to starts[i + 1].

    Args:
        starts: Where the receivers of each source block begin, counted over the batch, and at last their number.
        token: Each receiver.
        beyond: How far it lies beyond the reach of that source of the block that comes nearest, in units of 10 px; 0 or
            less.
        index: Row of each receiver in `visible`; 0 where everything is visible.
        visible: Share of the light from each place of the source block to a receiver that gets through; row 0 is 1.
    """

    starts: Int[Tensor, " starts"]
    token: Int[Tensor, " e"]
    beyond: Float[Tensor, " e"]
    index: Int[Tensor, " e"]
    visible: Float[Tensor, "rows s"]

    @classmethod
    def of(cls, pairs: BlockPairs, occlusion: Occlusion) -> ReachedTokens:
        """Look at every receiver of every pair of blocks.

        Args:
            pairs: Which blocks light can cross.
            occlusion: What blocks it.
        """
        block, token, beyond, index, visible, n_rows = [], [], [], [], [], 1
        for part in pairs.chunks():
            of_places = pairs.beyond_reach(part)
            of_block = of_places.amin(dim=1)
            pair, place = (of_block <= 0).nonzero().unbind(dim=1)
            entry, s = (of_places.transpose(1, 2)[pair, place] <= 0).nonzero().unbind(dim=1)
            share = pairs.visibility(occlusion, part, pair[entry], s, place[entry])
            rows = share.new_ones(len(pair), of_places.shape[1]).index_put((entry, s), share)
            kept = ((rows < 1).any(dim=1) | rows.requires_grad).nonzero().flatten()
            numbers = torch.arange(n_rows, n_rows + len(kept), device=kept.device)
            block.append(pairs.source[part][pair])
            token.append(pairs.tokens(pairs.receiver[part])[pair, place])
            beyond.append(of_block[pair, place])
            index.append(torch.zeros_like(pair).index_copy_(0, kept, numbers))
            visible.append(rows[kept])
            n_rows += len(kept)
        whole = visible[0].new_ones(1, pairs.blocks.tokens_per_block)
        starts = _starts(torch.cat(block), pairs.source_starts.shape[0] - 1)
        return cls(starts, torch.cat(token), torch.cat(beyond), torch.cat(index), torch.cat([whole, *visible]))


def reach(radius: Float[Tensor, "b n"], *, hardness: float, logit_range: float = LOGIT_RANGE) -> Float[Tensor, "b n"]:
    """How far the light of a source goes before all beyond is less than `DROPPED_MASS` of it, in units of 10 px.

    Concretely, with R the logit range, P[q, k] <= 2 exp(R - h (distance[q, k] - radius[k])): the disc is at most
    exp(-h (distance - radius)), the denominator at least what the source's own token adds, whose disc is 1/2 or more.
    So n tokens farther than radius + (R + ln(2 n / 1e-6)) / h together get less than 1e-6.

    Args:
        radius: Radius of the circle of confusion of each source, in units of 10 px.
        hardness: h of the soft disc.
        logit_range: R, by how much the logits <Q[q], K[k]> / sqrt(d) of one source exceed that of its own token at
            most; infinite to leave nothing out.
    """
    n_tokens = radius.shape[1]
    return radius + (logit_range + math.log(2 * n_tokens / DROPPED_MASS)) / hardness + ROUNDING


@torch.no_grad()
def block_pairs(reach: Float[Tensor, "b n"], position: Float[Tensor, "n 2"], blocks: TokenBlocks) -> BlockPairs:
    """The pairs of blocks with a source token that reaches the rectangle of the receiving tokens.

    Args:
        reach: Of each source, in units of 10 px, as of `reach`.
        position: Centres (x, y) of the tokens, in units of 10 px.
        blocks: The order of the tokens.
    """
    reached = blocks.arrange(reach, padding=-math.inf)
    corners = [
        torch.stack([limit(blocks.arrange(axis, padding=padding)) for axis in position.T], dim=-1)
        for limit, padding in ((lambda axis: axis.amin(dim=1), math.inf), (lambda axis: axis.amax(dim=1), -math.inf))
    ]
    lower, upper = corners
    farthest = reached.amax(dim=2)
    pairs = []
    rows = max(1, GAPS_PER_CHUNK // (blocks.n_blocks * len(reach)))
    for start in range(0, blocks.n_blocks, rows):
        some = slice(start, start + rows)
        gap = torch.maximum(lower[None] - upper[some, None], lower[some, None] - upper[None]).clamp_min_(0).norm(dim=2)
        found = (gap <= farthest[:, some, None]).nonzero()
        found[:, 1] += start
        pairs.append(found)
    image, source, receiver = torch.cat(pairs).unbind(dim=1)
    places = torch.stack([blocks.arrange(axis, padding=math.inf) for axis in position.T], dim=-1)[source]
    away = torch.maximum(lower[receiver][:, None] - places, places - upper[receiver][:, None]).clamp_min_(0).norm(dim=2)
    crossed = (away <= reached[image, source]).any(dim=1)
    n_blocks, first_block = len(reach) * blocks.n_blocks, image[crossed] * blocks.n_blocks
    source, receiver = first_block + source[crossed], first_block + receiver[crossed]
    order = (source * n_blocks + receiver).argsort()
    source, receiver = source[order].int(), receiver[order].int()
    return BlockPairs(blocks, reach, position, source, receiver, _starts(source, n_blocks))


def _starts(block: Tensor, n_blocks: int) -> Tensor:
    return F.pad(block.bincount(minlength=n_blocks).cumsum(dim=0, dtype=torch.int32), (1, 0))
