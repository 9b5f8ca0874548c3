from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from bokehdiff.cli.main import main
from bokehdiff.cli.options import parse_options
from bokehdiff.errors import BokehDiffError, ConfigError
from bokehdiff.models import load_sdxl, weights_origin
from bokehdiff.training.pretraining import stage, stages
from bokehdiff.training.pretraining.config import (
    PicturesConfig,
    PretrainConfig,
    PretrainRunConfig,
    StageConfig,
    check_pretrain_config,
)
from bokehdiff.training.pretraining.stage import Schedule
from bokehdiff.training.records import read_records
from tests.helpers import REPOSITORY

SHORT = StageConfig(n_steps=4, batch_size=2, crop_px=32, warmup_steps=2, decay_steps=2)


def config_for(folder) -> PretrainConfig:
    return PretrainConfig(
        pictures=PicturesConfig(n_pictures=2, picture_px=64),
        autoencoder_stage=SHORT,
        prior_stage=SHORT,
        run=PretrainRunConfig(output_dir=str(folder), device="cpu", n_workers=0, checkpointing_steps=2),
    )


@pytest.fixture(scope="module", autouse=True)
def few_looks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "N_HELD_OUT", 2)
        patch.setattr(stages, "N_MEASURED", 8)
        yield


@pytest.fixture(scope="module")
def whole(few_looks, tmp_path_factory):
    return stages.pretrain(config_for(tmp_path_factory.mktemp("whole")))


def weights(base):
    return {
        f"{part}/{name}": tensor
        for part in ("unet", "vae")
        for name, tensor in load_file(base / part / "diffusion_pytorch_model.safetensors").items()
    }


def test_a_taught_base_reads_like_any_other(whole):
    networks = load_sdxl(whole)
    assert {weight.dtype for weight in weights(whole).values()} == {torch.float16}
    assert len(networks.vae.config.latents_std) == networks.unet.config.in_channels
    assert weights_origin(whole) == {"weights": "taught", "seed": 0, "autoencoder": 8, "prior": 8}


def test_the_card_tells_what_was_measured(whole):
    card = (whole / "README.md").read_text()
    log = read_records(whole.parent / "autoencoder")
    assert f"autoencoder: {log[-1]['psnr']:.2f} dB" in card
    assert "4 steps of 2 crops of 32 px" in card
    assert (whole.parent / "prior" / "preview.png").is_file()


def test_what_was_stopped_goes_on_bit_for_bit(whole, tmp_path, monkeypatch):
    """Stopped after the third step of each stage: the second is the last that a checkpoint has."""
    step, taken = stage._step, []

    def stopping(*args, **kwargs):
        taken.append(args)
        if len(taken) in (4, 9):
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    monkeypatch.setattr(stage, "_step", stopping)
    config = config_for(tmp_path)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            stages.pretrain(config)
    base = stages.pretrain(config)
    assert len(taken) == 4 + 5 + 2  # the third step of each stage was done again
    ours, theirs = weights(base), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    logs = [[record["loss"] for record in read_records(folder / "prior")] for folder in (tmp_path, whole.parent)]
    assert logs[0] == logs[1]


def test_a_loss_that_is_no_number_stops_it(tmp_path):
    config = config_for(tmp_path)
    config = replace(config, autoencoder_stage=replace(SHORT, learning_rate=1e30))
    with pytest.raises(BokehDiffError, match="autoencoder: the loss is nan at step .*smaller learning_rate"):
        stages.pretrain(config)


def test_the_learning_rate_rises_stays_and_falls():
    schedule = Schedule(n_steps=10, learning_rate=2.0, warmup_steps=2, decay_steps=4)
    assert [schedule.at(step) for step in range(10)] == [1, 2, 2, 2, 2, 2, 2, 1.5, 1, 0.5]


def test_every_problem_of_a_configuration_is_told_at_once():
    broken = StageConfig(n_steps=0, crop_px=33, ema_decay=1.0)
    config = PretrainConfig(
        PicturesConfig(n_pictures=0, largest_scale=0.5),
        prior_stage=broken,
        run=PretrainRunConfig(checkpointing_steps=0),
    )
    with pytest.raises(ConfigError) as told:
        check_pretrain_config(config)
    for words in ("prior_stage.n_steps", "prior_stage.crop_px", "ema_decay", "n_pictures", "largest_scale", "checkpoi"):
        assert words in str(told.value)


def test_the_committed_configuration_is_sound():
    path = REPOSITORY / "configs" / "pretrain_tiny.yaml"
    config = parse_options(PretrainConfig, ["--config", str(path)], program="bokehdiff pretrain-tiny")
    check_pretrain_config(config)
    assert config.autoencoder_stage.n_steps > 1000


def test_the_command_refuses_a_bad_one(capsys):
    assert main(["pretrain-tiny", "--prior_stage.crop_px", "40"]) == 1
    assert "prior_stage.crop_px must be a multiple of 32" in capsys.readouterr().err
