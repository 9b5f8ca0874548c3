"""`bokehdiff infer` as a user runs it: every form of focus and strength, renderers, sweeps, files, what cannot work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from PIL.ExifTags import IFD, Base

from bokehdiff import images
from bokehdiff.cli.main import main
from bokehdiff.inference import BokehDiffPipeline
from bokehdiff.models import add_lora, load_sdxl, save_adapter
from bokehdiff.optics import Lens
from bokehdiff.renderers import render_photo
from tests.helpers import assert_close

PHYSICAL = ("--renderer", "physical", "--format", "png")


def infer(scene, *words: object, photo: str = "a.png") -> int:
    where = scene / "photos" / photo
    words = ("--test-data-dir", where, "--output-dir", scene / "out", "--device", "cpu", *words)
    return main(["infer", *map(str, words)])


def written(scene) -> list[str]:
    folder = scene / "out" / "demo"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def result(scene, name):
    return images.load_photo(scene / "out" / "demo" / name).image_srgb


@pytest.fixture
def photographed(scene):
    """The first photograph as a camera writes it: 50 mm, f/2, focused at 2 m, turned by its EXIF."""
    exif = Image.Exif()
    exif[Base.Model] = "camera"
    exif[Base.Orientation] = 1
    exif.get_ifd(IFD.Exif).update({Base.FNumber: 2.0, Base.FocalLength: 50.0, Base.SubjectDistance: 2.0})
    Image.open(scene / "photos" / "a.png").save(scene / "photos" / "a.jpg", exif=exif, quality=100, subsampling=0)
    return scene


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("--K", "6"), ["a_6_0.400.png", "a_6_1.000.png"]),  # the subject is the nearest: two of three pictures
        (("--focus", "subject"), ["a_20_1.000.png"]),
        (("--focus", "0.25", "--K", "6"), ["a_6_0.250.png"]),
        (("--focus", "3,3", "--K", "6"), ["a_6_0.000.png"]),
        (("--focus", "12,10,30,22", "--K", "6"), ["a_6_1.000.png"]),
        (("--focus", "1", "--strength", "10%"), ["a_4.7_1.000.png"]),
        (("--focus", "0.5m", "--strength", "3", "--nearest-m", "0.5"), ["a_3_1.000.png"]),
    ],
)
def test_focus_and_strength_in_every_form(scene, words, name):
    assert infer(scene, *PHYSICAL, *words) == 0
    assert written(scene) == name


def test_a_cameras_own_focus_and_opening(photographed):
    words = ("--focus", "camera", "--strength", "camera", "--nearest-m", 1, "--farthest-m", 4)
    assert infer(photographed, "--renderer", "physical", *words, photo="a.jpg") == 0
    (name,) = written(photographed)
    strength_px = 50 / 36 * 47 * (0.05 / 4) * (1 - 1 / 4)  # f_px * A * the spread of metric disparity
    assert name == f"a_{strength_px:g}_0.333.jpg"
    assert infer(photographed, "--renderer", "physical", "--f-number", 2, *words[:2], *words[4:], photo="a.jpg") == 0
    assert written(photographed) == [name], "the same opening by its number"


def test_physics_is_what_render_photo_makes_and_says_how_it_was_made(scene):
    assert infer(scene, *PHYSICAL, "--focus", "1", "--K", "8") == 0
    photo_srgb = images.load_photo(scene / "photos" / "a.png").image_srgb
    disparity = torch.zeros(1, 33, 47)
    disparity[:, 10:22, 12:30] = 1.0
    expected = images.linear_to_srgb(render_photo(images.srgb_to_linear(photo_srgb), disparity, Lens(1.0, 8.0)))
    assert_close(result(scene, "a_8_1.000.png"), (expected.clamp(0, 1) * 255).round() / 255)
    note = yaml.safe_load(Image.open(scene / "out" / "demo" / "a_8_1.000.png").text["Comment"])
    assert (note["focus_disparity"], note["strength_px"], note["renderer"]) == (1.0, 8.0, "physical")
    assert "base" not in note


def test_exif_goes_along_and_sixteen_bits_are_kept(photographed):
    words = ("--renderer", "physical", "--focus", "1", "--bit-depth", 16, "--format", "png")
    assert infer(photographed, *words, photo="a.jpg") == 0
    photo = images.load_photo(photographed / "out" / "demo" / "a_20_1.000.png")
    assert photo.bit_depth == 16
    assert (photo.camera.f_number, photo.camera.focal_length_mm) == (2.0, 50.0)


def test_results_that_are_there_are_left_alone_if_asked(scene):
    assert infer(scene, *PHYSICAL, "--focus", "1") == 0
    path = scene / "out" / "demo" / "a_20_1.000.png"
    before = path.stat().st_mtime_ns
    assert infer(scene, *PHYSICAL, "--focus", "1", "--skip-existing") == 0
    assert path.stat().st_mtime_ns == before
    assert infer(scene, *PHYSICAL, "--focus", "1") == 0
    assert path.stat().st_mtime_ns > before


def test_sweeps_go_to_a_folder_a_gif_or_an_mp4(scene):
    assert infer(scene, *PHYSICAL, "--focus-sweep", 3, "--K", 5) == 0
    assert written(scene) == ["a_sweep/000.png", "a_sweep/001.png", "a_sweep/002.png"]
    words = (*PHYSICAL, "--aperture-sweep", 3, "--K", 5, "--focus", 1)
    assert infer(scene, *words, "--sweep-format", "gif") == 0
    with Image.open(scene / "out" / "demo" / "a_sweep.gif") as animation:
        assert (animation.n_frames, animation.size) == (3, (47, 33))
    pytest.importorskip("imageio_ffmpeg", reason="extra video")
    assert infer(scene, *words, "--sweep-format", "mp4") == 0
    assert (scene / "out" / "demo" / "a_sweep.mp4").stat().st_size > 500


@pytest.fixture(scope="module")
def adapter(tiny_base, tmp_path_factory):
    networks = load_sdxl(tiny_base)
    add_lora(networks.unet, rank=2)
    return save_adapter(tmp_path_factory.mktemp("adapter"), networks.unet, networks.vae, metadata={})


def test_the_network_and_its_options_reach_the_picture(scene, tiny_base, adapter):
    networks = ("--pretrained-model-name-or-path", tiny_base, "--resume-from-checkpoint", adapter)
    words = (*networks, "--focus", "1", "--K", "8", "--format", "png")
    drawn = {}
    for name, more in {
        "usual": (),
        "raw": ("--no-preserve-focus", "--no-match-colour"),
        "offloaded": ("--offload", "--vae-tiling", "--tile-px", 0),
        "hybrid": ("--renderer", "hybrid"),
    }.items():
        assert infer(scene, *words, *more) == 0
        drawn[name] = result(scene, "a_8_1.000.png")
    photo_srgb = images.load_photo(scene / "photos" / "a.png").image_srgb
    inside = (..., slice(12, 20), slice(14, 28))
    assert_close(drawn["usual"][inside], photo_srgb[inside], dtype=torch.float16)
    assert not torch.allclose(drawn["raw"][inside], photo_srgb[inside], atol=0.1)
    assert torch.equal(drawn["offloaded"], drawn["usual"])
    assert not torch.equal(drawn["hybrid"], drawn["usual"])
    note = yaml.safe_load(Image.open(scene / "out" / "demo" / "a_8_1.000.png").text["Comment"])
    assert (note["base"], note["adapter"], note["renderer"]) == (tiny_base.name, adapter.name, "hybrid")
    pipeline = BokehDiffPipeline.from_pretrained(tiny_base, adapter=adapter)
    disparity = images.load_disparity(scene / "depth" / "a_pred.npy") * 2.0 - 0.5
    expected = pipeline(photo_srgb, disparity, focus=1.0, strength=8.0).images_srgb
    assert_close(drawn["usual"], (expected * 255).round() / 255)


def test_a_saved_pipeline_needs_no_adapter(scene, tiny_base, adapter, tmp_path):
    saved = BokehDiffPipeline.from_pretrained(tiny_base, adapter=adapter).save_pretrained(tmp_path / "saved")
    assert infer(scene, "--pretrained-model-name-or-path", saved, "--focus", "1") == 0
    assert written(scene) == ["a_20_1.000.jpg"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--K", "4", "--strength", "2%"), "--strength: pass either --K or --strength"),
        (("--K", "-4"), "--K: must be 0 px or more"),
        (("--farthest-m", "4"), "--farthest-m: needs --nearest-m too"),
        (("--nearest-m", "4", "--farthest-m", "2"), "--nearest-m: distances must be 0 < nearest < farthest"),
        (("--strength", "wide"), "--strength: must be K in px"),
        (("--focus", "left"), "--focus: must be subject"),
        (("--focus", "99,99"), "--focus: the focus point must lie"),
        (("--focus", "2m"), "--focus: a focus in metres needs to know"),
        (("--f-number", "2"), "--strength: an f-number needs to know"),
        (("--bit-depth", "12"), "--bit-depth: must be 8 or 16"),
        (("--bit-depth", "16", "--format", "jpg"), "--bit-depth: jpg holds 8 bits: pass --format png or tif"),
        (("--upsample",), "--upsample: is for networks"),
        (("--sweep-format", "gif"), "--sweep-format: needs a sweep"),
        (("--device", "tpu9"), "--device: "),
    ],
)
def test_what_cannot_work_is_one_clear_line(scene, capsys, words, message):
    assert infer(scene, "--renderer", "physical", *words) == 1
    told = capsys.readouterr()
    assert message in told.err + told.out
    assert "Traceback" not in told.err


@pytest.mark.parametrize("size_hw", [(1, 1), (5, 120), (90, 7)])
def test_tiny_panoramas_and_portraits_keep_their_size(tmp_path, tiny_base, adapter, size_hw):
    for name in ("photos", "depth"):
        (tmp_path / name).mkdir()
    images.save_image(tmp_path / "photos" / "a.png", torch.rand(1, 3, *size_hw))
    np.save(tmp_path / "depth" / "a_pred.npy", np.random.default_rng(0).random(size_hw, dtype=np.float32))
    networks = ("--pretrained-model-name-or-path", tiny_base, "--resume-from-checkpoint", adapter)
    assert infer(tmp_path, *networks, "--focus", "0.5", "--format", "png") == 0
    assert result(tmp_path, "a_20_0.500.png").shape[2:] == size_hw
