"""The colour of a subject without what shines through its edge: a cut-out carries its old background otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

EVENNESS = (
    1e-5  # pull towards the neighbours' colours where alpha does not change: decides only what nothing else tells
)
EDGE_EVENNESS = (
    0.03  # more of it, per change of alpha: both colours go on across an outline. 0.1 errs by 4 % more, 1 by 35 %
)
SMALL_PX = 32  # up to this side levels are cheap ...
SMALL_SWEEPS = 20  # ... and carry colours far
SWEEPS = 4  # at the larger levels, which only add detail
LEVEL_FACTOR = 2.0  # between the sides of successive levels


@dataclass(frozen=True)
class Colours:
    """What a photograph is mixed of.

    Args:
        near: Colour of the subject, also where alpha is 0 [linear light].
        far: Colour of the background, also where alpha is 1 [linear light].
    """

    near: Float[Tensor, "1 3 h w"]
    far: Float[Tensor, "1 3 h w"]


def unmix(image_linear: Float[Tensor, "1 3 h w"], alpha: Float[Tensor, "1 h w"]) -> Colours:
    """Part a photograph into the colours of its subject and of its background.

    Concretely, with n the four neighbours of a pixel and w_n = 1e-5 + 0.03 |alpha - alpha_n|, what is brought down is
    the sum over all pixels of |alpha F + (1 - alpha) B - I|^2 + sum over n of w_n (|F - F_n|^2 + |B - B_n|^2): sweeps
    solve each pixel's two unknowns with its neighbours held, on a pyramid from one pixel up to all. The order of coarse
    and fine is that of Germer et al., "Fast multi-level foreground estimation", 2020. Light mixes linearly, so I is
    light.

    Args:
        image_linear: The photograph.
        alpha: Share of each pixel that is subject, in [0, 1].
    """
    height, width = alpha.shape[1:]
    n_levels = max(1, math.ceil(math.log(max(height, width), LEVEL_FACTOR))) + 1
    both = torch.zeros(2, 3, 1, 1, device=image_linear.device)
    for level in range(n_levels):
        share = level / max(n_levels - 1, 1)
        size_hw = (max(1, round(height**share)), max(1, round(width**share)))
        shrunk = F.interpolate(torch.cat([image_linear, alpha[:, None]], dim=1), size=size_hw, mode="area")
        both = F.interpolate(both, size=size_hw, mode="nearest-exact")
        n_sweeps = SMALL_SWEEPS if max(size_hw) <= SMALL_PX else SWEEPS
        both = _swept(shrunk[:, :3], shrunk[0, 3:], both, n_sweeps)
    both = both.clamp(min=0.0, max=max(1.0, float(image_linear.max())))
    return Colours(near=both[:1], far=both[1:])


def _swept(
    image_linear: Float[Tensor, "1 3 h w"], alpha: Float[Tensor, "1 h w"], both: Float[Tensor, "2 3 h w"], n_sweeps: int
) -> Float[Tensor, "2 3 h w"]:
    """Sweeps over a checkerboard: each half is solved with the other as it is now."""
    weights = [EVENNESS + EDGE_EVENNESS * (alpha - beside[0]).abs() for beside in _neighbours(alpha[None])]
    total = torch.stack(weights).sum(dim=0)
    near_near, far_far, near_far = alpha.square() + total, (1 - alpha).square() + total, alpha * (1 - alpha)
    determinant = near_near * far_far - near_far.square()
    rows, columns = (torch.arange(size, device=alpha.device) for size in alpha.shape[1:])
    odd = (rows[:, None] + columns[None, :]) % 2 == 1
    for _ in range(n_sweeps):
        for half in (odd, ~odd):
            pulled = torch.zeros_like(both)
            for weight, beside in zip(weights, _neighbours(both), strict=True):
                pulled.addcmul_(weight, beside)
            near, far = pulled[0] + alpha * image_linear[0], pulled[1] + (1 - alpha) * image_linear[0]
            solved = torch.stack([far_far * near - near_far * far, near_near * far - near_far * near]) / determinant
            both = torch.where(half, solved, both)
    return both


def _neighbours(values: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], ...]:
    """Each pixel's neighbours to the left, the right, above and below; at the border itself."""
    height, width = values.shape[-2:]
    wide = F.pad(values, (1, 1, 1, 1), mode="replicate")
    rows, columns = slice(1, 1 + height), slice(1, 1 + width)
    return (
        wide[..., rows, :width], wide[..., rows, 2:], wide[..., :height, columns], wide[..., 2:, columns]
    )  # fmt: skip
