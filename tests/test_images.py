from __future__ import annotations

import contextlib
import logging
import struct
import sys
import types
import zlib

import cv2
import numpy as np
import pytest
import skimage.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from bokehdiff import images
from bokehdiff.errors import InputError
from bokehdiff.images import decode
from tests.helpers import SHARED, assert_close

RANDOM = np.random.default_rng(0)


def _bytes(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def _words(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 65536, shape, dtype=np.uint16)


def _chw(pixels: np.ndarray) -> torch.Tensor:
    """[h w 3] or [h w] integers as [1 3 h w] in [0, 1]."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return torch.from_numpy(pixels.astype(np.float64) / np.iinfo(pixels.dtype).max).permute(2, 0, 1)[None].float()


def _png(path, rows: np.ndarray, *, depth: int, colour_type: int, before_pixels: bytes = b"") -> None:
    """A PNG of kinds that no library writes; rows are big-endian already."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], depth, colour_type, 0, 0, 0)
    kind, data = before_pixels[:4], before_pixels[4:]
    extra = chunk(kind, data) if kind else b""
    pixels = zlib.compress(b"".join(b"\x00" + row.tobytes() for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


# --- light

TRANSFERS = ["gamma22", "srgb", 1.0, 1.8, 3.0]


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_transfer_and_its_inverse_return_every_16_bit_value(transfer):
    image_srgb = torch.arange(65536, dtype=torch.float64) / 65535
    there = images.srgb_to_linear(image_srgb, transfer=transfer)
    assert bool((there.diff() > 0).all())
    assert_close(images.linear_to_srgb(there, transfer=transfer), image_srgb)
    single = images.linear_to_srgb(images.srgb_to_linear(image_srgb.float(), transfer=transfer), transfer=transfer)
    assert_close(single, image_srgb.float())


def test_gamma_22_is_the_power_for_every_8_bit_value_and_srgb_has_its_published_points():
    image_srgb = torch.arange(256, dtype=torch.float64) / 255
    assert_close(images.srgb_to_linear(image_srgb), image_srgb**2.2)
    published = torch.tensor([0.0, 0.04045, 0.5, 1.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 0.0031308, 0.2140411, 1.0], dtype=torch.float64)
    torch.testing.assert_close(images.srgb_to_linear(published, transfer="srgb"), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("gamma", [1, 1.5, 2.2, 5.0])
def test_a_number_is_the_exponent_of_the_curve(gamma):
    image_srgb = torch.arange(256, dtype=torch.float64) / 255
    assert_close(images.srgb_to_linear(image_srgb, transfer=gamma), image_srgb**gamma)
    assert_close(images.linear_to_srgb(image_srgb**gamma, transfer=gamma), image_srgb)


@pytest.mark.parametrize("gamma", [0.9, 5.1, float("nan")])
@pytest.mark.parametrize("function", [images.linear_to_srgb, images.srgb_to_linear])
def test_exponents_that_make_no_curve_are_refused(gamma, function):
    with pytest.raises(InputError, match=r"'gamma22', 'srgb' or an exponent in \[1, 5\]; got "):
        function(torch.rand(3), transfer=gamma)


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 3, 1, 5)])
def test_transfer_takes_any_shape_passes_hdr_and_clamps_below_zero(transfer, shape):
    image = torch.full(shape, 9.0)
    bright = images.linear_to_srgb(image, transfer=transfer)
    assert bright.shape == image.shape
    assert bool((bright > 2.0).all())
    assert_close(images.srgb_to_linear(bright, transfer=transfer), image)
    for function in (images.linear_to_srgb, images.srgb_to_linear):
        assert_close(function(-image, transfer=transfer), torch.zeros(shape))


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("function", [images.linear_to_srgb, images.srgb_to_linear])
def test_transfer_has_finite_and_right_gradients(transfer, function):
    at_zero = torch.tensor([-1.0, 0.0, 1e-30, 1e-9, 1e-7, 1e-3, 1.0, 5.0], requires_grad=True)
    function(at_zero, transfer=transfer).sum().backward()
    assert bool(torch.isfinite(at_zero.grad).all())
    assert bool((at_zero.grad[1:] > 0).all())
    values = torch.tensor([1e-4, 0.02, 0.3, 1.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: function(x, transfer=transfer), (values,), eps=1e-8)


def test_resize_keeps_constants_means_and_the_domain():
    assert_close(images.resize(torch.full((2, 4, 7, 9), 0.3), (13, 2)), torch.full((2, 4, 13, 2), 0.3))
    ramp = (torch.arange(64.0) + 0.5).expand(1, 1, 8, 64)
    assert_close(
        images.resize(ramp, (4, 16))[..., 4:-4], ((torch.arange(16.0) + 0.5) * 4).expand(1, 1, 4, 16)[..., 4:-4]
    )
    image = torch.rand(1, 3, 5, 6)
    assert images.resize(image, (5, 6)) is image
    mirrored = images.resize(image.flip(3), (3, 4)).flip(3)
    assert_close(mirrored, images.resize(image, (3, 4)))
    with pytest.raises(InputError, match="new size must be at least 1 x 1; got 0 x 4"):
        images.resize(image, (0, 4))


def test_resize_does_not_alias_and_does_not_overshoot():
    checkers = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float()[None, None]
    small = images.resize(checkers, (16, 16))
    assert_close(small[..., 2:-2, 2:-2], torch.full((1, 1, 12, 12), 0.5))
    step = torch.zeros(1, 1, 4, 20)
    step[..., 10:] = 1.0
    large = images.resize(step, (4, 50))
    assert large.min() >= 0.0
    assert large.max() <= 1.0


# --- photographs


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 7), (5, 1), (33, 47)])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".ppm"])
def test_8_bit_colours_are_divided_by_255(tmp_path, size_hw, suffix):
    pixels = _bytes(*size_hw, 3)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    photo = images.load_photo(str(tmp_path / f"a{suffix}"))
    assert torch.equal(photo.image_srgb, _chw(pixels))
    assert (photo.bit_depth, photo.alpha, photo.size_hw) == (8, None, size_hw)
    assert photo.path == tmp_path / f"a{suffix}"


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
@pytest.mark.parametrize("size_hw", [(1, 1), (6, 1), (21, 34)])
def test_16_bit_colours_keep_every_bit(tmp_path, size_hw, suffix):
    pixels = _words(*size_hw, 3)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), pixels[..., ::-1])
    photo = images.load_photo(tmp_path / f"a{suffix}")
    assert photo.bit_depth == 16
    assert torch.equal((photo.image_srgb * 65535).round(), (_chw(pixels) * 65535).round())


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bit_greys_keep_every_bit(tmp_path, suffix):
    pixels = _words(5, 8)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), pixels)
    photo = images.load_photo(tmp_path / f"a{suffix}")
    assert photo.bit_depth == 16
    assert_close(photo.image_srgb, _chw(pixels))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "CMYK", "LAB", "RGBX"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    picture = Image.fromarray(_bytes(16, 16, 3)).resize((40, 24))
    reference = picture.convert("L") if mode in {"1", "L"} else picture
    if mode == "LAB":
        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        stored = ImageCms.applyTransform(picture, to_lab)
    else:
        stored = picture.convert(mode)
    stored.save(tmp_path / "a.tif")
    photo = images.load_photo(tmp_path / "a.tif")
    error = (photo.image_srgb - _chw(np.asarray(reference.convert("RGB")))).abs().mean()
    assert error < {"P": 0.1, "1": 0.5, "LAB": 0.02}.get(mode, 0.01)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [*((mode, suffix) for mode in ("LA", "RGBA") for suffix in (".png", ".tif", ".webp")), ("PA", ".png")],
)
def test_transparency_is_kept_beside_the_colours_and_said(tmp_path, caplog, mode, suffix):
    pixels = np.full((6, 5, 4), 200, np.uint8)
    pixels[..., 3] = 255
    pixels[:3, :, 3] = 128
    picture = Image.fromarray(pixels)
    if mode == "PA":
        picture = picture.convert("RGBA").quantize(16)
    elif mode == "LA":
        picture = picture.convert("LA")
    picture.save(tmp_path / f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    with caplog.at_level(logging.INFO):
        photo = images.load_photo(tmp_path / f"a{suffix}")
    assert photo.alpha.shape == (1, 6, 5)
    assert_close(photo.alpha[0, :, 0], torch.tensor([128 / 255] * 3 + [1.0] * 3))
    torch.testing.assert_close(photo.image_srgb, torch.full((1, 3, 6, 5), 200 / 255), atol=0.005, rtol=0)
    assert "kept as alpha" in caplog.text


def test_an_opaque_alpha_channel_is_none(tmp_path):
    Image.new("RGBA", (4, 3), (1, 2, 3, 255)).save(tmp_path / "a.png")
    assert images.load_photo(tmp_path / "a.png").alpha is None


def test_a_palette_with_one_transparent_colour(tmp_path):
    picture = Image.new("P", (4, 2))
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putdata([0, 1, 0, 1, 0, 1, 0, 1])
    picture.save(tmp_path / "a.png", transparency=1)
    rgba = images.load_rgba(tmp_path / "a.png")
    assert_close(rgba[0, :, 0, 0], torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert_close(rgba[0, 3, 0, 1], torch.tensor(0.0))


def test_a_transparent_colour_key_is_transparency(tmp_path):
    picture = Image.new("RGB", (3, 2), (9, 9, 9))
    picture.putpixel((1, 0), (255, 0, 255))
    picture.save(tmp_path / "a.png", transparency=(255, 0, 255))
    assert images.load_photo(tmp_path / "a.png").alpha[0].tolist() == [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]


def test_16_bit_transparency_in_its_three_forms(tmp_path):
    grey_alpha = _words(3, 4, 2).astype(">u2")
    _png(tmp_path / "la.png", grey_alpha, depth=16, colour_type=4)
    rgba = images.load_rgba(tmp_path / "la.png")
    assert_close(rgba[0, 0], torch.from_numpy(grey_alpha[..., 0] / 65535.0).float())
    assert_close(rgba[0, 3], torch.from_numpy(grey_alpha[..., 1] / 65535.0).float())
    colours = _words(3, 4, 3).astype(">u2")
    _png(tmp_path / "rgb.png", colours, depth=16, colour_type=2, before_pixels=b"tRNS" + colours[1, 2].tobytes())
    alpha = images.load_photo(tmp_path / "rgb.png").alpha
    assert (alpha[0, 1, 2], alpha.sum()) == (0.0, 11.0)
    greys = np.arange(12, dtype=">u2").reshape(3, 4) * 5000
    _png(tmp_path / "grey.png", greys, depth=16, colour_type=0, before_pixels=b"tRNS" + greys[2, 3].tobytes())
    photo = images.load_photo(tmp_path / "grey.png")
    assert (photo.alpha[0, 2, 3], photo.alpha.sum(), photo.bit_depth) == (0.0, 11.0, 16)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "depth"), [(".jpg", 8), (".png", 8), (".webp", 8), (".tif", 8), (".png", 16), (".tif", 16)]
)
def test_orientation_is_applied(tmp_path, orientation, suffix, depth):
    """Against the definition: where the corner marks of the stored picture come to stand."""
    stored = np.zeros((16, 24, 3), np.uint8)
    stored[:8, :8] = (250, 0, 0)  # row 0, column 0
    stored[:8, 16:] = (0, 250, 0)  # row 0, last column
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    if depth == 8:
        Image.fromarray(stored).save(path, exif=exif.tobytes(), **({"lossless": True} if suffix == ".webp" else {}))
    elif suffix == ".png":
        chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\x00\x00")
        _png(path, stored.astype(">u2") * 257, depth=16, colour_type=2, before_pixels=chunk)
    else:
        tifffile = pytest.importorskip("tifffile")
        deep = stored.astype(np.uint16) * 257
        tifffile.imwrite(path, deep, photometric="rgb", extratags=[(0x0112, 3, 1, orientation, True)])
    photo = images.load_photo(path)
    assert photo.size_hw == ((16, 24) if orientation < 5 else (24, 16))
    # EXIF 2.32: where row 0 and column 0 of the stored picture are seen
    row_0, column_0 = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
    for channel, sides in ((0, {row_0, column_0}), (1, {row_0, opposite[column_0]})):
        y = 3 if "top" in sides else -4
        x = 3 if "left" in sides else -4
        assert photo.image_srgb[0, channel, y, x] > 0.9
        assert photo.image_srgb[0, 1 - channel, y, x] < 0.1


