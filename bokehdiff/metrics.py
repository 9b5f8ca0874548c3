"""How near a picture is to its reference: numbers per image, on display images in [0, 1]."""

from __future__ import annotations

import piq
import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError

SSIM_WINDOW_PX = 11  # Wang et al. 2004: a gaussian of 1.5 px, cut at 11 px
SSIM_SIGMA_PX = 1.5
MS_SSIM_SMALLEST_PX = 161  # halved four times, the window of 11 px must still fit


def psnr(image_srgb: Float[Tensor, "b 3 h w"], reference_srgb: Float[Tensor, "rb rc rh rw"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each image [dB]; infinite where the two are equal.

    Concretely, psnr[b] = -10 log10(mean over c, y, x of (image - reference)^2), in float64.

    Args:
        image_srgb: Display images in [0, 1].
        reference_srgb: What they should be, of the same shape.
    """
    _refuse_unlike(image_srgb, reference_srgb)
    error = (image_srgb.double() - reference_srgb.double()).square().mean(dim=(1, 2, 3))
    return (-10.0 * torch.log10(error)).float()


def ssim(image_srgb: Float[Tensor, "b 3 h w"], reference_srgb: Float[Tensor, "rb rc rh rw"]) -> Float[Tensor, " b"]:
    """Structural similarity of each image, in [-1, 1]: 1 where the two are equal.

    The mean over the three colours and all windows inside the image, at full resolution, as scikit-image has it with
    gaussian weights (Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004).

    Args:
        image_srgb: Display images in [0, 1], at least 11 px on each side.
        reference_srgb: What they should be, of the same shape.
    """
    _refuse_unlike(image_srgb, reference_srgb)
    _refuse_small(image_srgb, SSIM_WINDOW_PX, "ssim")
    similarity: Tensor = piq.ssim(
        image_srgb.clamp(0.0, 1.0),
        reference_srgb.clamp(0.0, 1.0),
        kernel_size=SSIM_WINDOW_PX,
        kernel_sigma=SSIM_SIGMA_PX,
        data_range=1.0,
        reduction="none",
        downsample=False,
    )
    return similarity


def ms_ssim(image_srgb: Float[Tensor, "b 3 h w"], reference_srgb: Float[Tensor, "rb rc rh rw"]) -> Float[Tensor, " b"]:
    """Structural similarity over five scales of each image; 1 where the two are equal.

    Source: Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment", 2003.

    Args:
        image_srgb: Display images in [0, 1], at least 161 px on each side.
        reference_srgb: What they should be, of the same shape.
    """
    _refuse_unlike(image_srgb, reference_srgb)
    _refuse_small(image_srgb, MS_SSIM_SMALLEST_PX, "ms_ssim")
    similarity: Tensor = piq.multi_scale_ssim(
        image_srgb.clamp(0.0, 1.0),
        reference_srgb.clamp(0.0, 1.0),
        kernel_size=SSIM_WINDOW_PX,
        kernel_sigma=SSIM_SIGMA_PX,
        data_range=1.0,
        reduction="none",
    )
    return similarity


def _refuse_unlike(image_srgb: Tensor, reference_srgb: Tensor) -> None:
    if image_srgb.shape != reference_srgb.shape:
        raise InputError(
            f"image and reference must be of one shape; got {list(image_srgb.shape)} and {list(reference_srgb.shape)}"
        )


def _refuse_small(image_srgb: Tensor, smallest_px: int, metric: str) -> None:
    height, width = image_srgb.shape[-2:]
    if min(height, width) < smallest_px:
        raise InputError(f"{metric} needs images of at least {smallest_px} px on each side; got {height} x {width}")
