"""The benchmark's baseline computes what the published code computes: a fair opponent."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.published_attention import published_attention, published_occlusion
from bokehdiff.attention import pisa_attention
from tests.attention.scenes import layered_disparity, optics_of
from tests.helpers import SHARED, assert_close

GOLDEN = SHARED / "golden" / "pisa_released_512.npz"


def test_the_baseline_blocks_what_the_released_convention_blocks():
    disparity = torch.cat([layered_disparity(seed, (96, 96)) for seed in (1, 2)])
    ours = optics_of(disparity, (6, 6), convention="released", n_jittered=3)
    got = published_occlusion(disparity, 6, ours.occlusion.jitter)
    assert 0.1 < got.mean() < 0.9
    assert (got != 1 - ours.dense().visibility).float().mean() < 1e-3  # rounding may turn a look that grazes an edge


def test_the_baseline_attends_as_the_definition_does():
    disparity, shifts = layered_disparity(3, (96, 96)), torch.zeros(1, 36, 2)
    query, key, value = torch.randn(3, 1, 2, 36, 8).unbind()
    optics = optics_of(disparity, (6, 6), focus=0.4, strength_px=30.0, convention="released")
    expected = pisa_attention(query, key, value, optics, hardness=math.log(1e7), backend="reference")
    coc_px = 30.0 * (disparity - 0.4)
    got = published_attention(
        query, key, value, disparity=disparity, coc_px=coc_px, hard=1e7, shifts=shifts, dropout=0.0
    )
    assert_close(got, expected)


@pytest.mark.skipif(not GOLDEN.exists(), reason="needs the numbers of the released code")
@pytest.mark.parametrize(("name", "n_steps"), [("y_inference", 7), ("y_no_occlusion", 0)])
def test_the_baseline_gives_the_released_numbers(name, n_steps):
    golden = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN).items()}
    disparity, coc = golden["disp_coc"].unbind(dim=1)
    query, key, value = (
        F.linear(golden["x"], golden[f"to_{which}.weight"]).unflatten(-1, (2, 16)).transpose(1, 2) for which in "qkv"
    )
    received = published_attention(
        query,
        key,
        value,
        disparity=disparity,
        coc_px=10 * coc,
        hard=1e7,
        shifts=torch.zeros(1, 1024, 2),
        n_steps=n_steps,
        dropout=0.0,
    )
    got = F.linear(received.transpose(1, 2).flatten(2), golden["to_out.0.weight"], golden["to_out.0.bias"])
    torch.testing.assert_close(got, golden[name], rtol=0, atol=1e-4)
