"""The command as a user runs it: flags, report, exit status."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bokehdiff.cli.main import main
from tests.helpers import REPOSITORY
from tests.preparation.test_folder import add_photo, files, ramp
from tests.preparation.tiny_models import save_depth_anything, save_sam2, save_segformer, save_vitmatte


@pytest.fixture
def root(tmp_path):
    add_photo(tmp_path / "scenes", "a.jpg")
    add_photo(tmp_path / "scenes", "b.png")
    return tmp_path / "scenes"


def add_map(root, name="a", values=None):
    np.save(root / "depth" / f"{name}.npy", ramp() if values is None else values)


def failure(capsys, *words):
    """The one line of a run that ends at once."""
    assert main(["prepare", *map(str, words)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    return line


def test_the_seeds_command_line_works_without_weights(root):
    for name in ("a", "b"):
        add_map(root, name)
    seed = f"--root {root} --depth_dirname depth --image_dirname input --mask_dirname mask --model_size Large"
    command = [sys.executable, "prepare_data.py", *seed.split()]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "2 of 2 photographs" in ran.stdout
    assert "2 taken in" in ran.stdout
    assert "heuristic from disparity, centre and colour (no mask model)" in ran.stdout
    assert sorted(path.name for path in (root / "mask").iterdir()) == ["a.png", "b.png"]
    assert (root / "depth" / "a_pred.npy").exists()


def test_maps_are_taken_in_without_loading_what_makes_networks(root):
    for name in ("a", "b"):
        add_map(root, name)
    program = (
        "import sys; from bokehdiff.cli.main import main\n"
        f"assert main(['prepare', '--root', {str(root)!r}]) == 0\n"
        "loaded = {'diffusers', 'transformers', 'peft'} & sys.modules.keys()\n"
        "assert not loaded, loaded"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_missing_weights_end_the_run_at_once_when_nothing_else_can_be_done(root, capsys):
    line = failure(capsys, "--root", root)
    assert line.startswith("bokehdiff prepare: error: --model-size: ")
    assert "depth-anything/Depth-Anything-V2-Small-hf" in line
    assert "put a map NAME.png or NAME.npy into the depth folder" in line


def test_missing_weights_do_not_keep_maps_from_being_taken_in(root, capsys, caplog):
    add_map(root)
    assert main(["prepare", "--root", str(root)]) == 1
    assert "only the photographs that have maps are prepared" in caplog.text
    report = capsys.readouterr().out.splitlines()
    assert report[0].startswith("1 of 2 photographs")
    assert report[-1].startswith("failed: b.png: no map in")
    assert (root / "depth" / "a_pred.npy").exists()


def test_local_models_predict(root, tmp_path, capsys):
    depth = save_depth_anything(tmp_path / "depth_anything")
    masks = save_segformer(tmp_path / "segformer")
    words = ["prepare", "--root", root, "--disparity-model", depth, "--mask-model", masks, "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    report = capsys.readouterr().out
    assert f"2 predicted by {depth}" in report
    assert f"2 predicted by {masks}" in report


def test_what_a_model_predicts_can_be_told(root, tmp_path, capsys):
    """Taken for depths in metres, the random network's tiny disparities lie nearer than anything: 1 / 0.01."""
    depth = save_depth_anything(tmp_path / "depth_anything")
    words = ["prepare", "--root", str(root), "--disparity-model", str(depth), "--predicts"]
    assert main([*words, "disparity"]) == 0
    assert main([*words, "depth", "--overwrite"]) == 1
    assert "the disparity is constant (100 ... 100" in capsys.readouterr().out


def test_masks_are_pointed_at_and_refined_by_local_models(root, tmp_path, capsys):
    for name in ("a", "b"):
        add_map(root, name)
    sam, vitmatte = save_sam2(tmp_path / "sam2"), save_vitmatte(tmp_path / "vitmatte")
    words = ["--mask-model", sam, "--mask-point", "0.5,0.5", "--mask-refine", vitmatte, "--refine-disparity"]
    assert main(["prepare", "--root", str(root), *map(str, words)]) == 0
    assert f"2 predicted by {sam}, edges by {vitmatte}" in capsys.readouterr().out
    assert main(["prepare", "--root", str(root), "--overwrite", "--mask-refine", "guided"]) == 0
    assert "(no mask model), fitted to edges" in capsys.readouterr().out


