"""A whole run on the tiny backbone (random weights): what trains, what stays, what a run leaves, how it goes on."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from bokehdiff.data import collate
from bokehdiff.errors import BokehDiffError, ConfigError, InputError, MissingDependencyError, MissingWeightsError
from bokehdiff.images import load_photo, save_image
from bokehdiff.metrics import psnr
from bokehdiff.models import load_adapter
from bokehdiff.models.adapter_files import LORA_FILE, VAE_FILE
from bokehdiff.training import loop
from bokehdiff.training.build import build
from bokehdiff.training.checkpoint import Progress, list_checkpoints, load_checkpoint
from bokehdiff.training.endings import DivergenceError, Stopped
from bokehdiff.training.held_out import measure
from bokehdiff.training.lora import ADAPTER_FOLDER, predict
from bokehdiff.training.records import VALIDATION_FILE, Tally, read_records
from bokehdiff.training.watch import refuse_divergence
from tests.data.test_pairs import blb
from tests.training.runs import SIZE_PX, adapter_tensors, assert_same_adapters, config_for, untimed


def test_a_run_leaves_what_it_promises(whole):
    assert {path.name for path in whole.iterdir()} == {
        "adapter", "best-00000002", "best-00000004", "checkpoint-00000004", "command.txt", "config.yaml", "log.jsonl",
        "logs", "loss.png", "preview_00000004.png", "validation.jsonl",
    } - ({"best-00000002"} if (whole / "best-00000004").exists() else {"best-00000004"})  # fmt: skip
    assert (whole / "config.yaml").read_text().startswith("model:")
    assert "torch" in (whole / "command.txt").read_text()
    assert min(load_photo(whole / "loss.png").size_hw) > 300
    assert load_photo(whole / "preview_00000004.png").size_hw[1] > 4 * SIZE_PX
    assert list((whole / "logs").rglob("events.out.tfevents*")), "TensorBoard was told"


def test_the_log_tells_every_step(whole):
    records = read_records(whole)
    assert [record["n_samples_seen"] for record in records] == [1, 2, 3, 4]
    told = {"loss", "mse", "edge", "psnr", "discriminator", "grad_norm_generator", "learning_rate", "data_wait_s"}
    assert all(told <= record.keys() for record in records)
    assert ["gan" in record for record in records] == [False, False, True, True], "from gan_step on"
    assert all(math.isfinite(value) for record in records for value in record.values())
    assert all(record["psnr"] == pytest.approx(10 * math.log10(4 / record["mse"])) for record in records)


def test_what_is_measured_is_what_the_saved_adapter_does(whole, tiny_base, training_set, critic_weights, tmp_path):
    """The best adapter, read back onto the base, makes the pictures that were measured."""
    scores = read_records(whole, file=VALIDATION_FILE)
    assert [score["n_steps"] for score in scores] == [2, 4]
    (best,) = whole.glob("best-*")
    stored = json.loads((best / "validation.json").read_text())
    assert stored["validation_psnr"] == max(score["validation_psnr"] for score in scores)
    run = build(config_for(tiny_base, training_set, tmp_path / "fresh"))
    load_adapter(best, run.method.generator.bare.unet, run.method.generator.bare.vae)
    measured = measure(run.held_out, run.method, run.accelerator)
    assert measured == pytest.approx(stored, rel=1e-5)


def test_the_adapter_holds_the_trained_parts_and_says_what_it_is(whole, tiny_base):
    file = whole / ADAPTER_FOLDER / "pytorch_lora_weights.safetensors"
    lora = load_file(file)
    assert all(".lora_A." in name or ".lora_B." in name for name in lora)
    assert any(tensor.abs().sum() > 0 for name, tensor in lora.items() if ".lora_B." in name), "it has learned"
    with safe_open(file, "pt") as stream:
        about = json.loads(stream.metadata()["bokehdiff"])
    assert about["base"] == str(tiny_base)
    assert (about["n_samples_seen"], about["lora_rank"], about["lora_alpha"]) == ("4", "2", "8")
    assert "torch=" in about["versions"]
    recipe = json.loads(about["config"])
    assert recipe["optimizer"]["ema_decay"] == 0.9
    assert "train_data_dir" not in recipe["data"], "places on this machine are nobody's business"
    card = (whole / ADAPTER_FOLDER / "README.md").read_text()
    assert f"base_model: {tiny_base}" in card
    assert "PSNR" in card


def test_the_adapter_is_the_running_mean_and_the_checkpoint_holds_both(whole):
    state = load_checkpoint(list_checkpoints(whole)[-1]).states["generator"]
    adapter = adapter_tensors(whole)
    name = "vae.encoder.conv_in.weight"
    saved = adapter["vae_encoder.safetensors/encoder.conv_in.weight"]
    assert torch.equal(saved, state["average"]["means"][name])
    assert not torch.equal(saved, state["weights"][name])


def crash(run, number):
    raise RuntimeError("power cut")


def terminate(run, number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("interrupt", "number", "error", "left"),
    [(crash, 0, RuntimeError, 2), (terminate, signal.SIGTERM, Stopped, 3)],
    ids=["crash", "SIGTERM"],
)
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    whole, parted, monkeypatch, interrupt, number, error, left
):
    """In the third step: a crash goes back to the checkpoint of two steps, a signal lets it end and saves three."""
    optimise, seen = loop.optimise, []

    def interrupted(run, batch, progress, tally):
        seen.append(batch.n)
        if len(seen) == 3:
            interrupt(run, number)
        optimise(run, batch, progress, tally)

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(loop, "optimise", interrupted)
    with pytest.raises(error) as raised:
        loop.train(parted)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) is handler
    if error is Stopped:
        assert raised.value.signal_number == number
        assert "after 3 of 4 steps" in str(raised.value)
    (folder,) = list_checkpoints(Path(parted.run.output_dir))
    assert folder.name == f"checkpoint-{left:08d}"
    again = loop.train(parted)
    assert_same_adapters(again, whole)
    assert untimed(again) == untimed(whole)
    assert read_records(again, file=VALIDATION_FILE) == read_records(whole, file=VALIDATION_FILE)


def test_only_what_should_train_trains_and_all_of_it(config):
    run = build(replace(config, optimizer=replace(config.optimizer, lr_warmup_steps=0)))  # else the first step stands
    before = {name: tensor.clone() for name, tensor in run.method.generator.bare.state_dict().items()}
    progress, tally, with_gradient = Progress(), Tally(), set()
    for batch in loop.batches(run, progress):
        loop.optimise(run, batch, progress, tally)
        moved = run.method.generator.optimizer.optimizer.state
        with_gradient |= {
            name for name, weight in run.method.generator.trained.items() if moved[weight]["exp_avg"].any()
        }
        progress = progress.after_step(1)
    after = run.method.generator.bare.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == run.method.generator.trained.keys(), "all that is trained, and bit for bit nothing else"
    # A softmax over keys does not see what the same bias adds to all of them.
    assert {name for name in run.method.generator.trained if name not in with_gradient} <= {
        "vae.encoder.mid_block.attentions.0.to_k.bias"
    }
    assert any("lora_A" in name for name in changed)
    assert any(name.startswith("vae.encoder.mid_block") for name in changed)
    assert not any(name.startswith("vae.decoder") for name in changed)


@pytest.mark.parametrize("opt_vae", [True, False])
def test_the_vae_trains_at_a_tenth_of_the_rate_or_not_at_all(config, opt_vae):
    run = build(replace(config, model=replace(config.model, opt_vae=opt_vae)))
    groups = run.method.generator.optimizer.optimizer.param_groups
    assert [group["initial_lr"] for group in groups] == ([1e-3, 1e-4] if opt_vae else [1e-3])
    assert any(name.startswith("vae.") for name in run.method.generator.trained) is opt_vae
    assert {weight.dtype for weight in run.method.generator.trained.values()} == {torch.float32}


def test_two_batches_accumulated_are_one_of_twice_the_size(tiny_base, training_set, tmp_path):
    """Without dropout, whose mask is a batch's."""
    shapes = {"twice": {"gradient_accumulation_steps": 2}, "once": {"train_batch_size": 2}}
    folders = [
        loop.train(config_for(tiny_base, training_set, tmp_path / name, attention_dropout=0.0, resolution=32, **shape))
        for name, shape in shapes.items()
    ]
    twice, once = (read_records(folder) for folder in folders)
    for one, other in zip(twice, once, strict=True):
        for name in ("n_samples_seen", "loss", "mse", "edge", "grad_norm_generator", "learning_rate"):
            assert one[name] == pytest.approx(other[name], rel=1e-4), name


