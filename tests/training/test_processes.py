"""Two processes that train together are one with batches of twice the size: losses, rates, weights."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bokehdiff.training import loop
from bokehdiff.training.records import read_records
from tests.helpers import REPOSITORY
from tests.training.runs import SIZE_PX, adapter_tensors, assert_same_adapters, config_for

EQUAL = ("n_steps", "n_samples_seen", "loss", "mse", "edge", "discriminator", "learning_rate", "grad_norm_generator")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(config: str, *words: object) -> str:
    """Two processes, as a user starts them; without a GPU to be seen it is the CPU, over gloo."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"configs/accelerate/{config}.yaml",
        "--num_processes", 2, "--main_process_port", free_port(), "train_lora_otf.py",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [str(word) for word in (*command, *words)],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.fixture(scope="module")
def words(tiny_base, training_set, critic_weights) -> tuple[object, ...]:
    """Both networks, averaged weights, a pair for two processes that is one too few; two steps of two batches."""
    return (
        "--train_data_dir", training_set, "--pretrained_model_name_or_path", tiny_base, "--max_train_steps", 2,
        "--resolution", SIZE_PX, "--edge", "--lora_rank", 2, "--learning_rate", 1e-3, "--lr_warmup_steps", 1,
        "--lambda_gan", 0.1, "--gan_step", 1, "--cv_type", "tiny", "--cv_weights", critic_weights, "--ema_decay", 0.9,
        "--gradient_accumulation_steps", 2, "--checkpointing_steps", 1, "--validation_steps", 2,
        "--validation_samples", 3, "--report_to", "none",
    )  # fmt: skip


@pytest.fixture(scope="module")
def alone(tiny_base, training_set, critic_weights, tmp_path_factory) -> Path:
    """The same in one process, with batches of two."""
    return loop.train(
        config_for(
            tiny_base, training_set, tmp_path_factory.mktemp("alone") / "run", train_batch_size=2,
            gradient_accumulation_steps=2, attention_dropout=0.0, lambda_gan=0.1, gan_step=1, cv_type="tiny",
            cv_weights=str(critic_weights), ema_decay=0.9, validation_steps=2, validation_samples=3,
        )
    )  # fmt: skip


def assert_equal_up_to_rounding(together: Path, alone: Path) -> None:
    for one, other in zip(read_records(together), read_records(alone), strict=True):
        assert {name: one[name] for name in EQUAL} == pytest.approx({name: other[name] for name in EQUAL}, rel=1e-3)
    measured = [read_records(folder, file="validation.jsonl") for folder in (together, alone)]
    assert measured[0][0] == pytest.approx(measured[1][0], rel=1e-3)
    ours, theirs = adapter_tensors(together), adapter_tensors(alone)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, rtol=1e-3, atol=2e-4), name


def test_two_processes_equal_one_with_twice_the_batch(words, alone, tmp_path):
    """Both networks; the autoencoder's trained parts are compared between the processes before anything is saved."""
    launch("ddp", *words, "--output_dir", tmp_path / "run")
    assert_equal_up_to_rounding(tmp_path / "run", alone)
    assert (tmp_path / "run" / "config.yaml").is_file()


@pytest.mark.slow
def test_two_processes_that_share_the_weights_equal_one_that_has_them_all(words, alone, tmp_path):
    """FSDP2 over gloo: shares of half, the same numbers, a whole adapter; resumed bit for bit, and elsewhere."""
    told = launch("fsdp", *words, "--output_dir", tmp_path / "run", "--preview_steps", 2)
    found = re.findall(r"Process \d holds (\d+) of (\d+) weights", told)
    shares = [[int(number) for number in share] for share in found]
    assert len(shares) == 2
    assert sum(mine for mine, _ in shares) == shares[0][1], "every weight is somewhere, and only there"
    assert all(0.4 < mine / everything < 0.6 for mine, everything in shares)
    assert_equal_up_to_rounding(tmp_path / "run", alone)
    assert (tmp_path / "run" / "preview_00000002.png").is_file()
    assert_it_goes_on_here_and_elsewhere("fsdp", words, alone, tmp_path)


@pytest.mark.slow
def test_two_processes_that_share_the_moments_equal_one_that_has_them_all(words, alone, tmp_path):
    """ZeRO-2 over gloo: the same numbers; resumed bit for bit, and by one process without DeepSpeed."""
    pytest.importorskip("deepspeed", reason="extra deepspeed")
    launch("deepspeed", *words, "--output_dir", tmp_path / "run")
    assert_equal_up_to_rounding(tmp_path / "run", alone)
    assert_it_goes_on_here_and_elsewhere("deepspeed", words, alone, tmp_path)


def assert_it_goes_on_here_and_elsewhere(config: str, words, alone: Path, folder: Path) -> None:
    parted, elsewhere = folder / "parted", folder / "elsewhere"
    for copy in (parted, elsewhere):
        shutil.copytree(folder / "run" / "checkpoint-00000001", copy / "checkpoint-00000001")
    assert "Resuming from" in launch(config, *words, "--output_dir", parted)
    assert_same_adapters(parted, folder / "run")
    done = subprocess.run(
        [sys.executable, "train_lora_otf.py", *map(str, (*words, "--output_dir", elsewhere, "--train_batch_size", 2))],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Resuming from" in done.stderr
    got = adapter_tensors(elsewhere)
    for name, tensor in adapter_tensors(alone).items():
        assert torch.allclose(got[name], tensor, rtol=1e-3, atol=2e-4), name
