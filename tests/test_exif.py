from __future__ import annotations

import logging
import math
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ExifTags import IFD, Base

from bokehdiff import images
from bokehdiff.images.exif import camera_settings, upright
from bokehdiff.optics import CameraSettings


def _exif(**exif_tags) -> bytes:
    """An EXIF block; rationals are pairs, so that zero denominators can be written."""
    entries = b""
    extra = b""
    at = 8 + 2 + 12 + 4 + 2 + 12 * len(exif_tags) + 4  # where values that need more than 4 bytes stand
    for name, value in sorted(exif_tags.items(), key=lambda item: Base[item[0]]):
        if isinstance(value, tuple):
            entries += struct.pack("<HHII", Base[name], 5, 1, at + len(extra))
            extra += struct.pack("<II", *value)
        else:
            entries += struct.pack("<HHIHH", Base[name], 3, 1, value, 0)
    first = struct.pack("<H", 1) + struct.pack("<HHII", IFD.Exif, 4, 1, 26) + struct.pack("<I", 0)
    second = struct.pack("<H", len(exif_tags)) + entries + struct.pack("<I", 0)
    return b"Exif\x00\x00" + b"II*\x00" + struct.pack("<I", 8) + first + second + extra


def test_camera_settings_of_a_full_block():
    """Canon 50D at 50 mm, f/1.8: 4752 px at 5315.436 px per inch is a 22.7 mm sensor."""
    settings = camera_settings(
        _exif(
            FNumber=(18, 10),
            FocalLength=(50, 1),
            FocalLengthIn35mmFilm=80,
            FocalPlaneXResolution=(5315436, 1000),
            FocalPlaneResolutionUnit=2,
            ExifImageWidth=4752,
            SubjectDistance=(123, 100),
        )
    )
    assert settings.f_number == pytest.approx(1.8)
    assert settings.focal_length_mm == pytest.approx(50.0)
    assert settings.focal_length_35mm_mm == pytest.approx(80.0)
    assert settings.sensor_width_mm == pytest.approx(22.708, abs=1e-3)
    assert settings.focus_distance_m == pytest.approx(1.23)
    assert settings.lens(image_width_px=4752).strength_px > 0


@pytest.mark.parametrize(
    ("unit", "width_mm"), [(None, 25.4), (1, None), (2, 25.4), (3, 10.0), (4, 1.0), (5, 0.001), (77, None)]
)
def test_sensor_width_in_every_unit(unit, width_mm):
    tags = {"FocalPlaneXResolution": (4000, 1), "ExifImageWidth": 4000}
    if unit is not None:
        tags["FocalPlaneResolutionUnit"] = unit
    got = camera_settings(_exif(**tags)).sensor_width_mm
    assert got == (None if width_mm is None else pytest.approx(width_mm))


@pytest.mark.parametrize(
    ("stored", "distance_m"),
    [
        ((0xFFFFFFFF, 1), math.inf),
        ((0xFFFFFFFF, 0), math.inf),
        ((0xFFFFFFFF, 0xFFFFFFFF), math.inf),
        ((0, 1), None),
        ((0, 0), None),
        ((5, 0), None),
        ((5, 2), 2.5),
    ],
)
def test_subject_distance_knows_infinite_and_unknown(stored, distance_m):
    assert camera_settings(_exif(SubjectDistance=stored)).focus_distance_m == distance_m


def test_zeros_and_zero_denominators_are_unknown():
    settings = camera_settings(
        _exif(FNumber=(28, 0), FocalLength=(0, 1), FocalLengthIn35mmFilm=0, FocalPlaneXResolution=(1, 0))
    )
    assert settings == CameraSettings()


def test_apex_aperture_stands_in_for_a_missing_f_number():
    assert camera_settings(_exif(ApertureValue=(2, 1))).f_number == pytest.approx(2.0)
    assert camera_settings(_exif(FNumber=(4, 1), ApertureValue=(2, 1))).f_number == pytest.approx(4.0)
    assert camera_settings(_exif(ApertureValue=(65535, 1))).f_number is None


@pytest.mark.parametrize(
    "block", [b"", b"Exif\x00\x00", b"Exif\x00\x00garbage", b"II*\x00\xff\xff\xff\xff", b"\x00" * 40]
)
def test_damaged_blocks_tell_nothing(block):
    assert camera_settings(block) == CameraSettings()


@pytest.mark.parametrize("cut", range(8, 100, 7))
def test_truncated_blocks_are_survived(cut):
    block = _exif(FNumber=(18, 10), FocalLength=(50, 1), SubjectDistance=(1, 1))[:cut]
    assert isinstance(camera_settings(block), CameraSettings)
    assert isinstance(upright(block), bytes)


