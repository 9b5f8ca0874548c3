"""The fused back end against the definition: forward and every gradient, on a GPU or in Triton's interpreter.

With a GPU: `pytest -m gpu`. Without one, test_fused.py runs this file in a process whose kernels are interpreted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from bokehdiff.attention import INFERENCE_HARDNESS, GivenVisibility, fused
from bokehdiff.attention.blocks import BlockPairs
from bokehdiff.attention.dispatch import reference_pisa
from bokehdiff.attention.tokens import TokenOptics
from tests.attention.scenes import layered_disparity
from tests.helpers import assert_close

pytestmark = pytest.mark.gpu
pytest.importorskip("triton")
INTERPRETED = fused._kernels().INTERPRETED.value
TRAINING_HARDNESS = math.log(3)


@pytest.fixture
def device():
    if not INTERPRETED and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1")
    return "cpu" if INTERPRETED else "cuda"


@dataclass
class Problem:
    """What attention is asked; made on the CPU, where the definition answers it."""

    query: Tensor
    key: Tensor
    value: Tensor
    coc_px: Tensor
    optics: TokenOptics

    def to(self, device):
        """The same on a device, with leaves of its own."""
        query, key, value = (leaf.detach().to(device).requires_grad_() for leaf in (self.query, self.key, self.value))
        return Problem(query, key, value, self.coc_px, self.optics.to(device))

    def double(self):
        """The same numbers in double precision."""
        leaves = (leaf.detach().double().requires_grad_() for leaf in (self.query, self.key, self.value))
        return Problem(*leaves, self.coc_px, self.optics)


def problem(
    grid_hw, *, convention="thin_lens", dtype=torch.float32, width=32, n_heads=2, n_images=2, strength_px=(40.0, 10.0)
):
    """Two scenes of different lenses; the coc takes a gradient."""
    scenes = torch.cat([layered_disparity(seed, (grid_hw[0] * 8, grid_hw[1] * 8)) for seed in (1, 2)])[:n_images]
    focus, strength_px = torch.tensor([0.2, 0.6])[:n_images], torch.tensor(strength_px)[:n_images]
    coc_px = (strength_px[:, None, None] * (scenes - focus[:, None, None])).requires_grad_()
    optics = TokenOptics.from_maps(scenes, coc_px, grid_hw, focus_disparity=focus, convention=convention)
    tensors = torch.randn(3, n_images, n_heads, optics.n_tokens, width).to(dtype)
    return Problem(*(tensor.clone().requires_grad_() for tensor in tensors), coc_px, optics)


def answers(function, asked: Problem, **options) -> list[Tensor]:
    """The result and its gradients for query, key, value and coc."""
    out = function(asked.query, asked.key, asked.value, asked.optics, **options)
    weight = torch.linspace(-0.1, 0.1, out.numel()).reshape(out.shape).to(out)
    leaves = [asked.query, asked.key, asked.value, asked.coc_px]
    return [out, *torch.autograd.grad((out * weight).sum(), leaves, retain_graph=True)]


def assert_matches(asked: Problem, device, **options) -> list[Tensor]:
    got = answers(fused.fused_pisa, asked.to(device), **options)
    options.pop("logit_range", None)
    expected = answers(reference_pisa, asked.double(), **options)
    assert got[0].dtype == asked.query.dtype
    for got_part, expected_part in zip(got, expected, strict=True):
        assert_close(got_part.cpu(), expected_part, dtype=asked.query.dtype)
    return got


@pytest.mark.parametrize(
    ("grid_hw", "convention", "hardness", "dropout"),
    [
        ((1, 1), "thin_lens", INFERENCE_HARDNESS, 0.0),
        ((3, 5), "thin_lens", TRAINING_HARDNESS, 0.3),
        ((3, 5), "released", INFERENCE_HARDNESS, 0.0),
        pytest.param((1, 13), "released", TRAINING_HARDNESS, 0.3, marks=pytest.mark.slow),
        ((11, 3), "thin_lens", INFERENCE_HARDNESS, 0.0),
    ],
)
def test_result_and_gradients_are_those_of_the_definition(device, grid_hw, convention, hardness, dropout):
    asked = problem(grid_hw, convention=convention, n_heads=2 if dropout and grid_hw == (3, 5) else 1)
    assert_matches(asked, device, hardness=hardness, dropout=dropout, dropout_seed=-12345678901)


@pytest.mark.parametrize(
    ("dtype", "width"),
    [(torch.float16, width) for width in (32, 40, 64, 80, 96, 128)]
    + [(dtype, width) for dtype in (torch.bfloat16, torch.float32) for width in (40, 128)],
)
def test_every_precision_and_width_of_heads(device, dtype, width):
    asked = problem((3, 4), dtype=dtype, width=width, n_heads=1, n_images=1)
    assert_matches(asked, device, hardness=INFERENCE_HARDNESS)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("convention", ["thin_lens", "released"])
@pytest.mark.parametrize("hardness", [TRAINING_HARDNESS, INFERENCE_HARDNESS])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_every_combination(device, dtype, convention, hardness, dropout):
    asked = problem((9, 11), convention=convention, dtype=dtype, width=24, n_heads=1, n_images=1)
    assert_matches(asked, device, hardness=hardness, dropout=dropout, dropout_seed=3)


def test_pairs_that_light_cannot_cross_are_left_out(device):
    asked = problem((3, 17), n_heads=1, n_images=1, width=16, strength_px=(8.0,))
    pairs = asked.optics.block_pairs(INFERENCE_HARDNESS)
    assert pairs.n_pairs < pairs.blocks.n_blocks**2
    assert_matches(asked, device, hardness=INFERENCE_HARDNESS)


@pytest.mark.slow
def test_no_pair_is_left_out_of_an_infinite_range(device):
    asked = problem((3, 25), n_heads=1, n_images=1, width=16, strength_px=(8.0,))
    assert_matches(asked, device, hardness=INFERENCE_HARDNESS, logit_range=math.inf)


def test_to_leave_the_disc_out_deep_inside_it_changes_no_bit(monkeypatch, device):
    asked = problem((3, 9), n_heads=1, n_images=1, width=16, strength_px=(400.0,)).to(device)
    saturated = INFERENCE_HARDNESS * fused.LOG2_E * fused.disc_margins(asked.optics, pairs_of(asked)) >= 25
    assert 0 < saturated.sum() < saturated.numel()
    out, *grads = answers(fused.fused_pisa, asked, hardness=INFERENCE_HARDNESS)
    monkeypatch.setattr(
        fused, "disc_margins", lambda optics, pairs: torch.full((pairs.n_pairs,), -math.inf, device=device)
    )
    asked.optics = replace(asked.optics)  # which has kept no plan
    plain, *plain_grads = answers(fused.fused_pisa, asked, hardness=INFERENCE_HARDNESS)
    assert torch.equal(out, plain)
    assert all(torch.equal(*pair) for pair in zip(grads[:3], plain_grads[:3], strict=True))
    assert_close(grads[3], plain_grads[3])


def pairs_of(asked: Problem) -> BlockPairs:
    return asked.optics.block_pairs(INFERENCE_HARDNESS)


def test_large_logits_neither_overflow_nor_vanish(device):
    asked = problem((3, 5), n_images=1)
    asked.optics = replace(asked.optics, occlusion=GivenVisibility(torch.ones(1, 15, 15)))
    here = asked.to(device)
    options = {"hardness": INFERENCE_HARDNESS, "logit_range": math.inf}
    out = fused.fused_pisa(5.0 * here.query, 5.0 * here.key, here.value, here.optics, **options)  # exp(400) and more
    assert_close(out.sum(dim=2), here.value.sum(dim=2))


@pytest.mark.slow
def test_any_layout_in_memory_gives_the_same_bits(device):
    asked = problem((3, 5), dtype=torch.float16, n_images=1).to(device)
    plain = answers(fused.fused_pisa, asked, hardness=INFERENCE_HARDNESS)
    for layout in ((0, 2, 1, 3), (2, 0, 1, 3), (0, 1, 3, 2)):
        permuted = [
            leaf.detach().permute(layout).contiguous().permute(torch.tensor(layout).argsort().tolist())
            for leaf in (asked.query, asked.key, asked.value)
        ]
        other = replace(asked, **dict(zip(("query", "key", "value"), permuted, strict=True)))
        for leaf in permuted:
            leaf.requires_grad_()
        got = answers(fused.fused_pisa, other, hardness=INFERENCE_HARDNESS)
        assert all(torch.equal(*pair) for pair in zip(got, plain, strict=True))


def test_the_gradient_of_a_plain_sum_is_taken_as_it_comes(device):
    asked = problem((2, 3), n_images=1)
    here = asked.to(device)
    out = fused.fused_pisa(here.query, here.key, here.value, here.optics, hardness=5.0)
    got = torch.autograd.grad(out.sum(), here.value)[0]  # expanded: one number for all
    there = asked.double()
    out = reference_pisa(there.query, there.key, there.value, there.optics, hardness=5.0)
    assert_close(got.cpu(), torch.autograd.grad(out.sum(), there.value)[0])


def test_the_result_lies_as_the_next_layer_takes_it(device):
    here = problem((2, 3)).to(device)
    out = fused.fused_pisa(here.query, here.key, here.value, here.optics, hardness=5.0)
    assert out.transpose(1, 2).is_contiguous()


@pytest.fixture
def unchecked_shapes():
    """Graphs cannot hold the checks of shapes that tests run under."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_compiled_graph_has_no_break(device):
    asked = problem((2, 3), n_images=1)
    asked.optics = replace(asked.optics, coc=asked.optics.coc.detach())
    here = asked.to(device)
    fused.fused_plan(here.optics, hardness=INFERENCE_HARDNESS)

    def layer(query, key, value):
        return 2.0 * fused.fused_pisa(query, key, value, here.optics, hardness=INFERENCE_HARDNESS)

    leaves = (here.query, here.key, here.value)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(*leaves)
    plain = layer(*leaves)
    assert torch.equal(compiled, plain)
    for got, expected in zip(
        torch.autograd.grad(compiled.sum(), leaves), torch.autograd.grad(plain.sum(), leaves), strict=True
    ):
        assert torch.equal(got, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own check looks at it
def test_the_operators_are_registered_as_torch_wants_them(device):
    here = problem((2, 3), n_images=1).to(device)
    plan = fused.fused_plan(here.optics, hardness=5.0)
    coc = here.optics.coc.detach().requires_grad_()
    arguments = (here.query, here.key, here.value, coc, plan.tiles, plan.structure, 0.1, torch.tensor(3))
    torch.library.opcheck(fused._fused_pisa, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("block_hw", [(4, 4), (4, 8), (8, 8), (8, 16)])
def test_shapes_and_blocks_change_nothing(monkeypatch, device, dtype, block_hw):
    asked = problem((9, 10), dtype=dtype, n_heads=1, n_images=1)
    expected = answers(fused.fused_pisa, asked.to(device), hardness=INFERENCE_HARDNESS)
    monkeypatch.setattr(fused, "BLOCK_HW", block_hw)
    places = block_hw[0] * block_hw[1]
    for step in (16, places):
        monkeypatch.setattr(fused, "SHAPES", {kernel: [(step, 4, 2)] for kernel in fused.SHAPES})
        fused._tuned.cache_clear()
        got = answers(fused.fused_pisa, asked.to(device), hardness=INFERENCE_HARDNESS)
        for got_part, expected_part in zip(got, expected, strict=True):
            assert_close(got_part, expected_part, dtype=dtype)
    fused._tuned.cache_clear()
