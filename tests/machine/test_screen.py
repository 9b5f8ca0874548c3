from __future__ import annotations

import dataclasses

from bokehdiff.machine import Device, Extra, Machine, Package, Stored, Tried, report_lines

GIB = 2**30

BARE = Machine(
    version="1.2",
    python="3.12.1",
    system="Linux 6",
    device="cpu",
    devices=(Device("cpu", "x86_64: 2 cores", 3 * GIB, 4 * GIB),),
    no_accelerator="'cuda' cannot be used here: no driver",
    attention=(Tried("local", "cpu", None), Tried("fused", "cpu", "needs a card")),
    layers=(Tried("cpu", "cpu", None), Tried("cupy", "cpu", "CuPy is needed")),
    xformers=Tried("xformers", "cpu", "it needs an NVIDIA card; this is cpu"),
    weights=(Stored("base", "owner/name", None, "hf download owner/name"), Stored("tiny", "a/b", "a/b", None)),
    packages=(Package("torch", "2.9.0", ">=2.8"), Package("peft", "0.1", ">=0.18"), Package("timm", None, ">=1.0")),
    extras=(
        Extra("exr", (Package("OpenEXR", "3.4", ">=3.3"),), "pip install 'bokehdiff[exr]'"),
        Extra("gpu", (Package("xformers", None, ">=0.0.35"),), "pip install 'bokehdiff[gpu]'"),
    ),
)


def test_the_screen_tells_what_works_what_does_not_and_what_to_do():
    told = [" ".join(line.split()) for line in report_lines(BARE)]
    for line in (
        "bokehdiff 1.2, Python 3.12.1, Linux 6; --device auto is cpu",
        "devices cpu x86_64: 2 cores, 3.0 of 4.0 GiB free",
        "no GPU: 'cuda' cannot be used here: no driver",
        "attention local works on cpu",
        "fused no: needs a card",
        "cupy no: CuPy is needed",
        "xFormers no: it needs an NVIDIA card; this is cpu",
        "base no hf download owner/name",
        "tiny there a/b",
        "packages torch 2.9.0",
        "peft>=0.18 is needed, 0.1 is there: pip install 'peft>=0.18'",
        "timm>=1.0 is needed, none is there: pip install 'timm>=1.0'",
        "extras there: exr",
        "gpu pip install 'bokehdiff[gpu]' (lacks xformers)",
    ):
        assert line in told


def test_a_card_is_told_with_its_memory_and_one_that_fails_with_its_reason():
    cards = (
        Device("cuda:0", "H", GIB, 2 * GIB),
        Device("cuda:1", "H", 0, 2 * GIB, "busy"),
        Device("mps", "M", 0, None),
    )
    text = "\n".join(report_lines(dataclasses.replace(BARE, devices=cards, no_accelerator=None)))
    assert "cuda:0  H, 1.0 of 2.0 GiB free\n" in text
    assert "cuda:1  H, 0.0 of 2.0 GiB free; unusable: busy\n" in text
    assert "mps  M, 0.0 GiB free\n" in text
    assert "no GPU" not in text


def test_without_an_installation_it_says_so():
    bare = dataclasses.replace(BARE, packages=(), extras=())
    assert any("pip install -e ." in line for line in report_lines(bare))
