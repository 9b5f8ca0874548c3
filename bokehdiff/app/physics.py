"""A picture through the lens that the controls say, by the physical renderers."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.app.controls import Controls
from bokehdiff.images import linear_to_srgb, srgb_to_linear
from bokehdiff.renderers import Step, compress_highlights, recover_highlights, render_photo


def through_lens(
    image_srgb: Float[Tensor, "1 3 h w"],
    disparity: Float[Tensor, "1 h w"],
    controls: Controls,
    *,
    scale: float,
    method: str,
    device: torch.device,
    step: Step | None = None,
) -> Float[Tensor, "1 3 h w"]:
    """What the lens makes of a picture, in [0, 1].

    Args:
        image_srgb: Sharp all over.
        disparity: In [0, 1], 1 nearest.
        controls: The lens, at the size of the photograph.
        scale: Size of this picture over that of the photograph.
        method: Of `render_photo`.
        device: Where it is computed.
        step: Told how far it is; what it raises ends the work. None for nothing.
    """
    light = recover_highlights(srgb_to_linear(image_srgb.to(device)), controls.highlights)
    blurred = render_photo(light, disparity.to(device), controls.lens(scale), method=method, step=step)
    return linear_to_srgb(compress_highlights(blurred, controls.highlights)).clamp(0.0, 1.0).cpu()
