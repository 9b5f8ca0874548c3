"""The definition of PISA by its laws, and against four loops."""

from __future__ import annotations

import math

import pytest
import torch

from bokehdiff.attention import INFERENCE_HARDNESS, dense_pisa, token_distance
from tests.helpers import assert_close


def inputs(grid_hw=(2, 3), *, n_images=1, n_heads=2, width=4, dtype=torch.float64):
    n_tokens = grid_hw[0] * grid_hw[1]
    query, key, value = torch.randn(3, n_images, n_heads, n_tokens, width, dtype=dtype)
    scene = {
        "coc": 4.0 * torch.rand(n_images, n_tokens, dtype=dtype),
        "distance": token_distance(grid_hw, (16.0, 12.0)).to(dtype),
        "visibility": torch.rand(n_images, n_tokens, n_tokens, dtype=dtype),
    }
    return query, key, value, scene


def loops(query, key, value, *, coc, distance, visibility, hardness):
    """The formula as written, without logarithms."""
    out = torch.zeros_like(query)
    n_images, n_heads, n_tokens, width = query.shape
    for b in range(n_images):
        for head in range(n_heads):
            for k in range(n_tokens):
                weights = []
                for q in range(n_tokens):
                    likeness = float(query[b, head, q] @ key[b, head, k]) / math.sqrt(width)
                    disc = 1 / (1 + math.exp(-hardness * float(coc[b, k] - distance[q, k])))
                    weights.append(math.exp(likeness) * disc)
                for q in range(n_tokens):
                    share = weights[q] / sum(weights)
                    out[b, head, q] += share * visibility[b, q, k] * value[b, head, k]
    return out


@pytest.mark.parametrize("grid_hw", [(1, 1), (1, 5), (2, 3), (4, 2)])
@pytest.mark.parametrize("hardness", [math.log(3), INFERENCE_HARDNESS])
def test_dense_pisa_is_the_formula(grid_hw, hardness):
    query, key, value, scene = inputs(grid_hw, n_images=2)
    got = dense_pisa(query, key, value, **scene, hardness=hardness)
    assert_close(got, loops(query, key, value, **scene, hardness=hardness))


def test_shuffled_tokens_give_the_shuffled_result():
    query, key, value, scene = inputs((3, 4), n_images=2)
    order = torch.randperm(12)
    shuffled = {
        "coc": scene["coc"][:, order],
        "distance": scene["distance"][order][:, order],
        "visibility": scene["visibility"][:, order][:, :, order],
    }
    out = dense_pisa(query, key, value, **scene, hardness=3.0)
    got = dense_pisa(query[:, :, order], key[:, :, order], value[:, :, order], **shuffled, hardness=3.0)
    assert_close(got, out[:, :, order])


@pytest.mark.parametrize("why", ["blocked", "out of reach"])
def test_receivers_that_nothing_reaches_are_zero_and_pass_no_nan(why):
    query, key, value, scene = inputs((2, 3))
    if why == "blocked":
        scene["visibility"][:, 2] = 0.0
    else:
        scene["distance"][2] = math.inf
    leaves = [query, key, value, scene["coc"], scene["visibility"]]
    for leaf in leaves:
        leaf.requires_grad_()
    out = dense_pisa(query, key, value, **scene, hardness=INFERENCE_HARDNESS)
    assert torch.equal(out[:, :, 2], torch.zeros_like(out[:, :, 2]))
    assert bool(out.isfinite().all())
    out.square().sum().backward()
    assert all(bool(leaf.grad.isfinite().all()) for leaf in leaves)


def test_large_logits_neither_overflow_nor_vanish():
    query, key, value, scene = inputs((2, 3), dtype=torch.float32)
    scene["visibility"] = torch.ones_like(scene["visibility"])
    out = dense_pisa(1e3 * query, 1e3 * key, value, **scene, hardness=INFERENCE_HARDNESS)
    assert_close(out.sum(dim=2), value.sum(dim=2))


def test_gradients_are_those_of_the_formula():
    query, key, value, scene = inputs((2, 2))
    leaves = [query, key, value, scene["coc"], scene["visibility"]]
    for leaf in leaves:
        leaf.requires_grad_()

    def function(q, k, v, coc, visibility):
        return dense_pisa(q, k, v, coc=coc, distance=scene["distance"], visibility=visibility, hardness=2.0)

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    query, key, value, scene = inputs((4, 5), dtype=torch.float32)
    half = [tensor.to(dtype) for tensor in (query, key, value)]
    got = dense_pisa(*half, **scene, hardness=INFERENCE_HARDNESS)
    assert got.dtype == dtype
    single = dense_pisa(*(tensor.float() for tensor in half), **scene, hardness=INFERENCE_HARDNESS)
    assert_close(got, single, dtype=dtype)
