"""Colour profiles: whatever space a photograph was saved in, it arrives in sRGB."""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np
from PIL import Image, ImageCms

logger = logging.getLogger(__name__)


def to_srgb(picture: Image.Image, profile: bytes | None, *, name: str) -> Image.Image:
    """The picture in sRGB (mode L, LA, RGB or RGBA), by its embedded profile if it has one.

    Relative colorimetric with black point compensation, as photographers' programs do by default. A profile that
    cannot be used is passed over with a logged line.

    Args:
        picture: Mode L, LA, RGB, RGBA, CMYK or LAB.
        profile: ICC profile; None to take the numbers as they are.
        name: What log lines call the picture.
    """
    if profile and not _is_srgb(profile):
        try:
            return _through_profile(picture, profile)
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            logger.warning("%s: its colour profile cannot be used, colours are taken as sRGB: %s", name, error)
    if picture.mode == "LAB":
        return _transformed(picture, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if picture.mode == "CMYK":
        logger.info("%s: CMYK without a usable profile is converted by the plain formula", name)
        return picture.convert("RGB")
    return picture


def _through_profile(picture: Image.Image, profile: bytes) -> Image.Image:
    alpha = picture.getchannel("A") if picture.mode in {"LA", "RGBA"} else None
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    is_grey = source.profile.xcolor_space.strip() == "GRAY"
    if alpha is not None:
        picture = picture.convert("L" if picture.mode == "LA" else "RGB")
    if is_grey and picture.mode == "RGB":
        picture = picture.convert("L")
    elif not is_grey and picture.mode == "L":
        picture = picture.convert("RGB")
    converted = _transformed(picture, source)
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _transformed(picture: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(
        picture,
        source,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None  # noqa: S101  None is for pictures changed in place
    return converted


def _is_srgb(profile: bytes) -> bool:
    """An sRGB profile, by its name: its pixels are left alone, bit for bit."""
    try:
        return "srgb" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).lower()
    except (ImageCms.PyCMSError, OSError):
        return False


def to_srgb_16bit(values: np.ndarray[Any, Any], profile: bytes | None, *, name: str) -> np.ndarray[Any, Any]:
    """Colours of more than 8 bits in sRGB, by their embedded profile if there is one.

    Args:
        values: [h w 3] in [0, 1].
        profile: ICC profile; None to take the numbers as they are.
        name: What log lines call the picture.
    """
    if not profile or _is_srgb(profile):
        return values
    logger.warning("%s: its colour profile is applied with 8 bits per channel", name)
    eight_bit = Image.fromarray((values * 255.0 + 0.5).astype(np.uint8))
    return np.asarray(to_srgb(eight_bit, profile, name=name), dtype=np.float32) / 255.0