@pytest.mark.parametrize("order", ["<", ">"])
def test_upright_changes_the_orientation_and_nothing_else(order):
    mark = {"<": b"II*\x00", ">": b"MM\x00*"}[order]
    maker = b"maker notes with offsets in them"
    body = struct.pack(order + "HHHIHH", 2, Base.Orientation, 3, 1, 6, 0) + struct.pack(
        order + "HHII", 0x927C, 7, len(maker), 38
    )
    block = mark + struct.pack(order + "I", 8) + body + struct.pack(order + "I", 0x44) + maker
    got = upright(block)
    assert got.startswith(b"Exif\x00\x00" + mark)
    expected = bytearray(block)
    struct.pack_into(order + "H", expected, 18, 1)
    struct.pack_into(order + "I", expected, 34, 0)
    assert got == b"Exif\x00\x00" + bytes(expected)
    assert upright(got) == got


def test_upright_gives_up_a_block_that_it_cannot_read(caplog):
    with caplog.at_level(logging.WARNING):
        assert upright(b"Exif\x00\x00nonsense") == b""
    assert "not carried over" in caplog.text
    assert upright(b"") == b""


def _photo_with_exif(path, *, orientation: int = 1):
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    exif[Base.Model] = "Test camera"
    exif.get_ifd(IFD.Exif)[Base.FNumber] = 2.8
    exif.get_ifd(IFD.Exif)[Base.FocalLength] = 35.0
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif.tobytes())
    return pixels


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("target", [".jpg", ".png", ".webp", ".tif"])
def test_exif_goes_through_every_format_and_stands_upright(tmp_path, suffix, target):
    source = tmp_path / f"source{suffix}"
    _photo_with_exif(source, orientation=6)
    photo = images.load_photo(source)
    assert photo.size_hw == (9, 6)
    assert photo.sensor_width_px == 9
    assert photo.camera.f_number == pytest.approx(2.8)
    written = tmp_path / f"written{target}"
    images.save_image(written, photo.image_srgb, exif=photo.exif)
    again = images.load_photo(written)
    assert again.size_hw == (9, 6)
    assert again.camera.f_number == pytest.approx(2.8)
    assert again.camera.focal_length_mm == pytest.approx(35.0)
    with Image.open(written) as picture:
        assert picture.getexif().get(Base.Orientation, 1) == 1
        assert picture.getexif()[Base.Model] == "Test camera"


def test_deep_files_carry_exif_too(tmp_path):
    _photo_with_exif(tmp_path / "source.jpg", orientation=3)
    photo = images.load_photo(tmp_path / "source.jpg")
    for name in ("deep.png", "deep.tif"):
        images.save_image(tmp_path / name, photo.image_srgb, bit_depth=16, exif=photo.exif)
        again = images.load_photo(tmp_path / name)
        assert again.bit_depth == 16
        assert again.camera.f_number == pytest.approx(2.8)
        torch.testing.assert_close(again.image_srgb, photo.image_srgb, atol=1e-5, rtol=0)


def test_a_photograph_with_damaged_exif_is_still_a_photograph(tmp_path, caplog):
    Image.new("RGB", (4, 3), (10, 20, 30)).save(tmp_path / "a.jpg", exif=b"Exif\x00\x00XX broken")
    photo = images.load_photo(tmp_path / "a.jpg")
    assert photo.size_hw == (3, 4)
    assert photo.camera == CameraSettings()
    images.save_image(tmp_path / "b.jpg", photo.image_srgb, exif=photo.exif)
    assert images.load_photo(tmp_path / "b.jpg").exif == b""


def test_a_photograph_without_exif_tells_nothing(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    assert images.load_photo(tmp_path / "a.png").camera == CameraSettings()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_a_block_that_says_adobe_rgb_says_srgb_afterwards(tmp_path, suffix):
    exif = Image.Exif()
    exif.get_ifd(IFD.Exif).update({Base.FNumber: 2.8, Base.ColorSpace: 65535})
    exif.get_ifd(IFD.Exif)[IFD.Interop] = {1: "R03"}
    assert b"R03" in exif.tobytes()
    images.save_image(tmp_path / f"a{suffix}", torch.rand(1, 3, 4, 6), exif=exif.tobytes())
    with Image.open(tmp_path / f"a{suffix}") as picture:
        camera = picture.getexif().get_ifd(IFD.Exif)
        assert (camera[Base.ColorSpace], camera[Base.FNumber]) == (1, 2.8)
        saved = picture.getexif()
        if IFD.Interop in saved.get_ifd(IFD.Exif):  # Pillow 12 raises for one that is not there
            assert saved.get_ifd(IFD.Interop).get(1, "R98") == "R98"
