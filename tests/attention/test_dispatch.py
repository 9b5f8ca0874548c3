"""Every back end against the definition: forward and every gradient."""

from __future__ import annotations

import inspect
import logging
import math

import pytest
import torch
import torch.nn.functional as F

from bokehdiff.attention import BACKENDS, INFERENCE_HARDNESS, dense_pisa, dispatch, local, pisa_attention
from bokehdiff.attention.tokens import TokenOptics
from bokehdiff.errors import InputError
from tests.attention.scenes import layered_disparity
from tests.helpers import assert_close

ON_CPU = sorted(set(BACKENDS) - {"fused"})  # test_fused_parity.py is the fused back end's


def problem(grid_hw, *, convention="thin_lens", dtype=torch.float64, width=4, n_heads=3):
    """Two scenes of different lenses; the coc takes a gradient."""
    scenes = torch.cat([layered_disparity(seed, (grid_hw[0] * 8, grid_hw[1] * 8)) for seed in (1, 2)])
    focus, strength_px = torch.tensor([0.2, 0.6]), torch.tensor([40.0, 10.0])
    coc_px = (strength_px[:, None, None] * (scenes - focus[:, None, None])).to(dtype).requires_grad_()
    optics = TokenOptics.from_maps(scenes, coc_px, grid_hw, focus_disparity=focus, convention=convention)
    tensors = torch.randn(3, 2, n_heads, optics.n_tokens, width, dtype=dtype).unbind()
    return [tensor.clone().requires_grad_() for tensor in tensors], coc_px, optics


def run(backend, leaves, coc_px, optics, **options):
    out = pisa_attention(*leaves, optics, backend=backend, **options)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return out, torch.autograd.grad((out * weight).sum(), [*leaves, coc_px], retain_graph=True)


@pytest.mark.parametrize("backend", sorted(set(ON_CPU) - {"reference"}))
@pytest.mark.parametrize("convention", ["thin_lens", "released"])
@pytest.mark.parametrize("hardness", [math.log(3), INFERENCE_HARDNESS])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("grid_hw", [(1, 1), (7, 4)])
def test_back_ends_match_the_definition(monkeypatch, backend, convention, hardness, dropout, grid_hw):
    monkeypatch.setattr(local, "WEIGHTS_AT_A_TIME", 500)  # parts that divide neither blocks nor heads
    leaves, coc_px, optics = problem(grid_hw, convention=convention)
    options = {"hardness": hardness, "dropout": dropout, "dropout_seed": 5}
    expected, expected_grads = run("reference", leaves, coc_px, optics, **options)
    got, got_grads = run(backend, leaves, coc_px, optics, **options)
    assert_close(got, expected)
    for got_grad, expected_grad in zip(got_grads, expected_grads, strict=True):
        assert_close(got_grad, expected_grad)


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_back_ends_keep_the_dtype_and_its_tolerance(backend, dtype):
    leaves, _, optics = problem((5, 6), dtype=torch.float32)
    rounded = [leaf.detach().to(dtype) for leaf in leaves]
    got = pisa_attention(*rounded, optics, hardness=INFERENCE_HARDNESS, backend=backend)
    exact = pisa_attention(
        *(leaf.double() for leaf in rounded), optics, hardness=INFERENCE_HARDNESS, backend="reference"
    )
    assert got.dtype == dtype
    assert_close(got, exact, dtype=dtype)


@pytest.mark.parametrize("backend", ON_CPU)
def test_autocast_does_not_coarsen_the_disc(backend):
    leaves, _, optics = problem((5, 6), dtype=torch.float32)
    plain = pisa_attention(*leaves, optics, hardness=INFERENCE_HARDNESS, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = pisa_attention(*leaves, optics, hardness=INFERENCE_HARDNESS, backend=backend)
    assert torch.equal(cast, plain)


@pytest.mark.parametrize("convention", ["thin_lens", "released"])
def test_blocks_and_parts_change_nothing(monkeypatch, convention):
    leaves, coc_px, optics = problem((6, 9), convention=convention)
    options = {"hardness": 5.0, "dropout": 0.2, "dropout_seed": 4}
    whole, grads = run("reference", leaves, coc_px, optics, **options)
    for side, size in ((1, 2**18), (3, 100), (16, 2000)):
        monkeypatch.setattr(local, "BLOCK_HW", (side, side))
        monkeypatch.setattr(local, "WEIGHTS_AT_A_TIME", size)
        got, got_grads = run("local", leaves, coc_px, optics.to("cpu"), **options)
        assert_close(got, whole)
        for got_grad, grad in zip(got_grads, grads, strict=True):
            assert_close(got_grad, grad)


def test_dropout_is_seeded_and_keeps_the_mean():
    (query, key, value), _, optics = problem((8, 8), dtype=torch.float32, width=8)
    ones = torch.ones_like(value)
    options = {"hardness": math.log(3), "dropout": 0.5}
    first = pisa_attention(query, key, ones, optics, **options, dropout_seed=1)
    assert torch.equal(first, pisa_attention(query, key, ones, optics, **options, dropout_seed=1))
    assert not torch.equal(first, pisa_attention(query, key, ones, optics, **options, dropout_seed=2))
    assert not torch.equal(first, pisa_attention(query, key, ones, optics, **options, dropout_seed=1 - 2**40))
    kept = pisa_attention(query, key, ones, optics, hardness=math.log(3))
    assert first.mean().item() == pytest.approx(kept.mean().item(), rel=0.05)


def test_dropout_drops_its_share_independently_of_heads_and_images():
    from bokehdiff.attention.dropout import dropout_scale

    token = torch.arange(64)
    weight_map = torch.arange(6).reshape(2, 3, 1, 1)
    scale = dropout_scale(7, 0.25, weight_map=weight_map, receiver=token[:, None], source=token, n_tokens=64)
    kept = scale > 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.01)
    assert scale.max().item() == pytest.approx(4 / 3)
    flat = kept.flatten(0, 1).flatten(1).float()
    assert (torch.corrcoef(flat) - torch.eye(6)).abs().max() < 0.06
    for axis in (-1, -2):
        assert kept.float().mean(dim=axis).std() < 0.09  # no row and no column is favoured


