from __future__ import annotations

import json
import resource
import signal
from pathlib import Path

import pytest
import torch

from bokehdiff.errors import InputError
from bokehdiff.training.checkpoint import (
    Progress,
    find_checkpoint,
    join_state,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    split_state,
)


def write_adapter(folder: Path) -> None:
    (folder / "adapter.bin").write_bytes(b"weights")


def save(run_dir: Path, n_steps: int, keep: int | None = None) -> Path:
    states = {"generator": {"weights": {"a": torch.full((3,), float(n_steps))}}}
    return save_checkpoint(
        run_dir, Progress(n_steps, 2 * n_steps), states=states, config={"model": {"lora_rank": 2}}, keep=keep,
        write_adapter=write_adapter,
    )  # fmt: skip


def test_state_of_a_real_optimizer_comes_back_exactly(tmp_path):
    weight = torch.nn.Parameter(torch.randn(4, 3))
    optimizer = torch.optim.AdamW([{"params": [weight], "lr": 0.1}], betas=(0.9, 0.95))
    weight.square().sum().backward()
    optimizer.step()
    tensors, rest = split_state(optimizer.state_dict())
    state = join_state(json.loads(json.dumps(rest)), tensors)
    again = torch.optim.AdamW([{"params": [weight], "lr": 0.3}])
    again.load_state_dict(state)
    assert again.param_groups[0]["lr"] == 0.1
    assert tuple(again.param_groups[0]["betas"]) == (0.9, 0.95)
    assert torch.equal(again.state[weight]["exp_avg"], optimizer.state[weight]["exp_avg"])


def test_checkpoint_comes_back_whole(tmp_path):
    folder = save(tmp_path, 7)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.progress == Progress(7, 14)
    assert checkpoint.config == {"model": {"lora_rank": 2}}
    assert torch.equal(checkpoint.states["generator"]["weights"]["a"], torch.full((3,), 7.0))
    assert (folder / "adapter.bin").read_bytes() == b"weights"
    assert not list(tmp_path.glob(".*")), "nothing half-written is left"


def test_rolling_limit_keeps_the_newest(tmp_path):
    for n_steps in (1, 2, 10):
        save(tmp_path, n_steps, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-00000002", "checkpoint-00000010"]


@pytest.mark.parametrize("name", ["adapter.bin", "training_state.safetensors"])
def test_checkpoint_that_lost_a_byte_is_refused_by_name_and_the_one_before_is_used(tmp_path, name):
    older, newer = save(tmp_path, 1), save(tmp_path, 2)
    (newer / name).write_bytes((newer / name).read_bytes()[:-1])
    with pytest.raises(InputError, match=f"{name} is damaged or missing"):
        load_checkpoint(newer)
    assert find_checkpoint(tmp_path, "latest").folder == older
    with pytest.raises(InputError, match=f"{name} is damaged"):
        find_checkpoint(tmp_path, str(newer))


def test_interrupted_checkpoint_is_never_taken_for_a_whole_one(tmp_path):
    def die(folder: Path) -> None:
        write_adapter(folder)
        raise KeyboardInterrupt

    whole = save(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, Progress(2, 4), states={}, config={}, write_adapter=die, keep=None)
    assert find_checkpoint(tmp_path, "latest").folder == whole


def test_checkpoint_without_its_state_is_refused(tmp_path):
    (tmp_path / "checkpoint-00000003").mkdir()
    with pytest.raises(InputError, match=r"state\.json is missing"):
        load_checkpoint(tmp_path / "checkpoint-00000003")
    (tmp_path / "checkpoint-00000003" / "state.json").write_text("{")
    with pytest.raises(InputError, match=r"state\.json is damaged"):
        load_checkpoint(tmp_path / "checkpoint-00000003")
    assert find_checkpoint(tmp_path, "latest") is None
    assert find_checkpoint(tmp_path, None) is None


def test_a_full_disk_is_told_and_leaves_the_checkpoint_before(tmp_path):
    """A real limit on the size of a file: the system refuses the bytes beyond it."""
    older = save(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        states = {"generator": {"weights": torch.zeros(100_000)}}
        with pytest.raises(
            InputError, match=r"^--output-dir: .* could not be written .* GB are free there\): make room"
        ):
            save_checkpoint(tmp_path, Progress(2, 2), states=states, config={}, write_adapter=write_adapter, keep=None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == [older.name]
    assert find_checkpoint(tmp_path, "latest").folder == older


def test_tensors_that_share_memory_are_stored_each(tmp_path):
    """As the tables of 8-bit optimisers do."""
    table = torch.arange(4.0)
    folder = save_checkpoint(
        tmp_path, Progress(1, 1), states={"a": table, "b": table}, config={}, write_adapter=write_adapter, keep=None
    )
    states = load_checkpoint(folder).states
    assert torch.equal(states["a"], table)
    assert torch.equal(states["b"], table)
