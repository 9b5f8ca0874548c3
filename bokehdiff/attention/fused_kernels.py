"""The Triton kernels of the fused back end: what they compute stands in `reference.py`, who runs them in `fused.py`.

Two kernels forward, two backward. Each walks over pairs of blocks of tokens, from the side whose sums it keeps:

    source_log_sums     per source block    L[k] = log2 sum_q 2^S[q, k]
    received_light      per receiver block  out[q] = sum_k P[q, k] passed[q, k] V[k]
    source_gradients    per source block    dV[k] and D[k] = <V[k], dV[k]>, then dK[k] and dcoc[k]
    receiver_gradients  per receiver block  dQ[q]

with S = (A + log C) / ln 2 and P[q, k] = 2^(S[q, k] - L[k]) <= 1, so that no sum but the first needs a running maximum.
Logarithms and exponentials are to base 2, which is what the hardware computes; sums are in float32.

Names: i_ index, o_ offsets, m_ mask, p_ pointer, b_ block of numbers. The rows of a block of pairs belong to the block
of the program, its columns to the one at the other end: sources x receivers in the kernels per source block, receivers
x sources in the others, so that weights become the left operand of the next product without leaving the registers. The
other end is taken STEP of its PLACES at a time, which is what decides how many registers a program needs.
"""

# Triton reads the annotations of kernels as they stand, so there is no `from __future__ import annotations` here.
import inspect
from typing import Any, NamedTuple

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # TRITON_INTERPRET=1: in Python, on any device
ALL_VISIBLE = tl.constexpr(-1)  # instead of the number of a visibility tile
WHOLE = tl.constexpr(65280)  # what stands for a visibility of 1 in a tile
# Where log2 C = -log2(1 + 2^-depth) is 0 in float32, with room for the rounding of `depth`: 2^-24 is the limit.
SATURATED = tl.constexpr(25.0)
# A source that shares its light among thousands of receivers has weights where float16 has few bits: P goes through
# products as 2^12 P <= 4096, and the sum is divided again. Powers of two: float32 and bfloat16 do not notice.
HEADROOM_LOG2 = tl.constexpr(12.0)
HEADROOM = tl.constexpr(4096.0)
LOG2_E = tl.constexpr(1.4426950408889634)
PRECISION = tl.constexpr("ieee")  # of products of float32: tf32 would be off by 1e-3


def jit(function: Any) -> Any:
    """`triton.jit`, one kernel for all seeds; of the function itself where a type checker has wrapped it at import."""
    return triton.jit(inspect.unwrap(function), do_not_specialize=["seed_low", "seed_high"])


class Vectors(NamedTuple):
    """Q, K, V or a gradient, [b k n d], and its strides; the last axis is dense."""

    data: Any
    per_image: Any
    per_head: Any
    per_token: Any


class Scene(NamedTuple):
    """Token at each place of an image's blocks, -1 for none; where the places are; coc [b n]; in units of 10 px."""

    order: Any
    x: Any
    y: Any
    coc: Any
    n_heads: Any
    n_tokens: Any
    n_blocks: Any


class Walk(NamedTuple):
    """Of each block, counted over the batch, the blocks at the other end of its pairs, as of `fused.pair_walk`."""

    by_work: Any
    starts: Any
    others: Any
    tiles: Any
    margins: Any


class Light(NamedTuple):
    """What shapes the weights: h and 1 / sqrt(d) to base 2, visibility as of `fused.FusedPlan`, dropout."""

    hardness_log2: Any
    scale_log2: Any
    tiles: Any
    least_visibility: Any
    dropped_below: Any
    kept_scale: Any