def learn_by_heart(run, batch, n_steps) -> list[dict[str, float]]:
    """The numbers of each step on the one batch."""
    tally, course = Tally(), []
    for step in range(n_steps):
        loop.optimise(run, batch, Progress(step, step), tally)
        numbers, _ = tally.close(run.accelerator, 1, stop=False)
        tally.clear()
        course.append(numbers)
    return course


@pytest.fixture
def quick_learner(tiny_base, training_set, tmp_path):
    return build(
        config_for(
            tiny_base, training_set, tmp_path / "run", max_train_steps=16, resolution=32, learning_rate=3e-3,
            vae_learning_rate_scale=1.0, lora_rank=8, attention_dropout=0.0,
        )
    )  # fmt: skip


def drawn(run, batch) -> torch.Tensor:
    """Without training's soft discs."""
    with run.method.generator.as_handed_over() as generator, torch.no_grad():
        return predict(generator, batch, run.method.attention, run.method.prompt)


def test_one_composite_is_learned_by_heart(quick_learner):
    """As far as a decoder with random weights can draw it: from 14.7 to 19.4 dB in ten steps, a third of the loss."""
    batch = collate([quick_learner.dataset[0]])
    course = learn_by_heart(quick_learner, batch, 10)
    assert course[-1]["loss"] < 0.7 * course[0]["loss"]
    assert course[-1]["psnr"] > course[0]["psnr"] + 3.0
    assert float(psnr(drawn(quick_learner, batch), batch.target_srgb)) > 18.0


