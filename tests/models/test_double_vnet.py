from __future__ import annotations

import pytest
import torch

from bokehdiff.errors import InputError
from bokehdiff.models.double_vnet import Critic, DoubleVNet, Normalised, _Conv, _Deconv, _SameConv4
from tests.helpers import assert_close


def n_weights(module):
    return sum(weight.numel() for weight in module.parameters())


def test_it_has_as_many_weights_as_published():
    with torch.device("meta"):
        network = DoubleVNet()
        critics = [Critic(n_halvings=n, n_scores=512) for n in (3, 5)]
    assert (n_weights(network.first), n_weights(network.second)) == (3_055_056, 10_304_582)
    assert n_weights(network) / 1e6 == pytest.approx(13.36, abs=0.005)
    assert [n_weights(critic) / 1e6 for critic in critics] == pytest.approx([3.02, 11.41], abs=0.005)


@pytest.mark.parametrize("norm", ["instance", "sum_variance"])
def test_both_halves_give_pictures_and_learn(norm):
    torch.manual_seed(0)
    network = DoubleVNet(width=1 / 8, norm=norm)
    final, coarse = network(torch.rand(2, 3, 16, 24))
    assert final.shape == coarse.shape == (2, 3, 16, 24)
    assert float(coarse.detach().min()) >= 0.0
    assert float(coarse.detach().max()) <= 1.0
    final.square().mean().backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_instances_have_deviation_one_and_the_released_ones_less():
    features = 5.0 + 3.0 * torch.randn(2, 4, 8, 16)
    real, released = Normalised("instance")(features), Normalised("sum_variance")(features)
    assert_close(real.mean(dim=(2, 3)), torch.zeros(2, 4))
    assert_close(real.std(dim=(2, 3), correction=0), torch.ones(2, 4))
    assert_close(released * (8 * 16) ** 0.5, real)


def test_strides_are_aligned_as_tensorflow_does_it():
    """Even sizes are padded at the end only, so that output i of a 3 x 3 looks at inputs 2 i, 2 i + 1, 2 i + 2."""
    conv = _Conv(1, 1, 2)
    torch.nn.init.zeros_(conv.conv.weight)
    conv.conv.weight.data[0, 0, 0, 0] = 1.0
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert_close(conv(image)[0, 0], image[0, 0, ::2, ::2])


def test_a_transposed_convolution_without_stride_keeps_the_size():
    deconv = _Deconv(1, 1, 1)
    torch.nn.init.zeros_(deconv.conv.weight)
    torch.nn.init.zeros_(deconv.conv.bias)
    deconv.conv.weight.data[0, 0, 1, 1] = 1.0
    image = torch.rand(1, 1, 5, 6)
    assert_close(deconv(image), image)


@pytest.mark.parametrize("size", [7, 8, 9, 10])
def test_critics_round_up(size):
    assert _SameConv4(3, 2, 2)(torch.rand(1, 3, size, size)).shape[-1] == -(-size // 2)
    assert _SameConv4(3, 2, 1)(torch.rand(1, 3, size, size)).shape[-1] == size


def test_critics_look_at_parts_of_their_sizes():
    image = torch.rand(1, 3, 64, 96)
    assert Critic(n_halvings=3)(image).shape == (1, 1, 8, 12)
    assert Critic(n_halvings=5)(image).shape == (1, 1, 2, 3)


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="multiples of 8 px; got 16 x 20: pad with"):
        DoubleVNet(width=1 / 16)(torch.rand(1, 3, 16, 20))
    with pytest.raises(InputError, match="at least one of 16 channels; got 0.01"):
        DoubleVNet(width=0.01)
