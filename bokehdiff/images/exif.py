"""What a photograph's EXIF says: camera settings, and which way is up."""

from __future__ import annotations

import logging
import math
import struct
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from PIL import Image, TiffImagePlugin
from PIL.ExifTags import IFD, Base

from bokehdiff.optics import CameraSettings

logger = logging.getLogger(__name__)

EXIF_HEADER = b"Exif\x00\x00"
UNKNOWN_INFINITE = 0xFFFFFFFF  # EXIF 2.32, SubjectDistance: this numerator means infinity, 0 means unknown
# EXIF 2.32, FocalPlaneResolutionUnit, in mm; 4 and 5 come from TIFF/EP and are met in the wild.
UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
INCH = 2  # the standard's default unit
INTEROP_INDEX = 1  # the Interop directory's entry for which rules a file follows
# By a TIFF's first bytes: byte order, kind of offsets, where the first one stands, kind of the directory's count, bytes
# of an entry (TIFF 6.0 and BigTIFF).
TIFF_LAYOUTS = {
    b"II*\x00": ("<", "I", 4, "H", 12),
    b"MM\x00*": (">", "I", 4, "H", 12),
    b"II+\x00": ("<", "Q", 8, "Q", 20),
    b"MM\x00+": (">", "Q", 8, "Q", 20),
}
# What a TIFF's own directory holds beside its picture; the rest describes the pixels and does not outlive them.
DESCRIPTIVE_TAGS = (
    *(Base.ImageDescription, Base.Make, Base.Model, Base.Orientation, Base.Software, Base.DateTime),
    *(Base.Artist, Base.Copyright),
)


def camera_settings(exif: bytes) -> CameraSettings:
    """Camera settings of an EXIF block; None for each that is missing, zero or unreadable.

    The sensor's width is PixelXDimension / FocalPlaneXResolution in the unit given (inch if none is).

    Args:
        exif: Block as found in files, with or without the "Exif" header; empty for none.
    """
    tags = _tags(exif)
    return CameraSettings(
        f_number=_positive(tags.get(Base.FNumber)) or _f_number_of_apex(tags.get(Base.ApertureValue)),
        focal_length_mm=_positive(tags.get(Base.FocalLength)),
        focal_length_35mm_mm=_positive(tags.get(Base.FocalLengthIn35mmFilm)),
        sensor_width_mm=_sensor_width_mm(tags),
        focus_distance_m=_distance_m(tags.get(Base.SubjectDistance)),
    )


def _tags(exif: bytes) -> dict[int, Any]:
    """Entries of the Exif directory; empty when there are none or they cannot be read."""
    if not exif:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of each damaged entry; what is left is still good
            block = Image.Exif()
            block.load(exif)
            return {**block, **block.get_ifd(IFD.Exif)}
    except Exception as error:  # Pillow's parser raises whatever it trips over in damaged blocks
        logger.warning("the EXIF block cannot be read and is taken as empty: %s", error)
        return {}


def _positive(value: Any) -> float | None:
    """A rational or integer as a float above 0; None for zero, a zero denominator, or anything that is no number."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _f_number_of_apex(value: Any) -> float | None:
    """N = 2 ** (A / 2) of the APEX aperture value A (EXIF 2.32, annex C)."""
    apex = _positive(value)
    return None if apex is None or apex > 20 else 2.0 ** (apex / 2.0)  # 20 is f/1024: a damaged entry


def _sensor_width_mm(tags: dict[int, Any]) -> float | None:
    resolution = _positive(tags.get(Base.FocalPlaneXResolution))
    width_px = _positive(tags.get(Base.ExifImageWidth))
    unit_mm = UNIT_MM.get(tags.get(Base.FocalPlaneResolutionUnit, INCH))
    if resolution is None or width_px is None or unit_mm is None:
        return None
    return width_px / resolution * unit_mm


def _distance_m(value: Any) -> float | None:
    if getattr(value, "numerator", None) == UNKNOWN_INFINITE:
        return math.inf
    return _positive(value)


def orientation_of(picture: Image.Image) -> int:
    """How a picture is to be turned to stand upright, 1 to 8 (EXIF 2.32, tag 274); 1 where that cannot be read.

    Args:
        picture: An open picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in `_tags`
            orientation = picture.getexif().get(Base.Orientation, 1)
    except Exception as error:  # as in `_tags`
        logger.warning("the EXIF block cannot be read, the picture is not turned: %s", error)
        return 1
    return orientation if orientation in range(1, 9) else 1


def exif_of_tiff(picture: Image.Image) -> bytes:
    """EXIF block of what a TIFF's directory says of the photograph, not of its pixels; empty if that is nothing.

    Args:
        picture: An open TIFF.
    """
    try:
        block = Image.Exif()
        block.update(_descriptive_entries(picture.getexif()))
        return block.tobytes() if len(block) else b""
    except Exception as error:  # as in `_tags`
        logger.warning("the EXIF entries cannot be read and are taken as empty: %s", error)
        return b""


