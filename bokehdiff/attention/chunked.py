"""Physics-inspired self-attention some sources at a time: never tokens x tokens x heads in memory, own backward."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from bokehdiff.attention.dropout import dropout_scale
from bokehdiff.attention.tokens import TokenOptics
from bokehdiff.attention.visibility import log_soft_disc

WEIGHTS_PER_CHUNK = 2**22  # attention weights held at a time, 16 MB in float32; does not change the result


def chunked_pisa(
    query: Float[Tensor, "b k n d"],
    key: Float[Tensor, "b k n d"],
    value: Float[Tensor, "b k n d"],
    optics: TokenOptics,
    *,
    hardness: float,
    dropout: float = 0.0,
    dropout_seed: int = 0,
) -> Float[Tensor, "b k n d"]:
    """The numbers of `dense_pisa` and its gradients for query, key, value and coc, in memory linear in the tokens.

    A source's weights are normalised over its receivers, so that a few sources with all their receivers are complete
    in themselves: out = sum over chunks of P[:, chunk] visibility[:, chunk] V[chunk]. The backward pass computes the
    weights again, and with D[k] = <V[k], dV[k]> has dS[q, k] = P[q, k] (visibility[q, k] <dO[q], V[k]> - D[k]).

    Args:
        query: Of the receiving tokens.
        key: Of the light sources.
        value: Of the light sources.
        optics: What attention needs to know of the scene.
        hardness: As in `dense_pisa`.
        dropout: As in `dense_pisa`.
        dropout_seed: As in `dense_pisa`.
    """
    return _ChunkedPisa.apply(query, key, value, optics.coc, optics, hardness, dropout, dropout_seed)


class _ChunkedPisa(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        coc: Tensor,
        optics: TokenOptics,
        hardness: float,
        dropout: float,
        dropout_seed: int,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, coc)
        ctx.optics, ctx.hardness, ctx.dropout, ctx.dropout_seed = optics, hardness, dropout, dropout_seed
        dtype = torch.promote_types(query.dtype, torch.float32)
        out = torch.zeros_like(query, dtype=dtype)
        for sources in _chunks(query):
            weights, passed, _ = _weights(ctx, query, key, coc, sources)
            out += (weights * passed) @ value[:, :, sources].to(dtype)
        return out.to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, coc = ctx.saved_tensors
        dtype = torch.promote_types(query.dtype, torch.float32)
        d_out, scale = grad_out.to(dtype), 1.0 / math.sqrt(query.shape[-1])
        d_query = torch.zeros_like(query, dtype=dtype)
        d_key, d_value = torch.zeros_like(key, dtype=dtype), torch.zeros_like(value, dtype=dtype)
        d_coc = torch.zeros_like(coc, dtype=dtype)
        for sources in _chunks(query):
            weights, passed, outside = _weights(ctx, query, key, coc, sources)
            v = value[:, :, sources].to(dtype)
            d_value[:, :, sources] = (weights * passed).transpose(-1, -2) @ d_out
            delta = (v * d_value[:, :, sources]).sum(dim=-1)
            d_score = weights * (passed * (d_out @ v.transpose(-1, -2)) - delta[:, :, None, :])
            d_query += scale * d_score @ key[:, :, sources].to(dtype)
            d_key[:, :, sources] = scale * d_score.transpose(-1, -2) @ query.to(dtype)
            d_coc[:, sources] = ctx.hardness * (d_score.sum(dim=1) * outside).sum(dim=1)
        grads = (d_query.to(query.dtype), d_key.to(key.dtype), d_value.to(value.dtype), d_coc.to(coc.dtype))
        return *grads, None, None, None, None


def _chunks(query: Tensor) -> list[slice]:
    """Sources some at a time, as many as `WEIGHTS_PER_CHUNK` allows."""
    n_images, n_heads, n_tokens, _ = query.shape
    size = max(1, WEIGHTS_PER_CHUNK // (n_images * n_heads * n_tokens))
    return [slice(start, min(start + size, n_tokens)) for start in range(0, n_tokens, size)]


def _weights(ctx: Any, query: Tensor, key: Tensor, coc: Tensor, sources: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Of a chunk: weights P [b k n s], the share that passes (visibility, dropout), and d log C / d(h coc) [b n s]."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    optics: TokenOptics = ctx.optics
    pairs = optics.of_sources(sources)
    log_disc = log_soft_disc(coc[:, None, sources].to(dtype), pairs.distance.to(dtype), ctx.hardness)
    score = (query.to(dtype) @ key[:, :, sources].to(dtype).transpose(-1, -2)) / math.sqrt(query.shape[-1])
    score += log_disc[:, None]
    weights = torch.exp(score - torch.logsumexp(score, dim=-2, keepdim=True))
    passed = pairs.visibility.clamp_min(optics.least_visibility(ctx.hardness))[:, None].to(dtype)
    if ctx.dropout > 0:
        size_bkn = (query.shape[0], query.shape[1], query.shape[2])
        passed = passed * dropout_scale(
            ctx.dropout_seed, ctx.dropout, size_bkn=size_bkn, sources=sources, device=query.device
        )
    return weights, passed, -torch.expm1(log_disc)
