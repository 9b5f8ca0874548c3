"""Between display values and light: transfer functions, and resizing of light."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError

Transfer: TypeAlias = Literal["gamma22", "srgb"] | float

GAMMA = 2.2  # what the field's renderers and data sets use
GAMMA_RANGE = (1.0, 5.0)  # 1 mixes display values themselves; BokehMe, the largest of the field, goes to 5
# Below this display value the power law gives way to the straight line through 0 that meets it there: the power's slope
# is infinite at 0 on the way to display values. It is less than half a step of 8 bits, so no 8-bit value but 0 lies on
# the line; the law of 2.2 is missed by at most 0.14 steps of 8 bits.
TOE_SRGB = 1e-6 ** (1.0 / GAMMA)
# IEC 61966-2-1: the line below, the power above.
SRGB_TOE_SLOPE = 12.92
SRGB_TOE_SRGB = 0.04045
SRGB_TOE_LINEAR = 0.0031308
SRGB_OFFSET = 0.055
SRGB_GAMMA = 2.4


def srgb_to_linear(image_srgb: Float[Tensor, "*shape"], *, transfer: Transfer = "gamma22") -> Float[Tensor, "*shape"]:
    """Light of display values.

    Concretely, with s = max(image_srgb, 0): "gamma22" is s ** 2.2 (below 0.0019: s * 1e-6 / 0.0019), "srgb" is
    ((s + 0.055) / 1.055) ** 2.4 (below 0.04045: s / 12.92; IEC 61966-2-1), a number g is s ** g, with a line below
    0.0019 as for 2.2. Gradients are finite everywhere.

    Args:
        image_srgb: Display values of any shape, 0 black, 1 white; above 1 goes on along the same curve, below 0
            counts as 0.
        transfer: Which curve; "gamma22" is the field's, "srgb" what screens and cameras have, a number in [1, 5] the
            exponent of another power.
    """
    image_srgb = _not_negative(image_srgb)
    if transfer != "srgb":
        gamma = _exponent(transfer)
        power = image_srgb.clamp_min(TOE_SRGB) ** gamma
        return torch.where(image_srgb > TOE_SRGB, power, image_srgb * TOE_SRGB ** (gamma - 1.0))
    power = ((image_srgb.clamp_min(SRGB_TOE_SRGB) + SRGB_OFFSET) / (1.0 + SRGB_OFFSET)) ** SRGB_GAMMA
    return torch.where(image_srgb > SRGB_TOE_SRGB, power, image_srgb / SRGB_TOE_SLOPE)


def linear_to_srgb(image_linear: Float[Tensor, "*shape"], *, transfer: Transfer = "gamma22") -> Float[Tensor, "*shape"]:
    """Display values of light: the inverse of `srgb_to_linear`.

    Concretely, with x = max(image_linear, 0): "gamma22" is x ** (1 / 2.2) (below 1e-6: x * 0.0019 / 1e-6), "srgb" is
    1.055 * x ** (1 / 2.4) - 0.055 (below 0.0031308: 12.92 x), a number g is x ** (1 / g). Gradients are finite
    everywhere, at 0 too.

    Args:
        image_linear: Light of any shape, 1 the display's white; above 1 (HDR) passes and gives display values above
            1, below 0 counts as 0.
        transfer: Which curve; as in `srgb_to_linear`.
    """
    image_linear = _not_negative(image_linear)
    if transfer != "srgb":
        gamma = _exponent(transfer)
        toe = TOE_SRGB**gamma
        power = image_linear.clamp_min(toe) ** (1.0 / gamma)
        return torch.where(image_linear > toe, power, image_linear * TOE_SRGB ** (1.0 - gamma))
    power = (1.0 + SRGB_OFFSET) * image_linear.clamp_min(SRGB_TOE_LINEAR) ** (1.0 / SRGB_GAMMA) - SRGB_OFFSET
    return torch.where(image_linear > SRGB_TOE_LINEAR, power, image_linear * SRGB_TOE_SLOPE)


def _exponent(transfer: Transfer) -> float:
    if transfer == "gamma22":
        return GAMMA
    least, most = GAMMA_RANGE
    if not isinstance(transfer, (int, float)) or not least <= transfer <= most:
        raise InputError(
            f"the transfer curve must be 'gamma22', 'srgb' or an exponent in [{least:g}, {most:g}]; got {transfer!r}"
        )
    return float(transfer)


def _not_negative(image: Tensor) -> Tensor:
    """Clamp at 0, but let the gradient of 0 itself pass (`clamp_min` stops it): black can become lighter."""
    return torch.where(image < 0.0, torch.zeros_like(image), image)


def resize(image: Float[Tensor, "b c h w"], size_hw: tuple[int, int]) -> Float[Tensor, "b c h2 w2"]:
    """Resize by a triangle filter that widens when it shrinks: no aliasing, no overshoot, constants stay constant.

    Concretely, out[b, c, y, x] = sum over (i, j) of w_y(i) w_x(j) image[b, c, i, j], with w_x(j) proportional to
    max(0, 1 - |j + 1/2 - (x + 1/2) s| / max(s, 1)), s = w / w2, and summing to one. The image domain is kept: the outer
    edges of the border pixels stay where they are. Nothing changes when the size is the same.

    It averages what it is given, so give it what averages: light rather than display values, colour premultiplied by
    alpha rather than straight.

    Args:
        image: Linear light, premultiplied layers, disparity or masks.
        size_hw: Height and width of the result [px], at least 1.
    """
    if min(size_hw) < 1:
        raise InputError(f"the new size must be at least 1 x 1; got {size_hw[0]} x {size_hw[1]} (height x width)")
    if tuple(image.shape[2:]) == tuple(size_hw):
        return image
    return torch.nn.functional.interpolate(image, size=size_hw, mode="bilinear", align_corners=False, antialias=True)
