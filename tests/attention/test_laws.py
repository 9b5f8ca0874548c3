"""Laws that attention obeys whatever computes it; the fused back end on a GPU, or interpreted by test_fused.py."""

from __future__ import annotations

import logging
import math
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bokehdiff.attention import INFERENCE_HARDNESS, GivenVisibility, TokenOptics, local, pisa_attention
from bokehdiff.errors import InputError
from tests.helpers import assert_close

GRID_HW, WIDTH = (3, 5), 16
ON_CPU = ["reference", "local"]
on_cpu = pytest.mark.parametrize("backend", ON_CPU)
on_all = pytest.mark.parametrize("backend", [*ON_CPU, pytest.param("fused", marks=pytest.mark.gpu)])


class Attention:
    """One back end, where it can compute."""

    def __init__(self, backend: str) -> None:
        self.backend, self.device = backend, "cpu"
        if backend == "fused" and os.environ.get("TRITON_INTERPRET") != "1":
            if not torch.cuda.is_available():
                pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1")
            self.device = "cuda"

    def __call__(self, query, key, value, optics, *, hardness=INFERENCE_HARDNESS, **options) -> Tensor:
        arguments = (tensor.to(self.device) for tensor in (query, key, value))
        out = pisa_attention(*arguments, optics.to(self.device), hardness=hardness, backend=self.backend, **options)
        return out.cpu()


@pytest.fixture
def attention(backend):
    return Attention(backend)


def vectors(grid_hw=GRID_HW, *, n_images=1, n_heads=2, width=WIDTH, dtype=torch.float32):
    return torch.randn(3, n_images, n_heads, grid_hw[0] * grid_hw[1], width, dtype=dtype).unbind()


def optics_of(coc: Tensor, visibility: Tensor | None = None, grid_hw=GRID_HW) -> TokenOptics:
    """Tokens of 16 x 12 px with circles of confusion [b n] in units of 10 px, everything visible by default."""
    n_images, n_tokens = coc.shape
    visibility = torch.ones(n_images, n_tokens, n_tokens) if visibility is None else visibility
    return TokenOptics(coc, grid_hw, (16.0, 12.0), "thin_lens", GivenVisibility(visibility))


def blurs(n_images=1, n_tokens=15, dtype=torch.float32) -> Tensor:
    return 4.0 * torch.rand(n_images, n_tokens, dtype=dtype)


@on_all
def test_energy_of_each_source_is_shared_out_over_its_receivers(attention):
    query, key, value = vectors()
    assert_close(attention(query, key, value, optics_of(blurs())).sum(dim=2), value.sum(dim=2))


@on_all
def test_everything_visible_and_infinite_discs_are_softmax_over_receivers(attention):
    query, key, value = vectors()
    weights = (query @ key.transpose(-1, -2) / math.sqrt(WIDTH)).softmax(dim=-2)
    assert_close(attention(query, key, value, optics_of(torch.full((1, 15), 1e5))), weights @ value)


@on_all
def test_without_blur_a_token_reaches_itself_only(attention):
    query, key, value = vectors()
    out = attention(0.3 * query, key, value, optics_of(torch.zeros(1, 15)))
    torch.testing.assert_close(out, value, rtol=0, atol=1e-4)  # neighbours are exp(-16 * 1.2) away, times likeness


@on_all
def test_mirrored_tokens_give_the_mirrored_result(attention):
    """Of the permutations of a grid, those that keep distances."""
    order = torch.arange(15).reshape(GRID_HW).flip(0, 1).flatten()
    (query, key, value), coc, visibility = vectors(), blurs(), torch.rand(1, 15, 15)
    out = attention(query, key, value, optics_of(coc, visibility))
    turned = optics_of(coc[:, order], visibility[:, order][:, :, order])
    assert_close(attention(query[:, :, order], key[:, :, order], value[:, :, order], turned), out[:, :, order])


@on_cpu
def test_images_of_a_batch_have_lenses_of_their_own(attention):
    (query, key, value), coc, visibility = vectors(n_images=2), blurs(2), torch.rand(2, 15, 15)
    together = attention(query, key, value, optics_of(coc, visibility))
    for b in range(2):
        one = slice(b, b + 1)
        assert_close(attention(query[one], key[one], value[one], optics_of(coc[one], visibility[one])), together[one])


