"""Two processes that train together are one with batches of twice the size: losses, rates, weights."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bokehdiff.training import loop
from bokehdiff.training.records import read_records
from tests.helpers import REPOSITORY
from tests.training.runs import SIZE_PX, adapter_tensors, config_for

EQUAL = ("n_steps", "n_samples_seen", "loss", "mse", "edge", "discriminator", "learning_rate", "grad_norm_generator")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(n_processes: int, *words: object) -> None:
    """As a user does; without a GPU to be seen it is the CPU, over gloo."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", n_processes,
        "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", free_port(),
        "train_lora_otf.py",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [str(word) for word in (*command, *words)],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_equal_one_with_twice_the_batch(tiny_base, training_set, critic_weights, tmp_path):
    """Both networks; the autoencoder's trained parts are compared between the processes before anything is saved."""
    together, alone = tmp_path / "together", tmp_path / "alone"
    launch(
        2, "--train_data_dir", training_set, "--pretrained_model_name_or_path", tiny_base, "--output_dir", together,
        "--max_train_steps", 2, "--resolution", SIZE_PX, "--edge", "--lora_rank", 2, "--learning_rate", 1e-3,
        "--lr_warmup_steps", 1, "--lambda_gan", 0.1, "--gan_step", 1, "--cv_type", "tiny", "--cv_weights",
        critic_weights, "--validation_steps", 2, "--validation_samples", 3, "--report_to", "none",
        "--preview_steps", 0,
    )  # fmt: skip
    loop.train(
        config_for(
            tiny_base, training_set, alone, train_batch_size=2, attention_dropout=0.0, lambda_gan=0.1, gan_step=1,
            cv_type="tiny", cv_weights=str(critic_weights), validation_steps=2, validation_samples=3,
        )
    )  # fmt: skip
    for one, other in zip(read_records(together), read_records(alone), strict=True):
        assert {name: one[name] for name in EQUAL} == pytest.approx({name: other[name] for name in EQUAL}, rel=1e-3)
    measured = [read_records(folder, file="validation.jsonl") for folder in (together, alone)]
    assert measured[0][0] == pytest.approx(measured[1][0], rel=1e-3)
    ours, theirs = adapter_tensors(together), adapter_tensors(alone)
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, rtol=1e-3, atol=2e-4), name
    assert Path(together / "config.yaml").is_file()
