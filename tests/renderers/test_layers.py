from __future__ import annotations

import math

import pytest
import torch

from bokehdiff.errors import InputError
from bokehdiff.renderers import LayerStack
from tests.helpers import assert_close


def layer(colour, alpha, size_hw=(3, 4)):
    """One flat layer [1 1 4 h w], premultiplied."""
    rgba = torch.tensor([*(c * alpha for c in colour), alpha])
    return rgba[None, None, :, None, None].expand(1, 1, 4, *size_hw).clone()


def test_composite_lays_the_nearest_on_top_whatever_the_order_in_the_list():
    red, blue = layer((1.0, 0.0, 0.0), 0.5), layer((0.0, 0.0, 1.0), 1.0)
    near_first = LayerStack(torch.cat([red, blue], 1), torch.tensor([[[0.8, 0, 0], [0.2, 0, 0]]]))
    far_first = LayerStack(torch.cat([blue, red], 1), torch.tensor([[[0.2, 0, 0], [0.8, 0, 0]]]))
    expected = torch.tensor([0.5, 0.0, 0.5, 1.0])[None, :, None, None].expand(1, 4, 3, 4)
    assert_close(near_first.composite(), expected)
    assert_close(far_first.composite(), expected)


def test_composite_keeps_the_list_order_where_disparities_are_equal():
    red, blue = layer((1.0, 0.0, 0.0), 1.0), layer((0.0, 0.0, 1.0), 1.0)
    stack = LayerStack(torch.cat([red, blue], 1), torch.full((1, 2, 3), 0.0))
    assert_close(stack.composite(), red[:, 0])


def test_disparity_is_affine_in_the_pixel_centres():
    stack = LayerStack(layer((1.0, 1.0, 1.0), 1.0, (2, 3)), torch.tensor([[[0.1, 0.01, 0.2]]]))
    assert_close(stack.disparity()[0, 0], torch.tensor([[0.205, 0.215, 0.225], [0.405, 0.415, 0.425]]))


def test_crossing_layers_swap_where_they_cross():
    red, blue = layer((1.0, 0.0, 0.0), 1.0, (1, 4)), layer((0.0, 0.0, 1.0), 1.0, (1, 4))
    stack = LayerStack(torch.cat([red, blue], 1), torch.tensor([[[0.0, 0.1, 0.0], [0.2, 0.0, 0.0]]]))
    assert_close(stack.composite()[0, 0, 0], torch.tensor([0.0, 0.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("rgba", "planes", "message"),
    [
        (torch.zeros(1, 1, 3, 2, 2), torch.zeros(1, 1, 3), r"must be \[b l 4 h w\] with no empty axis; got \[1, 1, 3"),
        (torch.zeros(1, 0, 4, 2, 2), torch.zeros(1, 0, 3), "no empty axis"),
        (torch.zeros(1, 2, 4, 2, 2), torch.zeros(1, 1, 3), r"here \[1, 2, 3\]; got \[1, 1, 3\]"),
        (torch.full((1, 1, 4, 2, 2), math.nan), torch.zeros(1, 1, 3), "rgba_linear must be finite"),
        (torch.zeros(1, 1, 4, 2, 2), torch.full((1, 1, 3), math.inf), "planes must be finite"),
        (torch.full((1, 1, 4, 2, 2), 255.0), torch.zeros(1, 1, 3), r"must be in \[0, 1\]; got 255"),
    ],
)
def test_what_is_no_stack_is_refused(rgba, planes, message):
    with pytest.raises(InputError, match=message):
        LayerStack(rgba, planes)