@on_all
def test_blocked_sources_give_nothing_and_blocked_receivers_get_nothing(attention):
    leaves, visibility = [leaf.clone().requires_grad_() for leaf in vectors()], torch.rand(1, 15, 15)
    visibility[:, :, 4], visibility[:, 7] = 0.0, 0.0
    optics = optics_of(torch.full((1, 15), 50.0), visibility)
    out = attention(*leaves, optics)
    assert torch.equal(out[:, :, 7], torch.zeros_like(out[:, :, 7]))
    gradients = torch.autograd.grad(out.square().sum(), leaves)
    assert all(bool(part.isfinite().all()) for part in (out, *gradients))
    assert torch.equal(gradients[2][:, :, 4], torch.zeros_like(gradients[2][:, :, 4]))


@on_cpu
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    grid_hw=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    n_images=st.integers(1, 2),
    n_heads=st.integers(1, 3),
    width=st.integers(1, 9),
    hardness=st.sampled_from([math.log(3), 6.0, INFERENCE_HARDNESS]),
)
def test_any_shape_is_computed_as_defined(backend, grid_hw, n_images, n_heads, width, hardness):
    n_tokens = grid_hw[0] * grid_hw[1]
    three = vectors(grid_hw, n_images=n_images, n_heads=n_heads, width=width, dtype=torch.float64)
    optics = optics_of(blurs(n_images, n_tokens), torch.rand(n_images, n_tokens, n_tokens), grid_hw)
    query, key, value = three
    pairs = optics.dense()
    disc = torch.sigmoid(hardness * (optics.coc[:, None] - pairs.distance).double())
    weights = (query @ key.transpose(-1, -2) / math.sqrt(width)).exp() * disc[:, None]
    expected = weights / weights.sum(dim=2, keepdim=True) * pairs.visibility[:, None] @ value
    assert_close(Attention(backend)(*three, optics, hardness=hardness), expected, dtype=torch.float32)


@on_cpu
def test_gradients_are_those_of_the_formula_for_all_that_is_asked(backend):
    """Query, key, value, coc and visibility, by finite differences."""
    grid_hw = (2, 3)
    leaves = [leaf.clone() for leaf in vectors(grid_hw, width=2, n_heads=1, dtype=torch.float64)]
    leaves += [blurs(1, 6, torch.float64), 0.1 + 0.8 * torch.rand(1, 6, 6, dtype=torch.float64)]

    def function(query, key, value, coc, visibility):
        return Attention(backend)(query, key, value, optics_of(coc, visibility, grid_hw), hardness=2.0)

    assert torch.autograd.gradcheck(function, [leaf.requires_grad_() for leaf in leaves], fast_mode=True)


@on_all
def test_gradients_of_visibility_are_the_definitions_or_refused(attention):
    three, coc = vectors(), blurs()
    visibility = torch.rand(1, 15, 15)
    visibility[:, :4] = 1.0  # whole tiles that need not be stored for their values
    if attention.backend == "fused":
        with pytest.raises(InputError, match="'fused' has no gradient for visibility: take backend 'local'"):
            attention(*three, optics_of(coc, visibility.requires_grad_()))
        return
    gradients = []
    for each in (attention, Attention("reference")):
        leaf = visibility.clone().requires_grad_()
        gradients.append(torch.autograd.grad(each(*three, optics_of(coc, leaf)).square().sum(), leaf)[0])
    assert_close(*gradients)


@on_cpu
def test_logits_beyond_the_stated_range_are_computed_as_defined(attention, monkeypatch, caplog):
    """A far receiver that a source likes exp(70) times as much as itself; light that the stated range leaves out."""
    local._tell_once.cache_clear()
    monkeypatch.setattr(local, "BLOCK_HW", (1, 1))
    query, key, value = vectors((1, 20), n_heads=1)
    query[:, :, 19], key[:, :, 0] = 0.0, 0.0
    query[:, :, 19, 0], key[:, :, 0, 0] = 4.0 * math.sqrt(WIDTH), 17.5
    optics = optics_of(torch.zeros(1, 20), grid_hw=(1, 20))
    expected = Attention("reference")(query, key, value, optics, hardness=3.0)
    assert (expected[:, :, 19] - value[:, :, 19] - value[:, :, 0]).norm() < 0.5 * value[:, :, 0].norm()
    with caplog.at_level(logging.WARNING, logger="bokehdiff"):
        got = [attention(query, key, value, optics, hardness=3.0, logit_range=10.0) for _ in range(2)]
    for each in got:
        assert_close(each, expected)
    told = [record.getMessage() for record in caplog.records]
    once = ["logits of attention may be beyond the stated logit_range of 10: taking 80"]
    assert told == (once if attention.backend == "local" else [])
