from __future__ import annotations

import pytest
import torch

from bokehdiff.devices import pick_device
from bokehdiff.errors import InputError


@pytest.mark.parametrize(("accelerator", "expected"), [(None, "cpu"), ("cuda", "cuda"), ("mps", "mps")])
def test_auto_is_the_accelerator_if_there_is_one(monkeypatch, accelerator, expected):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(accelerator))
    assert pick_device("auto") == torch.device(expected)


def test_a_named_device_is_that_device():
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["toaster", "", "meta", "hpu", "xpu", "cuda:99", "cpu:x"])
def test_what_cannot_compute_is_refused_in_one_line(name):
    with pytest.raises(InputError, match=f"^'{name}' cannot be used here: .") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_an_nvidia_card_is_found():
    assert pick_device("auto").type == pick_device("cuda:0").type == "cuda"