@pytest.mark.slow
def test_several_processes_are_launched(root, capsys):
    """As a user does: one report, the same files as one process makes, and the status tells."""
    for i in range(3):
        add_photo(root, f"{i}.jpg")
    for name in ("a", "b", "0", "1"):
        add_map(root, name)
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        "prepare_data.py", "--root", str(root), "--disparity-model", "none",
    ]  # fmt: skip
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1"}
    arguments = {"cwd": REPOSITORY, "env": environment, "capture_output": True, "text": True, "check": False}
    ran = subprocess.run(command, **arguments)
    assert ran.returncode != 0
    report = ran.stdout.splitlines()
    assert [line for line in report if "photographs in" in line] == [f"4 of 5 photographs in {root} are ready"]
    assert any(line.startswith("failed: 2.jpg: without disparity the heuristic finds no subject") for line in report)
    assert sorted(path.name for path in (root / "mask").iterdir()) == ["0.png", "1.png", "a.png", "b.png"]
    add_map(root, "2")
    ran = subprocess.run(command, **arguments)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert f"5 of 5 photographs in {root} are ready" in ran.stdout
    assert "disparity: 4 kept, 1 taken in" in " ".join(sorted(ran.stdout.splitlines()))


def test_no_masks_when_none_are_asked_for(root, capsys):
    for name in ("a", "b"):
        add_map(root, name)
    assert main(["prepare", "--root", str(root), "--mask-model", "none"]) == 0
    assert "masks: 2 none" in capsys.readouterr().out
    assert not (root / "mask").exists()


@pytest.mark.parametrize("flag", ["--from-depth", "--from_depth"])
def test_depth_maps_are_taken_in(root, flag):
    for name in ("a", "b"):
        add_map(root, name, 2.0 - ramp())
    assert main(["prepare", "--root", str(root), flag]) == 0
    assert np.load(root / "depth" / "a_pred.npy")[0, -1] == 1.0


def test_bad_files_are_one_line_each_and_the_rest_is_done(root, capsys):
    for name in ("c", "d"):
        add_photo(root, f"{name}.jpg")
    for name in ("a", "b", "c", "d"):
        add_map(root, name)
    assert main(["prepare", "--root", str(root)]) == 0
    before = files(root / "depth")
    (root / "input" / "c.jpg").write_bytes((root / "input" / "c.jpg").read_bytes()[:200])
    add_photo(root, "e.jpg")
    add_map(root, "e", np.full((24, 32), 0.5, np.float32))
    add_photo(root, "f.jpg")
    add_map(root, "f", np.where(ramp() > 0.9, np.nan, ramp()))
    capsys.readouterr()
    assert main(["prepare", "--root", str(root)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 of 6 photographs")
    failures = [line for line in lines if line.startswith("failed: ")]
    assert [line.split(":")[1].strip() for line in failures] == ["c.jpg", "e.jpg", "f.jpg"]
    after = files(root / "depth")
    assert {path: after[path] for path in before} == before


def test_masks_are_made_on_demand_only_where_ours(root):
    for name in ("a", "b"):
        add_map(root, name)
    (root / "mask").mkdir()
    Image.new("L", (32, 24), 255).save(root / "mask" / "a.png")
    before = files(root / "mask")
    assert main(["prepare", "--root", str(root), "--overwrite"]) == 0
    after = files(root / "mask")
    assert len(after) == 2
    assert {path: after[path] for path in before} == before


def test_flags_at_fault_are_named(root, tmp_path, capsys):
    line = failure(capsys, "--root", tmp_path / "nowhere")
    assert "error: --root: " in line
    assert "nowhere is not a folder" in line
    (tmp_path / "empty" / "input").mkdir(parents=True)
    assert "error: --root: " in failure(capsys, "--root", tmp_path / "empty")
    assert "error: --device: 'toaster' cannot be used" in failure(capsys, "--root", root, "--device", "toaster")
    assert "error: --invert-disparity: " in failure(capsys, "--root", root, "--from-depth", "--invert-disparity")
    assert "error: --disparity-model: " in failure(capsys, "--root", root, "--disparity-model", tmp_path / "nowhere")
    for name in ("a", "b"):
        add_map(root, name)
    assert "error: --mask-model: " in failure(capsys, "--root", root, "--mask-model", tmp_path / "nowhere")
    assert "error: --mask-refine: " in failure(capsys, "--root", root, "--mask-refine", tmp_path / "nowhere")
    pointed = ("--root", root, "--mask-model", tmp_path / "nowhere", "--mask-point")
    for point in ("0.5", "0.5,1.5", "a,b", "-1,0"):
        assert f"error: --mask-point: must be X,Y, each from 0 to 1; got '{point}'" in failure(capsys, *pointed, point)
    line = failure(capsys, "--root", root, "--mask-point", "0.5,0.5")
    assert "error: --mask-point: a point is for Segment Anything: name it by --mask-model" in line
    line = failure(capsys, "--root", root, "--mask-model", "ZhengPeng7/BiRefNet")
    assert "error: --mask-model: " in line
    assert "pass trust_remote_code" in line
