"""Physics-inspired self-attention over the tokens that light can reach: linear in the tokens, own backward.

A block of sources with all its receivers is complete in itself, since a source's weights are normalised over its
receivers. So the work goes source block by source block: one small dense problem each, of the block's keys against the
queries in reach. Blocks with about equally many receivers are taken together, a few at a time, so that the weights stay
in the cache. The backward pass computes the weights again.

Receivers are told token by token. Whole blocks of them, as in the kernels, would be 2.3 times as many: where blur is a
few tokens wide, most of what surrounds a block of 4 x 4 lies beyond its light.

The two operators are registered with torch, so that torch.compile takes them as they are: which receivers there are
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

from bokehdiff.attention.blocks import LOGIT_RANGE, NOT_A_TOKEN, ReachedTokens
from bokehdiff.attention.dropout import dropout_scale
from bokehdiff.attention.tokens import TokenOptics
from bokehdiff.attention.visibility import distance_between, log_soft_disc

_logger = logging.getLogger(__name__)
BLOCK_HW = (4, 4)  # larger ones have more weights, smaller ones more vectors to fetch; changes speed, not the result
WEIGHTS_AT_A_TIME = 2**18  # attention weights held at a time, 0.5 MB in float32: a core's cache; changes speed only


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

    Of the light of a source less than 1e-6 is left out; see `reach`. How far apart the logits are is asked of the
    vectors: receivers that are within reach for the stated range only are passed over, and where that does not suffice
    a wider one is taken, for which a compiled graph has no way. With D[k] = <V[k], dV[k]> the backward pass has
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
    needed = math.nan
    if not torch.compiler.is_compiling():
        needed = _range_of_logits(query, key)
        logit_range = _at_least(needed, logit_range)
    plan = local_plan(optics, hardness=hardness, logit_range=logit_range)
    seed = torch.as_tensor(dropout_seed)
    return _local_pisa(query, key, value, optics.coc, plan.visible, plan.structure, needed, dropout, seed)


@dataclass(frozen=True, eq=False)
class LocalPlan:
    """What `local_pisa` needs to know of an image beside its circles of confusion; shared by layers and heads.

    Args:
        structure: The tokens of each source block; starts, token, beyond and index of `ReachedTokens`; the positions of
            the tokens in units of 10 px; hardness, range of logits and least visibility. A tensor, since a number that
            changes from step to step would have a compiled graph compiled again.
        visible: Of `ReachedTokens`.
    """

    structure: list[Tensor]
    visible: Float[Tensor, "rows s"]

    @property
    def n_receivers(self) -> int:
        """How many receivers all source blocks have together, by the stated range of logits."""
        return self.structure[2].shape[0]


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
    longest = (query * query).sum(dim=-1).amax(dim=-1, keepdim=True)
    beyond_own = (longest * (key * key).sum(dim=-1)).sqrt_().sub_((query * key).sum(dim=-1))
    return float(beyond_own.max()) / math.sqrt(query.shape[-1])


def _at_least(needed: float, stated: float) -> float:
    """The stated range of logits, doubled until it holds what is needed: so that few plans are made."""
    if not needed > stated:
        return stated
    doubles = stated > 0 and math.isfinite(needed)
    taken = stated * 2.0 ** math.ceil(math.log2(needed / stated)) if doubles else math.inf
    _tell_once(stated, taken)
    return taken


@cache
def _tell_once(stated: float, taken: float) -> None:
    _logger.warning("logits of attention may be beyond the stated logit_range of %g: taking %g", stated, taken)


def _plan(optics: TokenOptics, hardness: float, logit_range: float) -> LocalPlan:
    pairs = optics.block_pairs(hardness, block_hw=BLOCK_HW, logit_range=logit_range)
    reached = ReachedTokens.of(pairs, optics.occlusion)
    sources = pairs.blocks.order.reshape(-1, pairs.blocks.tokens_per_block)
    numbers = torch.tensor([hardness, logit_range, optics.least_visibility(hardness)], dtype=torch.float64)
    structure = [sources, reached.starts, reached.token, reached.beyond, reached.index, optics.position, numbers]
    return LocalPlan(structure, reached.visible)


@dataclass(frozen=True, eq=False)
class _Part:
    """Some source blocks, padded to equally many receivers, and some heads: a batch of small dense problems.

    Args:
        blocks: The source blocks, counted over the batch.
        source: Their tokens, counted over the batch; any token at places without one.
        sources: Rows of their vectors, for each block and head.
        receivers: Rows of their receivers' vectors.
        log_disc: Logarithm of the soft disc; -inf beyond a block's last receiver.
        passed: Share of the weights that gets through visibility and dropout; None for all.
        dropped: Of it, the share that gets through dropout; None for all.
        index: Row of each receiver in `visible`.
        no_source: Places of the blocks without a token; None where there are none.
    """

    blocks: Int[Tensor, " g"]
    source: Int[Tensor, "g s"]
    sources: Int[Tensor, "gk s"]
    receivers: Int[Tensor, "gk r"]
    log_disc: Float[Tensor, "g 1 s r"]
    passed: Float[Tensor, "g one_or_k s r"] | None
    dropped: Float[Tensor, "g k s r"] | None
    index: Int[Tensor, "g r"]
    no_source: Bool[Tensor, "g 1 s 1"] | None


@dataclass(frozen=True, eq=False)
class _Work:
    """One call of the operator. Vectors lie in rows, one for each (image, token, head).

    Args:
        query: Rows.
        key: Rows.
        value: Rows.
        coc: Of each token.
        visible: As in `ReachedTokens`, raised to the least visibility.
        source: The tokens of each block of an image.
        starts: As in `ReachedTokens`, less what this call spares.
        token: The same.
        index: The same.
        position: Of the tokens, in units of 10 px.
        n_heads: Heads of an image.
        fills_up: Whether some blocks have places without a token.
        hardness: h of the soft disc.
        least_visibility: What visibility is raised to.
        dropout: Share of the weights that is dropped.
        dropout_seed: What it is drawn from.
    """

    query: Float[Tensor, "rows d"]
    key: Float[Tensor, "rows d"]
    value: Float[Tensor, "rows d"]
    coc: Float[Tensor, "b n"]
    visible: Float[Tensor, "v s"]
    source: Int[Tensor, "image_blocks s"]
    starts: Int[Tensor, " starts"]
    token: Int[Tensor, " e"]
    index: Int[Tensor, " e"]
    position: Float[Tensor, "n 2"]
    n_heads: int
    fills_up: bool
    hardness: float
    least_visibility: float
    dropout: float
    dropout_seed: int

    @classmethod
    def of(
        cls,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        coc: Tensor,
        visible: Tensor,
        structure: list[Tensor],
        needed: float,
        dropout: float,
        dropout_seed: Tensor,
    ) -> _Work:
        """Lay out the arguments of the operator, in at least single precision.

        Receivers that count only if logits were farther apart than they are, `needed`, are left out. NaN: find out.
        """
        dtype = torch.promote_types(query.dtype, torch.float32)
        source, starts, token, beyond, index, position, numbers = structure
        hardness, logit_range, least_visibility = numbers.tolist()
        needed = _range_of_logits(query, key) if math.isnan(needed) else needed
        spare = (logit_range - needed) / hardness
        visible = visible.to(dtype).clamp_min(least_visibility) if least_visibility > 0 else visible.to(dtype)
        if spare > 0:
            kept = (beyond <= -spare).nonzero().flatten()
            starts = torch.searchsorted(kept, starts.long())
            token, index = token[kept], index[kept]
        return cls(
            _rows(query.to(dtype)),
            _rows(key.to(dtype)),
            _rows(value.to(dtype)),
            coc.to(dtype),
            visible,
            source,
            starts,
            token,
            index,
            position,
            query.shape[1],
            bool((source == NOT_A_TOKEN).any()),
            hardness,
            least_visibility,
            dropout,
            int(dropout_seed),
        )

    def parts(self) -> Iterator[_Part]:
        """The whole work, in batches whose weights fit into the cache; blocks with most receivers first."""
        n_receivers, by_number = self.starts.diff().sort(descending=True, stable=True)
        start = 0
        while start < len(by_number):
            most = int(n_receivers[start])
            weights_per_row = most * self.source.shape[1]
            some_heads = max(1, min(self.n_heads, WEIGHTS_AT_A_TIME // weights_per_row))
            some = slice(start, start + max(1, WEIGHTS_AT_A_TIME // (weights_per_row * some_heads)))
            yield from self._parts_of(by_number[some], n_receivers[some], most, some_heads)
            start = some.stop

    def _parts_of(self, blocks: Tensor, n_receivers: Tensor, most: int, some_heads: int) -> Iterator[_Part]:
        place = torch.arange(most, device=blocks.device)
        missing = place >= n_receivers[:, None]
        entry = (self.starts[blocks, None] + place).masked_fill_(missing, 0)
        image = torch.div(blocks, len(self.source), rounding_mode="floor")[:, None]
        source, receiver, index = self.source[blocks % len(self.source)], self.token[entry], self.index[entry]
        no_source = source == NOT_A_TOKEN
        source = source.clamp_min(0)
        log_disc = self._log_disc(image, source, receiver).masked_fill_(missing[:, None], -math.inf)
        visible = self._visible(index)
        of_batch, first = source + image * self.coc.shape[1], image * self.coc.shape[1]
        for heads in torch.arange(self.n_heads, device=blocks.device).split(some_heads):
            dropped = self._dropped(image, source, receiver, heads) if self.dropout > 0 else None
            yield _Part(
                blocks,
                of_batch,
                self._rows_of(of_batch, heads),
                self._rows_of(first + receiver, heads),
                log_disc[:, None],
                visible if dropped is None else dropped if visible is None else dropped * visible,
                dropped,
                index,
                no_source[:, None, :, None] if self.fills_up else None,
            )

    def _rows_of(self, token: Int[Tensor, "g t"], heads: Int[Tensor, " k"]) -> Int[Tensor, "gk t"]:
        return (token[:, None] * self.n_heads + heads[:, None]).flatten(0, 1)

    def _log_disc(self, image: Tensor, source: Tensor, receiver: Tensor) -> Tensor:
        distance = distance_between(self.position[receiver][:, None], self.position[source][:, :, None])
        return log_soft_disc(self.coc[image, source][:, :, None], distance.to(self.coc.dtype), self.hardness)

    def _visible(self, index: Tensor) -> Tensor | None:
        if len(self.visible) == 1:
            return None
        visible = self.visible.index_select(0, index.flatten()).unflatten(0, index.shape)
        return visible.transpose(1, 2).contiguous()[:, None]

    def _dropped(self, image: Tensor, source: Tensor, receiver: Tensor, heads: Tensor) -> Tensor:
        scale = dropout_scale(
            self.dropout_seed,
            self.dropout,
            weight_map=(image * self.n_heads + heads)[:, :, None, None],
            receiver=receiver[:, None, None],
            source=source[:, None, :, None],
            n_tokens=self.coc.shape[1],
        )
        return scale.to(self.coc.dtype)

    def weights(self, part: _Part) -> tuple[Tensor, Tensor, Tensor]:
        """P of a part, source first [g k s r]; its keys divided by sqrt(d), its queries."""
        query, key = _fetch(self.query, part.receivers), _fetch(self.key, part.sources)
        key.mul_(1.0 / math.sqrt(key.shape[-1]))
        score = torch.bmm(key, query.transpose(1, 2)).unflatten(0, (len(part.blocks), -1)).add_(part.log_disc)
        return score.softmax(dim=-1), key, query

    def values(self, part: _Part) -> Float[Tensor, "gk s d"]:
        """Of a part's sources; zero where there is none."""
        return _without(_fetch(self.value, part.sources), part)


