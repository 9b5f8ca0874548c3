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
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from bokehdiff.errors import InputError
from bokehdiff.images.colour import to_srgb, to_srgb_16bit
from bokehdiff.images.exif import exif_of_tiff

logger = logging.getLogger(__name__)

# Pillow would hand an EPS to Ghostscript, whatever its name: only formats that photographs and maps come in.
FORMATS = ("PNG", "JPEG", "MPO", "TIFF", "WEBP", "BMP", "GIF", "PPM", "AVIF", "JPEG2000", "HEIF")
SCENE_LINEAR_SUFFIXES = frozenset({".exr", ".hdr"})  # hold light rather than display values, by definition
PILLOW_LIMIT = threading.Lock()
EIGHT_BIT, SIXTEEN_BIT, FLOAT = 8, 16, 32


@dataclass(frozen=True)
class Decoded:
    """A file's pixels, upright.

    Args:
        values: [h w c] float32: 8 and 16-bit values divided by 255 and 65535, floats as stored. c is 1 grey, 2 grey
            and alpha, 3 RGB, 4 RGB and alpha; alpha is straight.
        bit_depth: 8, 16 or 32 (float).
        exif: EXIF block as stored; empty if there is none.
        is_linear: The file holds light, not display values.
    """

    values: np.ndarray[Any, np.dtype[np.float32]]
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
        values = _read_with_opencv(path)
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
    if path.suffix.lower() in {".heic", ".heif"}:
        _register_heif()
    with PILLOW_LIMIT:  # Pillow's limit is a global, and warns where we refuse: it is ours while a header is read
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            picture = Image.open(path, formats=[name for name in FORMATS if _is_registered(name)])
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with picture:
        _refuse_huge(path, picture.size, max_pixels)
        yield picture


def _is_registered(name: str) -> bool:
    Image.init()
    return name in Image.OPEN


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
    exif = exif_of_tiff(picture) if picture.format == "TIFF" else picture.info.get("exif", b"")
    n_pictures = getattr(picture, "n_frames", 1)
    if n_pictures > 1:
        logger.info("%s: holds %d pictures; the first is used", path, n_pictures)
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _decode_single_channel(path, picture, bits, exif)
    if bits > EIGHT_BIT and picture.mode in {"RGB", "RGBA"}:
        return _decode_deep_colour(path, picture, exif, managed=managed)
    if bits > EIGHT_BIT:
        logger.warning("%s: %d-bit %s is read with 8 bits", path, bits, picture.mode)
    profile = picture.info.get("icc_profile") if managed else None
    picture = ImageOps.exif_transpose(picture)
    picture = to_srgb(_plain_mode(picture), profile, name=str(path))
    values = np.asarray(picture, dtype=np.float32) / 255.0
    return Decoded(values.reshape(picture.height, picture.width, -1), EIGHT_BIT, exif)


def _bits_per_sample(path: Path, picture: Image.Image) -> int:
    if picture.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24]  # the header chunk comes first, and has the depth at this place
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        return max(picture.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    return SIXTEEN_BIT if picture.mode.startswith("I") else EIGHT_BIT


def _plain_mode(picture: Image.Image) -> Image.Image:
    """Palettes, bitmaps, transparent colours and premultiplied modes as L, LA, RGB, RGBA, CMYK, YCbCr or LAB."""
    if "transparency" in picture.info or picture.mode in {"PA", "RGBa"}:
        return picture.convert("RGBA")
    plain = {"1": "L", "La": "LA", "P": "RGB", "RGBX": "RGB", "HSV": "RGB", "YCbCr": "RGB"}.get(picture.mode)
    return picture.convert(plain) if plain else picture


def _decode_single_channel(path: Path, picture: Image.Image, bits: int, exif: bytes) -> Decoded:
    if picture.mode == "I" and bits > SIXTEEN_BIT:
        raise InputError(f"{path}: holds 32-bit integers, whose scale is not known; save 16 bits or floats instead")
    picture = ImageOps.exif_transpose(picture)
    values = np.asarray(picture).astype(np.float32)[..., None]
    if picture.mode == "F":
        return Decoded(values, FLOAT, exif)
    return Decoded(values / (2**bits - 1), SIXTEEN_BIT, exif)


def _decode_deep_colour(path: Path, picture: Image.Image, exif: bytes, *, managed: bool) -> Decoded:
    """16 bits per channel by OpenCV, because Pillow keeps 8 of them; Pillow's own reading vouches for the size."""
    profile = picture.info.get("icc_profile") if managed else None
    orientation = picture.getexif().get(0x0112, 1)
    values = _read_with_opencv(path)
    if picture.format != "TIFF":  # OpenCV turns TIFFs itself
        values = turn_upright(values, orientation)
    eight_bit = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    if values.dtype != np.uint16 or values.shape[:2] != eight_bit.shape[:2] or values.shape[2] < 3:
        raise InputError(f"{path}: this kind of 16-bit file is not supported; save it as a plain 16-bit PNG or TIFF")
    scaled = values.astype(np.float32) / 65535.0
    scaled[..., :3] = to_srgb_16bit(scaled[..., :3], profile, name=str(path))
    return Decoded(scaled, SIXTEEN_BIT, exif)


def turn_upright(values: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
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
    """Float TIFFs with several channels, which Pillow does not know; anything else is refused."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic not in {b"II*\x00", b"MM\x00*"}:
        if path.suffix.lower() in {".heic", ".heif"}:
            raise InputError(f"{path}: HEIC cannot be read here; pip install pillow-heif, or convert it to JPEG")
        raise InputError(f"{path}: is not an image that can be read (a text file, or damaged?)")
    try:
        _refuse_huge(path, _tiff_size(path), max_pixels)
    except (KeyError, SyntaxError, OSError) as error:
        raise InputError(f"{path}: is damaged or cut short and cannot be read: {error}") from error
    values = _read_with_opencv(path)
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"{path}: this kind of TIFF ({values.dtype}) is not supported; save 8 or 16 bits or floats")
    return Decoded(values.astype(np.float32), FLOAT)


def _tiff_size(path: Path) -> tuple[int, int]:
    with path.open("rb") as file:
        directory = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(directory.next)
        directory.load(file)
    return directory[TiffImagePlugin.IMAGEWIDTH], directory[TiffImagePlugin.IMAGELENGTH]


def _read_with_opencv(path: Path) -> np.ndarray[Any, Any]:
    """Pixels as OpenCV stores them, [h w c], in the order RGB or RGBA."""
    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # OpenCV's own switch, off unless somebody turns it on
    import cv2

    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # our error says it in one line
    try:
        values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
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
        return f"{path}: OpenEXR cannot be read (OpenCV built without it, or a damaged file); save a float TIFF or .npy"
    return f"{path}: is damaged, cut short or of an unsupported kind, and cannot be read"
