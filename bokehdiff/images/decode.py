"""From a file to an array: formats, bit depths, palettes, profiles and orientation, all in one place."""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base

from bokehdiff.errors import InputError
from bokehdiff.images.colour import deep_to_srgb, to_srgb
from bokehdiff.images.exif import TIFF_LAYOUTS, exif_of_tiff, orientation_of, stand_upright

logger = logging.getLogger(__name__)

# Pillow would hand an EPS to Ghostscript, whatever its name: only formats that photographs and maps come in.
FORMATS = ("PNG", "JPEG", "MPO", "TIFF", "WEBP", "BMP", "GIF", "PPM", "AVIF", "JPEG2000", "HEIF")
SCENE_LINEAR_SUFFIXES = frozenset({".exr", ".hdr"})  # hold light rather than display values, by definition
PILLOW_LIMIT = threading.Lock()
EIGHT_BIT, SIXTEEN_BIT, FLOAT = 8, 16, 32
HEIF_SUFFIXES = frozenset({".heic", ".heif"})
PHOTOMETRIC = TiffImagePlugin.PHOTOMETRIC_INTERPRETATION
YCBCR, RAW = 6, 1  # an interpretation and a compression (TIFF 6.0, sections 8 and 21)


@dataclass(frozen=True, eq=False)
class Decoded:
    """A file's pixels, upright.

    Args:
        values: [h w c] float32: 8 and 16-bit values divided by 255 and 65535, floats as stored. c is 1 grey, 2 grey
            and alpha, 3 RGB, 4 RGB and alpha; alpha is straight.
        bit_depth: 8, 16 or 32 (float).
        exif: EXIF block as stored; empty if there is none.
        is_linear: The file holds light, not display values.
    """

    values: Float32[np.ndarray, "h w c"]
    bit_depth: int
    exif: bytes = b""
    is_linear: bool = False


def decode(path: Path, *, managed: bool, max_pixels: int | None = None) -> Decoded:
    """Read an image file of any supported format.

    Args:
        path: File; every error names it.
        managed: Convert colours to sRGB by the file's profile; False reads numbers (disparity, masks) as stored.
        max_pixels: Largest number of pixels that is read; None for Pillow's limit.
    """
    require_file(path)
    if path.suffix.lower() in SCENE_LINEAR_SUFFIXES:
        values = _read_light(path)
        _refuse_huge(path, (values.shape[1], values.shape[0]), max_pixels)
        return Decoded(values.astype(np.float32), FLOAT, is_linear=True)
    try:
        with _warnings_logged(path), _opened(path, max_pixels) as picture:
            return _decode_opened(path, picture, managed=managed)
    except InputError:
        raise
    except UnidentifiedImageError:
        return _decode_unidentified(path, max_pixels)
    except Exception as error:  # Pillow raises whatever its parsers trip over in a damaged file
        raise InputError(f"{path}: is damaged or cut short and cannot be read: {error}") from error


@dataclass(frozen=True)
class Header:
    """What a file says of its picture before its pixels.

    Args:
        size_hw: Height and width as stored, before any rotation [px].
        has_alpha: Whether it can be transparent anywhere.
    """

    size_hw: tuple[int, int]
    has_alpha: bool


def read_header(path: Path) -> Header | None:
    """A file's size and kind, without its pixels; None where only decoding tells (OpenEXR, Radiance, unusual TIFFs).

    Args:
        path: File; every error names it.
    """
    require_file(path)
    if path.suffix.lower() in SCENE_LINEAR_SUFFIXES:
        return None
    try:
        with _warnings_logged(path), _opened(path, None) as picture:
            has_alpha = "transparency" in picture.info or picture.mode in {"LA", "La", "RGBA", "RGBa", "PA"}
            return Header((picture.height, picture.width), has_alpha)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        with path.open("rb") as file:
            if file.read(4) in TIFF_LAYOUTS:
                return None
        raise InputError(f"{path}: is no image that can be read") from error
    except Exception as error:  # Pillow raises whatever its parsers trip over in a damaged file
        raise InputError(f"{path}: is damaged or cut short and cannot be read: {error}") from error