def test_a_big_tiff_is_turned_too(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pixels = _words(3, 5, 3)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", bigtiff=True, extratags=[(274, 3, 1, 6, True)])
    assert_close(images.load_photo(tmp_path / "a.tif").image_srgb, _chw(np.rot90(pixels, -1).copy()))


def test_unusual_16_bit_tiffs_are_read_rightly_or_refused(tmp_path, caplog):
    tifffile = pytest.importorskip("tifffile")
    pixels = _words(4, 5, 4)
    pixels[..., :3] = np.minimum(pixels[..., :3], pixels[..., 3:])
    tifffile.imwrite(tmp_path / "premultiplied.tif", pixels, photometric="rgb", extrasamples=["assocalpha"])
    rgba = images.load_rgba(tmp_path / "premultiplied.tif")
    assert_close(rgba[:, :3] * rgba[:, 3:], _chw(pixels)[:, :3])
    tifffile.imwrite(tmp_path / "extra.tif", pixels, photometric="rgb", extrasamples=["unspecified"])
    with caplog.at_level(logging.INFO):
        photo = images.load_photo(tmp_path / "extra.tif")
    assert photo.alpha is None
    assert "further channel" in caplog.text
    tifffile.imwrite(tmp_path / "negative.tif", pixels[..., 0], photometric="miniswhite")
    assert_close(images.load_disparity(tmp_path / "negative.tif"), 1.0 - _chw(pixels)[:, 0])
    tifffile.imwrite(
        tmp_path / "planes.tif", np.moveaxis(pixels[..., :3], 2, 0), photometric="rgb", planarconfig="separate"
    )
    with pytest.raises(InputError, match=r"planes\.tif: 16-bit TIFFs with separate planes are not supported"):
        images.load_photo(tmp_path / "planes.tif")
    for name, kind in (("signed.tif", np.int16), ("long.tif", np.uint32)):
        tifffile.imwrite(tmp_path / name, pixels[..., 0].astype(kind))
        with pytest.raises(InputError, match=f"{name}: holds 32-bit or signed integers"):
            images.load_disparity(tmp_path / name)
    tifffile.imwrite(tmp_path / "la.tif", pixels[..., :2], photometric="minisblack", extrasamples=["unassalpha"])
    with pytest.raises(InputError, match=r"la\.tif: this kind of TIFF \(uint8\) is not supported"):
        images.load_photo(tmp_path / "la.tif")


def test_a_deep_file_that_opencv_reads_with_8_bits_is_refused(tmp_path, monkeypatch):
    images.save_image(tmp_path / "a.png", torch.rand(1, 3, 4, 5), bit_depth=16)
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(InputError, match=r"a\.png: this kind of 16-bit file is not supported"):
        images.load_photo(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["TIFF", "MPO", "GIF", "PNG", "WEBP"])
def test_several_pictures_in_one_file(tmp_path, caplog, kind):
    """Telephones write two JPEGs into one file (MPO), with the name of one."""
    first, second = (Image.new("RGB", (16, 8), colour) for colour in ("red", "blue"))
    path = tmp_path / ("a.jpg" if kind == "MPO" else f"a.{kind.lower()}")
    first.save(path, format=kind, save_all=True, append_images=[second])
    with caplog.at_level(logging.INFO):
        photo = images.load_photo(path)
    torch.testing.assert_close(photo.image_srgb[0, :, 0, 0], torch.tensor([1.0, 0.0, 0.0]), atol=0.02, rtol=0)
    assert "holds 2 pictures; the first is used" in caplog.text


# --- floats


def test_float_tiffs_are_display_values(tmp_path, caplog):
    values = RANDOM.random((5, 6, 3)).astype(np.float32) * 2
    values[0, 0, 0] = -0.5
    cv2.imwrite(str(tmp_path / "a.tif"), values[..., ::-1])
    with caplog.at_level(logging.INFO):
        photo = images.load_photo(tmp_path / "a.tif")
    assert photo.bit_depth == 32
    assert_close(photo.image_srgb, torch.from_numpy(values.clip(min=0)).permute(2, 0, 1)[None])
    assert "taken as display values" in caplog.text
    assert "values below 0" in caplog.text


def test_radiance_files_hold_light(tmp_path):
    light = np.full((4, 5, 3), 4.0, np.float32)
    cv2.imwrite(str(tmp_path / "a.hdr"), light)
    photo = images.load_photo(tmp_path / "a.hdr")
    torch.testing.assert_close(photo.image_srgb, torch.full((1, 3, 4, 5), 4.0 ** (1 / 2.2)), rtol=0.01, atol=0)
    with pytest.raises(InputError, match="more than the limit of 10"):
        images.load_photo(tmp_path / "a.hdr", max_pixels=10)


def test_openexr_is_read_by_opencv_where_its_own_library_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("bokehdiff.images.decode.importlib.util.find_spec", lambda name: None)
    (tmp_path / "a.exr").write_bytes(b"\x76\x2f\x31\x01 the rest")
    with pytest.raises(InputError, match=r"a\.exr: OpenEXR cannot be read .*bokehdiff\[exr\].* float TIFF or \.npy"):
        images.load_photo(tmp_path / "a.exr")
    depth = np.linspace(0, 3, 12, dtype=np.float32).reshape(3, 4)
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: depth)
    assert_close(images.load_disparity(tmp_path / "a.exr"), torch.from_numpy(depth)[None])


