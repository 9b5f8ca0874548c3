"""Physics-inspired self-attention over the pairs of blocks that light can cross: linear in the tokens, own backward.

A source block with all its receiver blocks is complete in itself, since a source's weights are normalised over its
receivers. So the work goes source block by source block: one small dense problem each, of the block's keys against the
queries in reach. Blocks with equally many receiver blocks are taken together, a few at a time, so that the weights stay
in the cache. The backward pass computes the weights again.

The two operators are registered with torch, so that torch.compile takes them as they are: which blocks there are
depends on the image, and a compiled graph must not.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bokehdiff.attention.blocks import LOGIT_RANGE, NOT_A_TOKEN
from bokehdiff.attention.dropout import dropout_scale
from bokehdiff.attention.tokens import TokenOptics
from bokehdiff.attention.visibility import distance_between, log_soft_disc

_logger = logging.getLogger(__name__)
BLOCK_HW = (4, 4)  # 8 x 8 takes a third less while the disc is as soft as at the start, twice as long once it is hard
WEIGHTS_AT_A_TIME = 2**18  # attention weights held at a time, 1 MB in float32: a core's cache; changes speed only


def local_pisa(
    query: Float[Tensor, "b k n d"],
    key: Float[Tensor, "b k n d"],
    value: Float[Tensor, "b k n d"],
    optics: TokenOptics,
    *,
    hardness: float,
    dropout: float = 0.0,
    dropout_seed: int | Int[Tensor, ""] = 0,
    logit_range: float = LOGIT_RANGE,
) -> Float[Tensor, "b k n d"]:
    """The numbers of `dense_pisa` and all its gradients, without the pairs of tokens that do not count.

    Of the light of a source less than 1e-6 is left out; see `reach`. Logits beyond the stated range are noticed, and
    then a wider one is taken; only in a compiled graph nothing asks. With D[k] = <V[k], dV[k]> the backward pass has
    dS[q, k] = P[q, k] (visibility[q, k] <dO[q], V[k]> - D[k]).

    Args:
        query: Of the receiving tokens.
        key: Of the light sources.
        value: Of the light sources.
        optics: What attention needs to know of the scene.
        hardness: As in `dense_pisa`.
        dropout: As in `dense_pisa`.
        dropout_seed: As in `dense_pisa`.
        logit_range: By how much the logits of one source exceed that of its own token at most; infinite to leave
            nothing out.
    """
    if not torch.compiler.is_compiling() and (needed := _range_of_logits(query, key)) > logit_range:
        plan = _beyond(optics, hardness, logit_range, needed)
    else:
        plan = local_plan(optics, hardness=hardness, logit_range=logit_range)
    seed = torch.as_tensor(dropout_seed)
    return _local_pisa(query, key, value, optics.coc, plan.tiles, plan.structure, dropout, seed)


@dataclass(frozen=True, eq=False)
class LocalPlan:
    """What `local_pisa` needs to know of an image beside its circles of confusion; shared by layers and heads.

    Args:
        structure: Of `BlockPairs`: order, place, source_starts, receiver; the index of `VisibilityTiles`; the positions
            of the tokens in units of 10 px; hardness and least visibility. A tensor, since a number that changes from
            step to step would have a compiled graph compiled again.
        tiles: Visibility where something is in the way.
    """

    structure: list[Tensor]
    tiles: Float[Tensor, "tiles s r"]


def local_plan(optics: TokenOptics, *, hardness: float, logit_range: float = LOGIT_RANGE) -> LocalPlan:
    """Find out which blocks light can cross; computed at the first call, then kept by the optics.

    Args:
        optics: What attention needs to know of the scene.
        hardness: h of the soft disc.
        logit_range: As in `local_pisa`.
    """
    return optics.derived("local", (hardness, logit_range), lambda: _plan(optics, hardness, logit_range))


@torch.no_grad()
def _range_of_logits(query: Tensor, key: Tensor) -> float:
    """What the logits of one source exceed that of its own token by at most, by the lengths of the vectors."""
    query, key = (vectors.to(torch.promote_types(vectors.dtype, torch.float32)) for vectors in (query, key))
    longest = query.norm(dim=-1).amax(dim=-1, keepdim=True)
    return float((longest * key.norm(dim=-1) - (query * key).sum(dim=-1)).max()) / math.sqrt(query.shape[-1])


def _beyond(optics: TokenOptics, hardness: float, stated: float, needed: float) -> LocalPlan:
    """A plan for more than the stated range: by doublings, so that few are made; kept beside the stated one's."""
    doubles = stated > 0 and math.isfinite(needed)
    taken = stated * 2.0 ** math.ceil(math.log2(needed / stated)) if doubles else math.inf
    _tell_once(stated, taken)
    return optics.derived("local beyond", (hardness, taken), lambda: _plan(optics, hardness, taken))