def _fetch(rows: Float[Tensor, "rows d"], which: Int[Tensor, "gk t"]) -> Float[Tensor, "gk t d"]:
    return rows.index_select(0, which.flatten()).unflatten(0, which.shape)


def _put(rows: Float[Tensor, "rows d"], which: Int[Tensor, "gk t"], vectors: Float[Tensor, "gk t d"]) -> None:
    rows.index_add_(0, which.flatten(), vectors.flatten(0, 1))


def _without(vectors: Float[Tensor, "gk s d"], part: _Part) -> Float[Tensor, "gk s d"]:
    """Vectors of sources, zero where there is none."""
    if part.no_source is None:
        return vectors
    return vectors.unflatten(0, (len(part.blocks), -1)).masked_fill(part.no_source, 0.0).flatten(0, 1)


def _rows(tokens: Float[Tensor, "b k n d"]) -> Float[Tensor, "rows d"]:
    """One row for each (image, token, head): nothing is copied as projections leave them, heads beside each other."""
    return tokens.transpose(1, 2).reshape(-1, tokens.shape[-1])


def _tokens(rows: Float[Tensor, "rows d"], of: Float[Tensor, "b k n d"]) -> Float[Tensor, "b k n d"]:
    """The rows as vectors of heads, which lie in memory as the next projection takes them."""
    n_images, n_heads, n_tokens, width = of.shape
    return rows.view(n_images, n_tokens, n_heads, width).transpose(1, 2).to(of.dtype)


