"""Physics-inspired self-attention in Triton kernels: over the pairs of blocks that light can cross, own backward.

`fused_plan` lays out what depends on the image alone; the kernels stand in `fused_kernels.py`. The two operators are
registered with torch, so that torch.compile takes them as they are.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int, UInt16
from torch import Tensor

from bokehdiff.attention.blocks import BLOCK_HW, LOGIT_RANGE, BlockPairs, VisibilityTiles
from bokehdiff.attention.tokens import TokenOptics
from bokehdiff.errors import InputError, MissingDependencyError

TRITON_IS_THERE = find_spec("triton") is not None
MAX_WIDTH = 128  # beyond it, the blocks of a program outgrow its registers
WHOLE = 65280  # what stands for a visibility of 1, as in `fused_kernels`; exact for 256ths, and fifths of `released`
MIN_PADDED = 16  # the smallest side of a matrix product on tensor cores
VECTOR = 8  # numbers of half precision in 16 bytes, which is what one load takes at most
LOG2_E = 1.0 / math.log(2.0)
# Of each kernel, by name and half or single precision: places of the other block taken at a time, warps, stages of the
# pipeline. The first of each fits any card; a card tries them all and keeps the fastest. Changes speed, not the result.
SHAPES = {
    ("source_log_sums", True): [(32, 4, 2), (64, 4, 2), (64, 4, 3)],
    ("received_light", True): [(32, 4, 2), (64, 4, 2), (32, 4, 3)],
    ("source_gradients", True): [(32, 4, 2), (32, 4, 3)],
    ("receiver_gradients", True): [(32, 4, 2), (32, 4, 3)],
    ("source_log_sums", False): [(32, 8, 2)],
    ("received_light", False): [(32, 8, 2)],
    ("source_gradients", False): [(16, 8, 2)],
    ("receiver_gradients", False): [(16, 8, 2)],
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
TRITON_MISSING = "Triton is needed for backend 'fused': pip install triton (Linux, CUDA), or take backend 'local'"


def fused_pisa(
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
    """The numbers of `dense_pisa` and its gradients for query, key, value and coc, on a CUDA device.

    Takes float16, bfloat16 and float32, heads up to 128 wide; sums are in float32. Of the light of a source less than
    1e-6 is left out, see `reach`. Memory is linear in the tokens.

    Args:
        query: Of the receiving tokens.
        key: Of the light sources.
        value: Of the light sources.
        optics: What attention needs to know of the scene.
        hardness: As in `dense_pisa`.
        dropout: As in `dense_pisa`.
        dropout_seed: As in `dense_pisa`.
        logit_range: As in `local_pisa`.
    """
    plan = fused_plan(optics, hardness=hardness, logit_range=logit_range)
    seed = torch.as_tensor(dropout_seed)
    out, _ = _fused_pisa(query, key, value, optics.coc.float(), plan.tiles, plan.structure, dropout, seed)
    return out


def fused_takes(query: Float[Tensor, "b k n d"]) -> bool:
    """Whether the kernels can compute with such vectors.

    Args:
        query: Of any device.
    """
    return query.dtype in DTYPES and query.shape[-1] <= MAX_WIDTH


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    kernels = _kernels()
    if query.dtype not in DTYPES or not query.dtype == key.dtype == value.dtype:
        raise InputError(
            "backend 'fused' computes float16, bfloat16 or float32, the same for query, key and value; got "
            f"{', '.join(str(tensor.dtype) for tensor in (query, key, value))}: convert them, or take backend 'local'"
        )
    if query.shape[-1] > MAX_WIDTH:
        raise InputError(
            f"backend 'fused' takes heads up to {MAX_WIDTH} wide; got {query.shape[-1]}: take backend 'local'"
        )
    if query.device.type != "cuda" and not kernels.INTERPRETED.value:
        raise InputError(
            f"backend 'fused' needs tensors on a CUDA device; got {query.device}: move them, or take backend 'local'"
        )


@cache
def _kernels() -> ModuleType:
    try:
        return import_module("bokehdiff.attention.fused_kernels")
    except ImportError as error:
        raise MissingDependencyError(TRITON_MISSING) from error


@dataclass(frozen=True, eq=False)
class FusedPlan:
    """What the kernels need to know of an image beside its circles of confusion; shared by layers and heads.

    Args:
        structure: Hardness and least visibility (a tensor, since a number that changes from step to step would have a
            compiled graph compiled again); the order of the tokens in blocks, x and y of their places in units of
            10 px; and the pairs of blocks, by source and then by receiver, each as of `pair_walk`.
        tiles: Visibility where something is in the way, as of `VisibilityTiles` but in 65280ths: as small as half
            precision, and right to 8e-6, which half precision is not.
    """

    structure: list[Tensor]
    tiles: UInt16[Tensor, "tiles s r"]


def fused_plan(optics: TokenOptics, *, hardness: float, logit_range: float = LOGIT_RANGE) -> FusedPlan:
    """Find out which blocks light can cross, and in which order; computed at the first call, then kept by the optics.

    Args:
        optics: What attention needs to know of the scene.
        hardness: h of the soft disc.
        logit_range: As in `local_pisa`.
    """
    return optics.derived("fused", (hardness, logit_range), lambda: _plan(optics, hardness, logit_range))


def _plan(optics: TokenOptics, hardness: float, logit_range: float) -> FusedPlan:
    pairs = optics.block_pairs(hardness, block_hw=BLOCK_HW, logit_range=logit_range)
    visibility = VisibilityTiles.of(pairs, optics.occlusion)  # not kept: in single precision it is twice as large
    if visibility.tiles.requires_grad:
        raise InputError("backend 'fused' has no gradient for visibility: take backend 'local', or detach it")
    margins = disc_margins(optics, pairs)
    x, y = (pairs.blocks.arrange(axis, padding=0.0).flatten() for axis in optics.position.T)
    in_order = torch.arange(pairs.n_pairs, device=margins.device)
    by_source = pair_walk(pairs.source_starts, pairs.receiver, visibility.index, margins, in_order)
    by_receiver = pair_walk(pairs.receiver_starts, pairs.source, visibility.index, margins, pairs.by_receiver)
    numbers = torch.tensor([hardness, optics.least_visibility(hardness)], dtype=torch.float64)
    tiles = (visibility.tiles * WHOLE).round_().to(torch.uint16)
    return FusedPlan([numbers, pairs.blocks.order, x, y, *by_source, *by_receiver], tiles)


def pair_walk(
    starts: Int[Tensor, " starts"],
    others: Int[Tensor, " p"],
    tile_index: Int[Tensor, " p"],
    margins: Float[Tensor, " p"],
    order: Int[Tensor, " p"],
) -> list[Tensor]:
    """The pairs in the order in which programs walk over them: the fields of `fused_kernels.Walk`.

    A program does a block; those with most pairs start first, so that none is left alone at the end. Only the order of
    magnitude counts: within it, neighbours remain neighbours and find each other's tokens in the cache.

    Args:
        starts: Where the pairs of each block begin, and at last the number of pairs.
        others: The block at the other end of each pair.
        tile_index: The visibility of each pair.
        margins: As of `disc_margins`.
        order: Pairs sorted by the block that walks.
    """
    octave = starts.diff().clamp_min(1).float().log2().floor()
    by_work = octave.argsort(descending=True, stable=True)
    return [by_work.int(), starts, others[order], tile_index[order], margins[order]]


@torch.no_grad()
def disc_margins(optics: TokenOptics, pairs: BlockPairs) -> Float[Tensor, " p"]:
    """The least coc - distance of each pair of blocks: how deep inside the discs of its sources the receivers are.

    Args:
        optics: What attention needs to know of the scene.
        pairs: Of blocks.
    """
    blocks = pairs.blocks
    axes = [blocks.arrange(axis, padding=math.nan) for axis in optics.position.T]
    lower = torch.stack([axis.nan_to_num(nan=math.inf).amin(dim=1) for axis in axes], dim=-1)
    upper = torch.stack([axis.nan_to_num(nan=-math.inf).amax(dim=1) for axis in axes], dim=-1)
    source, receiver = pairs.source % blocks.n_blocks, pairs.receiver % blocks.n_blocks
    farthest = torch.maximum(upper[receiver] - lower[source], upper[source] - lower[receiver]).norm(dim=1)
    smallest = blocks.arrange(optics.coc.float(), padding=math.inf).amin(dim=2).flatten()
    return smallest[pairs.source] - farthest


_ARGUMENTS = (
    "Tensor query, Tensor key, Tensor value, Tensor coc, Tensor tiles, Tensor[] structure, "
    "float dropout, Tensor dropout_seed"
)


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of an operator, as the kernels take it; a source block's walk leads over its receivers.

    Args:
        scene: Where tokens are and how they blur.
        by_source: The walks of source blocks.
        by_receiver: The walks of receiver blocks.
        light: What shapes the weights.
        seed: The two halves of dropout's.
        grid: How many programs: one per head and block of the batch.
        device: Where they run.
        is_half: Whether the vectors are in half precision.
        drops: Whether there is dropout, as a constant of those kernels that need to know.
        constants: What the kernels of this call are compiled for.
    """

    scene: Any
    by_source: Any
    by_receiver: Any
    light: Any
    seed: tuple[int, int]
    grid: tuple[int]
    device: torch.device
    is_half: bool
    drops: dict[str, bool]
    constants: dict[str, Any]

    @classmethod
    def of(
        cls,
        query: Tensor,
        coc: Tensor,
        tiles: Tensor,
        structure: list[Tensor],
        dropout: float,
        dropout_seed: Tensor,
    ) -> _Call:
        """Lay out the arguments of an operator."""
        kernels = _kernels()
        n_images, n_heads, n_tokens, width = query.shape
        numbers, order, x, y, *walks = structure
        hardness, least_visibility = numbers.tolist()
        seed = int(dropout_seed)
        places = tiles.shape[1]
        n_blocks = order.shape[0] // places
        return cls(
            kernels.Scene(order, x, y, coc.contiguous(), n_heads, n_tokens, n_blocks),
            kernels.Walk(*walks[: len(kernels.Walk._fields)]),
            kernels.Walk(*walks[len(kernels.Walk._fields) :]),
            kernels.Light(
                hardness * LOG2_E,
                LOG2_E / math.sqrt(width),
                tiles,
                least_visibility,
                dropout * 2.0**32,
                1.0 / (1.0 - dropout),
            ),
            (_signed_32(seed), _signed_32(seed >> 32)),
            (n_images * n_heads * n_blocks,),
            query.device,
            query.dtype != torch.float32,
            {"DROPOUT": dropout > 0},
            {
                "WIDTH": width,
                "PADDED": max(MIN_PADDED, 1 << (width - 1).bit_length()),
                "PLACES": places,
            },
        )


