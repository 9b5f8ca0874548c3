"""The light that a photograph's white has clipped away, guessed back before blurring: bokeh lives on it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError

KNEE = 0.8  # linear light of the brightest channel from which a pixel may have been clipped


def recover_highlights(image_linear: Float[Tensor, "b 3 h w"], gain: float) -> Float[Tensor, "b 3 h w"]:
    """Make clipped lights as bright as they may have been, so that they bloom into discs instead of grey smears.

    Concretely, out = image * (1 + (gain - 1) * s^2 * (3 - 2 s)) with s = clip((max over rgb - 0.8) / 0.2, 0, 1): below
    0.8 nothing changes, at white a pixel is `gain` times as bright. Colours keep their ratios.

    Args:
        image_linear: The photograph, before blurring.
        gain: Brightness of a wholly clipped pixel over white, 1 or more.
    """
    if not gain >= 1.0:
        raise InputError(f"gain must be 1 (no change) or more; got {gain:g}")
    step = ((image_linear.amax(dim=1, keepdim=True) - KNEE) / (1.0 - KNEE)).clamp(0.0, 1.0)
    return image_linear * torch.lerp(torch.ones_like(step), torch.full_like(step, gain), step.square() * (3 - 2 * step))