@cache
def _tell_once(stated: float, taken: float) -> None:
    _logger.warning("logits of attention may be beyond the stated logit_range of %g: taking %g", stated, taken)


def _plan(optics: TokenOptics, hardness: float, logit_range: float) -> LocalPlan:
    pairs = optics.block_pairs(hardness, block_hw=BLOCK_HW, logit_range=logit_range)
    visibility, blocks = optics.visibility_tiles(pairs), pairs.blocks
    structure = [blocks.order, blocks.place, pairs.source_starts, pairs.receiver, visibility.index]
    numbers = torch.tensor([hardness, optics.least_visibility(hardness)], dtype=torch.float64)
    return LocalPlan([*structure, optics.position, numbers], visibility.tiles)


@dataclass(frozen=True, eq=False)
class _Part:
    """Some source blocks with equally many receiver blocks, and some heads: a batch of small dense problems.

    Args:
        blocks: The source blocks, counted over the batch.
        sources: Their rows of tokens.
        receivers: The rows of their receivers, all of one source row before those of the next.
        log_disc: Logarithm of the soft disc; -inf at receivers that are no tokens.
        passed: Share of the weights that gets through visibility and dropout; None for all.
        dropped: Of it, the share that gets through dropout; None for all.
        tile: Where the pairs of each source block have their visibility, negative for nowhere.
    """

    blocks: Int[Tensor, " g"]
    sources: Int[Tensor, " rows"]
    receivers: Int[Tensor, " rows_times_p"]
    log_disc: Float[Tensor, "g 1 s pr"]
    passed: Float[Tensor, "g one_or_k s pr"] | None
    dropped: Float[Tensor, "g heads s pr"] | None
    tile: Int[Tensor, "g p"]


@dataclass(frozen=True)
class _Settings:
    """The numbers of one call.

    Args:
        hardness: h of the soft disc.
        least_visibility: What visibility is raised to.
        dropout: Share of the weights that is dropped.
        dropout_seed: What it is drawn from.
    """

    hardness: float
    least_visibility: float
    dropout: float
    dropout_seed: int


