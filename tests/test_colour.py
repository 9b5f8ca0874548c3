from __future__ import annotations

import io
import logging

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from bokehdiff import images
from bokehdiff.images.colour import SRGB_TO_XYZ_D50, deep_to_srgb, srgb_profile
from tests.profiles import ADOBE_RGB, ADOBE_TO_XYZ_D50, DISPLAY_P3, gamma, parametric, profile_of, table


def _smooth(height: int = 24, width: int = 32) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    return images.resize(torch.rand(1, 3, 4, 5, generator=generator), (height, width))[0].permute(1, 2, 0).numpy()


def test_a_wide_jpeg_becomes_srgb(tmp_path):
    """Adobe RGB's pure green is beyond sRGB; its grey stays; a mild colour becomes more vivid."""
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, :8], pixels[:, 8:16], pixels[:, 16:] = (128, 128, 128), (0, 255, 0), (150, 100, 100)
    profile = profile_of(gamma(563 / 256))
    for name in ("a.jpg", "a.png", "a.tif", "a.webp"):
        Image.fromarray(pixels).save(tmp_path / name, icc_profile=profile, quality=100)
        got = images.load_photo(tmp_path / name).image_srgb[0, :, 4]
        assert (got[:, 4] - 128 / 255).abs().max() < 0.015
        assert got[1, 12] > 0.98
        assert got[0, 12] < 0.02
        assert got[0, 20] > 0.62  # more than 150 / 255 = 0.59


def test_numbers_of_masks_and_disparities_are_left_alone(tmp_path):
    grey = np.arange(0, 250, 10, dtype=np.uint8)[None]
    Image.fromarray(grey).save(tmp_path / "a.png", icc_profile=profile_of(gamma(1.0), to_xyz=None, name="Linear"))
    assert torch.equal((images.load_disparity(tmp_path / "a.png") * 255).round()[0].byte(), torch.from_numpy(grey))
    assert images.load_photo(tmp_path / "a.png").image_srgb[0, 0, 0, 12] > 0.6  # 120 / 255 of light


