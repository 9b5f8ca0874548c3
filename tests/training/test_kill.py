"""A run that is killed at any instant goes on to the same weights, also with processes that compose samples."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import REPOSITORY
from tests.training.runs import untimed

N_STEPS = 8
N_KILLS = 3


def start(tiny_base: Path, training_set: Path, folder: Path) -> subprocess.Popen[bytes]:
    words = [
        "train_lora_otf.py", "--train_data_dir", training_set, "--pretrained_model_name_or_path", tiny_base,
        "--output_dir", folder, "--max_train_steps", N_STEPS, "--resolution", 64, "--edge", "--checkpointing_steps", 2,
        "--dataloader_num_workers", 2, "--preview_steps", 0, "--learning_rate", 1e-3,
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *map(str, words)], cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_weights(tiny_base, training_set, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    started = time.monotonic()
    assert start(tiny_base, training_set, whole).wait() == 0
    seconds = time.monotonic() - started
    chance = random.Random(0)
    for _ in range(N_KILLS):
        process = start(tiny_base, training_set, killed)
        time.sleep(chance.uniform(0.4, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(tiny_base, training_set, killed).wait() == 0
    for name in ("pytorch_lora_weights.safetensors", "vae_encoder.safetensors"):
        expected, got = (load_file(folder / "adapter" / name) for folder in (whole, killed))
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[key], got[key]) for key in expected)
    assert untimed(killed) == untimed(whole)
