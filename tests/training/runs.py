"""Short runs on the tiny backbone, and what two of them are compared by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bokehdiff.training.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    ValidationConfig,
)
from bokehdiff.training.lora import ADAPTER_FOLDER
from bokehdiff.training.records import TIMINGS, read_records

SIZE_PX = 64


def config_for(tiny_base: Path, training_set: Path, run_dir: Path, **fields: Any) -> TrainConfig:
    """A configuration of two steps; `fields` go to the section that has them."""
    settings: dict[type, dict[str, Any]] = {
        ModelConfig: {"pretrained_model_name_or_path": str(tiny_base), "lora_rank": 2, "attention_dropout": 0.1},
        DataConfig: {"train_data_dir": str(training_set), "resolution": SIZE_PX},
        LossConfig: {"edge": True},
        OptimizerConfig: {"learning_rate": 1e-3, "lr_warmup_steps": 1},
        ValidationConfig: {"validation_samples": 2, "validation_steps": 0},
        RunConfig: {
            "output_dir": str(run_dir),
            "max_train_steps": 2,
            "checkpointing_steps": 100,
            "preview_steps": 0,
            "report_to": "none",
        },
    }
    for name, value in fields.items():
        (section,) = [section for section in settings if name in section.__dataclass_fields__]
        settings[section][name] = value
    model, data, loss, optimizer, validation, run = (kind(**given) for kind, given in settings.items())
    return TrainConfig(model, data, loss, optimizer, validation, run)


def adapter_tensors(run_dir: Path) -> dict[str, torch.Tensor]:
    """All that the finished adapter holds."""
    files = sorted((run_dir / ADAPTER_FOLDER).glob("*.safetensors"))
    return {f"{file.name}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def assert_same_adapters(got: Path, expected: Path) -> None:
    """Bit for bit."""
    ours, theirs = adapter_tensors(got), adapter_tensors(expected)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def untimed(run_dir: Path) -> list[dict[str, float]]:
    """The log without what differs between equal runs."""
    records = read_records(run_dir)
    return [{name: value for name, value in record.items() if name not in TIMINGS} for record in records]
