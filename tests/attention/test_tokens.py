from __future__ import annotations

import math

import pytest
import torch

from bokehdiff.attention import INFERENCE_HARDNESS, TokenOptics
from bokehdiff.errors import InputError
from tests.attention.scenes import layered_disparity, optics_of
from tests.helpers import assert_close


@pytest.mark.parametrize("convention", ["thin_lens", "released"])
def test_tokens_hold_the_radius_in_units_of_ten_pixels(convention):
    disparity = torch.full((1, 32, 48), 0.9)
    disparity[:, :, :24] = 0.2
    optics = optics_of(disparity, (2, 4), focus=0.4, strength_px=100.0, convention=convention)
    assert_close(optics.coc.reshape(2, 4), torch.tensor([[2.0, 2.0, 5.0, 5.0]]).expand(2, 4))
    assert (optics.pitch_px, optics.n_tokens) == ((16.0, 12.0), 8)


def test_the_strength_of_the_lens_is_found_in_the_map():
    disparity = layered_disparity(1, (32, 48))
    given = optics_of(disparity, (4, 6), focus=0.3, strength_px=55.0)
    told = TokenOptics.from_maps(
        disparity, 55.0 * (disparity - 0.3), (4, 6), focus_disparity=torch.tensor([0.3]), strength_px=55.0
    )
    assert torch.equal(given.occlusion.sees, told.occlusion.sees)


def test_a_scene_wholly_in_focus_blocks_nothing():
    optics = optics_of(torch.full((1, 32, 32), 0.4), (4, 4), focus=0.4)
    assert bool((optics.dense().visibility == 1).all())
    assert bool((optics.coc == 0).all())


def test_dense_optics_are_computed_once():
    optics = optics_of(layered_disparity(2, (16, 16)), (2, 2))
    assert optics.dense() is optics.dense()


@pytest.mark.parametrize("convention", ["thin_lens", "released"])
def test_optics_move_to_a_device(convention):
    optics = optics_of(layered_disparity(2, (16, 16)), (2, 2), convention=convention)
    assert torch.equal(optics.to("cpu").dense().visibility, optics.dense().visibility)
    assert optics.to("meta").coc.device.type == "meta"


def test_gradients_reach_the_map_of_circles():
    disparity = layered_disparity(3, (16, 16))
    coc_px = (30.0 * (disparity - 0.4)).requires_grad_()
    TokenOptics.from_maps(disparity, coc_px, (2, 2), focus_disparity=0.4).coc.sum().backward()
    assert coc_px.grad.abs().sum() == pytest.approx(4 / 10)


def test_released_leaves_a_hundredth_visible_while_the_disc_is_soft():
    disparity = layered_disparity(2, (16, 16))
    released = optics_of(disparity, (2, 2), convention="released")
    assert released.least_visibility(math.log(3)) == 0.01
    assert released.least_visibility(INFERENCE_HARDNESS) == 0.0
    assert optics_of(disparity, (2, 2)).least_visibility(math.log(3)) == 0.0


def test_maps_that_cannot_be_used_are_refused():
    disparity = layered_disparity(4, (16, 16))
    coc_px = 30.0 * (disparity - 0.4)
    with pytest.raises(InputError, match=r"size of the disparity; got \[1, 8, 16\] for \[1, 16, 16\]"):
        TokenOptics.from_maps(disparity, coc_px[:, :8], (2, 2), focus_disparity=0.4)
    with pytest.raises(InputError, match="at least 1 x 1 tokens; got 0 x 2"):
        TokenOptics.from_maps(disparity, coc_px, (0, 2), focus_disparity=0.4)
    with pytest.raises(InputError, match="coc_px must be finite"):
        TokenOptics.from_maps(disparity, coc_px * math.nan, (2, 2), focus_disparity=0.4)


@pytest.mark.parametrize("wrong", [torch.abs, torch.neg])
def test_circles_of_the_wrong_sign_are_refused(wrong):
    disparity = torch.linspace(0, 1, 256).reshape(1, 16, 16)
    with pytest.raises(InputError, match="positive in front of focus; got a map that differs"):
        TokenOptics.from_maps(disparity, wrong(30.0 * (disparity - 0.4)), (2, 2), focus_disparity=0.4)
