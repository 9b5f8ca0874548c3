"""The three root programs as a user runs them: the seed's command lines, on test_data, with a tiny random backbone."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bokehdiff.images import load_photo
from bokehdiff.training.records import read_records
from tests.helpers import REPOSITORY

# As the seed's README has them, up to where files lie.
TRAIN = shlex.split(
    "--train_batch_size 1 --mixed_precision no --opt_vae 1 --max_train_steps 120000 "
    "--enable_xformers_memory_efficient_attention --learning_rate 5e-5 --lr_scheduler cosine --lr_num_cycles 1 "
    "--lr_warmup_steps 20 --resolution 512 --lpips --edge --lambda_lpips 5 --checkpointing_steps 60000 "
    "--gan_loss_type multilevel_sigmoid_s --cv_type convnext --lambda_gan 0.1 --gan_step 30000"
)
INFER = shlex.split("--enable_xformers_memory_efficient_attention --data_id demo --K 20")


def run(program: str, *words: object, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TQDM_DISABLE": "1"}
    return subprocess.run(
        [sys.executable, str(REPOSITORY / program), *(str(word) for word in words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def the_error(done: subprocess.CompletedProcess[str]) -> str:
    """The one line in which a program says why it failed."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if ": error: " in line]
    return line


@pytest.fixture(scope="module")
def adapter(tiny_base, training_set, tmp_path_factory) -> Path:
    """Trained for two steps by train_lora_otf.py."""
    folder = tmp_path_factory.mktemp("run") / "logs.v1"  # a dot in the name
    done = run(
        "train_lora_otf.py", "--train_data_dir", training_set, "--pretrained_model_name_or_path", tiny_base,
        "--output_dir", folder, "--max_train_steps", 2, "--resolution", 64, "--edge", "--dataloader-num-workers", 1,
        "--enable_xformers_memory_efficient_attention",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "xFormers is not used" in done.stderr
    assert len(read_records(folder)) == 2
    return folder / "adapter"


@pytest.fixture
def scenes(tmp_path) -> Path:
    """Two scenes of test_data that a test may break."""
    for name in ("input", "depth", "mask"):
        (tmp_path / "scenes" / name).mkdir(parents=True)
        for file in (REPOSITORY / "test_data" / name).iterdir():
            if file.stem.startswith(("hair", "leaves")):
                shutil.copy(file, tmp_path / "scenes" / name)
    return tmp_path / "scenes"


def infer(scenes: Path, base: Path, adapter: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return run(
        "inference_hf.py", "--test_data_dir", scenes / "input" / "*", "--output_dir", scenes / "results", *INFER,
        "--pretrained_model_name_or_path", base, "--resume_from_checkpoint", adapter, *words,
    )  # fmt: skip


def results(scenes: Path) -> list[str]:
    return sorted(path.name for path in (scenes / "results" / "demo").glob("*"))


def test_seeds_training_command_fails_at_once_without_weights_and_says_what_is_missing(training_set, tmp_path):
    done = run(
        "train_lora_otf.py", "--train_data_dir", training_set, "--pretrained_model_name_or_path",
        "SG161222/RealVisXL_V5.0", "--output_dir", tmp_path / "logs_bokehdiff", *TRAIN,
    )  # fmt: skip
    assert the_error(done).startswith("bokehdiff train: error: --lpips: the perceptual loss needs VGG16")


def test_seeds_inference_command_fails_at_once_without_weights_and_says_what_is_missing(tmp_path):
    done = run("inference_hf.py", "--test_data_dir", "test_data/input/*", "--output_dir", tmp_path, *INFER)
    assert "--pretrained-model-name-or-path: " in the_error(done)
    assert "RealVisXL_V5.0" in the_error(done)


def test_seeds_preparation_command_works_on_maps_that_are_there(tmp_path):
    shutil.copytree(REPOSITORY / "test_data", tmp_path / "test_data")
    done = run("prepare_data.py", "--root", tmp_path / "test_data", "--model_size", "Base", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 photographs" in done.stdout


def test_inference_writes_a_picture_for_each_focus_of_each_photograph(scenes, tiny_base, adapter):
    """Both subjects are the nearest thing there is: two pictures each, of the size of the photograph."""
    done = infer(scenes, tiny_base, adapter, "--tile-px", 128)
    assert done.returncode == 0, done.stderr
    assert results(scenes) == [f"{name}_20_{focus}.jpg" for name in ("hair", "leaves") for focus in ("0.400", "1.000")]
    for name in results(scenes):
        assert load_photo(scenes / "results" / "demo" / name).size_hw == (256, 256)


def broken_jpeg(scenes: Path) -> None:
    photo = next((scenes / "input").glob("hair*"))
    photo.write_bytes(photo.read_bytes()[:200])


def disparity_of_another_shape(scenes: Path) -> None:
    np.save(scenes / "depth" / "hair_pred.npy", np.random.default_rng(0).random((100, 256), dtype=np.float32))


def disparity_with_nan(scenes: Path) -> None:
    np.save(scenes / "depth" / "hair_pred.npy", np.full((256, 256), np.nan, dtype=np.float32))


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (broken_jpeg, "hair"),
        (disparity_of_another_shape, "hair_pred.npy"),
        (disparity_with_nan, "hair_pred.npy"),
    ],
)
def test_one_bad_scene_is_one_line_and_costs_no_other(scenes, tiny_base, adapter, break_it, named):
    break_it(scenes)
    done = infer(scenes, tiny_base, adapter, "--focus", "subject")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("hair")]
    assert named in line
    assert "--test-data-dir" in line
    assert [name.partition("_")[0] for name in results(scenes)] == ["leaves"], "the other one is rendered"


def test_unusual_scenes_are_rendered_and_said(scenes, tiny_base, adapter):
    """Transparency, 16 bits, a constant disparity and an empty mask are no mistakes; what is done with them is told."""
    photo = next((scenes / "input").glob("hair*"))
    picture = Image.open(photo).convert("RGBA")
    picture.putalpha(128)
    photo.unlink()
    picture.save(scenes / "input" / "hair.png")
    np.save(scenes / "depth" / "leaves_pred.npy", np.full((256, 256), 0.4, dtype=np.float32))
    Image.new("L", (256, 256)).save(scenes / "mask" / "leaves.png")
    done = infer(scenes, tiny_base, adapter, "--focus", "subject")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(results(scenes)) == 2
    assert "hair.png: has transparency" in done.stderr
    assert "leaves.png" in done.stderr


@pytest.mark.parametrize(
    ("program", "words", "message"),
    [
        ("inference_hf.py", ("--test_data_dir", "nowhere/input/*"), "--test-data-dir: .*nowhere"),
        ("prepare_data.py", ("--root", "nowhere"), "--root: nowhere is not a folder"),
        ("train_lora_otf.py", ("--train_data_dir", "nowhere"), "--train-data-dir: .*nowhere"),
        ("train_lora_otf.py", (), "--train-data-dir is needed"),
    ],
)
def test_missing_folders_are_named_with_their_flag(program, words, message, tmp_path):
    assert re.search(message, the_error(run(program, *words, cwd=tmp_path)))


def test_empty_folders_are_named_with_their_flag(tmp_path):
    (tmp_path / "input").mkdir()
    assert "--test-data-dir: " in the_error(run("inference_hf.py", "--test_data_dir", tmp_path / "input"))
    assert str(tmp_path) in the_error(run("prepare_data.py", "--root", tmp_path))
    (tmp_path / "fg").mkdir()
    assert "--train-data-dir: " in the_error(run("train_lora_otf.py", "--train_data_dir", tmp_path))
