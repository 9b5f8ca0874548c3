"""The fused back end without a GPU: its kernels interpreted, and what it refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch

from bokehdiff.attention import fused
from bokehdiff.errors import InputError, MissingDependencyError
from tests.attention.scenes import layered_disparity, optics_of
from tests.helpers import REPOSITORY

LAWS = "tests/attention/test_laws.py"


def run_interpreted(selection: str) -> None:
    """Run the tests of a GPU in a process in which Triton interprets kernels: it decides that when imported."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", selection, "tests/attention/test_fused_parity.py", LAWS],
        cwd=REPOSITORY,
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout), done.stdout
    assert "skipped" not in done.stdout, done.stdout


def test_interpreted_kernels_match_the_definition():
    pytest.importorskip("triton")
    run_interpreted("gpu and not slow")


@pytest.mark.slow
def test_interpreted_kernels_match_the_definition_over_every_option():
    pytest.importorskip("triton")
    run_interpreted("gpu and slow")


def test_what_cannot_be_computed_is_refused():
    pytest.importorskip("triton")
    optics = optics_of(layered_disparity(1, (16, 24)), (2, 3))
    query = torch.randn(1, 2, 6, 32)
    with pytest.raises(InputError, match="'fused' needs tensors on a CUDA device; got cpu"):
        fused.fused_pisa(query, query, query, optics, hardness=3.0)
    with pytest.raises(InputError, match=r"computes float16, .* got torch.float64, torch.float64, torch.float64"):
        fused.fused_pisa(query.double(), query.double(), query.double(), optics, hardness=3.0)
    with pytest.raises(InputError, match=r"computes float16, .* got torch.float16, torch.float32, torch.float32"):
        fused.fused_pisa(query.half(), query, query, optics, hardness=3.0)
    wide = torch.randn(1, 2, 6, 160)
    with pytest.raises(InputError, match="takes heads up to 128 wide; got 160"):
        fused.fused_pisa(wide, wide, wide, optics, hardness=3.0)


def test_without_triton_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "bokehdiff.attention.fused_kernels", raising=False)
    fused._kernels.cache_clear()
    optics = optics_of(layered_disparity(1, (16, 24)), (2, 3))
    query = torch.randn(1, 2, 6, 32)
    with pytest.raises(MissingDependencyError, match="Triton is needed for backend 'fused'"):
        fused.fused_pisa(query, query, query, optics, hardness=3.0)
    fused._kernels.cache_clear()
