"""Physics-inspired self-attention as the paper writes it, in logarithms: what every back end must match."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bokehdiff.attention.dropout import dropout_scale
from bokehdiff.attention.visibility import log_soft_disc

NormalisedOver = Literal["receivers", "sources"]


def dense_pisa(
    query: Float[Tensor, "b k n d"],
    key: Float[Tensor, "b k n d"],
    value: Float[Tensor, "b k n d"],
    *,
    coc: Float[Tensor, "b n"],
    distance: Float[Tensor, "n n"],
    visibility: Float[Tensor, "b n n"],
    hardness: float,
    dropout: float = 0.0,
    dropout_seed: int | Int[Tensor, ""] = 0,
    normalised_over: NormalisedOver = "receivers",
) -> Float[Tensor, "b k n d"]:
    """Attention in which each source shares its light out over the receivers that its circle of confusion covers.

    Concretely, with receivers q and sources k of one image and head,

        A[q, k] = <Q[q], K[k]> / sqrt(d)                      likeness
        C[q, k] = sigmoid(h (coc[k] - distance[q, k]))        soft disc of the source
        P[q, k] = exp(A[q, k]) C[q, k] / sum_s exp(A[s, k]) C[s, k]
                                                              a source's energy is shared out: sum_q P[q, k] = 1
        out[q]  = sum_k P[q, k] visibility[q, k] V[k]         light that is blocked is lost

    as in BokehDiff (ICCV 2025, arXiv 2507.18060), section "physics-inspired self-attention"; computed as
    S = A + log C, L[k] = logsumexp_q S[q, k], P = exp(S - L), which neither over- nor underflows. A receiver that
    nothing reaches gets zero. Half precision is computed in float32; the result has the dtype of `query`.

    Args:
        query: Q of the receiving tokens.
        key: K of the light sources.
        value: V of the light sources: what they send.
        coc: Radius of the circle of confusion of each source, 0 or more, in units of 10 px.
        distance: Of receiver (row) from source (column), in units of 10 px.
        visibility: Share of the light from source (column) to receiver (row) that nothing blocks, in [0, 1].
        hardness: h, steepness of the disc's edge: `training_hardness` or `INFERENCE_HARDNESS`.
        dropout: Share of the weights P that is dropped, in [0, 1); 0 at inference.
        dropout_seed: What is dropped is a function of this.
        normalised_over: "sources" leaves the paper's idea out, for its ablation: each receiver weighs its sources as in
            ordinary attention, P[q, k] = exp(A[q, k]) C[q, k] / sum_s exp(A[q, s]) C[q, s].
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    Q, K, V = query.to(dtype), key.to(dtype), value.to(dtype)  # noqa: N806  the paper's letters
    A = Q @ K.transpose(-1, -2) / math.sqrt(Q.shape[-1])  # noqa: N806
    log_C = log_soft_disc(coc[:, None].to(dtype), distance.to(dtype), hardness)  # noqa: N806
    S = A + log_C[:, None]  # noqa: N806
    over = -2 if normalised_over == "receivers" else -1
    P = torch.exp(S - torch.logsumexp(S, dim=over, keepdim=True))  # noqa: N806
    light = P * visibility[:, None].to(dtype)
    if dropout > 0:
        n_images, n_heads, n_tokens, _ = query.shape
        token = torch.arange(n_tokens, device=query.device)
        light = light * dropout_scale(
            dropout_seed,
            dropout,
            weight_map=torch.arange(n_images * n_heads, device=query.device).reshape(n_images, n_heads, 1, 1),
            receiver=token[:, None],
            source=token,
            n_tokens=n_tokens,
        )
    return (light @ V).to(query.dtype)