def _rounded_up(n_receivers: Int[Tensor, " blocks"]) -> Int[Tensor, " blocks"]:
    octave = n_receivers.clamp_min(1).double().log2().floor()
    step = (2.0**octave / STEPS_PER_OCTAVE).long().clamp_min(RECEIVERS_STEP)
    return (n_receivers + step - 1) // step * step


_ARGUMENTS = (
    "Tensor query, Tensor key, Tensor value, Tensor coc, Tensor visible, Tensor[] structure, "
    "float needed, float dropout, Tensor dropout_seed"
)


@torch.library.custom_op("bokehdiff::local_pisa", mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor")
def _local_pisa(query: Tensor, *arguments: Any) -> Tensor:
    work = _Work.of(query, *arguments)
    out = torch.zeros_like(work.query)
    for part in work.parts():
        light, _, _ = work.weights(part)
        light = light if part.passed is None else light.mul_(part.passed)
        _put(out, part.receivers, torch.bmm(light.flatten(0, 1).transpose(1, 2), work.values(part)))
    return _tokens(out, query)


@_local_pisa.register_fake
def _room_for_result(query: Tensor, *_: Any) -> Tensor:
    """As the layers leave it: heads beside each other."""
    n_images, n_heads, n_tokens, width = query.shape
    return query.new_empty(n_images, n_tokens, n_heads, width).transpose(1, 2)


@torch.library.custom_op(
    "bokehdiff::local_pisa_backward",
    mutates_args=(),
    schema=f"(Tensor grad_out, bool of_visible, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _local_pisa_backward(
    grad_out: Tensor,
    of_visible: bool,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    coc: Tensor,
    visible: Tensor,
    *arguments: Any,
) -> tuple[Tensor, ...]:
    work = _Work.of(query, key, value, coc, visible, *arguments)
    d_out = _rows(grad_out.to(work.query.dtype))
    d_query, d_key, d_value = (torch.zeros_like(rows) for rows in (work.query, work.key, work.value))
    d_coc = torch.zeros_like(work.coc).flatten()
    d_visible = torch.zeros_like(work.visible if of_visible else work.visible[:0])
    for part in work.parts():
        weights, k, q = work.weights(part)
        d_o, v = _fetch(d_out, part.receivers), work.values(part)
        light = weights if part.passed is None else weights * part.passed
        d_v = _without(torch.bmm(light.flatten(0, 1), d_o), part)
        delta = (v * d_v).sum(dim=-1).reshape(*weights.shape[:3], 1)
        d_light = torch.bmm(v, d_o.transpose(1, 2)).reshape(weights.shape)
        if of_visible:
            d_passed = (d_light * weights if part.dropped is None else d_light * weights * part.dropped).sum(dim=1)
            d_visible.index_add_(0, part.index.flatten(), d_passed.transpose(1, 2).flatten(0, 1))
        d_score = (d_light if part.passed is None else d_light.mul_(part.passed)).sub_(delta).mul_(weights)
        outside = -torch.expm1(part.log_disc[:, 0])  # 1 - C, by which log C changes with h coc
        d_radius = (d_score.sum(dim=1) * outside).sum(dim=-1).mul_(work.hardness)
        d_coc.index_add_(0, part.source.flatten(), d_radius.flatten())
        d_score = d_score.flatten(0, 1)
        _put(d_value, part.sources, d_v)
        _put(d_key, part.sources, torch.bmm(d_score, q))
        _put(d_query, part.receivers, torch.bmm(d_score.transpose(1, 2), k))
    d_key.mul_(1.0 / math.sqrt(key.shape[-1]))
    if of_visible:  # a number that was raised does not count
        d_visible *= visible >= work.least_visibility
    vectors = (_tokens(rows, of) for rows, of in zip((d_query, d_key, d_value), (query, key, value), strict=True))
    return *vectors, d_coc.view(coc.shape).to(coc.dtype), d_visible.to(visible.dtype)


@_local_pisa_backward.register_fake
def _(grad_out: Tensor, of_visible: bool, *arguments: Any) -> tuple[Tensor, ...]:
    *vectors, coc, visible = arguments[:5]
    rooms = (_room_for_result(tokens) for tokens in vectors)
    return *rooms, torch.empty_like(coc).contiguous(), torch.empty_like(visible if of_visible else visible[:0])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    query, key, value, coc, visible, structure, needed, dropout, dropout_seed = inputs
    ctx.needed, ctx.dropout = needed, dropout
    ctx.save_for_backward(dropout_seed, query, key, value, coc, visible, *structure)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    dropout_seed, query, key, value, coc, visible, *structure = ctx.saved_tensors
    of_visible = ctx.needs_input_grad[4]
    grads = _local_pisa_backward(
        grad_out, of_visible, query, key, value, coc, visible, structure, ctx.needed, ctx.dropout, dropout_seed
    )
    return *grads[:4], grads[4] if of_visible else None, [None] * len(structure), None, None, None


_local_pisa.register_autograd(_backward, setup_context=_keep)
