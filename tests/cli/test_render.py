"""`bokehdiff render` as a user runs it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bokehdiff import images
from bokehdiff.cli.main import main
from bokehdiff.errors import InputError
from bokehdiff.optics import Aperture, Lens
from bokehdiff.renderers import compress_highlights, recover_highlights, render_photo
from tests.helpers import assert_close, psnr


def render(scene, *words):
    return main(["render", str(scene / "photos"), str(scene / "depth"), "--output-dir", str(scene / "out"), *words])


def result(scene, name="a.png"):
    return images.load_photo(scene / "out" / name).image_srgb


def expected(scene, lens, **options):
    image = images.load_photo(scene / "photos" / "a.png").image_srgb
    disparity = images.load_disparity(scene / "depth" / "a_pred.npy")
    return images.linear_to_srgb(render_photo(images.srgb_to_linear(image), disparity, lens, **options)).clamp(0, 1)


@pytest.mark.parametrize(
    ("words", "focus"),
    [
        (["--focus", "0.75"], 0.75),
        (["--focus-point", "3,3"], 0.25),
        (["--focus-box", "12,10,30,22"], 0.75),
        ([], 0.75),
    ],
)
def test_a_folder_is_rendered_with_the_focus_asked_for(scene, words, focus):
    assert render(scene, "--K", "12", *words) == 0
    assert psnr(result(scene), expected(scene, Lens(focus, 12.0))) > 50
    assert psnr(result(scene, "b.png"), result(scene)) > 100


def test_methods_masks_and_formats(scene):
    mask = torch.zeros(1, 33, 47)
    mask[:, 10:22, 12:30] = 1.0
    images.save_disparity(scene / "mask.npy", mask)
    photo, disparity = str(scene / "photos" / "a.png"), str(scene / "depth" / "a_pred.npy")
    words = ["--output-dir", str(scene / "out"), "--K", "9", "--format", "tif", "--bit-depth", "16"]
    assert main(["render", photo, disparity, *words, "--mask", str(scene / "mask.npy"), "--method", "scatter"]) == 0
    assert psnr(result(scene, "a.tif"), expected(scene, Lens(0.75, 9.0), method="scatter")) > 60
    assert main(["render", photo, disparity, *words, "--matte", str(scene / "mask.npy")]) == 0
    assert psnr(result(scene, "a.tif"), expected(scene, Lens(0.75, 9.0), matte=mask)) > 60


def test_a_camera_is_the_thin_lens_in_metric_disparity(scene):
    """50 mm f/2 on 36 mm, 47 px wide: K = 50 / 36 * 47 * 0.0125 px per 1/m."""
    camera = ["--f-number", "2", "--focal-length-mm", "50"]
    assert render(scene, *camera, "--focus-distance-m", "4") == 0
    lens = Lens(0.25, 50 / 36 * 47 * 0.0125)
    assert psnr(result(scene), expected(scene, lens)) > 50
    assert render(scene, *camera, "--focus", "0.25") == 0
    assert psnr(result(scene), expected(scene, lens)) > 50


def test_a_smaller_map_is_resized_and_said_so(scene, caplog):
    caplog.set_level("INFO", logger="bokehdiff")
    for name in ("a", "b"):
        (scene / "depth" / f"{name}_pred.npy").unlink()
        images.save_disparity(scene / "depth" / f"{name}.png", torch.rand(1, 17, 24))
    assert render(scene) == 0
    assert "disparity a.png: resized from 24 x 17 to 47 x 33" in caplog.text
    assert "no focus given: focused on the centre" in caplog.text


def test_the_better_named_map_wins_and_transparency_is_named(scene, caplog):
    caplog.set_level("INFO", logger="bokehdiff")
    images.save_disparity(scene / "depth" / "a.png", torch.rand(1, 33, 47))
    clear = torch.rand(1, 4, 33, 47)
    images.save_image(scene / "photos" / "b.png", clear)
    assert render(scene) == 0
    assert "takes a_pred.npy; a.png left aside" in caplog.text
    assert "b.png: its transparency is not carried over" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--focal-length-mm", "50"], "--focal-length-mm: describes a real lens, which needs --f-number too"),
        (["--K", "9", "--f-number", "2"], "--K: pass either --K or --f-number, not both"),
        (["--f-number", "2", "--normalize-disparity"], "--normalize-disparity: metric disparity"),
        (["--f-number", "2", "--invert-disparity"], "--invert-disparity: metric disparity"),
        (["--focus-sweep", "-1"], "--focus-sweep: must be 0 or more pictures; got -1"),
        (["--focus", "0.3", "--focus-point", "1,1"], "--focus-point: the focus is given more than once"),
    ],
)
def test_contradictions_are_refused_before_anything_is_read(scene, words, message, capsys):
    assert render(scene, *words) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (scene / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--focus-point", "3"], "--focus-point: expected X,Y; got '3'"),
        (["--focus-box", "1,2,x,4"], "--focus-box: expected LEFT,TOP,RIGHT,BOTTOM; got '1,2,x,4'"),
        (["--focus-point", "99,3"], "--focus-point: the focus point must lie in the 47 x 33 image"),
        (["--f-number", "2"], "--f-number: the photograph's EXIF does not tell focal_length_mm"),
        (["--K", "-3"], "--K: strength_px must be 0 or more"),
        (["--format", "jpg", "--bit-depth", "16"], "--bit-depth: "),
        (["--highlights", "0.5"], "--highlights: gain must be 1 (no change) or more; got 0.5"),
        (["--blades", "2"], "--blades: blades must be 0 (a disc) or 3"),
        (["--inpainting", "magic"], "inpainting must be one of diffusion"),
        (["--mask", "nowhere"], "--mask: nowhere: no such file or folder"),
    ],
)
def test_each_failure_is_named_with_its_flag(scene, words, message, capsys):
    assert render(scene, *words) == 1
    assert message in capsys.readouterr().out


def test_bad_maps_are_named_and_cost_no_other_result(scene, capsys):
    np.save(scene / "depth" / "a_pred.npy", np.full((33, 47), 7.0, np.float32))
    assert render(scene) == 1
    printed = capsys.readouterr().out
    assert "1 of 2 photographs rendered" in printed
    assert "disparity must be in [0, 1]; got 7 ... 7: pass --normalize-disparity" in printed
    assert (scene / "out" / "b.png").exists()
    np.save(scene / "depth" / "a_pred.npy", np.zeros((47, 33), np.float32))
    assert render(scene) == 1
    assert "has another shape than the photograph: 33 x 47 for 47 x 33" in capsys.readouterr().out
    (scene / "depth" / "a_pred.npy").unlink()
    assert render(scene) == 1
    assert "holds no map for a.png, such as a_pred.npy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "stored", "seen"),
    [
        ("--normalize-disparity", lambda d: 80.0 * d + 3.0, lambda d: 2.0 * (d - 0.25)),
        ("--invert-disparity", lambda d: 1.0 - d, lambda d: d),
    ],
)
def test_maps_can_be_normalised_or_inverted(scene, flag, stored, seen):
    disparity = np.load(scene / "depth" / "a_pred.npy")
    for name in ("a", "b"):
        np.save(scene / "depth" / f"{name}_pred.npy", stored(disparity))
    assert render(scene, flag, "--K", "8", "--focus", "0.25") == 0
    np.save(scene / "depth" / "a_pred.npy", seen(disparity))
    assert psnr(result(scene), expected(scene, Lens(0.25, 8.0))) > 50


def test_one_map_for_several_photographs_and_a_result_over_its_source_are_refused(scene, capsys):
    one = str(scene / "depth" / "a_pred.npy")
    assert main(["render", str(scene / "photos"), one, "--output-dir", str(scene / "out")]) == 1
    assert "is one file for several photographs" in capsys.readouterr().out
    assert main(["render", str(scene / "photos" / "a.png"), one, "--output-dir", str(scene / "photos")]) == 1
    assert "--output-dir: the result would replace the photograph" in capsys.readouterr().out
    assert main(["render", str(scene / "photos" / "a.png"), one, "--output-dir", one]) == 1
    assert "--output-dir: cannot make the folder" in capsys.readouterr().out


def test_blades_inpainting_and_highlights_reach_the_renderer(scene):
    words = ["--K", "12", "--focus", "0.75", "--blades", "6", "--blade-rotation-deg", "15", "--inpainting", "telea"]
    assert render(scene, *words, "--method", "occlusion_aware", "--highlights", "6") == 0
    image = images.load_photo(scene / "photos" / "a.png").image_srgb
    light = recover_highlights(images.srgb_to_linear(image), 6.0)
    lens = Lens(0.75, 12.0, Aperture(blades=6, rotation_deg=15.0))
    disparity = images.load_disparity(scene / "depth" / "a_pred.npy")
    blurred = render_photo(light, disparity, lens, method="occlusion_aware", inpainting="telea")
    blurred = compress_highlights(blurred, 6.0)
    assert psnr(result(scene), images.linear_to_srgb(blurred).clamp(0, 1)) > 50


def test_a_focus_sweep_goes_from_far_to_near(scene):
    assert render(scene, "--K", "12", "--focus-sweep", "3") == 0
    assert sorted(path.name for path in (scene / "out" / "a_sweep").iterdir()) == ["000.png", "001.png", "002.png"]
    assert psnr(result(scene, "a_sweep/000.png"), expected(scene, Lens(0.25, 12.0))) > 50
    assert psnr(result(scene, "a_sweep/002.png"), expected(scene, Lens(0.75, 12.0))) > 50


def test_clipped_lights_are_brought_back_and_the_rest_stays():
    image = torch.tensor([0.1, 0.79, 0.9, 1.0]).expand(1, 3, 1, 4)
    got = recover_highlights(image, 5.0)
    torch.testing.assert_close(got[0, 0, 0], torch.tensor([0.1, 0.79, 0.9 * 3.0, 5.0]))
    assert recover_highlights(image, 1.0).equal(image)


def test_lights_that_were_brought_back_leave_what_is_in_focus_as_it_was():
    image = torch.rand(1, 3, 40, 50, dtype=torch.float64)
    for gain in (1.0, 4.0, 50.0):
        assert_close(compress_highlights(recover_highlights(image, gain), gain), image, dtype=torch.float32)
    bright = torch.tensor([0.5, 2.0, 6.0, 12.0]).expand(1, 3, 1, 4) * torch.tensor([1.0, 0.5, 0.25]).view(1, 3, 1, 1)
    got = compress_highlights(bright, 6.0)
    assert got[0, 0, 0].tolist() == pytest.approx([0.5, 0.867, 1.0, 2.0], abs=1e-3)
    assert_close(got[:, 1], got[:, 0] / 2)
    with pytest.raises(InputError, match="gain must be 1"):
        compress_highlights(image, 0.5)
