"""The light that a photograph's white has clipped away, guessed back before blurring: bokeh lives on it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError

TABLE_STEPS = 4096  # of the curve's inverse: its error is below a thousandth of a step of 8 bits up to a gain of 100
KNEE = 0.8  # linear light of the brightest channel from which a pixel may have been clipped


def recover_highlights(image_linear: Float[Tensor, "b 3 h w"], gain: float) -> Float[Tensor, "b 3 h w"]:
    """Make clipped lights as bright as they may have been, so that they bloom into discs instead of grey smears.

    Concretely, out = image * (1 + (gain - 1) * s^2 * (3 - 2 s)) with s = clip((max over rgb - 0.8) / 0.2, 0, 1): below
    0.8 nothing changes, at white a pixel is `gain` times as bright. Colours keep their ratios.

    Args:
        image_linear: The photograph, before blurring.
        gain: Brightness of a wholly clipped pixel over white, 1 or more.
    """
    _check_gain(gain)
    return image_linear * _boost(image_linear.amax(dim=1, keepdim=True), gain)


def compress_highlights(image_linear: Float[Tensor, "b 3 h w"], gain: float) -> Float[Tensor, "b 3 h w"]:
    """The way back after blurring: what stayed in focus is the photograph again, whose whites would burn out otherwise.

    Concretely, the inverse of `recover_highlights`, on all three channels alike so that colours keep their ratios:
    below 0.8 nothing changes, `gain` becomes white, and more stays more.

    Args:
        image_linear: The picture, after blurring.
        gain: The one that was given to `recover_highlights`.
    """
    _check_gain(gain)
    peak = image_linear.amax(dim=1, keepdim=True)
    before = torch.linspace(KNEE, 1.0, TABLE_STEPS, dtype=peak.dtype, device=peak.device)
    after = before * _boost(before, gain)
    above = torch.searchsorted(after, peak.detach().contiguous()).clamp(1, TABLE_STEPS - 1)
    share = (peak - after[above - 1]) / (after[above] - after[above - 1])
    settled = torch.lerp(before[above - 1], before[above], share.clamp(0.0, 1.0))
    settled = torch.where(peak > gain, peak / gain, settled)
    return torch.where(peak > KNEE, image_linear * (settled / peak.clamp_min(KNEE)), image_linear)


def _boost(peak: Float[Tensor, "*shape"], gain: float) -> Float[Tensor, "*shape"]:
    step = ((peak - KNEE) / (1.0 - KNEE)).clamp(0.0, 1.0)
    return torch.lerp(torch.ones_like(step), torch.full_like(step, gain), step.square() * (3 - 2 * step))


def _check_gain(gain: float) -> None:
    if not gain >= 1.0:
        raise InputError(f"gain must be 1 (no change) or more; got {gain:g}")