@dataclass(frozen=True, eq=False)
class _Work:
    """One call of the operator, its tokens in blocks: rows are numbered (image, block, head), each of s tokens.

    Args:
        query: Rows of receivers.
        key: Rows of sources, divided by sqrt(d).
        value: Rows of sources.
        coc: Of the sources of each block.
        member: Tokens of each block of an image.
        is_padding: Which of them are none.
        position: Of those tokens, in units of 10 px.
        place: Where each token is.
        source_starts: As in `BlockPairs`.
        receiver: As in `BlockPairs`.
        tile_index: As in `VisibilityTiles`.
        tiles: As in `VisibilityTiles`.
        n_heads: Heads of an image.
        settings: The numbers of the call.
    """

    query: Float[Tensor, "rows s d"]
    key: Float[Tensor, "rows s d"]
    value: Float[Tensor, "rows s d"]
    coc: Float[Tensor, "blocks s"]
    member: Int[Tensor, "image_blocks s"]
    is_padding: Bool[Tensor, "image_blocks s"]
    position: Float[Tensor, "image_blocks s 2"]
    place: Int[Tensor, " n"]
    source_starts: Int[Tensor, " starts"]
    receiver: Int[Tensor, " p"]
    tile_index: Int[Tensor, " p"]
    tiles: Float[Tensor, "tiles s s"]
    n_heads: int
    settings: _Settings

    @classmethod
    def of(
        cls,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        coc: Tensor,
        tiles: Tensor,
        structure: list[Tensor],
        dropout: float,
        dropout_seed: Tensor,
    ) -> _Work:
        """Put the arguments of the operator into blocks, in at least single precision."""
        dtype = torch.promote_types(query.dtype, torch.float32)
        order, place, source_starts, receiver, tile_index, position, numbers = structure
        member = order.reshape(-1, tiles.shape[1])
        return cls(
            _rows(query.to(dtype), member),
            _rows(key.to(dtype) / math.sqrt(key.shape[-1]), member),
            _rows(value.to(dtype), member),
            coc.to(dtype)[:, member.clamp_min(0)].flatten(0, 1),
            member,
            member == NOT_A_TOKEN,
            position[member.clamp_min(0)],
            place,
            source_starts,
            receiver,
            tile_index,
            tiles,
            query.shape[1],
            _Settings(float(numbers[0]), float(numbers[1]), dropout, int(dropout_seed)),
        )

    def parts(self) -> Iterator[_Part]:
        """The whole work, in batches whose weights fit into the cache."""
        n_pairs = self.source_starts.diff()
        for p in n_pairs.unique().tolist():
            weights_per_row = p * self.member.shape[1] ** 2
            some_heads = max(1, min(self.n_heads, WEIGHTS_AT_A_TIME // weights_per_row))
            some_blocks = max(1, WEIGHTS_AT_A_TIME // (weights_per_row * some_heads))
            for blocks in (n_pairs == p).nonzero().flatten().split(some_blocks):
                pairs = self.source_starts[blocks, None] + torch.arange(p, device=blocks.device)
                yield from self._parts_of(blocks, self.receiver[pairs], self.tile_index[pairs], some_heads)

    def _parts_of(self, blocks: Tensor, receiver: Tensor, tile: Tensor, some_heads: int) -> Iterator[_Part]:
        log_disc, visible = self._log_disc(blocks, receiver), self._visible(tile)
        for heads in torch.arange(self.n_heads, device=blocks.device).split(some_heads):
            dropped = self._dropped(blocks, receiver, heads) if self.settings.dropout > 0 else None
            passed = visible if dropped is None else dropped if visible is None else dropped * visible
            sources = blocks[:, None] * self.n_heads + heads
            receivers = receiver[:, None] * self.n_heads + heads[:, None]
            yield _Part(blocks, sources.flatten(), receivers.flatten(), log_disc, passed, dropped, tile)

    def _log_disc(self, blocks: Tensor, receiver: Tensor) -> Tensor:
        k, q = blocks % len(self.member), receiver % len(self.member)
        distance = distance_between(self.position[q].flatten(1, 2)[:, None], self.position[k][:, :, None])
        log_disc = log_soft_disc(self.coc[blocks][:, :, None], distance.to(self.coc.dtype), self.settings.hardness)
        return log_disc.masked_fill_(self.is_padding[q].flatten(1)[:, None], -math.inf)[:, None]

    def _visible(self, tile: Tensor) -> Tensor | None:
        stored = (tile >= 0).nonzero(as_tuple=True)
        if not len(stored[0]):
            return None
        visible = self.coc.new_ones(*tile.shape, *self.tiles.shape[1:])
        visible[stored] = self.tiles[tile[stored]].to(visible.dtype).clamp_min(self.settings.least_visibility)
        return visible.transpose(1, 2).flatten(2)[:, None]

    def _dropped(self, blocks: Tensor, receiver: Tensor, heads: Tensor) -> Tensor:
        image = torch.div(blocks, len(self.member), rounding_mode="floor")
        scale = dropout_scale(
            self.settings.dropout_seed,
            self.settings.dropout,
            weight_map=(image[:, None] * self.n_heads + heads)[:, :, None, None],
            receiver=self.member[receiver % len(self.member)].flatten(1)[:, None, None],
            source=self.member[blocks % len(self.member)][:, None, :, None],
            n_tokens=len(self.place),
        )
        return scale.to(self.coc.dtype)

    def weights(self, part: _Part) -> tuple[Tensor, Tensor]:
        """P of a part, source first [g k s receivers], and the queries in reach [rows receivers d]."""
        query = self.query.index_select(0, part.receivers).reshape(len(part.sources), -1, self.query.shape[-1])
        score = torch.bmm(self.key[part.sources], query.transpose(1, 2))
        score = score.unflatten(0, (len(part.blocks), -1)).add_(part.log_disc)
        return score.softmax(dim=-1), query

    def tokens(self, rows: Float[Tensor, "rows s d"]) -> Float[Tensor, "b k n d"]:
        """Rows back in the order of the grid."""
        blocks = rows.unflatten(0, (-1, len(self.member), self.n_heads)).transpose(1, 2)
        return blocks.flatten(2, 3).index_select(2, self.place)


def _rows(tokens: Float[Tensor, "b k n d"], member: Int[Tensor, "blocks s"]) -> Float[Tensor, "rows s d"]:
    """Tokens by image, block and head; places without a token are zero."""
    arranged = tokens.index_select(2, member.flatten().clamp_min(0)).unflatten(2, member.shape)
    if member.numel() > tokens.shape[2]:
        arranged.masked_fill_((member == NOT_A_TOKEN)[..., None], 0.0)
    return arranged.transpose(1, 2).flatten(0, 2)


_ARGUMENTS = (
    "Tensor query, Tensor key, Tensor value, Tensor coc, Tensor tiles, Tensor[] structure, "
    "float dropout, Tensor dropout_seed"
)


@torch.library.custom_op("bokehdiff::local_pisa", mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor")
def _local_pisa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    coc: Tensor,
    tiles: Tensor,
    structure: list[Tensor],
    *dropout_and_seed: Any,
) -> Tensor:
    work = _Work.of(query, key, value, coc, tiles, structure, *dropout_and_seed)
    out = torch.zeros_like(work.query)
    for part in work.parts():
        light, _ = work.weights(part)
        light = light if part.passed is None else light.mul_(part.passed)
        received = torch.bmm(light.flatten(0, 1).transpose(1, 2), work.value[part.sources])
        out.index_add_(0, part.receivers, received.reshape(-1, *out.shape[1:]))
    return work.tokens(out).to(query.dtype)


@_local_pisa.register_fake
def _(query: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


@torch.library.custom_op(
    "bokehdiff::local_pisa_backward",
    mutates_args=(),
    schema=f"(Tensor grad_out, {_ARGUMENTS}, bool of_tiles) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _local_pisa_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    coc: Tensor,
    tiles: Tensor,
    structure: list[Tensor],
    dropout: float,
    dropout_seed: Tensor,
    of_tiles: bool,
) -> tuple[Tensor, ...]:
    work = _Work.of(query, key, value, coc, tiles, structure, dropout, dropout_seed)
    d_out = _rows(grad_out.to(work.query.dtype), work.member)
    d_query, d_key, d_value = (torch.zeros_like(work.query) for _ in range(3))
    d_coc = torch.zeros_like(work.coc)
    d_tiles = torch.zeros_like(tiles if of_tiles else tiles[:0], dtype=work.coc.dtype)
    for part in work.parts():
        weights, q = work.weights(part)
        d_o = d_out.index_select(0, part.receivers).reshape(q.shape)
        v = work.value[part.sources]
        light = weights if part.passed is None else weights * part.passed
        d_v = torch.bmm(light.flatten(0, 1), d_o)
        delta = (v * d_v).sum(dim=-1).reshape(*weights.shape[:3], 1)
        d_light = torch.bmm(v, d_o.transpose(1, 2)).reshape(weights.shape)
        if of_tiles:
            _add_to_tiles(d_tiles, part, d_light * weights, tiles >= work.settings.least_visibility)
        d_score = (d_light if part.passed is None else d_light.mul_(part.passed)).sub_(delta).mul_(weights)
        outside = -torch.expm1(part.log_disc[:, 0])  # 1 - C, by which log C changes with h coc
        d_coc.index_add_(0, part.blocks, (d_score.sum(dim=1) * outside).sum(dim=-1).mul_(work.settings.hardness))
        d_score = d_score.flatten(0, 1)
        d_value[part.sources] = d_v
        d_key[part.sources] = torch.bmm(d_score, q)
        d_q = torch.bmm(d_score.transpose(1, 2), work.key[part.sources])
        d_query.index_add_(0, part.receivers, d_q.reshape(-1, *d_query.shape[1:]))
    d_coc = d_coc.reshape(len(coc), -1).index_select(1, work.place)
    grads = (
        work.tokens(d_query),
        work.tokens(d_key).div_(math.sqrt(key.shape[-1])),
        work.tokens(d_value),
        d_coc,
        d_tiles,
    )
    return tuple(grad.to(of.dtype) for grad, of in zip(grads, (query, key, value, coc, tiles), strict=True))


def _add_to_tiles(d_tiles: Tensor, part: _Part, d_passed: Tensor, counts: Tensor) -> None:
    """Add the gradient of a part to those of the visibility of its pairs, where visibility was not raised."""
    d_visible = (d_passed if part.dropped is None else d_passed * part.dropped).sum(dim=1)
    by_pair = d_visible.unflatten(2, (part.tile.shape[1], -1)).transpose(1, 2)
    stored = part.tile >= 0
    tile = part.tile[stored]
    d_tiles.index_add_(0, tile, by_pair[stored] * counts[tile])


@_local_pisa_backward.register_fake
def _(grad_out: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *tensors, tiles, _, _, _, of_tiles = arguments
    return tuple(torch.empty_like(tensor).contiguous() for tensor in (*tensors, tiles if of_tiles else tiles[:0]))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    query, key, value, coc, tiles, structure, dropout, dropout_seed = inputs
    ctx.dropout = dropout
    ctx.save_for_backward(dropout_seed, query, key, value, coc, tiles, *structure)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    dropout_seed, query, key, value, coc, tiles, *structure = ctx.saved_tensors
    of_tiles = ctx.needs_input_grad[4]
    grads = _local_pisa_backward(
        grad_out, query, key, value, coc, tiles, structure, ctx.dropout, dropout_seed, of_tiles
    )
    return *grads[:4], grads[4] if of_tiles else None, [None] * len(structure), None, None


_local_pisa.register_autograd(_backward, setup_context=_keep)