def require_file(path: Path) -> None:
    """Refuse what is no file, or an empty one, by name.

    Args:
        path: File that is about to be read.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected a file")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")


@contextmanager
def _warnings_logged(path: Path) -> Iterator[None]:
    """Pillow's warnings of oddities in a file that it reads all the same become logged lines that name the file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        logger.warning("%s: %s", path, " ".join(str(warning.message).split()))


@contextmanager
def _opened(path: Path, max_pixels: int | None) -> Iterator[Image.Image]:
    """The picture with its header read, its size checked, and its pixels still in the file."""
    if path.suffix.lower() in HEIF_SUFFIXES:
        _register_heif()
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    with PILLOW_LIMIT:  # Pillow's limit is a global, and warns where we refuse: it is ours while a header is read
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            picture = Image.open(path, formats=known)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with picture:
        _refuse_huge(path, picture.size, max_pixels)
        yield picture


def _register_heif() -> None:
    """Teach Pillow HEIC where its plug-in is installed; without it the file is refused as unknown."""
    if importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()


def _refuse_huge(path: Path, size_wh: tuple[int, int], max_pixels: int | None) -> None:
    limit = Image.MAX_IMAGE_PIXELS if max_pixels is None else max_pixels
    if limit is not None and size_wh[0] * size_wh[1] > limit:
        raise InputError(
            f"{path}: has {size_wh[0]} x {size_wh[1]} pixels, more than the limit of {limit}; "
            "pass a larger max_pixels if the file can be trusted"
        )


def _decode_opened(path: Path, picture: Image.Image, *, managed: bool) -> Decoded:
    bits = _bits_per_sample(path, picture)
    stored_orientation = orientation_of(picture)
    tiff_exif = exif_of_tiff(picture) if picture.format == "TIFF" else b""
    n_pictures = getattr(picture, "n_frames", 1)
    if n_pictures > 1:
        logger.info("%s: holds %d pictures; the first is used", path, n_pictures)
    if 0 in _tiff_tag(picture, TiffImagePlugin.EXTRASAMPLES, ()):
        logger.info("%s: has a further channel of unstated meaning, which is not used", path)
    if _tiff_tag(picture, PHOTOMETRIC, 1) == YCBCR and _tiff_tag(picture, TiffImagePlugin.COMPRESSION, RAW) == RAW:
        return _decode_ycbcr(path, picture, tiff_exif, managed=managed)
    picture.load()  # turns a TIFF upright, and finds a PNG's EXIF where it stands behind the pixels
    exif = tiff_exif or picture.info.get("exif", b"")
    profile = picture.info.get("icc_profile") if managed else None
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _decode_single_channel(path, picture, bits, exif, profile)
    if bits == SIXTEEN_BIT and picture.mode in {"RGB", "RGBA"}:
        return _decode_deep_colour(path, picture, exif, profile, stored_orientation)
    if bits > EIGHT_BIT:
        logger.warning("%s: %d-bit %s is read with 8 bits", path, bits, picture.mode)
    orientation = orientation_of(picture)  # what is left of it after loading
    picture = to_srgb(_plain_mode(picture), profile, name=str(path))
    values = np.asarray(picture, dtype=np.float32).reshape(picture.height, picture.width, -1) / 255.0
    return Decoded(turn_upright(values, orientation), EIGHT_BIT, exif)


def _decode_ycbcr(path: Path, picture: Image.Image, exif: bytes, *, managed: bool) -> Decoded:
    """Uncompressed YCbCr in a TIFF by OpenCV, because Pillow before 13 takes it for cut short."""
    upright = turn_upright(_read_with_opencv(path), orientation_of(picture))
    profile = picture.info.get("icc_profile") if managed else None
    colours = to_srgb(Image.fromarray(np.ascontiguousarray(upright)), profile, name=str(path))
    return Decoded(np.asarray(colours, dtype=np.float32) / 255.0, EIGHT_BIT, exif)


