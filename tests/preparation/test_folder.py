from __future__ import annotations

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from bokehdiff.errors import InputError
from bokehdiff.optics import normalise_disparity
from bokehdiff.preparation import (
    Dirnames,
    DisparityEstimate,
    DisparitySubject,
    MapConvention,
    photographs_to_predict,
    prepare_folder,
)
from tests.helpers import assert_close

SIZE_HW = (24, 32)


def ramp(size_hw=SIZE_HW):
    """Disparity that grows to the right, 0 to 1: nothing that an opening by 3 px would change but its ends."""
    height, width = size_hw
    return np.broadcast_to(np.linspace(0.0, 1.0, width, dtype=np.float32), (height, width)).copy()


def add_photo(root: Path, name="a.jpg", size_hw=SIZE_HW, mode="RGB"):
    """A photograph of noise in root/input."""
    (root / "input").mkdir(parents=True, exist_ok=True)
    (root / "depth").mkdir(exist_ok=True)
    channels = {"RGB": 3, "RGBA": 4}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (*size_hw, channels), dtype=np.uint8)
    Image.fromarray(pixels, mode=None).save(root / "input" / name)


def prepare(root, *, depth_dirname="depth", **options):
    options = {"disparity_model": None, "matting": None, "progress": False} | options
    convention = {name: options.pop(name) for name in ("from_depth", "fill_holes") if name in options}
    if "invert_disparity" in options:
        convention["invert"] = options.pop("invert_disparity")
    return prepare_folder(
        root, dirnames=Dirnames(depth=depth_dirname), convention=MapConvention(**convention), **options
    )


def only(report):
    (outcome,) = report.outcomes
    return outcome


def problem_of(root, **options):
    report = prepare(root, **options)
    assert not (root / "depth" / "a_pred.npy").exists()
    problem = only(report).problem
    assert "\n" not in problem
    assert report.failures
    return problem


class RampModel:
    """Predicts that everything is nearer to the right, in no particular unit; counts how often it is asked."""

    name = "ramp"

    def __init__(self):
        self.n_asked = 0

    def estimate(self, image_srgb):
        return DisparityEstimate(self.predict(image_srgb))

    def predict(self, image_srgb):
        self.n_asked += 1
        return torch.from_numpy(ramp(tuple(image_srgb.shape[-2:])))[None] * 40.0 - 7.0


