"""A whole run on the tiny backbone (random weights): what trains, what stays, what a checkpoint is worth."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bokehdiff.data import collate
from bokehdiff.errors import BokehDiffError, InputError, MissingWeightsError
from bokehdiff.images import load_photo
from bokehdiff.training import loop
from bokehdiff.training.build import build
from bokehdiff.training.checkpoint import Progress, list_checkpoints
from bokehdiff.training.config import DataConfig, LossConfig, ModelConfig, OptimizerConfig, RunConfig, TrainConfig
from bokehdiff.training.records import read_records

SIZE_PX = 64


def config_for(tiny_base: Path, training_set: Path, run_dir: Path, **run: object) -> TrainConfig:
    settings = {"max_train_steps": 2, "checkpointing_steps": 100, "preview_steps": 0} | run
    return TrainConfig(
        model=ModelConfig(pretrained_model_name_or_path=str(tiny_base), lora_rank=2, attention_dropout=0.1),
        data=DataConfig(train_data_dir=str(training_set), resolution=SIZE_PX),
        loss=LossConfig(edge=True),
        optimizer=OptimizerConfig(learning_rate=1e-3, lr_warmup_steps=1),
        run=RunConfig(output_dir=str(run_dir), **settings),
    )


@pytest.fixture
def config(tiny_base, training_set, tmp_path):
    return config_for(tiny_base, training_set, tmp_path / "run")


def adapter_tensors(run_dir: Path) -> dict[str, torch.Tensor]:
    files = sorted((run_dir / loop.ADAPTER_FOLDER).glob("*.safetensors"))
    return {f"{file.name}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def test_a_run_leaves_what_it_promises(config):
    folder = loop.train(replace(config, run=replace(config.run, preview_steps=2, checkpointing_steps=1)))
    records = read_records(folder)
    assert [record["n_samples_seen"] for record in records] == [1, 2]
    assert all(math.isfinite(record["loss"]) for record in records)
    assert (folder / "config.yaml").read_text().startswith("model:")
    assert "torch" in (folder / "command.txt").read_text()
    assert load_photo(folder / "loss.png").size_hw[1] > 300
    assert load_photo(folder / "preview_00000002.png").size_hw[1] > 4 * SIZE_PX
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-00000001", "checkpoint-00000002"]
    state = json.loads((list_checkpoints(folder)[-1] / "state.json").read_text())
    assert state["progress"] == {"n_steps": 2, "n_samples_seen": 2}


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tiny_base, training_set, tmp_path, monkeypatch):
    whole = loop.train(config_for(tiny_base, training_set, tmp_path / "whole", max_train_steps=4))
    parted = config_for(tiny_base, training_set, tmp_path / "parted", max_train_steps=4, checkpointing_steps=2)
    optimise = loop.optimise

    def die_in_the_fourth(run, batch, progress):
        if progress.n_steps == 3:
            raise KeyboardInterrupt
        return optimise(run, batch, progress)

    monkeypatch.setattr(loop, "optimise", die_in_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        loop.train(parted)
    monkeypatch.undo()
    assert [path.name for path in list_checkpoints(tmp_path / "parted")] == ["checkpoint-00000002"]
    loop.train(parted)
    expected, got = adapter_tensors(whole), adapter_tensors(tmp_path / "parted")
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert read_records(tmp_path / "parted") == read_records(whole)


def test_only_what_should_train_trains_and_all_of_it(config):
    run = build(config)
    before = {name: tensor.clone() for name, tensor in run.generator.bare.state_dict().items()}
    progress = Progress()
    for batch in loop.batches(run, progress):
        loop.optimise(run, batch, progress)
        progress = Progress(progress.n_steps + 1, progress.n_samples_seen + 1)
    after = run.generator.bare.state_dict()
    trainable = {name for name, weight in run.generator.bare.named_parameters() if weight.requires_grad}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == trainable
    assert any("lora_A" in name for name in trainable)
    assert any(name.startswith("vae.encoder.mid_block") for name in trainable)
    assert not any(name.startswith("vae.decoder") for name in trainable)


def test_saved_adapter_holds_the_trained_weights_and_no_others(config):
    folder = loop.train(config)
    lora = load_file(folder / loop.ADAPTER_FOLDER / "pytorch_lora_weights.safetensors")
    assert all(".lora_A." in name or ".lora_B." in name for name in lora)
    assert any(tensor.abs().sum() > 0 for name, tensor in lora.items() if ".lora_B." in name), "it has learned"


def test_loss_on_a_fixed_batch_falls(config):
    steps = 12
    run = build(replace(config, run=replace(config.run, max_train_steps=steps)))
    batch = collate([run.dataset[0], run.dataset[1]])
    losses = [float(loop.optimise(run, batch, Progress(step, 2 * step)).total.detach()) for step in range(steps)]
    assert losses[-1] < 0.9 * losses[0]
    assert min(losses) == min(losses[-3:]), "and goes on falling"


def test_another_configuration_cannot_go_on_from_a_checkpoint(config):
    loop.train(config)
    with pytest.raises(InputError, match="made with another configuration"):
        loop.train(replace(config, model=replace(config.model, opt_vae=False)))


def test_loss_that_is_no_number_stops_the_run_and_names_the_samples(config):
    run = build(config)
    batch = next(loop.batches(run, Progress()))
    broken = replace(batch, target_srgb=batch.target_srgb * math.nan)
    with pytest.raises(BokehDiffError, match=r"the loss is nan at step 0, samples \[0\]"):
        loop.optimise(run, broken, Progress())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": {"resolution": 50}}, InputError, "--resolution: must be a multiple of 32"),
        ({"data": {"train_data_dir": "nowhere"}}, InputError, "^--train-data-dir: .*nowhere"),
        (
            {"model": {"pretrained_model_name_or_path": "./nobase"}},
            MissingWeightsError,
            "^--pretrained-model-name-or-path",
        ),
        ({"model": {"pisa_layers": "up_blocks.9"}}, InputError, "^--pisa-layers: .*down_blocks.1.attentions.0"),
        ({"loss": {"lpips": True, "lpips_weights": "no.pth"}}, MissingWeightsError, "^--lpips: .*no.pth"),
        ({"loss": {"lambda_gan": 0.1, "cv_weights": "no.safetensors"}}, BokehDiffError, "^--cv-type: .*no.safetensors"),
        ({"run": {"resume_from_checkpoint": "nochkpt"}}, InputError, "^--resume-from-checkpoint: .*nochkpt"),
    ],
    ids=["resolution", "data", "base", "layers", "lpips", "gan", "resume"],
)
def test_what_cannot_work_fails_at_once_and_names_the_flag(config, change, error, message):
    for section, fields in change.items():
        config = replace(config, **{section: replace(getattr(config, section), **fields)})
    with pytest.raises(error, match=message):
        loop.train(config)


def test_output_folder_that_cannot_be_made_is_named(config, tmp_path):
    (tmp_path / "file").write_text("")
    broken = replace(config, run=replace(config.run, output_dir=str(tmp_path / "file" / "run")))
    with pytest.raises(InputError, match="^--output-dir: cannot make the folder"):
        loop.train(broken)
