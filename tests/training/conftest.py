from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from safetensors.torch import save_file

from bokehdiff.training import loop
from tests.training.runs import config_for


@pytest.fixture
def config(tiny_base, training_set, tmp_path):
    return config_for(tiny_base, training_set, tmp_path / "run")


@pytest.fixture(scope="session")
def critic_weights(tmp_path_factory) -> Path:
    """Weights of timm's smallest ConvNeXt, random."""
    import timm

    file = tmp_path_factory.mktemp("critic") / "tiny.safetensors"
    save_file(timm.create_model("test_convnext").state_dict(), file)
    return file


@pytest.fixture(scope="session")
def whole(tiny_base, training_set, critic_weights, tmp_path_factory) -> Path:
    """A run of four steps that nothing interrupts: two networks, averaged weights, measurements."""
    return loop.train(whole_config(tiny_base, training_set, critic_weights, tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture
def parted(tiny_base, training_set, critic_weights, tmp_path):
    """The configuration of `whole` in another folder, to be interrupted."""
    return whole_config(tiny_base, training_set, critic_weights, tmp_path / "parted")


def whole_config(tiny_base, training_set, critic_weights, folder):
    return config_for(
        tiny_base, training_set, folder, max_train_steps=4, checkpointing_steps=2, checkpoints_total_limit=1,
        ema_decay=0.9, lambda_gan=0.1, gan_step=2, cv_type="tiny",
        cv_weights=str(critic_weights), preview_steps=4, validation_steps=2, report_to="tensorboard",
    )  # fmt: skip


@pytest.fixture
def another_precision():
    """accelerate takes one precision per process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)
