"""One function for physics-inspired self-attention, and the back ends that can compute it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bokehdiff.attention.blocks import LOGIT_RANGE
from bokehdiff.attention.fused import TRITON_IS_THERE, fused_pisa, fused_plan, fused_takes
from bokehdiff.attention.local import local_pisa, local_plan
from bokehdiff.attention.reference import NormalisedOver, dense_pisa
from bokehdiff.attention.tokens import TokenOptics
from bokehdiff.errors import InputError

_logger = logging.getLogger(__name__)
DENSE_TOKENS = 64  # so few tokens are one block: the definition is as fast


def reference_pisa(
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
    """`dense_pisa` with the optics of tokens.

    Args:
        query: Of the receiving tokens.
        key: Of the light sources.
        value: Of the light sources.
        optics: What attention needs to know of the scene.
        hardness: As in `dense_pisa`.
        dropout: As in `dense_pisa`.
        dropout_seed: As in `dense_pisa`.
        logit_range: Nothing is left out whatever this is.
    """
    return _dense(query, key, value, optics, hardness, dropout, dropout_seed, "receivers")


def _dense(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    optics: TokenOptics,
    hardness: float,
    dropout: float,
    dropout_seed: int | Tensor,
    normalised_over: NormalisedOver,
) -> Tensor:
    pairs = optics.dense()
    return dense_pisa(
        query,
        key,
        value,
        coc=optics.coc,
        distance=pairs.distance,
        visibility=pairs.visibility.clamp_min(optics.least_visibility(hardness)),
        hardness=hardness,
        dropout=dropout,
        dropout_seed=dropout_seed,
        normalised_over=normalised_over,
    )


BACKENDS: dict[str, Callable[..., Tensor]] = {
    "reference": reference_pisa,
    "local": local_pisa,
    "fused": fused_pisa,
}


def pisa_attention(
    query: Float[Tensor, "b k n d"],
    key: Float[Tensor, "b k n d"],
    value: Float[Tensor, "b k n d"],
    optics: TokenOptics,
    *,
    hardness: float,
    dropout: float = 0.0,
    dropout_seed: int | Int[Tensor, ""] = 0,
    logit_range: float = LOGIT_RANGE,
    backend: str = "auto",
    normalised_over: NormalisedOver = "receivers",
) -> Float[Tensor, "b k n d"]:
    """Physics-inspired self-attention; the formula stands at `dense_pisa`.

    Args:
        query: Of the receiving tokens, one per token of `optics`.
        key: Of the light sources.
        value: Of the light sources.
        optics: What attention needs to know of the scene, on the same device.
        hardness: h of the soft disc: `training_hardness` or `INFERENCE_HARDNESS`.
        dropout: Share of the attention weights that is dropped, in [0, 1); only for training.
        dropout_seed: What is dropped is a function of this: every back end drops the same. A number that changes from
            call to call should come in a tensor: a compiled graph would be compiled again for another `int`.
        logit_range: By how much the logits <Q[q], K[k]> / sqrt(d) of one source exceed that of its own token at most:
            fast back ends leave out what then is less than 1e-6 of a source's light. Infinite to leave nothing out.
        backend: A name of `BACKENDS`, or "auto": on CUDA the fused one where there is Triton, else the dense form while
            it is small and the local one beyond. Changes speed and memory, not the result.
        normalised_over: As in `dense_pisa`; "sources" is for ablations, and only the reference computes it.
    """
    n_images, _, n_tokens, _ = query.shape
    if (n_images, n_tokens) != (optics.coc.shape[0], optics.n_tokens):
        raise InputError(
            f"the optics must be those of the tokens; got {optics.coc.shape[0]} images of "
            f"{optics.grid_hw[0]} x {optics.grid_hw[1]} tokens for {n_images} sequences of {n_tokens}"
        )
    if not 0 <= dropout < 1:
        raise InputError(f"dropout must be in [0, 1); got {dropout:g}")
    if normalised_over == "sources":
        with torch.autocast(query.device.type, enabled=False):
            return _dense(query, key, value, optics, hardness, dropout, dropout_seed, normalised_over)
    backend = _chosen(backend, optics, query)
    with torch.autocast(query.device.type, enabled=False):  # the disc's logarithms need more than half precision
        return BACKENDS[backend](
            query,
            key,
            value,
            optics,
            hardness=hardness,
            dropout=dropout,
            dropout_seed=dropout_seed,
            logit_range=logit_range,
        )


def prepare(optics: TokenOptics, *, hardness: float, logit_range: float = LOGIT_RANGE, backend: str = "auto") -> None:
    """Do what depends on the scene alone before the first call: once for all layers, and outside compiled graphs.

    Args:
        optics: What attention needs to know of the scene.
        hardness: As in `pisa_attention`.
        logit_range: As in `pisa_attention`.
        backend: As in `pisa_attention`.
    """
    backend = _chosen(backend, optics)
    if backend == "fused":
        fused_plan(optics, hardness=hardness, logit_range=logit_range)
    elif backend == "local":
        local_plan(optics, hardness=hardness, logit_range=logit_range)
    else:
        optics.dense()


def _chosen(backend: str, optics: TokenOptics, query: Tensor | None = None) -> str:
    """The back end by its name, "auto" replaced by what suits the device, the number of tokens and their vectors."""
    if backend == "auto":
        backend = _suited(optics.coc.device, optics.n_tokens, query)
        if not torch.compiler.is_compiling():
            _tell_once(backend, optics.n_tokens)
    if backend not in BACKENDS:
        raise InputError(f"backend must be auto, {' or '.join(BACKENDS)}; got {backend}")
    return backend


def _suited(device: torch.device, n_tokens: int, query: Tensor | None) -> str:
    if device.type == "cuda" and TRITON_IS_THERE and (query is None or fused_takes(query)):
        return "fused"
    return "reference" if n_tokens <= DENSE_TOKENS else "local"


@cache
def _tell_once(backend: str, n_tokens: int) -> None:
    _logger.info("physics-inspired attention over %d tokens: back end %s", n_tokens, backend)