def test_a_picture_that_the_network_can_draw_is_learned_by_heart(quick_learner):
    """What the same network draws of a composite with other trained weights: 15 dB, above 22 after sixteen steps."""
    run = quick_learner
    batch = collate([run.dataset[0]])
    own = {name: weight.detach().clone() for name, weight in run.method.generator.trained.items()}
    with torch.no_grad():
        for weight in run.method.generator.trained.values():
            weight += 0.3 * weight.std().clamp_min(0.05) * torch.randn_like(weight)
        target_srgb = drawn(run, batch)
        for name, weight in run.method.generator.trained.items():
            weight.copy_(own[name])
    batch = replace(batch, target_srgb=target_srgb)
    assert float(psnr(drawn(run, batch), target_srgb)) < 17.0, "it is another picture"
    course = learn_by_heart(run, batch, 16)
    assert course[-1]["loss"] < 0.5 * course[0]["loss"]
    assert float(psnr(drawn(run, batch), target_srgb)) > 22.0


def test_loss_that_is_no_number_stops_the_run_touches_no_weight_and_names_the_samples(config, monkeypatch):
    run = build(replace(config, run=replace(config.run, gradient_accumulation_steps=2)))
    before = {name: weight.detach().clone() for name, weight in run.method.generator.trained.items()}
    good = [run.dataset[n] for n in (0, 1)]
    broken = replace(collate([good[1]]), target_srgb=good[1].target_srgb[None] * math.nan)
    monkeypatch.setattr(loop, "batches", lambda *_: iter([collate([good[0]]), broken]))
    with pytest.raises(DivergenceError, match=r"loss is nan at step 0, samples \[0, 1\].*newest checkpoint is kept"):
        loop.train_run(run)
    assert all(torch.equal(weight, before[name]) for name, weight in run.method.generator.trained.items())
    record = json.loads((run.folder / "diverged.json").read_text())
    assert [batch["samples"] for batch in record["batches"]] == [[0], [1]]
    assert math.isnan(record["batches"][1]["losses"]["loss"])
    assert math.isfinite(record["batches"][0]["losses"]["loss"]), "the culprit can be told from its neighbour"
    assert list_checkpoints(run.folder) == []


def test_pictures_worse_than_any_can_be_stop_the_run(config):
    run = build(config)
    with pytest.raises(DivergenceError, match="the mean squared error is 4.5 at step 7"):
        refuse_divergence(run, Progress(7, 7), {"loss": 9.0, "mse": 4.5}, Tally())
    refuse_divergence(run, Progress(7, 7), {"loss": 9.0, "mse": 3.9}, Tally())


def test_processes_that_drifted_apart_are_not_saved(config, monkeypatch):
    run = build(config)
    monkeypatch.setattr(run.accelerator, "gather", lambda mine: torch.cat([mine, mine + 1e-9]))
    with pytest.raises(BokehDiffError, match=r"weights of processes \[1\] are not those of process 0"):
        loop.save(run, Progress(1, 1))