def write_exr(path, channels):
    import OpenEXR

    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, channels).write(str(path))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_openexr_holds_light(tmp_path, dtype):
    light = np.random.default_rng(0).uniform(0, 4, (4, 5, 3)).astype(dtype)
    write_exr(tmp_path / "a.exr", {"RGB": light})
    expected = torch.from_numpy(light.astype(np.float32)).permute(2, 0, 1)[None]
    assert_close(images.srgb_to_linear(images.load_photo(tmp_path / "a.exr").image_srgb), expected)
    rgba = np.dstack([light, np.full((4, 5), 0.25, dtype)])
    write_exr(tmp_path / "b.exr", {"RGBA": rgba})
    assert_close(images.load_photo(tmp_path / "b.exr").alpha, torch.full((1, 4, 5), 0.25))
    depth = np.linspace(0, 3, 20, dtype=dtype).reshape(4, 5)
    for name in ("V", "Z", "Y"):
        write_exr(tmp_path / "c.exr", {name: depth})
        assert_close(images.load_disparity(tmp_path / "c.exr"), torch.from_numpy(depth.astype(np.float32))[None])


def test_openexr_that_is_damaged_is_refused(tmp_path):
    write_exr(tmp_path / "a.exr", {"RGB": np.zeros((4, 5, 3), np.float32)})
    (tmp_path / "a.exr").write_bytes((tmp_path / "a.exr").read_bytes()[:100])
    with pytest.raises(InputError, match=r"a\.exr: is damaged or cut short and cannot be read"):
        images.load_photo(tmp_path / "a.exr")