@jit
def own_block(scene, walk):
    """Head, image, map (head of the batch) and block of this program. Heads run fastest: they share visibility."""
    i_head = tl.program_id(0) % scene.n_heads
    i_block = tl.load(walk.by_work + tl.program_id(0) // scene.n_heads)
    i_image = i_block // scene.n_blocks
    return i_head, i_image, i_image * scene.n_heads + i_head, i_block


@jit
def load_places(scene, i_image, i_block, i_part, PLACES: tl.constexpr, STEP: tl.constexpr):
    """Tokens at some places of a block, and x and y of these: each [step]."""
    o_place = (i_block - i_image * scene.n_blocks) * PLACES + i_part * STEP + tl.arange(0, STEP)
    return tl.load(scene.order + o_place), tl.load(scene.x + o_place), tl.load(scene.y + o_place)


@jit
def vector_pointers(vectors, i_image, i_head, b_token, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Where the vectors of tokens stand, and where there are any: each [places, padded].

    If the width is a multiple of 8, so are the strides (`fused.aligned`): vectors in half precision are then read 16
    bytes at a time, also where a head of 40 is no multiple of the 16 that Triton finds out by itself.
    """
    GRAIN: tl.constexpr = 8 if WIDTH % 8 == 0 else 1
    o_width = tl.arange(0, PADDED)
    o_map = i_image.to(tl.int64) * vectors.per_image + i_head.to(tl.int64) * vectors.per_head
    o_row = b_token.to(tl.int64)[:, None] * vectors.per_token  # [places, 1]
    p_map = vectors.data + tl.multiple_of(o_map, GRAIN)
    p_row = p_map + tl.multiple_of(o_row, [GRAIN, GRAIN]) + o_width[None, :]
    return p_row, (b_token[:, None] >= 0) & (o_width[None, :] < WIDTH)


@jit
def load_vectors(vectors, i_image, i_head, b_token, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Vectors of tokens, zero where there is no token: [places, padded]."""
    p_row, m_row = vector_pointers(vectors, i_image, i_head, b_token, WIDTH, PADDED)
    return tl.load(p_row, mask=m_row, other=0.0)


@jit
def store_vectors(vectors, i_image, i_head, b_token, b_row, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """The counterpart of `load_vectors`."""
    p_row, m_row = vector_pointers(vectors, i_image, i_head, b_token, WIDTH, PADDED)
    tl.store(p_row, b_row.to(vectors.data.dtype.element_ty), mask=m_row)


@jit
def product(b_left, b_right, b_sum):
    """b_left @ b_right + b_sum, in float32."""
    if INTERPRETED:  # where bfloat16 is held as whole numbers, and would be multiplied as such
        b_left, b_right = b_left.to(tl.float32), b_right.to(tl.float32)
    return tl.dot(b_left, b_right, b_sum, input_precision=PRECISION)


@jit
def score(b_row, b_column, b_coc, b_dx, b_dy, margin, light):
    """S = (A + log C) / ln 2 of a block of pairs, and 1 - C, as in `dense_pisa`, `log_soft_disc` and `token_distance`.

    `margin` is at most coc - distance of any of the pairs. Where even that is deep inside the disc, log C is 0 to the
    last bit and 1 - C below 2^-25; most pairs of a wide blur are spared two of three special functions thereby.
    """
    b_score = product(b_row, tl.trans(b_column), None) * light.scale_log2  # [rows, columns]
    b_outside = tl.zeros_like(b_score)  # [rows, columns]
    if light.hardness_log2 * margin < SATURATED:
        b_depth = light.hardness_log2 * (b_coc - tl.sqrt(b_dx * b_dx + b_dy * b_dy))  # [rows, columns]
        b_small = tl.exp2(-tl.abs(b_depth))  # [rows, columns]
        b_score += tl.minimum(b_depth, 0.0) - tl.log2(1.0 + b_small)
        b_outside = tl.where(b_depth >= 0.0, b_small, 1.0) / (1.0 + b_small)
    return b_score, b_outside


@jit
def mixed(number):
    """`dropout._mixed`, in the arithmetic of uint32."""
    number = (number ^ (number >> 16)) * 0x7FEB352D
    number = (number ^ (number >> 15)) * 0x846CA68B
    return number ^ (number >> 16)


@jit
def passed(
    b_receiver, b_source, o_tile, i_tile, i_map, scene, light, seed_low, seed_high,
    PLACES: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Share of the light of a block of pairs that passes: its visibility, and 0 or 1 by `dropout_scale`.

    `o_tile` is where pairs stand in a tile. What dropout keeps is multiplied by `light.kept_scale` later, in the sums.
    """
    p_pair = light.tiles + i_tile.to(tl.int64) * (PLACES * PLACES) + o_tile
    m_pair = tl.broadcast_to(i_tile, o_tile.shape) != ALL_VISIBLE
    b_visible = tl.load(p_pair, mask=m_pair, other=WHOLE).to(tl.float32) * (1.0 / WHOLE)  # [rows, columns]
    b_passed = tl.maximum(b_visible, light.least_visibility)
    if DROPOUT:
        stream = mixed(mixed(i_map.to(tl.uint32) + seed_low.to(tl.uint32)) + seed_high.to(tl.uint32))
        b_pair = b_receiver.to(tl.uint32) * scene.n_tokens + b_source.to(tl.uint32)  # [rows, columns]
        # as float32, in which torch compares whole numbers with a real one
        b_passed = tl.where(mixed(stream ^ mixed(b_pair)).to(tl.float32) >= light.dropped_below, b_passed, 0.0)
    return b_passed


@jit
def source_log_sums(
    query, key, scene, walk, light, p_log_sum,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, PLACES: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """L[k] = log2 sum_q 2^S[q, k] over the receivers of a block of sources, into [b k n]."""
    PARTS: tl.constexpr = PLACES // STEP
    i_head, i_image, i_map, i_own = own_block(scene, walk)
    b_source, b_x, b_y = load_places(scene, i_image, i_own, 0, PLACES, PLACES)
    b_key = load_vectors(key, i_image, i_head, b_source, WIDTH, PADDED)
    b_coc = tl.load(scene.coc + i_image * scene.n_tokens + b_source, mask=b_source >= 0, other=0.0)
    b_max = tl.full([PLACES], float("-inf"), tl.float32)
    b_sum = tl.zeros([PLACES], tl.float32)
    for i_step in range(tl.load(walk.starts + i_own) * PARTS, tl.load(walk.starts + i_own + 1) * PARTS):
        i_pair, i_part = i_step // PARTS, i_step % PARTS
        b_receiver, b_to_x, b_to_y = load_places(scene, i_image, tl.load(walk.others + i_pair), i_part, PLACES, STEP)
        b_query = load_vectors(query, i_image, i_head, b_receiver, WIDTH, PADDED)
        b_score, _ = score(
            b_key, b_query, b_coc[:, None], b_x[:, None] - b_to_x[None, :], b_y[:, None] - b_to_y[None, :],
            tl.load(walk.margins + i_pair), light,
        )  # fmt: skip
        b_score = tl.where(b_receiver[None, :] >= 0, b_score, float("-inf"))  # [sources, receivers]
        b_new_max = tl.maximum(b_max, tl.max(b_score, axis=1))
        b_sum = b_sum * tl.exp2(b_max - b_new_max) + tl.sum(tl.exp2(b_score - b_new_max[:, None]), axis=1)
        b_max = b_new_max
    p_out = p_log_sum + i_map.to(tl.int64) * scene.n_tokens + b_source
    tl.store(p_out, b_max + tl.log2(b_sum), mask=b_source >= 0)


@jit
def received_light(
    query, key, value, scene, walk, light, seed_low, seed_high, p_log_sum, out,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, DROPOUT: tl.constexpr, PLACES: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """out[q] = sum_k P[q, k] passed[q, k] V[k] over the sources of a block of receivers."""
    PARTS: tl.constexpr = PLACES // STEP
    i_head, i_image, i_map, i_own = own_block(scene, walk)
    b_receiver, b_x, b_y = load_places(scene, i_image, i_own, 0, PLACES, PLACES)
    b_query = load_vectors(query, i_image, i_head, b_receiver, WIDTH, PADDED)
    o_tile = tl.arange(0, PLACES)[:, None] + tl.arange(0, STEP)[None, :] * PLACES  # [receivers, sources]
    b_out = tl.zeros([PLACES, PADDED], tl.float32)
    for i_step in range(tl.load(walk.starts + i_own) * PARTS, tl.load(walk.starts + i_own + 1) * PARTS):
        i_pair, i_part = i_step // PARTS, i_step % PARTS
        b_source, b_to_x, b_to_y = load_places(scene, i_image, tl.load(walk.others + i_pair), i_part, PLACES, STEP)
        m_source = b_source >= 0
        b_key = load_vectors(key, i_image, i_head, b_source, WIDTH, PADDED)
        b_value = load_vectors(value, i_image, i_head, b_source, WIDTH, PADDED)
        b_coc = tl.load(scene.coc + i_image * scene.n_tokens + b_source, mask=m_source, other=0.0)
        p_sums = p_log_sum + i_map.to(tl.int64) * scene.n_tokens + b_source
        b_log_sum = tl.load(p_sums, mask=m_source, other=float("inf"))
        b_score, _ = score(
            b_query, b_key, b_coc[None, :], b_x[:, None] - b_to_x[None, :], b_y[:, None] - b_to_y[None, :],
            tl.load(walk.margins + i_pair), light,
        )  # fmt: skip
        b_light = tl.exp2(b_score - (b_log_sum - HEADROOM_LOG2)[None, :])  # [receivers, sources]
        b_light *= passed(
            b_receiver[:, None], b_source[None, :], o_tile + i_part * (STEP * PLACES), tl.load(walk.tiles + i_pair),
            i_map, scene, light, seed_low, seed_high, PLACES, DROPOUT,
        )  # fmt: skip
        b_out = product(b_light.to(b_value.dtype), b_value, b_out)
    store_vectors(out, i_image, i_head, b_receiver, b_out * (light.kept_scale / HEADROOM), WIDTH, PADDED)


@jit
def source_gradients(
    query, key, value, d_out, scene, walk, light, seed_low, seed_high, p_log_sum, d_key, d_value, p_delta, p_d_coc,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, DROPOUT: tl.constexpr, D_COC: tl.constexpr, PLACES: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of sources, in two walks: the second needs D, which is complete after the first.

        dV[k] = sum_q P[q, k] passed[q, k] dO[q]                     D[k] = <V[k], dV[k]>
        dS[q, k] = P[q, k] (passed[q, k] <dO[q], V[k]> - D[k])
        dK[k] = sum_q dS[q, k] Q[q] / sqrt(d)                        dcoc[k] = h sum_q dS[q, k] (1 - C[q, k])

    D, and where asked for the dcoc of each head, go into [b k n].
    """
    PARTS: tl.constexpr = PLACES // STEP
    i_head, i_image, i_map, i_own = own_block(scene, walk)
    b_source, b_x, b_y = load_places(scene, i_image, i_own, 0, PLACES, PLACES)
    m_source = b_source >= 0
    b_key = load_vectors(key, i_image, i_head, b_source, WIDTH, PADDED)
    b_value = load_vectors(value, i_image, i_head, b_source, WIDTH, PADDED)
    b_coc = tl.load(scene.coc + i_image * scene.n_tokens + b_source, mask=m_source, other=0.0)
    o_sums = i_map.to(tl.int64) * scene.n_tokens + b_source
    b_log_sum = tl.load(p_log_sum + o_sums, mask=m_source, other=float("inf"))
    o_tile = tl.arange(0, PLACES)[:, None] * PLACES + tl.arange(0, STEP)[None, :]  # [sources, receivers]
    i_first, i_last = tl.load(walk.starts + i_own) * PARTS, tl.load(walk.starts + i_own + 1) * PARTS

    b_d_value = tl.zeros([PLACES, PADDED], tl.float32)
    for i_step in range(i_first, i_last):
        i_pair, i_part = i_step // PARTS, i_step % PARTS
        b_receiver, b_to_x, b_to_y = load_places(scene, i_image, tl.load(walk.others + i_pair), i_part, PLACES, STEP)
        b_query = load_vectors(query, i_image, i_head, b_receiver, WIDTH, PADDED)
        b_d_out = load_vectors(d_out, i_image, i_head, b_receiver, WIDTH, PADDED)
        b_score, _ = score(
            b_key, b_query, b_coc[:, None], b_x[:, None] - b_to_x[None, :], b_y[:, None] - b_to_y[None, :],
            tl.load(walk.margins + i_pair), light,
        )  # fmt: skip
        b_score = tl.where(b_receiver[None, :] >= 0, b_score, float("-inf"))  # [sources, receivers]
        b_light = tl.exp2(b_score - (b_log_sum - HEADROOM_LOG2)[:, None])  # [sources, receivers]
        b_light *= passed(
            b_receiver[None, :], b_source[:, None], o_tile + i_part * STEP, tl.load(walk.tiles + i_pair),
            i_map, scene, light, seed_low, seed_high, PLACES, DROPOUT,
        )  # fmt: skip
        b_d_value = product(b_light.to(b_d_out.dtype), b_d_out, b_d_value)
    b_d_value *= light.kept_scale / HEADROOM
    b_delta = tl.sum(b_value.to(tl.float32) * b_d_value, axis=1)  # [sources]
    tl.store(p_delta + o_sums, b_delta, mask=m_source)
    store_vectors(d_value, i_image, i_head, b_source, b_d_value, WIDTH, PADDED)

    b_d_key = tl.zeros([PLACES, PADDED], tl.float32)
    b_d_coc = tl.zeros([PLACES], tl.float32)
    for i_step in range(i_first, i_last):
        i_pair, i_part = i_step // PARTS, i_step % PARTS
        b_receiver, b_to_x, b_to_y = load_places(scene, i_image, tl.load(walk.others + i_pair), i_part, PLACES, STEP)
        b_query = load_vectors(query, i_image, i_head, b_receiver, WIDTH, PADDED)
        b_d_out = load_vectors(d_out, i_image, i_head, b_receiver, WIDTH, PADDED)
        b_score, b_outside = score(
            b_key, b_query, b_coc[:, None], b_x[:, None] - b_to_x[None, :], b_y[:, None] - b_to_y[None, :],
            tl.load(walk.margins + i_pair), light,
        )  # fmt: skip
        b_score = tl.where(b_receiver[None, :] >= 0, b_score, float("-inf"))  # [sources, receivers]
        b_passed = passed(
            b_receiver[None, :], b_source[:, None], o_tile + i_part * STEP, tl.load(walk.tiles + i_pair),
            i_map, scene, light, seed_low, seed_high, PLACES, DROPOUT,
        )  # fmt: skip
        b_d_light = product(b_value, tl.trans(b_d_out), None)  # [sources, receivers]
        b_d_score = b_passed * light.kept_scale * b_d_light - b_delta[:, None]  # [sources, receivers]
        b_d_score *= tl.exp2(b_score - b_log_sum[:, None])
        if D_COC:
            b_d_coc += tl.sum(b_d_score * b_outside, axis=1)
        b_d_key = product(b_d_score.to(b_query.dtype), b_query, b_d_key)
    # scale_log2 and hardness_log2 hold the log2(e) by which S is larger than A + log C
    store_vectors(d_key, i_image, i_head, b_source, b_d_key * (light.scale_log2 / LOG2_E), WIDTH, PADDED)
    if D_COC:
        tl.store(p_d_coc + o_sums, b_d_coc * (light.hardness_log2 / LOG2_E), mask=m_source)


@jit
def receiver_gradients(
    query, key, value, d_out, scene, walk, light, seed_low, seed_high, p_log_sum, p_delta, d_query,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, DROPOUT: tl.constexpr, PLACES: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """dQ[q] = sum_k dS[q, k] K[k] / sqrt(d) of a block of receivers, with dS as in `source_gradients`."""
    PARTS: tl.constexpr = PLACES // STEP
    i_head, i_image, i_map, i_own = own_block(scene, walk)
    b_receiver, b_x, b_y = load_places(scene, i_image, i_own, 0, PLACES, PLACES)
    b_query = load_vectors(query, i_image, i_head, b_receiver, WIDTH, PADDED)
    b_d_out = load_vectors(d_out, i_image, i_head, b_receiver, WIDTH, PADDED)
    o_tile = tl.arange(0, PLACES)[:, None] + tl.arange(0, STEP)[None, :] * PLACES  # [receivers, sources]
    b_d_query = tl.zeros([PLACES, PADDED], tl.float32)
    for i_step in range(tl.load(walk.starts + i_own) * PARTS, tl.load(walk.starts + i_own + 1) * PARTS):
        i_pair, i_part = i_step // PARTS, i_step % PARTS
        b_source, b_to_x, b_to_y = load_places(scene, i_image, tl.load(walk.others + i_pair), i_part, PLACES, STEP)
        m_source = b_source >= 0
        b_key = load_vectors(key, i_image, i_head, b_source, WIDTH, PADDED)
        b_value = load_vectors(value, i_image, i_head, b_source, WIDTH, PADDED)
        b_coc = tl.load(scene.coc + i_image * scene.n_tokens + b_source, mask=m_source, other=0.0)
        o_sums = i_map.to(tl.int64) * scene.n_tokens + b_source
        b_log_sum = tl.load(p_log_sum + o_sums, mask=m_source, other=float("inf"))
        b_delta = tl.load(p_delta + o_sums, mask=m_source, other=0.0)
        b_score, _ = score(
            b_query, b_key, b_coc[None, :], b_x[:, None] - b_to_x[None, :], b_y[:, None] - b_to_y[None, :],
            tl.load(walk.margins + i_pair), light,
        )  # fmt: skip
        b_passed = passed(
            b_receiver[:, None], b_source[None, :], o_tile + i_part * (STEP * PLACES), tl.load(walk.tiles + i_pair),
            i_map, scene, light, seed_low, seed_high, PLACES, DROPOUT,
        )  # fmt: skip
        b_d_light = product(b_d_out, tl.trans(b_value), None)  # [receivers, sources]
        b_d_score = b_passed * light.kept_scale * b_d_light - b_delta[None, :]  # [receivers, sources]
        b_d_score *= tl.exp2(b_score - b_log_sum[None, :])
        b_d_query = product(b_d_score.to(b_key.dtype), b_key, b_d_query)
    store_vectors(d_query, i_image, i_head, b_receiver, b_d_query * (light.scale_log2 / LOG2_E), WIDTH, PADDED)
