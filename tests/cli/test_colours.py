"""Wide-gamut photographs through the commands that write pictures: what comes out looks like what went in."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from PIL.ExifTags import IFD, Base

from bokehdiff import images
from bokehdiff.cli.main import main
from tests.profiles import ADOBE_RGB, DISPLAY_P3

ON_ITS_SIDE = 6  # EXIF orientation: to be turned by a quarter


@pytest.fixture(params=[ADOBE_RGB, DISPLAY_P3], ids=["Adobe RGB", "Display P3"])
def photographed(request, tmp_path):
    """As a camera writes it that was held upright: landscape pixels, turned by EXIF, in a wide space."""
    for name in ("input", "depth"):
        (tmp_path / name).mkdir()
    smooth = images.resize(torch.rand(1, 3, 4, 6), (40, 60))[0].permute(1, 2, 0).numpy()
    exif = Image.Exif()
    exif[Base.Orientation] = ON_ITS_SIDE
    exif.get_ifd(IFD.Exif).update({Base.FNumber: 2.0, Base.ColorSpace: 65535})
    stored = Image.fromarray(np.round(smooth * 120 + 60).astype(np.uint8))
    stored.save(tmp_path / "input" / "a.jpg", quality=100, subsampling=0, exif=exif, icc_profile=request.param)
    np.save(tmp_path / "depth" / "a_pred.npy", np.tile(np.linspace(0, 1, 40, dtype=np.float32), (60, 1)))
    return tmp_path


def as_shown(path) -> np.ndarray:
    """What a program that manages colours and orientation shows, in 8-bit sRGB."""
    from PIL import ImageOps

    with Image.open(path) as picture:
        source = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    shown = ImageCms.profileToProfile(upright, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return np.asarray(shown, dtype=np.float64)


@pytest.mark.parametrize(("format", "bit_depth"), [("jpg", 8), ("png", 16), ("tif", 8), ("webp", 8)])
@pytest.mark.parametrize("command", ["infer", "render"])
def test_a_lens_that_blurs_nothing_changes_no_colour(photographed, command, format, bit_depth):
    photo = photographed / "input" / "a.jpg"
    words = ["--K", "0", "--output-dir", photographed / "out", "--format", format, "--bit-depth", bit_depth]
    if command == "infer":
        words += ["--renderer", "physical", "--focus", "0.5", "--test-data-dir", photo]
    else:
        words += [photo, "--disparity", photographed / "depth" / "a_pred.npy", "--focus", "0.5"]
    assert main([command, *map(str, words)]) == 0
    (written,) = (photographed / "out").rglob(f"*.{format}")
    shown, expected = as_shown(written), as_shown(photo)
    assert shown.shape == expected.shape == (60, 40, 3)
    assert np.abs(shown - expected).mean() < 2.0
    with Image.open(written) as picture:
        exif = picture.getexif()
        assert exif.get(Base.Orientation, 1) == 1
        assert exif.get_ifd(IFD.Exif)[Base.ColorSpace] == 1
        assert exif.get_ifd(IFD.Exif)[Base.FNumber] == 2.0
        assert "sRGB" in ImageCms.getProfileDescription(io.BytesIO(picture.info["icc_profile"]))
