from __future__ import annotations

import pytest
import torch

from bokehdiff.errors import InputError
from bokehdiff.models.pynet import LEVELS, Bank, PyNet, Up
from tests.helpers import assert_close


def n_weights(module):
    return sum(weight.numel() for weight in module.parameters())


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return PyNet(width=1 / 16)


def test_it_has_as_many_weights_as_published_in_every_level():
    with torch.device("meta"):
        network = PyNet()
    millions = {name: n_weights(getattr(network, name)) / 1e6 for name in dict(network.named_children())}
    assert n_weights(network) == 47_551_791
    expected = {"encoder": 1.18, "level7": 20.1, "level6": 7.7, "level5": 7.6, "level4": 6.7, "level3": 4.3}
    assert {name: millions[name] for name in expected} == pytest.approx(expected, abs=0.05)
    assert millions["up2"] + millions["head2"] + millions["up1"] + millions["head1"] == pytest.approx(0.003, abs=5e-4)


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_gives_a_picture_of_its_size(small, level):
    scale = 2.0 ** (2 - level)
    with torch.no_grad():
        picture = small(torch.rand(2, 3, 32, 64), torch.rand(2, 32, 64), level=level)
    assert picture.shape == (2, 3, 32 * scale, 64 * scale)
    assert float(picture.min()) >= -0.08
    assert float(picture.max()) <= 1.08


@pytest.mark.parametrize("level", LEVELS)
def test_gradients_reach_what_a_level_uses_and_nothing_finer(level):
    torch.manual_seed(0)
    network = PyNet(width=1 / 16)
    network(torch.rand(1, 3, 64, 64), torch.rand(1, 64, 64), level=level).square().mean().backward()
    reached = {name for name, weight in network.named_parameters() if weight.grad is not None}
    assert reached == network.trained_at(level).keys()
    finer = {"up1", "head1"} if level == 2 else set()
    for other in LEVELS:
        if other < level and other >= 3:
            finer.add(f"level{other}")
    if level >= 3:
        finer |= {"up2", "head2", "up1", "head1"}
    assert not {name for name in reached if name.split(".")[0] in finer}
    own = {7: "level7.head", 6: "level6.head", 5: "level5.head", 4: "level4.head", 3: "level3.head", 2: "head2"}
    assert any(name.startswith(own.get(level, "head1")) for name in reached)
    coarser = [f"level{other}.banks" for other in range(max(level, 3), 8)]
    for name in ("encoder.0", "encoder.3", *coarser):
        assert any(key.startswith(name) for key in reached)


def test_twice_the_size_is_aligned_as_tensorflow_does_it():
    """A dot in pixel i lands on pixels 2 i, 2 i + 1, 2 i + 2: the padding is at the end."""
    up = Up(1, 1)
    with torch.no_grad():
        up.conv.weight.copy_(torch.tensor([[1.0, 2.0, 3.0]]).T @ torch.tensor([[1.0, 10.0, 100.0]]))
    dot = torch.zeros(1, 1, 3, 4)
    dot[0, 0, 1, 1] = 1.0
    expected = torch.zeros(6, 8)
    expected[2:5, 2:5] = torch.tensor([[1.0, 10, 100], [2, 20, 200], [3, 30, 300]])
    assert_close(up(dot)[0, 0], expected)


def test_a_bank_has_a_branch_per_size_in_order():
    bank = Bank(2, 3, 7, norm=True)
    assert [branch[0].kernel_size for branch in bank.branches] == [(3, 3), (5, 5), (7, 7)]
    features = torch.rand(1, 2, 8, 9)
    assert bank(features).shape == (1, 9, 8, 9)
    assert_close(bank(features)[:, 3:6], bank.branches[1](features))


def test_disparity_is_optional():
    torch.manual_seed(0)
    network = PyNet(width=1 / 16, with_disparity=False)
    assert network(torch.rand(1, 3, 32, 64), None, level=7).shape == (1, 3, 1, 2)
    with pytest.raises(InputError, match="made for no disparity; got one"):
        network(torch.rand(1, 3, 32, 64), torch.rand(1, 32, 64))


def test_what_cannot_be_is_refused(small):
    image, disparity = torch.rand(1, 3, 32, 48), torch.rand(1, 32, 48)
    with pytest.raises(InputError, match="multiples of 32 px, and not both 32; got 32 x 48: pad with"):
        small(image, disparity)
    with pytest.raises(InputError, match="not both 32; got 32 x 32"):
        small(torch.rand(1, 3, 32, 32), torch.rand(1, 32, 32))
    with pytest.raises(InputError, match="level must be 7, the coarsest, to 1, the finest; got 0"):
        small(torch.rand(1, 3, 32, 64), torch.rand(1, 32, 64), level=0)
    with pytest.raises(InputError, match="made for a disparity; got none"):
        small(torch.rand(1, 3, 32, 64), None)
    with pytest.raises(InputError, match="at least one of 32 channels; got 0.001"):
        PyNet(width=0.001)
