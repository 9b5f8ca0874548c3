"""xFormers itself is not installed here: a module of its name stands for it, on a card that is pretended."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from diffusers import UNet2DConditionModel

from bokehdiff.models import use_xformers

CARD = torch.device("cuda")


@pytest.fixture
def asked(monkeypatch):
    """The UNets that were told to use xFormers."""
    asked = []
    monkeypatch.setattr(
        UNet2DConditionModel, "enable_xformers_memory_efficient_attention", lambda unet: asked.append(unet)
    )
    return asked


@pytest.fixture
def install(monkeypatch):
    """Put an attention under xFormers' name; tensors made on the card are made on the CPU instead."""
    real_zeros = torch.zeros

    def put(attention):
        operators = ModuleType("xformers.ops")
        operators.memory_efficient_attention = attention
        monkeypatch.setitem(sys.modules, "xformers", ModuleType("xformers"))
        monkeypatch.setitem(sys.modules, "xformers.ops", operators)
        monkeypatch.setattr(torch, "zeros", lambda *size, device, dtype: real_zeros(*size, dtype=dtype))

    return put


def test_without_a_card_it_says_why_and_changes_nothing(networks, asked, install, caplog):
    install(lambda *_: pytest.fail("xFormers was asked"))
    assert use_xformers(networks.unet, torch.device("cpu")) is False
    assert not asked
    assert "needs an NVIDIA card; this is cpu" in caplog.text


def test_a_working_one_is_tried_out_and_used(networks, asked, install, caplog):
    tried = []

    def attention(query, key, value):
        tried.append((query.shape, query.dtype))
        return query

    install(attention)
    assert use_xformers(networks.unet, CARD) is True
    assert asked == [networks.unet]
    assert tried == [((1, 8, 1, 32), torch.float16)]
    assert not caplog.records


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NotImplementedError("No operator found\nfor these inputs"), "NotImplementedError: No operator found"),
        (RuntimeError(), "RuntimeError: RuntimeError"),
    ],
    ids=["two lines", "no words"],
)
def test_a_broken_one_is_told_in_one_line_and_changes_nothing(networks, asked, install, caplog, error, told):
    def attention(*_):
        raise error

    install(attention)
    assert use_xformers(networks.unet, CARD) is False
    assert not asked
    (record,) = caplog.records
    assert record.getMessage() == f"xFormers is not used, torch's own attention is: {told}"


def test_one_that_is_not_installed_is_told(networks, asked, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "xformers", None)
    assert use_xformers(networks.unet, CARD) is False
    assert not asked
    assert "ModuleNotFoundError: " in caplog.text
