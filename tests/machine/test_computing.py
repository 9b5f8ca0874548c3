from __future__ import annotations

import psutil
import pytest
import torch

from bokehdiff.errors import InputError
from bokehdiff.machine import computing

CPU = torch.device("cpu")


def told(tried) -> dict[str, str | None]:
    return {entry.name: entry.problem for entry in tried}


def test_on_a_cpu_what_needs_no_card_works_and_the_rest_says_what_it_needs():
    attention = told(computing.try_attention(CPU))
    assert attention["reference"] is None
    assert attention["local"] is None
    assert "CUDA device" in attention["fused"] or "Triton is needed" in attention["fused"]
    layers = told(computing.try_layers(CPU))
    assert layers["cpu"] is None
    assert layers["torch"] is None
    assert "CuPy is needed" in layers["cupy"] or "takes float32 on cuda" in layers["cupy"]
    assert "needs an NVIDIA card" in computing.try_xformers(CPU).problem


@pytest.mark.parametrize(
    ("error", "problem"),
    [(InputError("not so"), "not so"), (OSError("no compiler\nin the path"), "OSError: no compiler")],
)
def test_a_back_end_that_breaks_is_told_in_one_line_and_stops_no_other(monkeypatch, error, problem):
    def broken(*_, backend, **__):
        if backend == "local":
            raise error
        return torch.zeros(1)

    monkeypatch.setattr(computing, "pisa_attention", broken)
    assert told(computing.try_attention(CPU)) == {"reference": None, "local": problem, "fused": None}


def test_the_cpu_tells_its_memory():
    cpu = computing.this_cpu()
    assert cpu.total_bytes == psutil.virtual_memory().total
    assert 0 < cpu.free_bytes < cpu.total_bytes
    assert f"threads of torch: {torch.get_num_threads()}" in cpu.about


def test_without_a_gpu_there_is_none_and_the_reason_is_torchs(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert computing.accelerators() == ()
    monkeypatch.setattr(computing, "pick_device", lambda name: pytest.fail(name) if name != "cuda" else refuse())
    assert computing.no_accelerator() == "no driver"


def refuse() -> None:
    raise InputError("no driver")


def test_every_card_is_told_also_one_that_cannot_be_used(monkeypatch):
    class Card:
        name, major, minor, total_memory = "Card", 9, 0, 100

    def pick(name: str) -> torch.device:
        if name == "cuda:1":
            refuse()
        return torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card)
    monkeypatch.setattr(computing, "free_bytes_of", lambda _: 60)
    monkeypatch.setattr(computing, "pick_device", pick)
    good, bad = computing.accelerators()
    assert good == computing.Device("cuda:0", "Card, compute capability 9.0", 60, 100)
    assert bad == computing.Device("cuda:1", "Card, compute capability 9.0", 0, 100, "no driver")


def test_an_accelerator_that_shares_memory_has_no_total(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setattr(computing, "free_bytes_of", lambda _: 60)
    monkeypatch.setattr(computing, "pick_device", lambda name: torch.device("mps"))
    assert computing.accelerators() == (computing.Device("mps:0", "shares the machine's memory", 60, None),)


@pytest.mark.gpu
def test_on_a_card_every_back_end_of_attention_works():
    assert set(told(computing.try_attention(torch.device("cuda"))).values()) == {None}
    assert told(computing.try_layers(torch.device("cuda")))["torch"] is None