def test_an_srgb_profile_changes_no_bit(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    got = (images.load_photo(tmp_path / "a.png").image_srgb[0] * 255).round().byte()
    assert torch.equal(got.permute(1, 2, 0), torch.from_numpy(pixels))


def test_alpha_passes_beside_the_profile(tmp_path):
    pixels = np.full((4, 5, 4), 100, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile_of(gamma(1.0)))
    rgba = images.load_rgba(tmp_path / "a.png")
    assert (rgba[:, 3] - 100 / 255).abs().max() < 1e-6
    assert rgba[:, :3].min() > 0.6


@pytest.mark.parametrize(
    "curve",
    [
        gamma(2.2),
        table(1.8, 300),
        b"curv\x00\x00\x00\x00\x00\x00\x00\x00",
        parametric(0, 2.0),
        parametric(1, 2.2, 0.9, 0.1),
        parametric(2, 2.2, 0.85, 0.1, 0.05),
        parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
        parametric(4, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045, 0.01, 0.005),
    ],
)
@pytest.mark.parametrize("is_grey", [False, True])
def test_our_16_bit_conversion_is_littlecms_within_its_8_bits(curve, is_grey):
    profile = profile_of(curve, to_xyz=None if is_grey else ADOBE_TO_XYZ_D50)
    eight_bit = np.round(_smooth() * 255).astype(np.uint8)
    picture = Image.fromarray(eight_bit[..., 0] if is_grey else eight_bit)
    converted = ImageCms.profileToProfile(
        picture,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
    )
    values = eight_bit[..., :1] if is_grey else eight_bit
    ours = deep_to_srgb(values.astype(np.float32) / 255, profile, name="test")
    error = np.abs(ours - np.asarray(converted) / 255.0)
    assert error.max() < 2.5 / 255
    assert error.mean() < 0.6 / 255


def test_16_bit_conversion_keeps_its_precision(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    ramp = np.linspace(30000, 30400, 401).astype(np.uint16)[None, :, None].repeat(3, axis=2)
    tifffile.imwrite(tmp_path / "a.tif", ramp, photometric="rgb", iccprofile=profile_of(gamma(2.2)))
    photo = images.load_photo(tmp_path / "a.tif")
    assert photo.bit_depth == 16
    assert photo.image_srgb[0, 1, 0].unique().numel() == 401
    light = torch.from_numpy((ramp[0, :, 0] / 65535.0) ** (563 / 256))
    expected = images.linear_to_srgb(light, transfer="srgb").float()
    assert (photo.image_srgb[0, :, 0] - expected).abs().max() < 2e-3  # 2.2 is stored as 563 / 256, white as D50


def test_srgb_in_its_own_space_is_the_identity():
    curve = parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    values = _smooth()
    got = deep_to_srgb(values, profile_of(curve, to_xyz=SRGB_TO_XYZ_D50), name="test")
    assert np.abs(got - values).max() < 2e-4


@pytest.mark.parametrize(
    "profile", [b"", b"no profile", b"\x00" * 200, profile_of(b"what\x00\x00\x00\x00" + b"\x00" * 8)]
)
def test_broken_profiles_are_passed_over_with_a_word(tmp_path, caplog, profile):
    tifffile = pytest.importorskip("tifffile")
    pixels = np.full((3, 4, 3), 100, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    tifffile.imwrite(tmp_path / "a.tif", pixels.astype(np.uint16) * 257, photometric="rgb", iccprofile=profile or None)
    with caplog.at_level(logging.WARNING):
        for name in ("a.png", "a.tif"):
            assert (images.load_photo(tmp_path / name).image_srgb - 100 / 255).abs().max() < 1e-6
    assert ("cannot be used" in caplog.text) == bool(profile)


def test_profiles_of_tables_go_through_8_bits_with_a_word(caplog):
    """A grey profile on a colour picture has no matrix either; LittleCMS is asked, and it takes it as grey."""
    values = np.full((3, 4, 3), 0.5, np.float32)
    with caplog.at_level(logging.WARNING):
        got = deep_to_srgb(values, profile_of(gamma(1.0), to_xyz=None), name="a.tif")
    assert "a.tif: its colour profile is made of tables and is applied with 8 bits" in caplog.text
    assert got.shape == (3, 4, 3)
    assert np.abs(got - 0.7354).max() < 0.01  # sRGB's display value of half the light


def test_cmyk_without_a_profile_is_said(tmp_path, caplog):
    Image.new("CMYK", (4, 3), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    with caplog.at_level(logging.INFO):
        photo = images.load_photo(tmp_path / "a.jpg")
    assert photo.image_srgb[0, 0].min() > 0.97
    assert photo.image_srgb[0, 1:].max() < 0.03
    assert "CMYK without a usable profile" in caplog.text


def test_deep_greys_follow_their_profile(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    grey = np.full((3, 4), 32768, np.uint16)
    profile = profile_of(gamma(1.0), to_xyz=None)
    tifffile.imwrite(tmp_path / "a.tif", grey, photometric="minisblack", iccprofile=profile)
    assert (images.load_photo(tmp_path / "a.tif").image_srgb - 0.7354).abs().max() < 1e-3
    assert (images.load_disparity(tmp_path / "a.tif") - 0.5).abs().max() < 1e-4
    cv2.imwrite(str(tmp_path / "plain.tif"), grey)
    assert (images.load_photo(tmp_path / "plain.tif").image_srgb - 0.5).abs().max() < 1e-4


@pytest.mark.parametrize("bit_depth", [8, 16])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("profile", [ADOBE_RGB, DISPLAY_P3, None], ids=["Adobe RGB", "Display P3", "none"])
def test_what_is_written_says_srgb_and_looks_like_the_source(tmp_path, caplog, profile, suffix, bit_depth):
    """As a program that manages colours sees the two files: within what 8 bits and a lossy format cost."""
    if bit_depth == 16 and suffix in {".jpg", ".webp"}:
        pytest.skip("holds 8 bits")
    pixels = np.round(_smooth(96, 128) * 120 + 60).astype(np.uint8)  # within sRGB
    Image.fromarray(pixels).save(tmp_path / "source.png", icc_profile=profile)
    with caplog.at_level(logging.INFO):
        photo = images.load_photo(tmp_path / "source.png")
    assert ("converted to sRGB from" in caplog.text) == (profile is not None)
    written = tmp_path / f"written{suffix}"
    images.save_image(written, photo.image_srgb, bit_depth=bit_depth, quality=100)
    with Image.open(written) as picture:
        picture.load()
        embedded = picture.info["icc_profile"]
    assert embedded == srgb_profile()
    assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(embedded)))
    seen = [_seen(tmp_path / "source.png"), _seen(written)]
    assert np.abs(seen[0] - seen[1]).mean() < (2.0 if suffix == ".webp" else 1.0)
    if profile is not None:
        assert np.abs(seen[1] - pixels).mean() > 1.5, "the numbers alone are other colours"
    again = images.load_photo(written)
    assert again.bit_depth == bit_depth
    if suffix in {".png", ".tif"}:
        assert (again.image_srgb - photo.image_srgb).abs().max() <= 0.51 / (2**bit_depth - 1)


def _seen(path) -> np.ndarray:
    """8-bit sRGB by LittleCMS, from the profile in the file."""
    with Image.open(path) as picture:
        profile = picture.info.get("icc_profile")
        shown = picture.convert("RGB")
    if profile is not None:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        shown = ImageCms.profileToProfile(shown, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return np.asarray(shown, dtype=np.float64)


def test_the_profile_is_the_same_in_every_run():
    date = srgb_profile()[24:36]
    assert date == b"\x07\xe9\x00\x01\x00\x01" + b"\x00" * 6
    assert len(srgb_profile()) < 1000