def test_a_float_photograph_with_nan_is_refused(tmp_path):
    values = np.full((2, 3, 3), np.nan, np.float32)
    cv2.imwrite(str(tmp_path / "a.tif"), values)
    with pytest.raises(InputError, match=r"a\.tif: holds 18 values that are NaN or infinite"):
        images.load_photo(tmp_path / "a.tif")


# --- what is refused


@pytest.mark.parametrize("load", [images.load_photo, images.load_disparity, images.load_mask, images.load_rgba])
def test_missing_empty_and_wrong_files_are_refused_by_name(tmp_path, load):
    with pytest.raises(InputError, match=r"gone\.png: no such file"):
        load(tmp_path / "gone.png")
    with pytest.raises(InputError, match="is a folder; expected a file"):
        load(tmp_path)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(InputError, match=r"empty\.jpg: the file is empty"):
        load(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("this is a text file, not a picture\n" * 20)
    with pytest.raises(InputError, match=r"text\.jpg: is not an image that can be read"):
        load(tmp_path / "text.jpg")


@pytest.mark.parametrize("share", [0.03, 0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    "name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.bmp", "a.gif", "deep.png", "deep.tif", "float.tif", "ours.tif"]
)
def test_truncated_files_are_refused_by_name(tmp_path, name, share):
    whole = tmp_path / name
    if name == "float.tif":
        cv2.imwrite(str(whole), RANDOM.random((40, 40, 3)).astype(np.float32))
    elif name == "ours.tif":
        images.save_image(whole, torch.rand(1, 3, 40, 40), bit_depth=16)
    elif name.startswith("deep"):
        cv2.imwrite(str(whole), _words(40, 40, 3))
    else:
        Image.fromarray(_bytes(40, 40, 3)).save(whole)
    assert images.load_photo(whole).size_hw == (40, 40)
    data = whole.read_bytes()
    whole.write_bytes(data[: max(int(len(data) * share), 1)])
    with pytest.raises(InputError, match=rf"{name}: (is|this)") as caught:
        images.load_photo(whole)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_give_a_picture_or_our_error(data, tmp_path_factory):
    """Whatever a few changed bytes do to a parser, the caller sees one kind of error."""
    suffix = data.draw(st.sampled_from([".jpg", ".png", ".tif", ".webp"]))
    path = tmp_path_factory.mktemp("damaged") / f"a{suffix}"
    images.save_image(path, torch.rand(1, 3, 9, 11, generator=torch.Generator().manual_seed(0)))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        assert images.load_photo(path, max_pixels=10_000).image_srgb.shape[:2] == (1, 3)


def test_huge_pictures_are_refused_unless_the_limit_is_raised(tmp_path, monkeypatch):
    Image.new("L", (60, 50)).save(tmp_path / "a.png")
    cv2.imwrite(str(tmp_path / "float.tif"), np.zeros((50, 60, 3), np.float32))
    for limit in (2999, 1000):  # Pillow itself would warn at the first, and fail at the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for name in ("a.png", "float.tif"):
            with pytest.raises(InputError, match=rf"{name}: has 60 x 50 pixels, more than the limit of {limit}"):
                images.load_photo(tmp_path / name)
            assert images.load_photo(tmp_path / name, max_pixels=3000).size_hw == (50, 60)
            for load in (images.load_disparity, images.load_mask, images.load_rgba):
                assert load(tmp_path / name, max_pixels=3000).shape[-2:] == (50, 60)
    assert Image.MAX_IMAGE_PIXELS == 1000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert images.load_photo(tmp_path / "a.png").size_hw == (50, 60)


def test_a_postscript_file_is_not_handed_to_an_interpreter(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(InputError, match=r"a\.jpg: is not an image that can be read"):
        images.load_photo(tmp_path / "a.jpg")


def test_heic_says_what_to_install_and_uses_it_once_there(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\x00\x00\x00\x18ftypheic" + b"\x00" * 40)
    with pytest.raises(InputError, match=r"a\.heic: HEIC cannot be read here; pip install pillow-heif"):
        images.load_photo(tmp_path / "a.heic")
    registered = []
    plugin = types.ModuleType("pillow_heif")
    plugin.__spec__ = types.SimpleNamespace()
    plugin.register_heif_opener = lambda: registered.append(True)
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    with pytest.raises(InputError, match="HEIC"):
        images.load_photo(tmp_path / "a.heic")
    assert registered == [True]


def test_pillows_warnings_become_logged_lines_with_the_file(tmp_path, caplog, monkeypatch):
    Image.new("P", (3, 2)).save(tmp_path / "a.png")
    real = decode._plain_mode

    def warns(picture):
        import warnings

        warnings.warn("an odd palette", UserWarning, stacklevel=1)
        return real(picture)

    monkeypatch.setattr(decode, "_plain_mode", warns)
    with caplog.at_level(logging.WARNING):
        images.load_photo(tmp_path / "a.png")
    assert "a.png: an odd palette" in caplog.text


# --- disparity


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (7, 1), (13, 22)])
def test_disparity_is_read_as_stored_in_every_format(tmp_path, size_hw):
    words, octets = _words(*size_hw), _bytes(*size_hw)
    floats = RANDOM.random(size_hw, dtype=np.float32) * 3 - 1
    cv2.imwrite(str(tmp_path / "deep.png"), words)
    cv2.imwrite(str(tmp_path / "float.tif"), floats)
    Image.fromarray(octets).save(tmp_path / "grey.png")
    Image.fromarray(octets).convert("RGB").save(tmp_path / "colour.png")
    for name, array in (("f32", floats), ("f64", floats.astype(np.float64)), ("u8", octets), ("u16", words)):
        np.save(tmp_path / f"{name}.npy", array)
    expected = {
        "deep.png": words / 65535,
        "float.tif": floats,
        "grey.png": octets / 255,
        "colour.png": octets / 255,
        "f32.npy": floats,
        "f64.npy": floats,
        "u8.npy": octets / 255,
        "u16.npy": words / 65535,
    }
    for name, values in expected.items():
        got = images.load_disparity(tmp_path / name)
        assert got.dtype == torch.float32
        assert_close(got, torch.from_numpy(values.astype(np.float32))[None])


def test_disparity_shapes_that_mean_one_number_per_pixel(tmp_path):
    values = RANDOM.random((4, 6), dtype=np.float32)
    for index, array in enumerate(
        (values, values[None], values[..., None], values[None, None], values[None, ..., None])
    ):
        np.save(tmp_path / f"{index}.npy", array)
        assert_close(images.load_disparity(tmp_path / f"{index}.npy"), torch.from_numpy(values)[None])
    for name, array in (("rgb", np.zeros((4, 6, 3))), ("flat", np.zeros(4)), ("none", np.zeros((0, 4)))):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(InputError, match=rf"{name}\.npy: expected one number per pixel"):
            images.load_disparity(tmp_path / f"{name}.npy")


def test_invert_turns_near_dark_into_near_bright(tmp_path):
    Image.fromarray(np.array([[0, 255, 51]], np.uint8)).save(tmp_path / "a.png")
    assert_close(images.load_disparity(tmp_path / "a.png", invert=True), torch.tensor([[[1.0, 0.0, 0.8]]]))
    np.save(tmp_path / "b.npy", np.array([[0.0, 0.25]]))
    assert_close(images.load_disparity(tmp_path / "b.npy", invert=True), torch.tensor([[[1.0, 0.75]]]))
    np.save(tmp_path / "metres.npy", np.array([[0.5, 12.0]]))
    with pytest.raises(InputError, match=r"metres\.npy: only a map in \[0, 1\] can be inverted; got 0.5 to 12"):
        images.load_disparity(tmp_path / "metres.npy", invert=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_disparity_with_nan_or_infinity_is_refused_by_name(tmp_path, bad):
    values = np.zeros((3, 4), np.float32)
    values[1, 2] = bad
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", values)
    cv2.imwrite(str(tmp_path / "a.tif"), values)
    for name in ("a.npy", "a.npz", "a.tif"):
        with pytest.raises(InputError, match=rf"{name}: holds 1 values that are NaN or infinite, of 12"):
            images.load_disparity(tmp_path / name)
    np.save(tmp_path / "vast.npy", np.full((2, 2), 1e300))
    with pytest.raises(InputError, match=r"vast\.npy: holds 4 values that are NaN or infinite"):
        images.load_disparity(tmp_path / "vast.npy")


def test_archives_are_read_by_key(tmp_path):
    near, far = RANDOM.random((2, 3, 4), dtype=np.float32)
    np.savez_compressed(tmp_path / "one.npz", disparity=near)
    np.savez_compressed(tmp_path / "two.npz", disparity=near, other=far)
    assert_close(images.load_disparity(tmp_path / "one.npz"), torch.from_numpy(near)[None])
    assert_close(images.load_disparity(tmp_path / "two.npz", key="other"), torch.from_numpy(far)[None])
    with pytest.raises(InputError, match=r"two\.npz: holds 2 arrays \(disparity, other\); name one of them as the key"):
        images.load_disparity(tmp_path / "two.npz")
    with pytest.raises(InputError, match=r"one\.npz: holds no array 'depth'; it holds disparity"):
        images.load_disparity(tmp_path / "one.npz", key="depth")


def test_a_key_needs_an_archive(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 2)))
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    for name in ("a.npy", "a.png"):
        with pytest.raises(InputError, match=rf"{name}: key 'x' names an array in a \.npz file"):
            images.load_disparity(tmp_path / name, key="x")