def test_a_checkpoint_of_another_training_is_refused_and_smaller_changes_are_told(whole, parted, caplog):
    """`whole` is only read: the refusal comes before anything is written into it but its own description."""
    here = replace(parted, run=replace(parted.run, resume_from_checkpoint=str(list_checkpoints(whole)[-1])))
    changed = replace(here, model=replace(here.model, lora_rank=3, opt_vae=False))
    with pytest.raises(ConfigError, match="--lora-rank was 2 in the checkpoint and is 3 now; --opt-vae was True"):
        loop.train(changed)
    again = replace(here, optimizer=replace(here.optimizer, learning_rate=5e-4), loss=replace(here.loss, edge=False))
    loop.train(again)  # nothing is left to do
    assert "From here on --learning-rate is 0.0005; until the checkpoint it was 0.001" in caplog.text
    assert "--edge is False" in caplog.text


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"resolution": 50}, InputError, "--resolution: must be a multiple of 16"),
        ({"train_data_dir": "nowhere"}, InputError, "^--train-data-dir: .*nowhere"),
        ({"validation_data_dir": "nowhere"}, InputError, "^--validation-data-dir: .*nowhere"),
        ({"pretrained_model_name_or_path": "./nobase"}, MissingWeightsError, "^--pretrained-model-name-or-path"),
        ({"pisa_layers": "up_blocks.9"}, InputError, "^--pisa-layers: .*down_blocks.1.attentions.0"),
        ({"lpips": True, "lpips_weights": "no.pth"}, MissingWeightsError, "^--lpips: .*no.pth.*https://download"),
        ({"lambda_gan": 0.1, "cv_weights": "no.pth"}, BokehDiffError, "^--cv-type: .*no.pth"),
        ({"resume_from_checkpoint": "nochkpt"}, InputError, "^--resume-from-checkpoint: .*nochkpt"),
        ({"report_to": "logbook"}, MissingDependencyError, "^--report-to: no tracker called 'logbook'.*tensorboard"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_work_fails_at_once_and_names_the_flag(tiny_base, training_set, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        loop.train(config_for(tiny_base, training_set, tmp_path / "run", **changes))


def test_pairs_with_a_known_lens_are_mixed_in_and_measured_whole(tiny_base, training_set, tmp_path):
    """BLB tells its lens; its photographs are 40 x 48 here, which the backbone's 32 does not divide."""
    pairs = blb(tmp_path / "blb", depth=np.linspace(1.0, 9.0, 40 * 48).reshape(40, 48))
    folder = loop.train(
        config_for(
            tiny_base, training_set, tmp_path / "run", composition="bokehdiff", mix_in=f"blb:{pairs}@3",
            validation_data_dir=f"blb:{pairs}", validation_steps=1, resolution=32, max_train_steps=1, preview_steps=1,
        )
    )  # fmt: skip
    (scores,) = read_records(folder, file=VALIDATION_FILE)
    assert math.isfinite(scores["validation_psnr"])
    assert (folder / "preview_00000001.png").is_file()


def test_pairs_that_do_not_know_their_lens_are_refused(tiny_base, training_set, tmp_path):
    for side in ("a", "b"):
        (tmp_path / "pairs" / side).mkdir(parents=True)
        save_image(tmp_path / "pairs" / side / "1.png", torch.rand(1, 3, 64, 64))
    for flag in ("mix_in", "validation_data_dir"):
        with pytest.raises(InputError, match=f"^--{flag.replace('_', '-')}: .*tell neither focus nor strength"):
            build(config_for(tiny_base, training_set, tmp_path / "run", **{flag: f"folders:{tmp_path / 'pairs'}"}))


def test_output_folder_that_cannot_be_made_is_named(config, tmp_path):
    (tmp_path / "file").write_text("")
    broken = replace(config, run=replace(config.run, output_dir=str(tmp_path / "file" / "run")))
    with pytest.raises(InputError, match="^--output-dir: cannot make the folder"):
        loop.train(broken)


def test_a_disk_without_room_is_told_before_any_step(config, monkeypatch):
    from bokehdiff.training import endings

    monkeypatch.setattr(endings.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(InputError, match=r"^--output-dir: .* has 0\.00 GB free, the checkpoints take 0\.0\d GB"):
        loop.train(config)


def test_running_out_of_memory_says_what_to_try(config, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(loop, "optimise", exhausted)
    with pytest.raises(BokehDiffError, match=r"2\.00 GiB\.\): try --gradient-checkpointing.*newest checkpoint is kept"):
        loop.train(config)


def test_float16_on_a_cpu_is_refused(config, another_precision):
    with pytest.raises(InputError, match="^--mixed-precision: fp16 needs a GPU"):
        loop.train(replace(config, run=replace(config.run, mixed_precision="fp16")))


def test_launchers_that_do_not_serve_are_refused_with_what_does(config, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_MEGATRON_LM", "true")
    with pytest.raises(InputError, match="Megatron-LM, which is for language models: take a file of configs/accel"):
        build(config)


def test_deepspeed_that_is_not_there_names_the_extra(config, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(MissingDependencyError, match=r"DeepSpeed is needed .*pip install bokehdiff\[deepspeed\]"):
        build(config)


def test_deepspeed_is_told_the_trainings_own_numbers_and_its_third_stage_refused(config, monkeypatch):
    from accelerate.state import AcceleratorState

    from bokehdiff.training.zero import tell_zero

    accelerator = build(replace(config, run=replace(config.run, gradient_accumulation_steps=2))).accelerator
    plugin = SimpleNamespace(zero_stage=3, deepspeed_config={"zero_optimization": {"stage": 3}})
    monkeypatch.setattr(AcceleratorState, "deepspeed_plugin", plugin)
    with pytest.raises(InputError, match=r"stage must be 1 or 2; got 3: .*fsdp\.yaml shares weights"):
        tell_zero(accelerator, batch_size=1, max_grad_norm=1.0)
    plugin.zero_stage = 2
    tell_zero(accelerator, batch_size=3, max_grad_norm=0.5)
    told = plugin.deepspeed_config
    assert told["train_micro_batch_size_per_gpu"] == 3
    assert (told["gradient_accumulation_steps"], told["gradient_clipping"]) == (2, 0.5)


def test_what_does_not_go_with_shares_is_refused(config, monkeypatch):
    from accelerate import Accelerator, DistributedType

    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda self: DistributedType.FSDP))
    monkeypatch.setattr(Accelerator, "is_fsdp2", property(lambda self: False))
    with pytest.raises(InputError, match="set fsdp_version: 2"):
        build(config)
    monkeypatch.setattr(Accelerator, "is_fsdp2", property(lambda self: True))
    monkeypatch.setattr(Accelerator, "mixed_precision", property(lambda self: "fp16"))
    with pytest.raises(InputError, match="^--mixed-precision: fp16's loss scaling"):
        build(config)


def test_half_precision_keeps_trained_weights_exact_and_the_vae_out_of_it(config, another_precision):
    run = build(replace(config, run=replace(config.run, mixed_precision="bf16")))
    generator = run.method.generator.bare
    frozen = {name: weight for name, weight in generator.unet.named_parameters() if not weight.requires_grad}
    assert {weight.dtype for weight in frozen.values()} == {torch.bfloat16}
    assert {weight.dtype for weight in (*run.method.generator.trained.values(), *generator.vae.parameters())} == {
        torch.float32
    }
    seen = {}
    for name, layer in (("unet", generator.unet.mid_block.resnets[0].conv1), ("vae", generator.vae.decoder.conv_out)):
        layer.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output.dtype}))
    for batch in loop.batches(run, Progress()):
        loop.optimise(run, batch, Progress(), Tally())
        break
    assert seen == {"unet": torch.bfloat16, "vae": torch.float32}
    moments = run.method.generator.optimizer.optimizer.state[next(iter(run.method.generator.trained.values()))]
    assert moments["exp_avg"].dtype == torch.float32


def test_compilation_and_tf32_are_switched_on_where_asked_for(config, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *_, **__: compiled.append(type(self).__name__))
    asked = replace(config, model=replace(config.model, torch_compile=True), run=replace(config.run, allow_tf32=True))
    build(asked)
    assert compiled == ["UNet2DConditionModel", "Encoder", "Decoder"]
    assert torch.backends.cuda.matmul.allow_tf32
    build(config)
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("ablation", ["pisa", "coc", "normalisation", "occlusion"])
def test_what_an_ablation_leaves_out_changes_the_picture_and_is_told(config, ablation):
    run = build(config)
    other = build(replace(config, model=replace(config.model, ablation=ablation)))
    batch = collate([run.dataset[0]])
    pictures = [each.method.picture(batch) for each in (run, other)]
    assert not torch.equal(*pictures)
    assert other.description["ablation"] == ablation


def test_a_run_begins_with_another_runs_adapter(config, whole, caplog):
    run = build(replace(config, model=replace(config.model, initial_adapter=str(whole / "adapter"), train_T=99)))
    begun = run.method.handed_over()
    named = {LORA_FILE: begun.lora, VAE_FILE: begun.vae}
    ours = {f"{file}/{name}": tensor for file, tensors in named.items() for name, tensor in tensors.items()}
    theirs = adapter_tensors(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert "trained with train_T 499; it goes on with 99" in caplog.text


def test_an_initial_adapter_of_another_rank_is_refused(config, whole):
    other = replace(config.model, initial_adapter=str(whole / "adapter"), lora_rank=3)
    with pytest.raises(InputError, match=r"^--initial-adapter: .* rank"):
        build(replace(config, model=other))
