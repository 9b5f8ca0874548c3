from __future__ import annotations

import re
import shlex
from dataclasses import asdict, fields

import pytest
import yaml

from bokehdiff.cli.main import main
from bokehdiff.cli.options import parse_options
from bokehdiff.training.baselines.config import BaselineConfig, check_baseline_config, with_published
from bokehdiff.training.baselines.policy import BASELINE_POLICY
from bokehdiff.training.policy import flat_fields
from tests.helpers import REPOSITORY

CONFIGS = sorted((REPOSITORY / "configs" / "baselines").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_its_header_gives_a_command_that_parses(path):
    text = path.read_text(encoding="utf-8")
    command = re.search(r"^#\s+(?:accelerate launch -m |python -m )?bokehdiff train-baseline (.*)$", text, re.MULTILINE)
    assert command, "the header tells the command that runs it"
    config = parse_options(BaselineConfig, shlex.split(command.group(1)), program="bokehdiff train-baseline")
    check_baseline_config(with_published(config))
    assert set(yaml.safe_load(text)) <= {field.name for field in fields(BaselineConfig)}


def test_published_numbers_stand_where_none_are_given():
    pynet, double = (with_published(parse_options(BaselineConfig, ["--model", m], program="")) for m in MODELS)
    assert (pynet.optimizer.learning_rate, pynet.loss.lambda_l1, pynet.loss.lambda_vgg, pynet.loss.lambda_ssim) == (
        5e-5, 10.0, 0.1, 10.0,
    )  # fmt: skip
    assert (double.optimizer.adam_beta1, double.optimizer.adam_beta2, double.optimizer.learning_rate) == (
        0.0,
        0.9,
        1e-5,
    )
    assert (double.loss.lambda_l1, double.loss.lambda_vgg, double.loss.lambda_ssim) == (0.5, 0.1, 0.05)
    assert pynet.levels.level_steps == (5000, 5000, 20000, 20000, 30000, 80000, 100000)
    assert pynet.levels.level_batch_sizes == (50, 50, 40, 14, 9, 9, 5)


MODELS = ("pynet", "double-vnet")


def test_the_policy_names_fields_that_exist_each_once():
    names = {name for name, _ in flat_fields(asdict(BaselineConfig()))}
    assert names >= BASELINE_POLICY.free | BASELINE_POLICY.noted
    assert not BASELINE_POLICY.free & BASELINE_POLICY.noted
    fixed = names - BASELINE_POLICY.free - BASELINE_POLICY.noted
    assert {"network.model", "network.width", "network.guide", "data.resolution", "run.seed"} <= fixed


def test_a_dry_run_prints_what_would_be_done(capsys, training_set):
    words = ["--model", "double-vnet", "--train-data-dir", str(training_set), "--dry-run", "--learning-rate", "1e-4"]
    assert main(["train-baseline", *words]) == 0
    told = yaml.safe_load(capsys.readouterr().out)
    assert told["optimizer"]["learning_rate"] == 1e-4
    assert told["optimizer"]["adam_beta1"] == 0.0
    assert main(["train-baseline", "--model", "pynet"]) == 1
    assert "--train-data-dir or --pairs is needed" in capsys.readouterr().err