def test_back_ends_have_one_signature():
    signatures = {name: inspect.signature(backend) for name, backend in BACKENDS.items()}
    assert all(signature == signatures["reference"] for signature in signatures.values())


def test_auto_tells_once_what_it_picked(monkeypatch, caplog):
    dispatch._tell_once.cache_clear()
    leaves, _, optics = problem((2, 3))
    with caplog.at_level(logging.INFO, logger="bokehdiff"):
        for _ in range(3):
            pisa_attention(*leaves, optics, hardness=3.0)
    assert [record.getMessage() for record in caplog.records] == [
        "physics-inspired attention over 6 tokens: back end reference"
    ]
    monkeypatch.setattr(dispatch, "DENSE_TOKENS", 1)
    with caplog.at_level(logging.INFO, logger="bokehdiff"):
        pisa_attention(*leaves, optics, hardness=3.0)
    assert caplog.records[-1].getMessage().endswith("local")


def test_auto_suits_device_size_and_vectors(monkeypatch):
    cuda, cpu, half = torch.device("cuda"), torch.device("cpu"), torch.zeros(1, 1, 6, 64, dtype=torch.float16)
    monkeypatch.setattr(dispatch, "TRITON_IS_THERE", True)
    assert dispatch._suited(cuda, 4096, half) == dispatch._suited(cuda, 4096, None) == "fused"
    assert dispatch._suited(cuda, 4096, half.double()) == "local"
    assert dispatch._suited(cuda, 4096, torch.zeros(1, 1, 6, 160)) == "local"
    assert dispatch._suited(cpu, 4096, half) == "local"
    assert dispatch._suited(cpu, 64, half) == "reference"
    monkeypatch.setattr(dispatch, "TRITON_IS_THERE", False)
    assert dispatch._suited(cuda, 4096, half) == "local"


@pytest.mark.gpu
def test_auto_takes_the_kernels_on_a_gpu():
    leaves, _, optics = problem((12, 12), dtype=torch.float32, width=32)
    query, key, value = (leaf.detach().half().cuda() for leaf in leaves)
    optics = optics.to("cuda")
    got = pisa_attention(query, key, value, optics, hardness=INFERENCE_HARDNESS)
    assert torch.equal(got, pisa_attention(query, key, value, optics, hardness=INFERENCE_HARDNESS, backend="fused"))
    exact = pisa_attention(
        query.double(), key.double(), value.double(), optics, hardness=INFERENCE_HARDNESS, backend="reference"
    )
    assert_close(got, exact, dtype=torch.float16)


def test_calls_that_cannot_be_answered_are_refused():
    (query, key, value), _, optics = problem((2, 3))
    with pytest.raises(InputError, match="got 2 images of 2 x 3 tokens for 2 sequences of 5"):
        pisa_attention(query[:, :, :5], key[:, :, :5], value[:, :, :5], optics, hardness=3.0)
    with pytest.raises(InputError, match=r"dropout must be in \[0, 1\); got 1"):
        pisa_attention(query, key, value, optics, hardness=3.0, dropout=1.0)
    with pytest.raises(InputError, match="backend must be auto, reference or local or fused; got fast"):
        pisa_attention(query, key, value, optics, hardness=3.0, backend="fast")


@pytest.mark.parametrize("backend", ["auto", *ON_CPU])
def test_ablations_together_are_ordinary_attention(backend):
    leaves, _, optics = problem((5, 6))
    without = optics.without_coc().without_occlusion()
    got = pisa_attention(*leaves, without, hardness=2.0, backend=backend, normalised_over="sources")
    assert_close(got, F.scaled_dot_product_attention(*leaves))


@pytest.mark.parametrize("backend", ["auto", *ON_CPU])
def test_each_ablation_leaves_out_what_it_says(backend):
    leaves, _, optics = problem((5, 6))
    pairs = optics.dense()
    everywhere, clear = torch.full_like(optics.coc, math.inf), torch.ones_like(pairs.visibility)
    for without, coc, visibility in (
        (optics.without_coc(), everywhere, pairs.visibility),
        (optics.without_occlusion(), optics.coc, clear),
    ):
        expected = dense_pisa(*leaves, coc=coc, distance=pairs.distance, visibility=visibility, hardness=2.0)
        assert_close(pisa_attention(*leaves, without, hardness=2.0, backend=backend), expected)
