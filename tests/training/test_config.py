"""Every flag reaches something, and the seed's command line means what it says."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from dataclasses import asdict

import pytest

from bokehdiff.cli import train as command
from bokehdiff.cli.options import parse_options
from bokehdiff.errors import ConfigError
from bokehdiff.training import build
from bokehdiff.training.config import TrainConfig, check_config
from bokehdiff.training.policy import flat_fields
from tests.test_programs import TRAIN


def attributes_read(module) -> set[str]:
    return {node.attr for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Attribute)}


def test_no_option_is_dead():
    read = attributes_read(build) | attributes_read(command)
    fields = {name.rpartition(".")[2] for name, _ in flat_fields(asdict(TrainConfig()))}
    assert not fields - read, "declared and read nowhere"


def test_option_names_are_unique_across_sections():
    leaves = [name.rpartition(".")[2] for name, _ in flat_fields(asdict(TrainConfig()))]
    assert len(leaves) == len(set(leaves))


def test_the_seeds_command_line_means_what_it_says():
    config = parse_options(TrainConfig, [*TRAIN, "--train_data_dir", "DATA"], program="bokehdiff train")
    check_config(config)
    assert (config.run.train_batch_size, config.run.mixed_precision, config.run.max_train_steps) == (1, "no", 120_000)
    assert config.model.opt_vae
    assert config.model.enable_xformers_memory_efficient_attention
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.lr_scheduler, optimizer.lr_num_cycles) == (5e-5, "cosine", 1)
    assert (optimizer.lr_warmup_steps, config.data.resolution, config.run.checkpointing_steps) == (20, 512, 60_000)
    loss = config.loss
    assert (loss.lpips, loss.edge, loss.lambda_lpips, loss.lambda_gan, loss.gan_step) == (True, True, 5.0, 0.1, 30_000)
    assert (loss.gan_loss_type, loss.cv_type) == ("multilevel_sigmoid_s", "convnext")


def test_all_problems_are_told_at_once():
    bad = parse_options(
        TrainConfig,
        [
            "--ema-decay",
            "1",
            "--attention-dropout",
            "1",
            "--push-to-hub",
            "--validation-samples",
            "0",
            "--train-T",
            "1000",
        ],
        program="bokehdiff train",
    )
    with pytest.raises(ConfigError, match="--ema-decay must be in") as refused:
        check_config(bad)
    flags = {problem.split()[0] for problem in refused.value.problems}
    assert flags == {
        "--ema-decay", "--attention-dropout", "--push-to-hub", "--validation-samples", "--train-T", "--train-data-dir"
    }  # fmt: skip
    assert dataclasses.is_dataclass(bad)
