"""The dense algorithm of the published BokehDiff code, restated by us from its maths: the baseline of `attention.py`.

It restates what the paper's inference computes and how: all n x n pairs of tokens of a square image, the disc and the
likeness as products of exponentials, and occlusion traced again in every call from all pairs and all looks along their
rays at once, as one exact copy and three jittered ones, index slip included (docs/attention.md, "What the published
weights were trained with"). A UNet has two PISA transformer blocks, each with a self-attention and a cross-attention;
the published processor traces in all four. It drops a tenth of the weights at inference, too. Cross-attention itself
is left out: both sides share it. `tests/attention/test_published_baseline.py` holds the numbers to
`dense_pisa` and to the golden outputs of the published code.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bokehdiff.attention import token_distance
from bokehdiff.attention.visibility import UNIT_PX, resized, to_tokens, token_centres

STEPS = 7  # looks along a ray
JITTERED = 3  # copies beside the exact one
CELLS_PER_TOKEN = 3
SMALLEST = 1e-6  # keeps 1 - disparity above 0
DROPOUT = 0.1


def published_block(
    query: Float[Tensor, "b k n d"],
    key: Float[Tensor, "b k n d"],
    value: Float[Tensor, "b k n d"],
    *,
    disparity: Float[Tensor, "b h w"],
    coc_px: Float[Tensor, "b h w"],
    hard: float,
) -> Float[Tensor, "b k n d"]:
    """What one transformer block computes: self-attention, and for its cross-attention a tracing that no one uses.

    Args:
        query: As in `published_attention`.
        key: The same.
        value: The same.
        disparity: The same.
        coc_px: The same.
        hard: The same.
    """
    received = published_attention(query, key, value, disparity=disparity, coc_px=coc_px, hard=hard)
    published_occlusion(disparity, _side(query), jitter(_side(query), device=query.device))
    return received


def published_attention(
    query: Float[Tensor, "b k n d"],
    key: Float[Tensor, "b k n d"],
    value: Float[Tensor, "b k n d"],
    *,
    disparity: Float[Tensor, "b h w"],
    coc_px: Float[Tensor, "b h w"],
    hard: float,
    shifts: Float[Tensor, "copies n 2"] | None = None,
    n_steps: int = STEPS,
    dropout: float = DROPOUT,
) -> Float[Tensor, "b k n d"]:
    """One self-attention call, tracing included.

    Concretely, with weights w[q, k] = exp(<Q[q], K[k]> / sqrt(d)) / (1 + hard^(distance[q, k] - coc[k])),
    out[q] = sum_k w[q, k] / (sum_s w[s, k]) (1 - occlusion[q, k]) V[k].

    Args:
        query: Of the receiving tokens of a square grid.
        key: Of the light sources.
        value: Of the light sources.
        disparity: Of a square image, in [0, 1], 1 nearest.
        coc_px: Circle of confusion of the same pixels [px].
        hard: exp(h) of the soft disc; 1e7 at inference.
        shifts: Of the receivers in each copy, in image coordinates [-1, 1]; None to draw one exact and three more.
        n_steps: Looks along a ray.
        dropout: Share of the weights that is dropped.
    """
    side, size_px = _side(query), disparity.shape[-1]
    distance = token_distance(
        (side, side), (size_px / side, size_px / side), convention="released", device=query.device
    )
    coc = to_tokens(coc_px.abs(), (side, side)) / UNIT_PX
    disc = torch.sigmoid(math.log(hard) * (coc[:, None] - distance))
    likeness = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).exp()
    weights = likeness * disc[:, None].to(query.dtype)
    weights = weights / weights.sum(dim=-2, keepdim=True)
    shifts = jitter(side, device=query.device) if shifts is None else shifts
    visible = 1.0 - published_occlusion(disparity, side, shifts, n_steps=n_steps)
    return F.dropout(weights * visible[:, None].to(query.dtype), dropout) @ value


def published_occlusion(
    disparity: Float[Tensor, "b h w"], side: int, shifts: Float[Tensor, "copies n 2"], *, n_steps: int = STEPS
) -> Float[Tensor, "b n n"]:
    """Share of the copies in which something blocks the way, for all pairs (receiver, source).

    Concretely, with p from 0.1 to 0.9 and d_p[i] = p d_i + 1 - p: blocked if scene(x_q + rho (x_k - x_q)) > d_p[k] at
    some p, where rho = (1 - d_p[q]) d_k / (d_p[q] (1 - d_k)).

    Args:
        disparity: Of a square image, in [0, 1], 1 nearest.
        side: Tokens down and across.
        shifts: Of the receivers in each copy, in image coordinates [-1, 1].
        n_steps: Looks along a ray.
    """
    copies = [_blocked(disparity, side, shift, n_steps) for shift in shifts]
    return torch.stack(copies).float().mean(dim=0)


def _blocked(disparity: Tensor, side: int, shift: Tensor, n_steps: int) -> Tensor:
    """Of one copy: all pairs, all looks at once."""
    scene = resized(disparity, (CELLS_PER_TOKEN * side, CELLS_PER_TOKEN * side))
    d = to_tokens(disparity, (side, side))
    p = torch.linspace(0.1, 0.9, n_steps, device=d.device)
    d_p = p * d[..., None] + (1.0 - p)  # b n s
    reached = d_p[:, :, None] * (1.0 - d)[:, None, :, None].clamp_min(SMALLEST)
    rho = (1.0 - d_p)[:, :, None] * d[:, None, :, None] / reached
    centres = token_centres((side, side), (2.0 / side, 2.0 / side), device=d.device) - 1.0
    toward_source = centres[None, :] - centres[:, None]
    position = (centres + shift)[:, None, None] + rho[..., None] * toward_source[:, :, None]  # b q k s 2
    met = F.grid_sample(scene[:, None], position.flatten(2, 3), padding_mode="zeros", align_corners=False)
    return (met.reshape(rho.shape) > d_p[:, None]).any(dim=-1)


def jitter(side: int, *, device: torch.device | str = "cpu") -> Float[Tensor, "copies n 2"]:
    """No shift, and three of up to half a token.

    Args:
        side: Tokens down and across.
        device: Where they are put.
    """
    shifts = (torch.rand(JITTERED, side**2, 2, device=device) - 0.5) * (2.0 / side)
    return torch.cat([torch.zeros(1, side**2, 2, device=device), shifts])


def _side(tokens: Float[Tensor, "b k n d"]) -> int:
    return math.isqrt(tokens.shape[2])
