from __future__ import annotations

import os
import signal
import threading

import pytest
import torch

from bokehdiff.errors import BokehDiffError, ConfigError, InputError, MissingDependencyError
from bokehdiff.training.config import TrainConfig
from bokehdiff.training.endings import StopRequest, memory_errors_told, signal_name
from bokehdiff.training.optimizers import adamw
from bokehdiff.training.policy import FREE, NOTED, compare_configs, flat_fields


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_request_and_the_second_one_an_order(number):
    before = signal.getsignal(number)
    request = StopRequest()
    with request.listening():
        os.kill(os.getpid(), number)
        assert request.is_asked
        assert request.signal_number == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
    assert signal_name(number) in {"Ctrl-C", "SIGTERM"}


def test_a_thread_that_is_not_the_main_one_does_not_listen():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def elsewhere():
        with StopRequest().listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_every_way_of_running_out_of_memory_is_told(error):
    with pytest.raises(BokehDiffError, match="^out of memory .*--gradient-checkpointing"), memory_errors_told():
        raise error
    with pytest.raises(RuntimeError, match="something else"), memory_errors_told():
        raise RuntimeError("something else")


def test_the_policy_names_fields_that_exist_each_once():
    from dataclasses import asdict

    fields = {name for name, _ in flat_fields(asdict(TrainConfig()))}
    assert fields >= FREE | NOTED
    assert not FREE & NOTED
    fixed = fields - FREE - NOTED
    assert {"model.lora_rank", "model.visibility", "data.resolution", "run.seed", "loss.cv_type"} <= fixed


def test_configs_are_compared_field_by_field(caplog):
    stored = {
        "model": {"lora_rank": 8, "torch_compile": False},
        "optimizer": {"learning_rate": 1e-4},
        "data": {"a": [1]},
    }
    compare_configs(stored, stored | {"data": {"a": (1,)}})
    compare_configs(stored, stored | {"model": {"lora_rank": 8, "torch_compile": True}})
    assert caplog.text == "", "what changes no weight is nobody's business"
    compare_configs(stored, stored | {"optimizer": {"learning_rate": 2e-4}})
    assert "--learning-rate is 0.0002; until the checkpoint it was 0.0001" in caplog.text
    with pytest.raises(ConfigError, match="--lora-rank was 8 in the checkpoint and is 4 now; --a was") as refused:
        compare_configs(stored, {"model": {"lora_rank": 4}, "data": {"a": [2]}})
    assert len(refused.value.problems) == 3
    compare_configs(stored, {"data": {"new": 1}}), "a field that an older version did not know"


def test_eight_bits_without_the_package_name_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    weight = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(
        MissingDependencyError, match=r"^--use-8bit-adam: bitsandbytes is needed .*bokehdiff\[train8bit"
    ):
        adamw([{"params": [weight], "lr": 0.1}], betas=(0.9, 0.99), weight_decay=0.0, epsilon=1e-7, in_8_bits=True)


def test_eight_bit_moments_come_back_from_a_checkpoint(tmp_path):
    pytest.importorskip("bitsandbytes", reason="extra train8bit")
    from bokehdiff.training.checkpoint import Progress, load_checkpoint, save_checkpoint

    def steps(weight, optimizer, n):
        for _ in range(n):
            weight.square().mul(torch.linspace(0, 1, weight.numel()).view_as(weight)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    def fresh(values):
        weight = torch.nn.Parameter(values.clone())
        groups = [{"params": [weight], "lr": 0.01}]
        return weight, adamw(groups, betas=(0.9, 0.95), weight_decay=0.01, epsilon=1e-7, in_8_bits=True)

    values = torch.randn(64, 128)  # below 4096 numbers bitsandbytes keeps moments in float32
    whole, optimizer = fresh(values)
    steps(whole, optimizer, 4)
    parted, optimizer = fresh(values)
    steps(parted, optimizer, 2)
    state = {"weight": parted.data, "optimizer": optimizer.state_dict()}
    folder = save_checkpoint(
        tmp_path, Progress(2, 2), states=state, config={}, write_adapter=lambda folder: None, keep=None
    )
    state = load_checkpoint(folder).states
    parted, optimizer = fresh(state["weight"])
    optimizer.load_state_dict(state["optimizer"])
    assert any(value.dtype == torch.uint8 for value in optimizer.state[parted].values() if torch.is_tensor(value))
    steps(parted, optimizer, 2)
    assert torch.equal(parted, whole)


def test_input_errors_are_not_swallowed():
    with pytest.raises(InputError, match="mine"), memory_errors_told():
        raise InputError("mine")