def _signed_32(number: int) -> int:
    """The low 32 bits as a signed number: one type of argument, so that kernels are compiled once for all seeds."""
    return (number & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def _vectors(tokens: Tensor) -> Any:
    return _kernels().Vectors(tokens, *tokens.stride()[:3])


def aligned(tokens: Float[Tensor, "b k n d"]) -> Float[Tensor, "b k n d"]:
    """The vectors as the kernels read them: dense, and where their width allows it with strides in multiples of 8.

    Nothing is copied as layers leave them, heads beside each other, or as [b k n d] lies by itself.

    Args:
        tokens: In any layout.
    """
    even = tokens.shape[-1] % VECTOR or all(stride % VECTOR == 0 for stride in tokens.stride()[:3])
    return tokens if tokens.stride(-1) == 1 and even else tokens.contiguous()


def _as_layers_take_it(query: Tensor) -> Tensor:
    """Room for a result [b k n d] that lies in memory as [b n k d]: the next projection needs no copy."""
    n_images, n_heads, n_tokens, width = query.shape
    return query.new_empty(n_images, n_tokens, n_heads, width).transpose(1, 2)


def _launch(kernel: str, call: _Call, *arguments: Any, **constants: Any) -> None:
    """Run a kernel, in the shape that is fastest on this card."""
    with torch.cuda.device(call.device) if call.device.type == "cuda" else nullcontext():
        _tuned(kernel, call.is_half)[call.grid](*arguments, **call.constants, **constants)


@cache
def _tuned(kernel: str, is_half: bool) -> Any:
    """A kernel that tries its `SHAPES` at the first call of each kind and keeps the fastest."""
    kernels = _kernels()
    shapes = SHAPES[kernel, is_half]
    if kernels.INTERPRETED.value:
        shapes = shapes[:1]
    triton, function = kernels.triton, getattr(kernels, kernel)
    configs = [triton.Config({"STEP": step}, num_warps=warps, num_stages=stages) for step, warps, stages in shapes]
    kinds = [name for name in function.arg_names if name.isupper() and name != "STEP"]
    return triton.autotune(configs, key=kinds)(function)


@torch.library.custom_op("bokehdiff::fused_pisa", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor)")
def _fused_pisa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    coc: Tensor,
    tiles: Tensor,
    structure: list[Tensor],
    *dropout_and_seed: Any,
) -> tuple[Tensor, Tensor]:
    _check(query, key, value)
    call = _Call.of(query, coc, tiles, structure, *dropout_and_seed)
    query, key, value = (aligned(tokens) for tokens in (query, key, value))
    out, log_sum = _room_for_result(query)
    q, k, v = _vectors(query), _vectors(key), _vectors(value)
    _launch("source_log_sums", call, q, k, call.scene, call.by_source, call.light, log_sum)
    _launch(
        "received_light", call, q, k, v, call.scene, call.by_receiver, call.light, *call.seed, log_sum, _vectors(out),
        **call.drops,
    )  # fmt: skip
    return out, log_sum