def _bits_per_sample(path: Path, picture: Image.Image) -> int:
    if picture.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24]  # the header chunk comes first, and has the depth at this place
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        return max(picture.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    if isinstance(picture, ImageFile.ImageFile) and picture.format == "PPM" and picture.mode == "RGB":
        args = picture.tile[0].args
        return int(args[1]).bit_length() if isinstance(args, tuple) else EIGHT_BIT  # of the largest value
    return SIXTEEN_BIT if picture.mode.startswith("I") else EIGHT_BIT


def _plain_mode(picture: Image.Image) -> Image.Image:
    """Palettes, bitmaps, transparent colours and unusual modes as L, LA, RGB, RGBA, CMYK or LAB."""
    if "transparency" in picture.info or picture.mode in {"PA", "RGBa"}:
        return picture.convert("RGBA")
    plain = {"1": "L", "La": "LA", "P": "RGB", "RGBX": "RGB", "HSV": "RGB", "YCbCr": "RGB"}.get(picture.mode)
    return picture.convert(plain) if plain else picture


def _decode_single_channel(path: Path, picture: Image.Image, bits: int, exif: bytes, profile: bytes | None) -> Decoded:
    """Greys of 16 bits or floats, with Pillow's full precision."""
    if picture.mode == "I" and picture.format != "PPM":
        raise InputError(f"{path}: holds 32-bit or signed integers, whose scale is not known; save 16 bits or floats")
    hidden = picture.info.get("transparency")
    is_white_zero = picture.format == "TIFF" and picture.mode != "F" and _tiff_tag(picture, PHOTOMETRIC, 1) == 0
    stored = turn_upright(np.asarray(picture)[..., None], orientation_of(picture))
    if picture.mode == "F":
        return Decoded(stored.astype(np.float32), FLOAT, exif)
    values = stored.astype(np.float32) / (2**bits - 1)
    values = deep_to_srgb(1.0 - values if is_white_zero else values, profile, name=str(path))
    if hidden is not None:
        values = np.concatenate([values, (stored != hidden).astype(np.float32)], axis=2)
    return Decoded(values, SIXTEEN_BIT, exif)


def _decode_deep_colour(
    path: Path, picture: Image.Image, exif: bytes, profile: bytes | None, orientation: int
) -> Decoded:
    """16 bits per channel by OpenCV, because Pillow keeps 8 of them."""
    if _tiff_tag(picture, TiffImagePlugin.PLANAR_CONFIGURATION, 1) != 1:
        raise InputError(f"{path}: 16-bit TIFFs with separate planes are not supported; save it interleaved or as PNG")
    n_channels = len(picture.mode)
    is_premultiplied = _tiff_tag(picture, TiffImagePlugin.EXTRASAMPLES, (2,)) == (1,)
    stored = turn_upright(_read_with_opencv(path), orientation)
    if stored.dtype != np.uint16 or stored.shape[2] < n_channels:
        raise InputError(f"{path}: this kind of 16-bit file is not supported; save it as a plain 16-bit PNG or TIFF")
    values = stored.astype(np.float32) / 65535.0
    colour, alpha = values[..., :3], values[..., 3:]
    if is_premultiplied:
        colour = np.clip(colour / np.maximum(alpha, 1.0 / 65535.0), 0.0, 1.0)
    colour = deep_to_srgb(colour, profile, name=str(path))
    has_alpha = n_channels == 4 or "transparency" in picture.info
    return Decoded(np.concatenate([colour, alpha], axis=2) if has_alpha else colour, SIXTEEN_BIT, exif)


def _tiff_tag(picture: Image.Image, tag: int, default: Any) -> Any:
    return picture.tag_v2.get(tag, default) if isinstance(picture, TiffImagePlugin.TiffImageFile) else default


def turn_upright(values: Shaped[np.ndarray, "h w c"], orientation: int) -> Shaped[np.ndarray, "h2 w2 c"]:
    """Undo an EXIF orientation.

    Args:
        values: [h w c] as stored.
        orientation: 1 to 8 (EXIF 2.32, tag 274); anything else counts as 1.
    """
    if orientation in {5, 6, 7, 8}:
        values = values.swapaxes(0, 1)
    if orientation in {2, 3, 6, 7}:
        values = values[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        values = values[::-1]
    return values


def _decode_unidentified(path: Path, max_pixels: int | None) -> Decoded:
    """Float TIFFs with several channels or 64 bits, which Pillow does not know; anything else is refused."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic not in TIFF_LAYOUTS:
        if path.suffix.lower() in HEIF_SUFFIXES:
            raise InputError(f"{path}: HEIC cannot be read here; pip install pillow-heif, or convert it to JPEG")
        raise InputError(f"{path}: is not an image that can be read (a text file, or damaged?)")
    try:
        directory = _tiff_directory(path)
        size_wh = directory[TiffImagePlugin.IMAGEWIDTH], directory[TiffImagePlugin.IMAGELENGTH]
    except Exception as error:  # Pillow raises whatever its parsers trip over in a damaged file
        raise InputError(f"{path}: is damaged or cut short and cannot be read: {error}") from error
    _refuse_huge(path, size_wh, max_pixels)
    values = turn_upright(_read_with_opencv(path), directory.get(Base.Orientation, 1))
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"{path}: this kind of TIFF ({values.dtype}) is not supported; save 8 or 16 bits or floats")
    return Decoded(values.astype(np.float32), FLOAT)


def _tiff_directory(path: Path) -> TiffImagePlugin.ImageFileDirectory_v2:
    with path.open("rb") as file:
        header = file.read(8)
        is_big = header[2:4] in {b"+\x00", b"\x00+"}
        directory = TiffImagePlugin.ImageFileDirectory_v2(header + file.read(8) if is_big else header)
        file.seek(directory.next)
        directory.load(file)
    return directory


def _read_light(path: Path) -> np.ndarray:
    """Light as it is stored, [h w c]: OpenEXR by its own library where that is installed, else by OpenCV."""
    if path.suffix.lower() != ".exr" or importlib.util.find_spec("OpenEXR") is None:
        return _read_with_opencv(path)
    import OpenEXR

    try:
        stored = OpenEXR.File(str(path), separate_channels=True).channels()
    except RuntimeError as error:
        raise InputError(f"{path}: is damaged or cut short and cannot be read: {error}") from error
    named = {name.rpartition(".")[2].upper(): channel.pixels for name, channel in stored.items()}
    colours = [named[letter] for letter in "RGBA" if letter in named]
    planes = colours if {"R", "G", "B"} <= set(named) else list(named.values())[:1]
    if len({plane.shape for plane in planes}) != 1:
        raise InputError(f"{path}: its channels differ in size or there are none; save red, green and blue alike")
    return np.stack(planes, axis=-1).astype(np.float32)


def _read_with_opencv(path: Path) -> np.ndarray:
    """Pixels as they are stored, not turned upright: [h w c] in the order RGB or RGBA."""
    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # OpenCV's own switch, off unless somebody turns it on
    import cv2

    data = np.fromfile(path, dtype=np.uint8)
    if bytes(data[:4]) in TIFF_LAYOUTS:
        stand_upright(memoryview(data.data))  # OpenCV 5.0 turns some orientations by itself, and fails at others
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # our error says it in one line
    try:
        values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        values = None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if values is None:
        raise InputError(_why_opencv_failed(path))
    if values.ndim == 2:
        return values[..., None]
    return values[..., [2, 1, 0, 3][: values.shape[2]]]


def _why_opencv_failed(path: Path) -> str:
    if path.suffix.lower() == ".exr":
        return (
            f"{path}: OpenEXR cannot be read (a damaged file, or no library for it: pip install bokehdiff[exr]); "
            "or save a float TIFF or .npy"
        )
    return f"{path}: is damaged, cut short or of an unsupported kind, and cannot be read"
