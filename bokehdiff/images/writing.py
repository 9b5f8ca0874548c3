"""Writing images and disparity maps, all at once or not at all."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, TiffImagePlugin
from torch import Tensor

from bokehdiff.errors import InputError, MissingDependencyError
from bokehdiff.images.colour import srgb_profile
from bokehdiff.images.exif import EXIF_HEADER, tiff_entries, upright
from bokehdiff.images.files import write_atomically

logger = logging.getLogger(__name__)

BIT_DEPTHS = {
    ".png": (8, 16),
    ".tif": (8, 16),
    ".tiff": (8, 16),
    ".jpg": (8,),
    ".jpeg": (8,),
    ".webp": (8,),
}
OPAQUE_ONLY = frozenset({".jpg", ".jpeg"})
JPEG_COMMENT_BYTES = 65533  # a JPEG segment's length is 16 bits and counts itself
PNG_HEADER_BYTES = 33  # signature and header chunk: further chunks may stand from here on


def save_image(
    path: str | Path,
    image_srgb: Float[Tensor, "1 c h w"],
    *,
    bit_depth: int = 8,
    quality: int = 95,
    exif: bytes = b"",
    text: str | None = None,
) -> None:
    """Write an image; an older file stays as it is until the new one is complete.

    Values are clamped to [0, 1] and rounded to the nearest step. The suffix says the format: .png, .tif, .jpg, .webp.
    Each holds an ICC profile that says sRGB, so that programs that manage colours take the numbers for what they are.

    Args:
        path: File to write.
        image_srgb: Display values, RGB or RGBA with straight alpha.
        bit_depth: Bits per channel: 8, or 16 for PNG and TIFF.
        quality: 1 to 100, for JPEG and WebP; JPEG colours are not subsampled.
        exif: EXIF block to carry over; its orientation is set to 1, since tensors stand upright, its colour space to
            sRGB.
        text: Note about the image, such as the settings it was made with: a PNG text chunk "Comment", a JPEG comment,
            a TIFF ImageDescription; WebP has no place for it, which is logged. None for none.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    _refuse_impossible(path, image_srgb, bit_depth=bit_depth, quality=quality)
    pixels = _quantised(path, image_srgb[0].permute(1, 2, 0), bit_depth)
    exif = upright(exif)
    if suffix == ".png":
        encoded = _png(pixels, exif, text, profile=srgb_profile())
    elif suffix in {".tif", ".tiff"}:
        encoded = _tiff(pixels, exif, text)
    else:
        encoded = _lossy(path, pixels, quality, exif, text)
    with write_atomically(path) as temporary:
        temporary.write_bytes(encoded)


def save_light(path: str | Path, image_linear: Float[Tensor, "1 3 h w"], *, text: str | None = None) -> None:
    """Write light as it is to an OpenEXR file of 32-bit floats: no curve, no clamping; `load_photo` brings it back.

    Args:
        path: File to write: .exr (the extra `exr`).
        image_linear: Linear light, finite; 1 is the display's white.
        text: Note about the image, kept as the attribute "comments"; None for none.
    """
    path = Path(path)
    if path.suffix.lower() != ".exr":
        raise InputError(f"{path}: light is written as .exr; got {path.suffix or 'no suffix'!r}")
    if not bool(torch.isfinite(image_linear).all()):
        raise InputError(f"{path}: the light to write must be finite; got NaN or infinity")
    try:
        import OpenEXR
    except ImportError as error:
        raise MissingDependencyError(f"OpenEXR is needed to write {path.name}: pip install bokehdiff[exr]") from error
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    pixels = np.ascontiguousarray(image_linear[0].detach().permute(1, 2, 0).float().cpu().numpy())
    with write_atomically(path) as temporary:
        OpenEXR.File(header | ({"comments": text} if text else {}), {"RGB": pixels}).write(str(temporary))


def _refuse_impossible(path: Path, image_srgb: Tensor, *, bit_depth: int, quality: int) -> None:
    suffix = path.suffix.lower()
    if suffix not in BIT_DEPTHS:
        raise InputError(f"{path}: images are written as {', '.join(BIT_DEPTHS)}; got {suffix or 'no suffix'!r}")
    if bit_depth not in BIT_DEPTHS[suffix]:
        depths = " or ".join(str(depth) for depth in BIT_DEPTHS[suffix])
        raise InputError(f"{path}: {suffix} holds {depths} bits per channel; got {bit_depth}")
    if not 1 <= quality <= 100:
        raise InputError(f"{path}: quality must be 1 to 100; got {quality}")
    if image_srgb.shape[1] not in {3, 4} or 0 in image_srgb.shape:
        raise InputError(f"{path}: expected an image of shape [1, 3 or 4, h, w]; got {list(image_srgb.shape)}")
    if suffix in OPAQUE_ONLY and image_srgb.shape[1] == 4:
        raise InputError(f"{path}: {suffix} holds no transparency; write .png, .tif or .webp")


def _quantised(path: Path, values: Tensor, bit_depth: int) -> np.ndarray:
    """Integers of [0, 1], rounded to nearest."""
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"{path}: not written, the image holds values that are NaN or infinite")
    steps = 2**bit_depth - 1
    rounded = (values.detach().cpu().float().clamp(0.0, 1.0) * steps).round()
    return np.ascontiguousarray(rounded.numpy().astype(np.uint8 if bit_depth == 8 else np.uint16))


