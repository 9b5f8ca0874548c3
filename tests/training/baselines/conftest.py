from __future__ import annotations

from dataclasses import replace

import pytest

from bokehdiff.training.baselines.config import (
    AdamConfig,
    BaselineConfig,
    BaselineRunConfig,
    FidelityConfig,
    HeldOutConfig,
    LevelConfig,
    MaterialConfig,
    NetworkConfig,
    with_published,
)

SECTIONS = ("network", "data", "levels", "loss", "optimizer", "validation", "run")


def with_fields(config, **fields):
    """`fields` go to the section that has them."""
    for name, value in fields.items():
        (section,) = [s for s in SECTIONS if name in getattr(config, s).__dataclass_fields__]
        config = replace(config, **{section: replace(getattr(config, section), **{name: value})})
    return config


@pytest.fixture
def small(training_set, tmp_path):
    """The smallest networks, four steps, no VGG."""

    def make(model, **fields):
        config = BaselineConfig(
            network=NetworkConfig(model=model, width=1 / 16),
            data=MaterialConfig(train_data_dir=str(training_set), resolution=128 if model == "pynet" else 32),
            levels=LevelConfig(level_steps=(4,) * 7, level_batch_sizes=(2,) * 7),
            loss=FidelityConfig(lambda_vgg=0.0),
            optimizer=AdamConfig(learning_rate=1e-3),
            validation=HeldOutConfig(validation_steps=0, validation_samples=2),
            run=BaselineRunConfig(
                output_dir=str(tmp_path / "run"), max_train_steps=4, train_batch_size=2, checkpointing_steps=2,
                preview_steps=0, report_to="none",
            ),
        )  # fmt: skip
        return with_published(with_fields(config, **fields))

    return make