def files(root: Path):
    """Contents and times of all files: what may not change."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_predicted_disparity_is_normalised_and_shown(tmp_path, name):
    add_photo(tmp_path, name)
    report = prepare(tmp_path, disparity_model=RampModel(), matting=DisparitySubject())
    assert not report.failures
    assert (only(report).disparity, only(report).mask) == ("predicted", "predicted")
    disparity = np.load(tmp_path / "depth" / "a_pred.npy")
    assert disparity.dtype == np.float32
    assert disparity.shape == SIZE_HW
    assert (disparity.min(), disparity.max()) == (0.0, 1.0)
    assert (np.diff(disparity, axis=1) >= 0).all()
    shown = cv2.imread(str(tmp_path / "depth" / "a_pred.png"), cv2.IMREAD_UNCHANGED)
    assert shown.dtype == np.uint16
    np.testing.assert_allclose(shown / 65535.0, disparity, atol=1e-5)
    with Image.open(tmp_path / "mask" / "a.png") as mask:
        assert (mask.mode, mask.size) == ("L", SIZE_HW[::-1])


def test_the_report_names_who_did_what(tmp_path):
    add_photo(tmp_path)
    add_photo(tmp_path, "b.jpg")
    (tmp_path / "input" / "b.jpg").write_bytes(b"no picture")
    report = prepare(tmp_path, disparity_model=RampModel(), matting=DisparitySubject())
    lines = report.lines()
    assert lines[0] == f"1 of 2 photographs in {tmp_path} are ready"
    assert "1 predicted by ramp, 1 failed" in lines[1]
    assert "1 predicted by heuristic from disparity, centre and colour (no mask model), 1 failed" in lines[2]
    assert lines[3].startswith("failed: b.jpg: ")
    assert str(tmp_path / "input" / "b.jpg") in lines[3]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png", ".jpg", ".tif"])
def test_existing_maps_are_taken_in_and_left_alone(tmp_path, suffix):
    add_photo(tmp_path)
    path = tmp_path / "depth" / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, ramp() * 3.0 + 2.0)
    elif suffix == ".npz":
        np.savez(path, ramp() * 3.0 + 2.0)
    elif suffix == ".png":
        cv2.imwrite(str(path), (ramp() * 65535).astype(np.uint16))
    elif suffix == ".tif":
        Image.fromarray(ramp() * 3.0 + 2.0).save(path)
    else:
        Image.fromarray((ramp() * 255).astype(np.uint8)).save(path, quality=95)
    before = files(tmp_path)
    report = prepare(tmp_path)
    assert only(report).disparity == "taken in"
    after = files(tmp_path)
    assert {file: after[file] for file in before} == before
    disparity = np.load(tmp_path / "depth" / "a_pred.npy")
    expected = normalise_disparity(torch.from_numpy(ramp())[None])[0].numpy()
    np.testing.assert_allclose(disparity, expected, atol=0.02 if suffix == ".jpg" else 1e-4)
    assert report.masks_by is None
    assert only(report).mask == "none"


def test_depths_become_inverse_depths(tmp_path):
    add_photo(tmp_path)
    depth = 1.0 / (0.1 + ramp())
    np.save(tmp_path / "depth" / "a.npy", depth)
    prepare(tmp_path, from_depth=True)
    from_depth = np.load(tmp_path / "depth" / "a_pred.npy")
    np.save(tmp_path / "depth" / "a.npy", 1.0 / depth)
    prepare(tmp_path, overwrite=True)
    np.testing.assert_allclose(from_depth, np.load(tmp_path / "depth" / "a_pred.npy"), atol=1e-5)


def test_inverted_maps_are_turned_round(tmp_path):
    add_photo(tmp_path)
    np.save(tmp_path / "depth" / "a.npy", 1.0 - ramp())
    prepare(tmp_path, invert_disparity=True)
    assert (np.diff(np.load(tmp_path / "depth" / "a_pred.npy"), axis=1) >= 0).all()


def test_a_map_of_half_the_size_is_resized_and_said(tmp_path, caplog):
    add_photo(tmp_path)
    np.save(tmp_path / "depth" / "a.npy", ramp((12, 16)))
    with caplog.at_level(logging.INFO):
        prepare(tmp_path)
    assert "16 x 12 px, the photograph 32 x 24: resized" in caplog.text
    assert np.load(tmp_path / "depth" / "a_pred.npy").shape == SIZE_HW


@pytest.mark.parametrize("size_hw", [(24, 40), (32, 24)])
def test_a_map_of_another_view_is_refused(tmp_path, size_hw):
    add_photo(tmp_path)
    np.save(tmp_path / "depth" / "a.npy", ramp(size_hw))
    problem = problem_of(tmp_path)
    assert "a.npy" in problem
    assert "not the same view" in problem
    assert ("EXIF" in problem) == (size_hw == (32, 24))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_holes_are_refused_unless_they_may_be_filled(tmp_path, value, caplog):
    add_photo(tmp_path)
    values = ramp()
    values[5:9, 10:20] = value
    np.save(tmp_path / "depth" / "a.npy", values)
    problem = problem_of(tmp_path)
    assert "5.21 % of" in problem
    assert "a.npy is unmeasured (NaN or infinite): ask for holes to be filled" in problem
    with caplog.at_level(logging.INFO):
        assert not prepare(tmp_path, fill_holes=True).failures
    assert "5.21 % of" in caplog.text
    disparity = np.load(tmp_path / "depth" / "a_pred.npy")
    assert (disparity[6, 10:20] == disparity[6, 9]).all()  # the farther side


def test_exr_maps_may_have_holes_too(tmp_path):
    """As renderers write depth: infinite where nothing is."""
    exr = pytest.importorskip("OpenEXR")
    add_photo(tmp_path)
    depth = 2.0 - ramp()
    depth[:8, :4] = np.inf
    file = tmp_path / "depth" / "a.exr"
    exr.File({"compression": exr.ZIP_COMPRESSION}, {"Y": depth}).write(str(file))
    assert "4.17 % of" in problem_of(tmp_path, from_depth=True)
    assert not prepare(tmp_path, from_depth=True, fill_holes=True).failures
    disparity = np.load(tmp_path / "depth" / "a_pred.npy")
    assert (disparity[4, :4] == disparity[4, 4]).all()


def test_unmeasured_depths_are_holes(tmp_path):
    add_photo(tmp_path)
    depth = 2.0 - ramp()
    depth[3, 3] = 0.0
    np.save(tmp_path / "depth" / "a.npy", depth)
    assert "unmeasured (NaN, infinite, or a depth of 0 or less)" in problem_of(tmp_path, from_depth=True)
    assert not prepare(tmp_path, from_depth=True, fill_holes=True).failures


def test_nothing_measured_cannot_be_filled(tmp_path):
    add_photo(tmp_path)
    np.savez(tmp_path / "depth" / "a.npz", np.full(SIZE_HW, np.nan, dtype=np.float32))
    assert "there is nothing to fill it from" in problem_of(tmp_path, fill_holes=True)


def test_a_damaged_map_is_refused_by_name(tmp_path):
    add_photo(tmp_path)
    (tmp_path / "depth" / "a.npy").write_bytes(b"no array")
    assert "a.npy" in problem_of(tmp_path, fill_holes=True)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_maps_are_refused(tmp_path, value):
    add_photo(tmp_path)
    np.save(tmp_path / "depth" / "a.npy", np.full(SIZE_HW, value, dtype=np.float32))
    assert "a.npy: the disparity is constant" in problem_of(tmp_path)


def test_a_model_that_gives_nan_is_told(tmp_path):
    class Broken(RampModel):
        name = "broken"

        def predict(self, image_srgb):
            return torch.full((1, *image_srgb.shape[-2:]), torch.nan)

    add_photo(tmp_path)
    assert "broken for a.jpg has NaN or infinity" in problem_of(tmp_path, disparity_model=Broken())


def test_without_map_and_model_the_way_out_is_named(tmp_path):
    add_photo(tmp_path)
    assert f"no map in {tmp_path / 'depth'} and no disparity model: put a.png" in problem_of(tmp_path)
    assert photographs_to_predict(tmp_path) == [tmp_path / "input" / "a.jpg"]


def test_one_pixel_is_a_photograph(tmp_path):
    add_photo(tmp_path, "a.png", (1, 1))
    report = prepare(tmp_path, disparity_model=RampModel(), matting=DisparitySubject())
    assert not report.failures
    assert np.load(tmp_path / "depth" / "a_pred.npy").shape == (1, 1)
    assert cv2.imread(str(tmp_path / "mask" / "a.png"), cv2.IMREAD_UNCHANGED).shape == (1, 1)


def test_transparency_and_16_bits_are_photographs(tmp_path):
    add_photo(tmp_path, "a.png", mode="RGBA")
    cv2.imwrite(
        str(tmp_path / "input" / "b.png"), (np.random.default_rng(0).random((*SIZE_HW, 3)) * 65535).astype("u2")
    )
    assert not prepare(tmp_path, disparity_model=RampModel(), matting=DisparitySubject()).failures


def test_what_is_done_is_skipped_and_one_bad_file_stops_nothing(tmp_path):
    add_photo(tmp_path, "a.jpg")
    add_photo(tmp_path, "c.jpg")
    (tmp_path / "input" / "b.jpg").write_bytes((tmp_path / "input" / "a.jpg").read_bytes()[:300])
    model = RampModel()
    report = prepare(tmp_path, disparity_model=model, matting=DisparitySubject())
    assert [outcome.disparity for outcome in report.outcomes] == ["predicted", "failed", "predicted"]
    before = files(tmp_path)
    report = prepare(tmp_path, disparity_model=model, matting=DisparitySubject())
    assert [outcome.disparity for outcome in report.outcomes] == ["kept", "failed", "kept"]
    assert [outcome.mask for outcome in report.outcomes] == ["kept", "failed", "kept"]
    assert model.n_asked == 2
    assert files(tmp_path) == before


def test_a_finished_photograph_is_not_decoded_again(tmp_path, monkeypatch):
    """Turned ones too, whose header has their sides the other way round."""
    add_photo(tmp_path)
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: a quarter to the right
    pixels = np.random.default_rng(1).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "input" / "b.jpg", exif=turned)
    prepare(tmp_path, disparity_model=RampModel(), matting=DisparitySubject())
    assert np.load(tmp_path / "depth" / "b_pred.npy").shape == SIZE_HW[::-1]
    monkeypatch.setattr("bokehdiff.preparation.folder.load_photo", lambda image: pytest.fail(f"{image} is decoded"))
    report = prepare(tmp_path, disparity_model=RampModel(), matting=DisparitySubject())
    assert [(outcome.disparity, outcome.mask) for outcome in report.outcomes] == [("kept", "kept")] * 2
    assert not report.failures


def test_a_model_that_breaks_down_stops_nothing(tmp_path):
    class OutOfMemory(RampModel):
        def predict(self, image_srgb):
            if self.n_asked == 0:
                self.n_asked += 1
                raise RuntimeError("out of memory\non the device")
            return super().predict(image_srgb)

    add_photo(tmp_path, "a.jpg")
    add_photo(tmp_path, "b.jpg")
    report = prepare(tmp_path, disparity_model=OutOfMemory())
    assert report.outcomes[0].problem == "RuntimeError: out of memory on the device"
    assert report.outcomes[1].disparity == "predicted"


def test_overwriting_predicts_anew_but_prefers_the_users_map(tmp_path):
    add_photo(tmp_path)
    prepare(tmp_path, disparity_model=RampModel())
    model = RampModel()
    assert only(prepare(tmp_path, disparity_model=model, overwrite=True)).disparity == "predicted"
    assert model.n_asked == 1
    np.save(tmp_path / "depth" / "a.npy", ramp())
    assert only(prepare(tmp_path, disparity_model=model, overwrite=True)).disparity == "taken in"
    assert model.n_asked == 1


def test_overwriting_without_map_and_model_costs_nothing(tmp_path):
    add_photo(tmp_path)
    prepare(tmp_path, disparity_model=RampModel())
    before = files(tmp_path)
    assert prepare(tmp_path, overwrite=True).failures
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("values", "message"), [(ramp((12, 16)), "is 16 x 12 px; expected 32 x 24"), (ramp() * 2.0, r"holds 0 ... 2")]
)
def test_a_finished_map_that_does_not_fit_is_neither_used_nor_changed(tmp_path, values, message):
    add_photo(tmp_path)
    np.save(tmp_path / "depth" / "a_pred.npy", values)
    before = files(tmp_path)
    problem = only(prepare(tmp_path, disparity_model=RampModel())).problem
    assert message in problem
    assert "rename it to a.npy" in problem
    assert files(tmp_path) == before


def test_a_picture_of_the_users_named_like_ours_is_taken_in_and_kept(tmp_path):
    add_photo(tmp_path)
    cv2.imwrite(str(tmp_path / "depth" / "a_pred.png"), (ramp() * 255).astype(np.uint8))
    before = files(tmp_path)
    assert only(prepare(tmp_path, disparity_model=RampModel())).disparity == "taken in"
    assert files(tmp_path)[tmp_path / "depth" / "a_pred.png"] == before[tmp_path / "depth" / "a_pred.png"]
    assert (tmp_path / "depth" / "a_pred.npy").exists()


def test_a_second_picture_of_the_users_is_kept_too(tmp_path, caplog):
    add_photo(tmp_path)
    for name in ("a.png", "a_pred.png"):
        cv2.imwrite(str(tmp_path / "depth" / name), (ramp() * 255).astype(np.uint8))
    before = files(tmp_path)
    with caplog.at_level(logging.INFO):
        assert only(prepare(tmp_path)).disparity == "taken in"
    after = files(tmp_path)
    assert {file: after[file] for file in before} == before
    assert "a_pred.png is left as it is" in caplog.text
    assert "has 2 maps; a.png is used" in caplog.text


def test_masks_of_the_users_are_kept_whatever_is_asked(tmp_path):
    add_photo(tmp_path, "a.jpg")
    add_photo(tmp_path, "b.jpg")
    (tmp_path / "mask").mkdir()
    Image.fromarray(np.full(SIZE_HW, 255, np.uint8)).save(tmp_path / "mask" / "a.png")
    prepare(tmp_path, disparity_model=RampModel(), matting=DisparitySubject())
    before = files(tmp_path / "mask")
    report = prepare(tmp_path, disparity_model=RampModel(), matting=DisparitySubject(), overwrite=True)
    assert [outcome.mask for outcome in report.outcomes] == ["kept", "predicted"]
    assert files(tmp_path / "mask")[tmp_path / "mask" / "a.png"] == before[tmp_path / "mask" / "a.png"]


def test_masks_that_do_not_fit_are_told(tmp_path):
    add_photo(tmp_path)
    (tmp_path / "mask").mkdir()
    mask = tmp_path / "mask" / "a.png"
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(mask)
    outcome = only(prepare(tmp_path, disparity_model=RampModel(), matting=DisparitySubject()))
    assert (outcome.disparity, outcome.mask) == ("predicted", "failed")
    assert "is 6 x 5 px; expected 32 x 24" in outcome.problem
    mask.write_bytes(b"no picture")
    outcome = only(prepare(tmp_path, matting=DisparitySubject(), disparity_model=RampModel(), overwrite=True))
    assert str(mask) in outcome.problem


def test_photographs_of_one_name_do_not_share_a_map(tmp_path):
    add_photo(tmp_path, "a.jpg")
    add_photo(tmp_path, "a.png")
    report = prepare(tmp_path, disparity_model=RampModel())
    assert [outcome.disparity for outcome in report.outcomes] == ["predicted", "failed"]
    assert "a.png shares its name with a.jpg" in report.outcomes[1].problem


def test_folders_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere is not a folder; expected one with photographs in"):
        prepare(tmp_path / "nowhere")
    with pytest.raises(InputError, match="input is not a folder; expected the photographs there"):
        prepare(tmp_path)
    (tmp_path / "input").mkdir()
    with pytest.raises(InputError, match="input"):
        prepare(tmp_path)


def test_depth_and_inversion_exclude_each_other(tmp_path):
    add_photo(tmp_path)
    with pytest.raises(InputError, match="not both"):
        prepare(tmp_path, from_depth=True, invert_disparity=True)


def test_the_folder_of_the_maps_is_made(tmp_path):
    add_photo(tmp_path)
    (tmp_path / "depth").rmdir()
    prepare(tmp_path, disparity_model=RampModel(), depth_dirname="made/deep")
    assert_close(torch.from_numpy(np.load(tmp_path / "made" / "deep" / "a_pred.npy")).amax(), torch.ones(()))


def test_folders_of_folders_are_mirrored(tmp_path):
    for name in ("a.jpg", "summer/a.jpg", "summer/beach/b.c.png"):
        (tmp_path / "input" / name).parent.mkdir(parents=True, exist_ok=True)
        add_photo(tmp_path, name)
    (tmp_path / "depth" / "summer").mkdir()
    np.save(tmp_path / "depth" / "summer" / "a.npy", ramp())
    report = prepare(tmp_path, disparity_model=RampModel(), matting=DisparitySubject())
    assert [outcome.name for outcome in report.outcomes] == ["a.jpg", "summer/a.jpg", "summer/beach/b.c.png"]
    assert [outcome.disparity for outcome in report.outcomes] == ["predicted", "taken in", "predicted"]
    for name in ("a", "summer/a", "summer/beach/b.c"):
        assert (tmp_path / "depth" / f"{name}_pred.npy").exists()
        assert (tmp_path / "mask" / f"{name}.png").exists()
    again = prepare(tmp_path, matting=DisparitySubject())
    assert {outcome.disparity for outcome in again.outcomes} == {outcome.mask for outcome in again.outcomes} == {"kept"}


def test_photographs_may_lie_in_the_root_beside_what_is_made_of_them(tmp_path):
    add_photo(tmp_path)
    (tmp_path / "input" / "a.jpg").rename(tmp_path / "a.jpg")
    for _ in range(2):
        report = prepare_folder(
            tmp_path, dirnames=Dirnames(images="."), disparity_model=RampModel(), matting=DisparitySubject(),
            progress=False,
        )  # fmt: skip
        assert [outcome.name for outcome in report.outcomes] == ["a.jpg"]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(InputError, match="holds maps, masks and foregrounds, but no photograph"):
        photographs_to_predict(tmp_path, dirnames=Dirnames(images="."))


def test_processes_share_the_photographs_out_and_make_one_report(tmp_path):
    for i in range(5):
        add_photo(tmp_path, f"{i}.jpg")
    add_photo(tmp_path, "3.png")
    reports = [prepare(tmp_path, disparity_model=RampModel(), rank=rank, world_size=4) for rank in range(4)]
    assert [len(report.outcomes) for report in reports] == [2, 2, 1, 1]
    joined = reports[0].joined(reports[1:])
    assert [outcome.name for outcome in joined.outcomes] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "3.png", "4.jpg"]
    assert [outcome.disparity for outcome in joined.outcomes].count("predicted") == 5
    assert joined.lines()[0].startswith("5 of 6 photographs")


def test_metres_and_the_camera_are_kept_beside_the_map(tmp_path):
    class Metric(RampModel):
        def estimate(self, image_srgb):
            disparity = 0.1 + 1.9 * torch.from_numpy(ramp(tuple(image_srgb.shape[-2:])))[None]
            return DisparityEstimate(disparity, is_metric=True, focal_length_px=40.0)

    add_photo(tmp_path)
    assert not prepare(tmp_path, disparity_model=Metric()).failures
    metric = np.load(tmp_path / "depth" / "a_metric.npy")
    assert (metric.min(), metric.max()) == (pytest.approx(0.1), pytest.approx(2.0))
    known = json.loads((tmp_path / "depth" / "a_camera.json").read_text())
    assert known == pytest.approx(
        {"nearest_m": 0.5, "farthest_m": 10.0, "focal_length_px": 40.0, "focal_length_35mm_mm": 45.0}
    )
    assert only(prepare(tmp_path, disparity_model=Metric())).disparity == "kept"


def test_maps_are_fitted_to_edges_where_asked(tmp_path):
    add_photo(tmp_path)
    blurred = 1 / (1 + np.exp(-np.linspace(-8, 8, SIZE_HW[1], dtype=np.float32)))
    picture = np.zeros((*SIZE_HW, 3), np.uint8)
    picture[:, SIZE_HW[1] // 2 :] = 200
    Image.fromarray(picture).save(tmp_path / "input" / "a.jpg", quality=100)
    np.save(tmp_path / "depth" / "a.npy", np.broadcast_to(blurred, SIZE_HW))
    prepare(tmp_path, refine_disparity=True)
    fitted = np.load(tmp_path / "depth" / "a_pred.npy")[12]
    assert fitted[:15].max() < 0.1 < 0.9 < fitted[17:].min()
