"""Tokens in 2-D blocks, the pairs of blocks that light can cross, and what is visible between them.

What every fast back end stands on. Tokens are put in the order of small rectangles of the grid (`TokenBlocks`), so that
a circle of confusion touches few blocks; `block_pairs` finds the pairs (source block, receiver block) that a
source's light can cross before it is weaker than anybody can tell (`BlockPairs`, in compressed rows by source and
again by receiver); `VisibilityTiles` holds the share of light that gets through, only for pairs where something is
in the way. All three depend on the image and the token grid, not on layer or head: `TokenOptics` makes them once.

Blocks are counted over the batch: block i of image b has number b * n_blocks + i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from bokehdiff.errors import InputError

BLOCK_HW = (8, 8)
LOGIT_RANGE = 40.0  # a likeness exp(40) times another's; trained attention stays within half of it
DROPPED_MASS = 1e-6  # of the light of a source, at most, in pairs of blocks that are left out
ROUNDING = 1e-5  # units of 10 px by which distances in float32 may be off
NOT_A_TOKEN = -1
ALL_VISIBLE = -1
GAPS_PER_CHUNK = 2**22  # distances between blocks held at a time, 16 MB; does not change the result


@dataclass(frozen=True, eq=False)
class TokenBlocks:
    """The order of tokens in blocks; blocks at the right and lower border are filled up with places without token.

    Args:
        order: Token at each place, `NOT_A_TOKEN` where there is none; block after block, row by row in both.
        place: Place of each token: order[place[i]] = i.
        grid_hw: Tokens down and across.
        block_hw: Tokens of a block down and across.
    """

    order: Int[Tensor, " m"]
    place: Int[Tensor, " n"]
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
        place = (order != NOT_A_TOKEN).nonzero().flatten()[order[order != NOT_A_TOKEN].argsort()]
        return cls(order, place.to(torch.int32), grid_hw, block_hw)

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
        source: Number of each pair's source block, counted over the batch.
        receiver: Number of each pair's receiver block.
        source_starts: Where the pairs of each source block begin, and at last the number of pairs.
        by_receiver: The pairs, sorted by receiver and then by source.
        receiver_starts: Where in `by_receiver` the pairs of each receiver block begin.
    """

    blocks: TokenBlocks
    source: Int[Tensor, " p"]
    receiver: Int[Tensor, " p"]
    source_starts: Int[Tensor, " starts"]
    by_receiver: Int[Tensor, " p"]
    receiver_starts: Int[Tensor, " starts"]

    @property
    def n_pairs(self) -> int:
        """How many pairs of blocks light can cross, over the batch."""
        return self.source.shape[0]

    def find(self, source: Int[Tensor, "*#any"], receiver: Int[Tensor, "*#any"]) -> Int[Tensor, "*any"]:
        """The pair of a source block and a receiver block, -1 where light cannot cross.

        Args:
            source: Numbers of blocks, counted over the batch.
            receiver: Numbers of blocks of the same images.
        """
        n_blocks = self.source_starts.shape[0] - 1
        keys = self.source.long() * n_blocks + self.receiver
        wanted = source.long() * n_blocks + receiver
        pair = torch.searchsorted(keys, wanted).clamp_max_(self.n_pairs - 1)
        found = keys.index_select(0, pair.flatten()).view(pair.shape) == wanted
        return pair.masked_fill_(~found, -1)


@dataclass(frozen=True, eq=False)
class VisibilityTiles:
    """Visibility of pairs of blocks; where everything is visible nothing is stored.

    Concretely, of pair p the visibility of place s of its source block at place r of its receiver block is
    tiles[index[p], s, r], or 1 if index[p] is `ALL_VISIBLE`. Places without a token hold 1.

    Args:
        index: Tile of each pair, or `ALL_VISIBLE`.
        tiles: Share of the light that gets through, source first, in [0, 1].
    """

    index: Int[Tensor, " p"]
    tiles: Float[Tensor, "tiles s r"]

    @classmethod
    def compressed(
        cls, pairs: BlockPairs, chosen: Int[Tensor, " c"], tiles: Float[Tensor, "c s r"], dtype: torch.dtype
    ) -> VisibilityTiles:
        """Keep those tiles in which something is blocked, or all where gradients are asked.

        Args:
            pairs: All pairs of blocks.
            chosen: The pairs that have a tile; in all others everything is visible.
            tiles: Of the chosen pairs, any value at places without a token.
            dtype: What visibility is stored in.
        """
        is_token = (pairs.blocks.order != NOT_A_TOKEN).reshape(-1, pairs.blocks.tokens_per_block)
        n_blocks = pairs.blocks.n_blocks
        source, receiver = pairs.source[chosen] % n_blocks, pairs.receiver[chosen] % n_blocks
        tiles = tiles.masked_fill_(~(is_token[source][:, :, None] & is_token[receiver][:, None, :]), 1.0)
        kept = (tiles < 1).flatten(1).any(dim=1) | tiles.requires_grad
        index = torch.full_like(pairs.source, ALL_VISIBLE)
        index[chosen[kept]] = torch.arange(int(kept.sum()), device=index.device, dtype=index.dtype)
        return cls(index, tiles[kept].to(dtype))


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
    first_block = image[crossed] * blocks.n_blocks
    return _sorted_pairs(first_block + source[crossed], first_block + receiver[crossed], blocks, len(reach))


def _sorted_pairs(source: Tensor, receiver: Tensor, blocks: TokenBlocks, n_images: int) -> BlockPairs:
    n_blocks = n_images * blocks.n_blocks
    order = (source * n_blocks + receiver).argsort()
    source, receiver = source[order], receiver[order]
    return BlockPairs(
        blocks,
        source.int(),
        receiver.int(),
        source_starts=_starts(source, n_blocks),
        by_receiver=(receiver * n_blocks + source).argsort().int(),
        receiver_starts=_starts(receiver, n_blocks),
    )


def _starts(block: Tensor, n_blocks: int) -> Tensor:
    counts = torch.zeros(n_blocks + 1, dtype=torch.int32, device=block.device)
    ones = torch.ones_like(block, dtype=torch.int32)
    return counts.scatter_add_(0, block + 1, ones).cumsum(dim=0, dtype=torch.int32)