def tiff_entries(exif: bytes) -> dict[int, Any]:
    """What an EXIF block says of the photograph, as entries of a TIFF's directory; the Exif and GPS ones are dicts.

    Args:
        exif: Block as found in files; empty for none. One that cannot be written again is given up, with a logged line.
    """
    if not exif:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in `_tags`
            block = Image.Exif()
            block.load(exif)
            entries = _descriptive_entries(block)
            trial = TiffImagePlugin.ImageFileDirectory_v2()
            trial.update(entries)
            trial.tobytes(8)
    except Exception as error:  # as in `_tags`
        logger.warning("the EXIF block cannot be read and is not carried over: %s", error)
        return {}
    return entries


def _descriptive_entries(block: Image.Exif) -> dict[int, Any]:
    entries = {tag: value for tag, value in block.items() if tag in DESCRIPTIVE_TAGS}
    for directory in (IFD.Exif, IFD.GPSInfo):
        inner = {tag: value for tag, value in block.get_ifd(directory).items() if tag != IFD.Interop}  # an offset
        if inner:
            entries[directory] = inner
    return entries


def upright(exif: bytes) -> bytes:
    """The same EXIF block for what is written here: upright, in sRGB, without thumbnail.

    The block is patched in place: maker notes, whose inner offsets would not survive a rewrite, stay as they are. The
    thumbnail showed the picture as it was, so its directory is unlinked. A block that cannot be read is given up, with
    a logged line.

    Args:
        exif: Block with or without the "Exif" header; empty stays empty.
    """
    if not exif:
        return b""
    block = bytearray(exif.removeprefix(EXIF_HEADER))
    try:
        stand_upright(memoryview(block))
        with suppress(struct.error):  # a damaged inner directory tells no colour space either
            _declare_srgb(memoryview(block))
    except (struct.error, KeyError) as error:
        logger.warning("the EXIF block cannot be read and is not carried over: %s", error)
        return b""
    return EXIF_HEADER + bytes(block)


@dataclass(frozen=True)
class _Directory:
    """Where the entries of a TIFF's directory stand (TIFF 6.0, section 2; BigTIFF).

    Args:
        order: Byte order and kind of offsets, as `struct` has them.
        offset: Kind of offsets.
        entries: Where each entry begins, by its tag.
        end: Where the last one ends.
    """

    order: str
    offset: str
    entries: dict[int, int]
    end: int

    def put_short(self, tiff: memoryview, tag: int, value: int) -> None:
        """Make an entry that is there a SHORT of this value."""
        if tag in self.entries:
            layout = f"{self.order}H{self.offset}H"
            struct.pack_into(layout, tiff, self.entries[tag] + 2, 3, 1, value)

    def within(self, tiff: memoryview, tag: int) -> _Directory | None:
        """The directory that an entry points to; None if there is no such entry."""
        if tag not in self.entries:
            return None
        (where,) = struct.unpack_from(
            self.order + self.offset, tiff, self.entries[tag] + 4 + struct.calcsize(self.offset)
        )
        return _directory(tiff, where)


def _directory(tiff: memoryview, where: int | None = None) -> _Directory:
    """The directory at an offset; None for the first one."""
    order, offset, start, count_format, entry_bytes = TIFF_LAYOUTS[bytes(tiff[:4])]
    if where is None:
        (where,) = struct.unpack_from(order + offset, tiff, start)
    (count,) = struct.unpack_from(order + count_format, tiff, where)
    first = where + struct.calcsize(order + count_format)
    places = range(first, first + entry_bytes * count, entry_bytes)
    tags = {struct.unpack_from(order + "H", tiff, place)[0]: place for place in places}
    return _Directory(order, offset, tags, first + entry_bytes * count)


def stand_upright(tiff: memoryview) -> None:
    """Set the orientation to 1 and the offset of the next directory to 0, in place.

    Args:
        tiff: A TIFF file, or the inside of an EXIF block, which is one.
    """
    first = _directory(tiff)
    first.put_short(tiff, Base.Orientation, 1)
    if first.end + struct.calcsize(first.order + first.offset) <= len(tiff):
        struct.pack_into(first.order + first.offset, tiff, first.end, 0)


def _declare_srgb(tiff: memoryview) -> None:
    """Say sRGB where a block says Adobe RGB, which programs would believe (DCF 2.0: "R03" of the Interop directory)."""
    camera = _directory(tiff).within(tiff, IFD.Exif)
    if camera is None:
        return
    camera.put_short(tiff, Base.ColorSpace, 1)
    interop = camera.within(tiff, IFD.Interop)
    if interop is not None and INTEROP_INDEX in interop.entries:
        value = interop.entries[INTEROP_INDEX] + 4 + struct.calcsize(interop.offset)
        tiff[value : value + 4] = b"R98\x00"
