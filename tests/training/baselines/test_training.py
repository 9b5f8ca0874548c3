"""Whole runs of the smallest networks: what they leave, how they go on, how PyNET's levels follow each other."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from bokehdiff.data import collate
from bokehdiff.errors import ConfigError, InputError, MissingWeightsError
from bokehdiff.images import load_photo, save_disparity, save_image
from bokehdiff.models import BaselineSpec, build_baseline, load_baseline, write_baseline
from bokehdiff.training import loop
from bokehdiff.training.baselines.build import build_run
from bokehdiff.training.baselines.train import train_baseline
from bokehdiff.training.checkpoint import Progress, list_checkpoints
from bokehdiff.training.endings import Stopped
from bokehdiff.training.records import VALIDATION_FILE, Tally, read_records
from tests.training.baselines.conftest import with_fields
from tests.training.runs import untimed


def weights_of(folder):
    return load_file(Path(folder) / "baseline.safetensors")


def assert_same(got, expected):
    ours, theirs = weights_of(got), weights_of(expected)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("model", ["pynet", "double-vnet"])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(small, tmp_path, monkeypatch, model):
    fields = {"last_level": 7, "turn": True, "validation_steps": 2}
    whole = train_baseline(small(model, output_dir=str(tmp_path / "whole"), **fields))
    parted = small(model, output_dir=str(tmp_path / "parted"), **fields)
    optimise, seen = loop.optimise, []

    def interrupted(run, batch, progress, tally):
        seen.append(batch.n)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        optimise(run, batch, progress, tally)

    monkeypatch.setattr(loop, "optimise", interrupted)
    with pytest.raises(Stopped, match="after 3 of 4 steps"):
        train_baseline(parted)
    monkeypatch.undo()
    torch.manual_seed(17)  # dropout and slopes must not depend on what was drawn before
    again = train_baseline(parted)
    assert_same(again, whole)
    assert untimed(again.parent) == untimed(whole.parent)
    assert read_records(again.parent, file=VALIDATION_FILE) == read_records(whole.parent, file=VALIDATION_FILE)


def test_pynets_levels_begin_with_the_level_before_and_stay_as_they_are_when_done(small, caplog):
    caplog.set_level("INFO")
    config = small("pynet", last_level=6)
    folder = train_baseline(config)
    assert folder == Path(config.run.output_dir) / "level_6" / "model"
    coarse, fine = weights_of(folder.parents[1] / "level_7" / "model"), weights_of(folder)
    head = [name for name in coarse if name.startswith("level7.head")]
    assert head
    assert all(torch.equal(coarse[name], fine[name]) for name in head), "level 6 does not use it"
    moved = {name.split(".")[0] for name in coarse if not torch.equal(coarse[name], fine[name])}
    assert moved == {"encoder", "level7", "level6"}
    before = build_run(with_fields(config, last_level=5), 5).method.pynet.bare.state_dict()
    assert all(torch.equal(before[name], fine[name]) for name in fine), "level 5 begins with what level 6 ended with"
    assert load_baseline(folder).spec.level == 6
    train_baseline(config)
    assert "Level 7 is trained already" in caplog.text


def test_a_level_without_the_one_before_it_says_what_to_do(small, tmp_path):
    with pytest.raises(InputError, match=r"^--first-level: level 5 begins with the weights of level 6.*--init-from"):
        train_baseline(small("pynet", first_level=5, last_level=5))
    spec = BaselineSpec("pynet", width=1 / 16, level=6)
    write_baseline(tmp_path, build_baseline(spec).state_dict(), spec, {})
    train_baseline(small("pynet", first_level=5, last_level=5, init_from=str(tmp_path)))
    with pytest.raises(InputError, match=r"^--init-from: .* holds a network with guide disparity instead of coc"):
        train_baseline(small("pynet", first_level=5, guide="coc", init_from=str(tmp_path)))
    with pytest.raises(MissingWeightsError, match=r"^--init-from: no weights nowhere: train some"):
        train_baseline(small("pynet", init_from="nowhere"))


@pytest.mark.parametrize("level", [7, 5, 3, 1])
def test_a_level_is_asked_for_the_target_at_its_size(small, level):
    run = build_level(small, level)
    batch = collate([run.dataset[0]])
    target = run.method.target(batch)
    side = 128 // 2 ** (level - 1)
    assert target.shape == (1, 3, side, side)
    expected = F.interpolate(batch.target_srgb, size=(side, side), mode="area")
    assert float((target - expected).abs().mean()) < 0.05, "a smaller target, not a crop of it"
    assert run.method.picture(batch).shape == target.shape
    assert ("ssim" in run.method.judges) == (side >= 11)
    assert (run.method.fidelity.lambda_ssim > 0) == (level == 1)


def build_level(small, level, **fields):
    """A run of one level, from random weights."""
    folder = Path(small("pynet").run.output_dir) / f"level_{level + 1}" / "model"
    folder.mkdir(parents=True, exist_ok=True)
    spec = BaselineSpec("pynet", width=1 / 16, level=min(level + 1, 7), guide=fields.get("guide", "disparity"))
    write_baseline(folder, build_baseline(spec).state_dict(), spec, {})
    return build_run(small("pynet", first_level=7, last_level=level, **fields), level)


def learn_by_heart(run, n_steps):
    batch, tally, losses = collate([run.dataset[n] for n in (0, 1)]), Tally(), []
    for step in range(n_steps):
        run.method.step(batch, Progress(step, step), run.accelerator, tally)
        numbers, _ = tally.close(run.accelerator, 2, stop=False)
        losses.append(numbers["loss"])
        tally.clear()
    return losses


def test_one_batch_is_learned_by_heart_by_a_level_of_pynet(small):
    losses = learn_by_heart(build_level(small, 5, learning_rate=5e-3), 30)
    assert losses[-1] < 0.4 * losses[0]


def test_one_batch_is_learned_by_heart_by_the_double_v_net(small):
    run = build_run(small("double-vnet", width=0.25, lambda_adversarial=0.0, learning_rate=3e-3, adam_beta1=0.9))
    losses = learn_by_heart(run, 40)
    assert losses[-1] < 0.5 * losses[0]


def test_critics_and_generator_are_each_stepped_by_their_own_optimiser_only(small):
    run = build_run(small("double-vnet", lambda_adversarial=1.0))
    generator, critics = run.method.generator, run.method.adversary.critics
    own = {id(weight) for group in generator.optimizer.optimizer.param_groups for weight in group["params"]}
    theirs = {id(weight) for group in critics.optimizer.optimizer.param_groups for weight in group["params"]}
    assert own == {id(weight) for weight in generator.bare.parameters()}
    assert theirs == {id(weight) for weight in critics.bare.parameters()}
    steps = {}
    for name, network in run.method.networks.items():
        step = network.optimizer.step

        def noted(*, name=name, step=step):
            for other, beside in run.method.networks.items():
                steps.setdefault(name, []).append((other, [w.grad is not None for w in beside.bare.parameters()]))
            step()

        network.optimizer.step = noted
    run.method.step(collate([run.dataset[0]]), Progress(), run.accelerator, Tally())
    assert [all(has) for other, has in steps["critics"] if other == "critics"] == [True]
    assert not any(any(has) for other, has in steps["critics"] if other == "generator")
    assert [all(has) for other, has in steps["generator"] if other == "generator"] == [True]
    assert not any(any(has) for other, has in steps["generator"] if other == "critics"), "praise leaves nothing behind"


def test_the_penalty_is_in_force_with_its_weight(small):
    losses = {}
    for weight in (0.0, 10.0, 20.0):
        run = build_run(
            small("double-vnet", lambda_penalty=weight, output_dir=f"{small('pynet').run.output_dir}{weight}")
        )
        tally = Tally()
        run.method.step(collate([run.dataset[0]]), Progress(), run.accelerator, tally)
        losses[weight] = float(tally.batches[0][1]["critics"])
    assert losses[20.0] - losses[10.0] == pytest.approx(losses[10.0] - losses[0.0], rel=1e-3)
    assert losses[10.0] > losses[0.0]


@pytest.mark.parametrize("limit", [0.0, 0.1])
def test_gradients_are_clipped_where_asked_for(small, limit):
    run = build_run(small("pynet", max_grad_norm=limit, last_level=7), 7)
    assert run.method.pynet.max_grad_norm == (limit or math.inf)
    network, norms = run.method.pynet, []
    step = network.optimizer.step
    network.optimizer.step = lambda: (
        norms.append(float(torch.cat([w.grad.flatten() for w in network.trained.values()]).norm())),
        step(),
    )
    tally = Tally()
    run.method.step(collate([run.dataset[0]]), Progress(), run.accelerator, tally)
    assert tally.grad_norms["pynet"] > 0.1, "the norm before clipping is told"
    assert norms[0] == pytest.approx(limit or tally.grad_norms["pynet"], rel=1e-3)


def pairs(root, n=6, size_hw=(128, 160), *, a="input", b="label", depth=True):
    rng = np.random.default_rng(0)
    for folder in (a, b, *(["depth"] if depth else [])):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(n):
        image = torch.from_numpy(rng.uniform(size=(1, 3, 8, 10))).float()
        image = F.interpolate(image, size=size_hw, mode="bicubic").clamp(0, 1)
        save_image(root / a / f"{i}.png", image)
        save_image(root / b / f"{i}.png", F.avg_pool2d(image, 5, 1, 2))
        if depth:
            save_disparity(root / "depth" / f"{i}.png", torch.linspace(0, 1, size_hw[0] * size_hw[1]).view(1, *size_hw))
    return root


def test_the_aim_layout_is_trained_on_and_its_validation_part_measured_whole(small, tmp_path):
    pairs(tmp_path / "aim" / "train", depth=False)
    pairs(tmp_path / "aim" / "val", 2, (50, 70), depth=False)
    config = small(
        "double-vnet", train_data_dir="", pairs=f"aim:{tmp_path / 'aim'}", width_multiple=1, shuffle_buffer=3,
        validation_steps=2, preview_steps=2, max_train_steps=2,
    )  # fmt: skip
    run = build_run(config)
    assert [run.held_out.source.pairs[n].image.parent.parent.name for n in run.held_out.numbers] == ["val", "val"]
    folder = train_baseline(config).parent
    (scores,) = read_records(folder, file=VALIDATION_FILE)
    assert math.isfinite(scores["validation_ssim"])
    assert load_photo(folder / "preview_00000002.png").size_hw[1] > 3 * 70
    (best,) = folder.glob("best-*")
    assert load_baseline(best).about["n_samples_seen"] == "4"


def test_pairs_without_a_part_for_validation_leave_the_last_ones_out(small, tmp_path):
    root = pairs(tmp_path / "pairs", a="a", b="b")
    config = small("pynet", train_data_dir="", pairs=f"folders:{root}", validation_steps=1, last_level=7)
    run = build_run(config, 7)
    trained = {pair.name for pair in run.dataset.pairs}
    looked_at = {run.held_out.source.pairs[n].name for n in run.held_out.numbers}
    assert (trained, looked_at) == ({"0", "1", "2", "3"}, {"4", "5"})
    train_baseline(config)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda root: (root / "b" / "3.png").unlink(), r"^--pairs: no target in .*b for 1 of 6 photographs: 3$"),
        (lambda root: (root / "depth" / "3.png").unlink(), r"^--pairs: .*3\.png has no map of disparity.*--guide none"),
    ],
    ids=["label", "map"],
)
def test_bad_folders_are_refused_by_name(small, tmp_path, harm, message):
    root = pairs(tmp_path / "pairs", a="a", b="b")
    harm(root)
    with pytest.raises(InputError, match=message):
        train_baseline(small("pynet", train_data_dir="", pairs=f"folders:{root}"))


@pytest.mark.parametrize("broken", ["size", "bytes"])
def test_bad_files_are_refused_by_name(small, tmp_path, broken):
    root = pairs(tmp_path / "pairs", 2, a="a", b="b")
    for i in range(2):
        if broken == "size":
            save_image(root / "b" / f"{i}.png", torch.rand(1, 3, 128, 100))
        else:
            (root / "b" / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    message = r"b/\d\.png has 100 x 128 pixels, .*a/\d\.png has 160 x 128" if broken == "size" else r"b/\d\.png"
    with pytest.raises(InputError, match=message):
        train_baseline(small("pynet", train_data_dir="", pairs=f"folders:{root}", last_level=7))


def test_the_guide_tells_the_lens_where_asked_for(small):
    run = build_level(small, 6, guide="coc")
    batch = collate([run.dataset[0]])
    assert "coc" in run.method.shown(batch)
    with torch.no_grad():
        picture = run.method.picture(batch)
        other = run.method.picture(replace(batch, known_coc_px=-batch.coc_px))
    assert not torch.equal(picture, other)


def test_what_cannot_be_is_told_all_at_once(small):
    wrong = {
        "train_data_dir": "", "resolution": 100, "width": 0.0, "first_level": 3, "last_level": 5, "mirror": 2.0,
        "level_steps": (1, 0, 1, 1, 1, 1, 1), "strength_min_px": 9.0, "strength_max_px": 3.0,
    }  # fmt: skip
    with pytest.raises(ConfigError) as refused:
        train_baseline(small("pynet", **wrong))
    assert len(refused.value.problems) == 7
    assert "--resolution must be a multiple of 64, at least 128, for pynet; got 100" in str(refused.value)


def test_vgg_that_is_not_there_is_named_before_any_step(small):
    with pytest.raises(MissingWeightsError, match=r"^--lambda-vgg: the feature loss needs VGG-19.*no\.pth.*download"):
        train_baseline(small("double-vnet", lambda_vgg=0.1, vgg_weights="no.pth"))


def test_a_checkpoint_of_another_network_is_refused(small):
    config = small("double-vnet")
    folder = train_baseline(config)
    assert len(list_checkpoints(folder.parent)) == 2
    with pytest.raises(ConfigError, match="--width was 0.0625 in the checkpoint and is 0.125 now"):
        train_baseline(with_fields(config, width=0.125))