def _png(pixels: np.ndarray, exif: bytes, text: str | None, *, profile: bytes = b"") -> bytes:
    """OpenCV's PNG, which has 16 bits per channel, with the chunks that OpenCV does not write."""
    import cv2

    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., order]))
    assert done  # noqa: S101  8 and 16-bit arrays of these shapes have a PNG
    # name and deflate as its method: PNG specification, section 11.3.2.3
    chunks = _png_chunk(b"iCCP", b"sRGB\x00\x00" + zlib.compress(profile)) if profile else b""
    chunks += _png_chunk(b"eXIf", exif.removeprefix(EXIF_HEADER)) if exif else b""
    if text is not None:
        # keyword, uncompressed, no language: PNG specification, section 11.3.3.4
        chunks += _png_chunk(b"iTXt", b"Comment\x00\x00\x00\x00\x00" + text.encode())
    file = encoded.tobytes()
    return file[:PNG_HEADER_BYTES] + chunks + file[PNG_HEADER_BYTES:]


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _tiff(pixels: np.ndarray, exif: bytes, text: str | None) -> bytes:
    """A TIFF of one strip, deflated after a horizontal difference (TIFF 6.0, section 14); Pillow has no 16-bit RGB."""
    height, width, channels = pixels.shape
    difference = pixels.copy()
    difference[:, 1:] -= pixels[:, :-1]
    strip = zlib.compress(
        difference.astype(difference.dtype.newbyteorder("<")).tobytes(), level=1
    )  # the difference compresses well; speed counts
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory.update(tiff_entries(exif))
    directory[TiffImagePlugin.IMAGEWIDTH] = width
    directory[TiffImagePlugin.IMAGELENGTH] = height
    directory[TiffImagePlugin.BITSPERSAMPLE] = (pixels.dtype.itemsize * 8,) * channels
    directory[TiffImagePlugin.COMPRESSION] = 8  # deflate
    directory[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 2  # RGB
    directory[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    directory[TiffImagePlugin.ROWSPERSTRIP] = height
    directory[TiffImagePlugin.PREDICTOR] = 2  # horizontal difference
    directory[TiffImagePlugin.SAMPLEFORMAT] = (1,) * channels  # unsigned
    if channels == 4:
        directory[TiffImagePlugin.EXTRASAMPLES] = 2  # straight alpha
    directory.tagtype[TiffImagePlugin.ICCPROFILE] = 7  # bytes
    directory[TiffImagePlugin.ICCPROFILE] = srgb_profile()
    if text is not None:
        directory.tagtype[TiffImagePlugin.IMAGEDESCRIPTION] = 2  # ASCII by the letter, UTF-8 by custom
        directory[TiffImagePlugin.IMAGEDESCRIPTION] = text.encode()
    directory[TiffImagePlugin.STRIPBYTECOUNTS] = len(strip)
    directory[TiffImagePlugin.STRIPOFFSETS] = 0  # from the directory's end; `save` adds where that is
    file = io.BytesIO()
    directory.save(file)
    return file.getvalue() + strip


def _lossy(path: Path, pixels: np.ndarray, quality: int, exif: bytes, text: str | None) -> bytes:
    """JPEG or WebP by Pillow."""
    options: dict[str, Any] = {"quality": quality, "icc_profile": srgb_profile(), **({"exif": exif} if exif else {})}
    if path.suffix.lower() == ".webp":
        options["format"] = "WEBP"
        if text is not None:
            logger.info("%s: WebP has no place for a note; the settings are not written into it", path)
    else:
        options |= {"format": "JPEG", "subsampling": 0}
        if text is not None:
            options["comment"] = _jpeg_comment(path, text)
    file = io.BytesIO()
    try:
        Image.fromarray(pixels).save(file, **options)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be encoded: {error}; .png and .tif hold any size") from error
    return file.getvalue()


def _jpeg_comment(path: Path, text: str) -> bytes:
    comment = text.encode()
    if len(comment) > JPEG_COMMENT_BYTES:
        raise InputError(f"{path}: a JPEG comment holds {JPEG_COMMENT_BYTES} bytes; got {len(comment)}")
    return comment


def save_disparity(path: str | Path, disparity: Float[Tensor, "1 h w"]) -> None:
    """Write a disparity map: .npy keeps its float32 values, .png holds [0, 1] in 16 bits.

    Args:
        path: File to write, .npy or .png.
        disparity: Finite values; for .png in [0, 1].
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in {".npy", ".png"}:
        raise InputError(f"{path}: disparity is written as .npy or .png; got {suffix or 'no suffix'!r}")
    if disparity.numel() == 0:
        raise InputError(f"{path}: not written, the disparity is empty, of shape {list(disparity.shape)}")
    values = disparity[0].detach().cpu().float()
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"{path}: not written, the disparity holds values that are NaN or infinite")
    if suffix == ".npy":
        with write_atomically(path) as temporary, temporary.open("wb") as file:
            np.save(file, values.numpy(), allow_pickle=False)
        return
    if float(values.min()) < 0.0 or float(values.max()) > 1.0:
        raise InputError(
            f"{path}: a 16-bit PNG holds disparity in [0, 1]; got {values.min():g} to {values.max():g}; write .npy"
        )
    encoded = _png(_quantised(path, values[..., None], 16), b"", None)
    with write_atomically(path) as temporary:
        temporary.write_bytes(encoded)
