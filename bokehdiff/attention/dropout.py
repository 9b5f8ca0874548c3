"""Dropout of attention weights as a pure function of a seed and of which weight it is: the same in every back end."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

_LOW_32 = 0xFFFFFFFF


def dropout_scale(
    seed: int | Int[Tensor, ""],
    dropout: float,
    *,
    weight_map: Int[Tensor, "*of_maps"],
    receiver: Int[Tensor, "*of_receivers"],
    source: Int[Tensor, "*of_sources"],
    n_tokens: int,
) -> Float[Tensor, "*of_all"]:
    """What each attention weight is multiplied by: 0 with probability `dropout`, else 1 / (1 - dropout).

    Concretely, a weight (map m, receiver q, source k) is dropped if hash(seed, m, q n + k) < dropout * 2^32.

    Args:
        seed: Any whole number of 64 bits.
        dropout: Share of the weights that is dropped, in [0, 1).
        weight_map: Number of the map of weights: image * heads + head.
        receiver: Number of the receiving token; this, the map and the source are broadcast against each other.
        source: Number of the source.
        n_tokens: Tokens per image.
    """
    low, high = seed & _LOW_32, seed >> 32 & _LOW_32
    stream = _mixed(_mixed(weight_map.long() + low) + high)
    kept = _mixed(stream ^ _mixed(receiver.long() * n_tokens + source)) >= dropout * 2.0**32
    return kept.float() / (1.0 - dropout)


def _mixed(number: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """Scatter whole numbers over 32 bits: the finaliser "lowbias32" of C. Wellons' hash prospector (public domain)."""
    number = number & _LOW_32
    number = ((number ^ (number >> 16)) * 0x7FEB352D) & _LOW_32
    number = ((number ^ (number >> 15)) * 0x846CA68B) & _LOW_32
    return number ^ (number >> 16)
