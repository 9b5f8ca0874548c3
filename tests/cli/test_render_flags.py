"""What each flag of `bokehdiff render` does: spellings of other programs, the lens, sweeps, files of every kind."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from bokehdiff import images
from bokehdiff.cli.main import main
from bokehdiff.errors import InputError, MissingDependencyError
from bokehdiff.optics import Aperture, Lens
from bokehdiff.renderers import render_photo
from tests.cli.test_render import expected, render, result
from tests.helpers import psnr

ASKED_LIKE_DR_BOKEH = "--rgb {photo} --K_blur 12 --focal 0.75 --disp {disparity} --lens 71 --alpha {matte} --gamma 1.8"


def test_the_command_of_dr_bokeh_is_understood(scene):
    mask = torch.zeros(1, 33, 47)
    mask[:, 10:22, 12:30] = 1.0
    matte = torch.cat([torch.rand(1, 3, 33, 47), mask[:, None]], dim=1)
    images.save_image(scene / "matte.png", matte)
    np.savez(scene / "disparity.npz", data=np.load(scene / "depth" / "a_pred.npy"))
    files = {"photo": scene / "photos" / "a.png", "disparity": scene / "disparity.npz", "matte": scene / "matte.png"}
    words = ASKED_LIKE_DR_BOKEH.format(**files).split()
    assert main(["render", *words, "--ofile", str(scene / "result" / "out.png"), "--verbose"]) == 0
    image = images.load_photo(files["photo"]).image_srgb
    light = images.srgb_to_linear(image, transfer=1.8)
    blurred = render_photo(light, images.load_disparity(files["disparity"]), Lens(0.75, 12.0), matte=mask)
    expected_srgb = images.linear_to_srgb(blurred, transfer=1.8).clamp(0, 1)
    assert psnr(images.load_photo(scene / "result" / "out.png").image_srgb, expected_srgb) > 50
    assert (scene / "result" / "intermediates" / "a" / "overview.png").exists()


@pytest.mark.parametrize(
    ("words", "lens"),
    [
        (["-K", "9", "--disp_focus", "51/255"], {"focus_disparity": 0.2, "strength_px": 9.0}),
        (["--f", "2", "--focal-length", "50", "--distance", "4"], {"focus_disparity": 0.25}),
    ],
)
def test_short_and_foreign_spellings_mean_the_same(scene, words, lens):
    assert render(scene, *words) == 0
    with Image.open(scene / "out" / "a.png") as picture:
        note = yaml.safe_load(picture.text["Comment"])
    assert {name: note[name] for name in lens} == lens


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lens", "wide"], "--lens: must be the side of a window [px]; got 'wide'"),
        (["--focal", "90/0"], "--focal: must be a number; got '90/0'"),
        (["--output", "a"], "--output: must be a file with one of .png"),
        (["--output", "a.gif"], "--output: .gif holds a sweep"),
        (["--output", "a.png", "--focus-sweep", "2"], "--output: .png holds one picture"),
        (["--sweep-format", "gif"], "--sweep-format: needs a sweep"),
        (["--focus-sweep", "2", "--aperture-sweep", "2"], "--aperture-sweep: sweeps the lens while"),
        (["--focus-sweep", "2", "--verbose"], "--verbose: shows how one picture is made"),
        (["--jobs", "-1"], "--jobs: must be 0 or more; got -1"),
        (["--largest-radius", "0"], "--largest-radius: must be above 0 px; got 0"),
        (["--depth-scale", "0"], "--depth-scale: must be above 0; got 0"),
        (["--focus-distance-m", "3"], "--focus-distance-m: a distance needs maps that know distances"),
        (["--depth-is", "metric", "--focus-distance-m", "-3"], "--focus-distance-m: must be above 0 m; got -3"),
        (["--depth-is", "metric", "--invert-disparity"], "--invert-disparity: is for maps of disparity"),
    ],
)
def test_flags_that_cannot_work_are_refused_before_anything_is_read(scene, words, message, capsys):
    assert render(scene, *words) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (scene / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--blades", "2"], "--blades: blades must be"),
        (["--blade-rounding", "2"], "--blade-rounding: rounding must be in [0, 1]; got 2"),
        (["--spherical-aberration", "-2"], "--spherical-aberration: edge must be in [-1, 1]; got -2"),
        (["--cat-eye", "2"], "--cat-eye: cat_eye must be in [0, 1]; got 2"),
        (["--aperture-image", "nowhere.png"], "--aperture-image: nowhere.png: no such file"),
        (["--focus-shift-rgb", "1,2"], "--focus-shift-rgb: expected R,G,B; got '1,2'"),
        (["--magnification-rgb", "1,2,1"], "--magnification-rgb: magnification_rgb must be within"),
        (["--transfer", "7"], "--transfer: the transfer curve must be"),
    ],
)
def test_each_fault_of_the_lens_is_blamed_on_its_flag(scene, words, message, capsys):
    assert render(scene, *words) == 1
    assert message in capsys.readouterr().out


def test_every_property_of_a_lens_reaches_the_renderer(scene):
    heart = torch.rand(1, 5, 9).round()
    images.save_disparity(scene / "heart.png", heart)
    words = [
        "--K",
        "12",
        "--focus",
        "0.75",
        "--aperture-image",
        str(scene / "heart.png"),
        "--spherical-aberration",
        "0.5",
    ]
    words += ["--focus-shift-rgb", "-0.1,0,0.1", "--magnification-rgb", "1.02,1,0.98", "--blade-rotation-deg", "20"]
    assert render(scene, *words, "--cat-eye", "0.7", "--vignetting", "--method", "scatter") == 0
    square = torch.nn.functional.pad(heart[0], (0, 0, 2, 2))
    aperture = Aperture(transmission=square, edge=0.5, rotation_deg=20.0, cat_eye=0.7, falloff=True)
    lens = Lens(0.75, 12.0, aperture, focus_shift_rgb=(-0.1, 0.0, 0.1), magnification_rgb=(1.02, 1.0, 0.98))
    assert psnr(result(scene), expected(scene, lens, method="scatter")) > 50


def test_the_largest_radius_limits_the_blur_on_both_sides(scene):
    assert render(scene, "--K", "40", "--focus", "0.5", "--largest-radius", "4", "--method", "scatter") == 0
    assert psnr(result(scene), expected(scene, Lens(0.5, 16.0), method="scatter")) > 50, "0.25 * 40 is limited to 4"


@pytest.mark.parametrize(("suffix", "n_pictures"), [(".gif", 3), (".mp4", 3)])
def test_sweeps_become_animations(scene, suffix, n_pictures):
    words = ["render", str(scene / "photos" / "a.png"), str(scene / "depth"), "--method", "scatter", "--fps", "5"]
    target = scene / f"sweep{suffix}"
    assert main([*words, "--output", str(target), "--aperture-sweep", "3", "--K", "12"]) == 0
    video = cv2.VideoCapture(str(target))
    shown = []
    while (read := video.read())[0]:
        shown.append(torch.from_numpy(read[1][:33, :47, ::-1].copy()).permute(2, 0, 1)[None] / 255)
    assert len(shown) == n_pictures
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(5.0)
    for picture, strength_px in zip(shown, (0.0, 6.0, 12.0), strict=True):
        assert psnr(picture, expected(scene, Lens(0.75, strength_px), method="scatter")) > 20


def test_sweeps_of_a_folder_lie_beside_each_other(scene):
    assert render(scene, "--focus-sweep", "2", "--sweep-format", "gif", "--method", "scatter") == 0
    assert sorted(path.name for path in (scene / "out").iterdir()) == ["a_sweep.gif", "b_sweep.gif"]


def test_what_the_renderer_works_with_can_be_looked_at(scene):
    mask = torch.zeros(1, 33, 47)
    mask[:, 10:22, 12:30] = 1.0
    images.save_disparity(scene / "mask.npy", mask)
    words = ["render", str(scene / "photos" / "a.png"), str(scene / "depth"), "--matte", str(scene / "mask.npy")]
    assert main([*words, "--output-dir", str(scene / "out"), "--focus", "0.5", "--verbose"]) == 0
    folder = scene / "out" / "intermediates" / "a"
    names = {path.name for path in folder.iterdir()}
    assert {"disparity.png", "coc.png", "matte.png", "overview.png", "surface_1.png", "surface_2.png"} <= names
    coc = images.load_photo(folder / "coc.png").image_srgb
    assert coc[0, 0, 15, 20] > coc[0, 2, 15, 20], "red before the focus"
    assert coc[0, 2, 3, 3] > coc[0, 0, 3, 3], "blue behind it"
    subject = images.load_rgba(folder / "surface_1.png")
    assert subject[0, 3, 15, 20] == 1.0
    assert subject[0, 3, 3, 3] == 0.0
    other = scene / "elsewhere"
    assert main([*words, "--output-dir", str(scene / "out"), "--save-intermediates", str(other)]) == 0
    assert (other / "a" / "overview.png").exists()


def test_a_picture_tells_how_it_was_made_without_folders(scene):
    assert render(scene, "--K", "12", "--focus-point", "3,3", "--blades", "6", "--format", "jpg") == 0
    with Image.open(scene / "out" / "a.jpg") as picture:
        text = picture.info["comment"].decode()
    note = yaml.safe_load(text)
    assert note["made_by"].startswith("bokehdiff ")
    assert (note["focus_disparity"], note["strength_px"], note["blades"]) == (0.25, 12.0, 6)
    assert str(scene) not in text


@pytest.mark.parametrize("words", [["--f-number", "2", "--focal-length-mm", "50"], ["--K", "12"]])
def test_maps_of_distance_are_those_of_its_inverse(scene, words):
    """Distances 4 m and 4 / 3 m are the disparities 0.25 and 0.75 per metre; as [0, 1], 0 and 1."""
    camera = words[0] == "--f-number"
    for depth_is, turn, scale in (("inverse", lambda d: d, "1"), ("metric", lambda d: 500.0 / d, "0.002")):
        for name in ("a", "b"):
            original = np.full((33, 47), 0.25, np.float32)
            original[10:22, 12:30] = 0.75
            np.save(scene / "depth" / f"{name}_pred.npy", turn(original))
        more = ["--depth-is", depth_is, "--depth-scale", scale, "--focus-distance-m", "4", "--method", "scatter"]
        assert render(scene, *words, *more) == 0
        stretched = (torch.from_numpy(original)[None] - 0.25) / (1.0 if camera else 0.5)
        lens = Lens(0.0, 50 / 36 * 47 * 0.0125 if camera else 12.0)
        image = images.load_photo(scene / "photos" / "a.png").image_srgb
        blurred = render_photo(images.srgb_to_linear(image), stretched, lens, method="scatter")
        assert psnr(result(scene), images.linear_to_srgb(blurred).clamp(0, 1)) > 50


def test_distances_that_are_none_are_refused(scene, capsys):
    for value, message in ((0.0, "distances must be above 0; got 0"), (3.0, "all is at one distance, 3 m")):
        for name in ("a", "b"):
            np.save(scene / "depth" / f"{name}_pred.npy", np.full((33, 47), value, np.float32))
        assert render(scene, "--depth-is", "metric") == 1
        assert message in capsys.readouterr().out


def stored(kind: str, upright: Image.Image) -> tuple[Image.Image, str, dict]:
    """The picture in another form: file object, suffix, options of saving."""
    if kind == "turned":
        exif = Image.Exif()
        exif[274] = 6  # stands on its left side: to be turned clockwise
        return upright.transpose(Image.Transpose.ROTATE_90), ".jpg", {"exif": exif, "quality": 100, "subsampling": 0}
    if kind == "CMYK":
        return upright.convert("CMYK"), ".jpg", {"quality": 100, "subsampling": 0}
    if kind == "16 bits":
        return Image.fromarray(np.asarray(upright.convert("L")).astype(np.uint16) * 257), ".png", {}
    return upright.quantize(256) if kind == "P" else upright.convert(kind), ".png", {}


@pytest.mark.parametrize("kind", ["turned", "CMYK", "16 bits", "L", "P", "RGBA", "LA"])
def test_photographs_of_every_kind_are_rendered_upright_in_their_colours(tmp_path, kind):
    columns, rows = np.meshgrid(np.linspace(0, 220, 48), np.linspace(20, 200, 32))
    upright = Image.fromarray(np.stack([columns, rows, 0 * rows + 90], axis=2).astype(np.uint8))
    if kind in {"16 bits", "L", "LA"}:
        upright = upright.convert("L").convert("RGB")
    picture, suffix, options = stored(kind, upright)
    picture.save(tmp_path / f"a{suffix}", **options)
    np.save(tmp_path / "a_depth.npy", np.zeros((32, 48), np.float32))
    assert main(["render", str(tmp_path / f"a{suffix}"), "--output-dir", str(tmp_path / "out"), "--K", "0"]) == 0
    with Image.open(tmp_path / "out" / "a.png") as written:
        assert written.getexif().get(274, 1) == 1
        got = torch.from_numpy(np.array(written.convert("RGB"))) / 255
    assert psnr(got, torch.from_numpy(np.array(upright)) / 255) > 28


def test_light_goes_in_and_out_of_openexr_as_it_is(scene):
    """Beyond white, and whatever the curve for display values."""
    light = torch.rand(1, 3, 33, 47) * 6.0
    images.save_light(scene / "photos" / "a.exr", light)
    words = ["render", str(scene / "photos" / "a.exr"), str(scene / "depth"), "--transfer", "1.8", "--focus", "0.5"]
    assert main([*words, "--output", str(scene / "out.exr"), "--K", "12"]) == 0
    blurred = render_photo(light, images.load_disparity(scene / "depth" / "a_pred.npy"), Lens(0.5, 12.0))
    got = images.srgb_to_linear(images.load_photo(scene / "out.exr").image_srgb)
    assert blurred.max() > 1.5
    torch.testing.assert_close(got, blurred, rtol=1e-3, atol=1e-3)
    sweep = [*words, "--output-dir", str(scene / "out"), "--focus-sweep", "2", "--format", "exr"]
    assert main([*sweep, "--K", "0"]) == 0
    closed = images.load_photo(scene / "out" / "a_sweep" / "001.exr").image_srgb
    torch.testing.assert_close(images.srgb_to_linear(closed), light, rtol=1e-3, atol=1e-3)
    assert main([*sweep, "--sweep-format", "gif"]) == 0
    assert (scene / "out" / "a_sweep.gif").exists()


def test_a_device_that_is_not_there_is_an_error_of_its_flag(scene, capsys):
    assert render(scene, "--device", "cuda:77") != 0
    assert "--device: 'cuda:77' cannot be used here" in capsys.readouterr().err
    assert render(scene, "--device", "auto", "--method", "scatter", "--verbose") == 0


def test_light_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"light is written as \.exr; got '.png'"):
        images.save_light(tmp_path / "a.png", torch.rand(1, 3, 2, 2))
    with pytest.raises(InputError, match="must be finite; got NaN or infinity"):
        images.save_light(tmp_path / "a.exr", torch.full((1, 3, 2, 2), torch.nan))
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(MissingDependencyError, match=r"pip install bokehdiff\[exr\]"):
        images.save_light(tmp_path / "a.exr", torch.rand(1, 3, 2, 2))