def test_damaged_arrays_are_refused_by_name(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((50, 50)))
    np.savez(tmp_path / "a.npz", disparity=np.zeros((50, 50)))
    for name in ("a.npy", "a.npz"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(InputError, match=rf"{name}: is damaged, cut short or holds objects"):
            images.load_disparity(tmp_path / name)
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(InputError, match=r"objects\.npy: is damaged, cut short or holds objects"):
        images.load_disparity(tmp_path / "objects.npy")
    np.savez(tmp_path / "objects.npz", disparity=np.array([{"a": 1}]))
    with pytest.raises(InputError, match=r"objects\.npz: is damaged, cut short or holds objects"):
        images.load_disparity(tmp_path / "objects.npz")
    np.save(tmp_path / "long.npy", np.zeros((2, 2), np.int64))
    with pytest.raises(InputError, match=r"long\.npy: holds int64, whose scale is not known"):
        images.load_disparity(tmp_path / "long.npy")


def test_a_coloured_disparity_is_refused(tmp_path):
    Image.fromarray(_bytes(4, 5, 3)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: a disparity must be grey; got colours"):
        images.load_disparity(tmp_path / "a.png")


def test_transparency_in_a_disparity_map_is_said(tmp_path, caplog):
    Image.new("LA", (3, 2), (100, 50)).save(tmp_path / "a.png")
    with caplog.at_level(logging.WARNING):
        assert_close(images.load_disparity(tmp_path / "a.png"), torch.full((1, 2, 3), 100 / 255))
    assert "transparency, which is not used" in caplog.text


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the test photographs")
def test_real_photographs_and_their_maps():
    for path in images.find_images(SHARED / "photos"):
        if "depth" in path.name or "disparity" in path.name:
            disparity = images.load_disparity(path)
            assert 0.0 <= disparity.min() < disparity.max() <= 1.0
        else:
            assert images.load_photo(path).image_srgb.std() > 0.05


# --- masks and foregrounds


def test_masks_from_greys_arrays_and_cut_outs(tmp_path):
    mask = np.zeros((4, 5), np.uint8)
    mask[1:3, 2:] = 255
    expected = torch.from_numpy(mask / 255.0).float()[None]
    Image.fromarray(mask).save(tmp_path / "grey.png")
    Image.fromarray(mask > 0).save(tmp_path / "bits.png")
    cut_out = np.dstack([_bytes(4, 5, 3), mask])
    Image.fromarray(cut_out).save(tmp_path / "cut_out.png")
    np.save(tmp_path / "bool.npy", mask > 0)
    np.savez(tmp_path / "many.npz", mask=mask, other=mask)
    for name in ("grey.png", "bits.png", "cut_out.png", "bool.npy"):
        assert_close(images.load_mask(tmp_path / name), expected)
    assert_close(images.load_mask(tmp_path / "many.npz", key="mask"), expected)
    np.save(tmp_path / "wide.npy", mask.astype(np.float32))
    with pytest.raises(InputError, match=r"wide\.npy: a mask must lie in \[0, 1\]; got 0 to 255"):
        images.load_mask(tmp_path / "wide.npy")


def test_a_foreground_without_transparency_is_opaque(tmp_path, caplog):
    pixels = _bytes(3, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with caplog.at_level(logging.INFO):
        rgba = images.load_rgba(tmp_path / "a.png")
    assert_close(rgba, torch.cat([_chw(pixels), torch.ones(1, 1, 3, 4)], dim=1))
    assert "counts as opaque" in caplog.text


# --- finding


def test_images_are_found_in_natural_order(tmp_path, caplog):
    for name in ("img10.png", "img2.PNG", "Img1.jpg", "notes.txt", ".hidden.png", "b.webp"):
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "c.png").touch()
    with caplog.at_level(logging.INFO):
        names = [path.name for path in images.find_images(tmp_path)]
    assert names == ["b.webp", "Img1.jpg", "img2.PNG", "img10.png"]
    assert "1 files are not images" in caplog.text
    assert [path.name for path in images.find_images(str(tmp_path / "*.png"))] == ["img10.png"]
    assert [path.name for path in images.find_images(f"{tmp_path}/**/*.png")] == ["img10.png", "c.png"]
    assert images.find_images(tmp_path / "b.webp") == [tmp_path / "b.webp"]


def test_a_name_with_brackets_is_a_name(tmp_path):
    folder = tmp_path / "holiday [2024]"
    folder.mkdir()
    (folder / "a [1].png").touch()
    assert images.find_images(folder) == [folder / "a [1].png"]
    assert images.find_images(folder / "a [1].png") == [folder / "a [1].png"]


def test_nothing_found_is_an_error_that_says_what_was_there(tmp_path):
    with pytest.raises(InputError, match="the folder holds no image; images end in"):
        images.find_images(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds no image, only \.txt"):
        images.find_images(tmp_path)
    with pytest.raises(InputError, match="no such file or folder, and no image matches"):
        images.find_images(tmp_path / "*.png")


def test_scikit_image_agrees_with_our_reading(tmp_path):
    """An independent reader, over the formats that both know."""
    pixels = _words(7, 9, 3)
    images.save_image(tmp_path / "a.png", _chw(pixels), bit_depth=16)
    images.save_image(tmp_path / "a.tif", _chw(pixels), bit_depth=16)
    assert np.array_equal(skimage.io.imread(tmp_path / "a.tif"), pixels)
    assert_close(images.load_photo(tmp_path / "a.png").image_srgb, _chw(pixels))
