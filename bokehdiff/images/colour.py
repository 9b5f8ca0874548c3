"""Colour profiles: whatever space a photograph was saved in, it arrives in sRGB."""

from __future__ import annotations

import io
import logging
import struct
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageCms

from bokehdiff.images.light import linear_to_srgb

logger = logging.getLogger(__name__)

Array = np.ndarray  # [h w c] or [h w]
PROFILE_DATE = slice(24, 36)  # of an ICC profile's header: year, month, day, hour, minute, second (ICC.1, section 7.2)
PROFILE_DATE_GIVEN = (2025, 1, 1, 0, 0, 0)

# Columns: XYZ of sRGB's red, green and blue, adapted to the profile connection space's white D50 by Bradford's matrix
# (IEC 61966-2-1 primaries; the same numbers stand in the ICC's own sRGB profiles).
SRGB_TO_XYZ_D50 = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)


@cache
def srgb_profile() -> bytes:
    """The ICC profile of what is written here, the same bytes in every run."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[PROFILE_DATE] = struct.pack(">6H", *PROFILE_DATE_GIVEN)  # LittleCMS puts the time of the day there
    return bytes(profile)


def to_srgb(picture: Image.Image, profile: bytes | None, *, name: str) -> Image.Image:
    """The picture in sRGB (mode L, LA, RGB or RGBA), by its embedded profile if it has one.

    Relative colorimetric with black point compensation, as photographers' programs do by default: colours that sRGB
    cannot show are clipped to those it can, and a line is logged. A profile that cannot be used is passed over with a
    logged line.

    Args:
        picture: Mode L, LA, RGB, RGBA, CMYK or LAB; 8 bits.
        profile: ICC profile; None to take the numbers as they are.
        name: What log lines call the picture.
    """
    if profile and not _is_srgb(profile):
        try:
            converted = _through_profile(picture, profile)
            logger.info("%s: colours are converted to sRGB from %s", name, _description(profile))
            return converted
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            logger.warning("%s: its colour profile cannot be used, colours are taken as sRGB: %s", name, error)
    if picture.mode == "LAB":
        return _transformed(picture, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if picture.mode == "CMYK":
        logger.info("%s: CMYK without a usable profile is converted by the plain formula", name)
        return picture.convert("RGB")
    return picture


def _through_profile(picture: Image.Image, profile: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    alpha = picture.getchannel("A") if picture.mode in {"LA", "RGBA"} else None
    if source.profile.xcolor_space.strip() == "GRAY":
        picture = picture.convert("L")
    elif picture.mode not in {"CMYK", "LAB"}:
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
    return "srgb" in _description(profile).lower()


def _description(profile: bytes) -> str:
    """A profile's name; empty where it cannot be read."""
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except (ImageCms.PyCMSError, OSError):
        return ""


def deep_to_srgb(values: Array, profile: bytes | None, *, name: str) -> Array:
    """Colours of more than 8 bits in sRGB, by their embedded profile if there is one.

    Pillow's colour management has 8 bits, so the profiles that photographs come in are computed here: a curve per
    channel and a matrix (Adobe RGB, Display P3, ProPhoto), or one curve for greys. Concretely, with the curves c and
    the matrix M to XYZ, out = encode(M_srgb^-1 M c(values)), clipped to sRGB's gamut. Profiles made of tables go
    through 8 bits, with a logged line.

    Args:
        values: [h w 1 or 3] in [0, 1].
        profile: ICC profile; None to take the numbers as they are.
        name: What log lines call the picture.
    """
    if not profile or _is_srgb(profile):
        return values
    try:
        tags = _profile_tags(profile)
        converted = None
        if values.shape[2] == 1 and b"kTRC" in tags:
            converted = _encoded(_curve(tags[b"kTRC"], values))
        if values.shape[2] == 3 and tags.keys() >= {b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC"}:
            converted = _encoded(_light(tags, values) @ _matrix(tags).T)
        if converted is not None:
            logger.info("%s: colours are converted to sRGB from %s", name, _description(profile))
            return converted
    except (struct.error, KeyError, ValueError, ZeroDivisionError) as error:
        logger.warning("%s: its colour profile cannot be used, colours are taken as sRGB: %s", name, error)
        return values
    logger.warning("%s: its colour profile is made of tables and is applied with 8 bits per channel", name)
    eight_bit = Image.fromarray((np.broadcast_to(values, (*values.shape[:2], 3)) * 255.0 + 0.5).astype(np.uint8))
    return np.asarray(to_srgb(eight_bit, profile, name=name), dtype=np.float32) / 255.0


def _profile_tags(profile: bytes) -> dict[bytes, bytes]:
    """A profile's entries by signature (ICC.1:2022, section 7.3)."""
    (count,) = struct.unpack_from(">I", profile, 128)
    entries = (struct.unpack_from(">4sII", profile, 132 + 12 * index) for index in range(count))
    return {signature: profile[offset : offset + size] for signature, offset, size in entries}


def _matrix(tags: dict[bytes, bytes]) -> Array:
    """From the profile's linear RGB to sRGB's, both seen through XYZ at D50."""
    columns = [np.array(struct.unpack_from(">3i", tags[name], 8)) / 65536.0 for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    return np.linalg.inv(SRGB_TO_XYZ_D50) @ np.stack(columns, axis=1)


def _light(tags: dict[bytes, bytes], values: Array) -> Array:
    channels = [_curve(tags[name], values[..., index]) for index, name in enumerate((b"rTRC", b"gTRC", b"bTRC"))]
    return np.stack(channels, axis=2)


def _curve(tag: bytes, values: Array) -> Array:
    """Values through a profile's tone curve (ICC.1:2022, sections 10.6 "curv" and 10.18 "para")."""
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return values
        table = np.frombuffer(tag, dtype=">u2", count=count, offset=12).astype(np.float64)
        if count == 1:
            return values ** (table[0] / 256.0)
        return np.interp(values, np.linspace(0.0, 1.0, count), table / 65535.0)
    if tag[:4] != b"para":
        raise ValueError(f"unknown kind of curve {tag[:4]!r}")
    (kind,) = struct.unpack_from(">H", tag, 8)
    n_parameters = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}[kind]
    given = [number / 65536.0 for number in struct.unpack_from(f">{n_parameters}i", tag, 12)]
    if kind == 0:
        return values ** given[0]
    gamma, a, b = given[:3]
    slope, limit = (given[3], given[4]) if kind > 2 else (0.0, -b / a)
    above, below = {1: (0.0, 0.0), 2: (given[-1], given[-1]), 3: (0.0, 0.0), 4: (given[-2], given[-1])}[kind]
    return np.where(values >= limit, np.maximum(a * values + b, 0.0) ** gamma + above, slope * values + below)


def _encoded(light: Array) -> Array:
    clipped = torch.from_numpy(np.clip(light, 0.0, 1.0).astype(np.float32))
    return linear_to_srgb(clipped, transfer="srgb").numpy()
