"""Dropout of attention weights as a pure function of a seed and of which weight it is: the same in every back end."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_LOW_32 = 0xFFFFFFFF


def dropout_scale(
    seed: int, dropout: float, *, size_bkn: tuple[int, int, int], sources: slice, device: torch.device
) -> Float[Tensor, "b k n s"]:
    """What each attention weight is multiplied by: 0 with probability `dropout`, else 1 / (1 - dropout).

    Concretely, a weight (image b, head k, receiver q, source s) is dropped if hash(seed, b, k, q, s) < dropout * 2^32.

    Args:
        seed: Any whole number.
        dropout: Share of the weights that is dropped, in [0, 1).
        size_bkn: Images, heads and tokens.
        sources: Which sources s.
        device: Where the factors are put.
    """
    n_images, n_heads, n_tokens = size_bkn
    map_number = torch.arange(n_images * n_heads, device=device).reshape(n_images, n_heads, 1, 1)
    tokens = torch.arange(n_tokens, device=device)
    pair_number = tokens[:, None] * n_tokens + tokens[None, sources]
    stream = _mixed(_mixed(map_number + (seed & _LOW_32)) + (seed >> 32 & _LOW_32))
    kept = _mixed(stream ^ _mixed(pair_number)) >= dropout * 2.0**32
    return kept.float() / (1.0 - dropout)


def _mixed(number: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """Scatter whole numbers over 32 bits: the finaliser "lowbias32" of C. Wellons' hash prospector (public domain)."""
    number = number & _LOW_32
    number = ((number ^ (number >> 16)) * 0x7FEB352D) & _LOW_32
    number = ((number ^ (number >> 15)) * 0x846CA68B) & _LOW_32
    return number ^ (number >> 16)