@_fused_pisa.register_fake
def _room_for_result(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """For the result, and for L of each source."""
    return _as_layers_take_it(query), query.new_empty(query.shape[:3], dtype=torch.float32)


@torch.library.custom_op(
    "bokehdiff::fused_pisa_backward",
    mutates_args=(),
    schema=f"(Tensor grad_out, Tensor log_sum, bool of_coc, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _fused_pisa_backward(
    grad_out: Tensor,
    log_sum: Tensor,
    of_coc: bool,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    coc: Tensor,
    tiles: Tensor,
    structure: list[Tensor],
    *dropout_and_seed: Any,
) -> tuple[Tensor, ...]:
    call = _Call.of(query, coc, tiles, structure, *dropout_and_seed)
    query, key, value, grad_out = (aligned(tokens) for tokens in (query, key, value, grad_out))
    d_query, d_key, d_value = (_as_layers_take_it(query) for _ in range(3))
    delta, d_coc = torch.empty_like(log_sum), torch.empty_like(log_sum)
    tensors = [_vectors(tokens) for tokens in (query, key, value, grad_out)]
    _launch(
        "source_gradients", call, *tensors, call.scene, call.by_source, call.light, *call.seed, log_sum,
        _vectors(d_key), _vectors(d_value), delta, d_coc, D_COC=of_coc, **call.drops,
    )  # fmt: skip
    _launch(
        "receiver_gradients", call, *tensors, call.scene, call.by_receiver, call.light, *call.seed, log_sum, delta,
        _vectors(d_query), **call.drops,
    )  # fmt: skip
    return d_query, d_key, d_value, d_coc.sum(dim=1) if of_coc else torch.zeros_like(coc)


@_fused_pisa_backward.register_fake
def _(grad_out: Tensor, log_sum: Tensor, of_coc: bool, query: Tensor, *_: Any) -> tuple[Tensor, ...]:
    d_query, d_key, d_value = (_as_layers_take_it(query) for _ in range(3))
    return d_query, d_key, d_value, log_sum.new_empty(log_sum.shape[0], log_sum.shape[2])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, coc, tiles, structure, dropout, dropout_seed = inputs
    ctx.dropout = dropout
    ctx.save_for_backward(output[1], dropout_seed, query, key, value, coc, tiles, *structure)


def _backward(ctx: Any, grad_out: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    log_sum, dropout_seed, query, key, value, coc, tiles, *structure = ctx.saved_tensors
    of_coc = ctx.needs_input_grad[3]
    grads = _fused_pisa_backward(
        grad_out, log_sum, of_coc, query, key, value, coc, tiles, structure, ctx.dropout, dropout_seed
    )
    return *grads, None, [None] * len(structure), None, None


_fused_pisa.register_autograd(_backward, setup_context=_keep)
