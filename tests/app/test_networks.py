from __future__ import annotations

import pytest
import torch

from bokehdiff.app import Cancelled, Networks
from bokehdiff.images import load_disparity, load_photo, resize
from bokehdiff.optics import Lens
from tests.helpers import EMBEDDED, REPOSITORY

LENS = Lens(0.8, 10.0)


@pytest.fixture(scope="module")
def networks():
    return Networks(str(EMBEDDED), adapter=None, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def scene():
    image = load_photo(REPOSITORY / "test_data/input/leaves.jpg").image_srgb
    disparity = load_disparity(REPOSITORY / "test_data/depth/leaves_pred.npy")
    return resize(image, (64, 96)).clamp(0.0, 1.0), resize(disparity[None], (64, 96))[0].clamp(0.0, 1.0)


@pytest.mark.parametrize("renderer", ["neural", "hybrid"])
def test_networks_tell_how_far_they_are_and_never_go_back(networks, scene, renderer):
    told = []
    rendered = networks.render(*scene, LENS, renderer=renderer, step=lambda *state: told.append(state))
    assert rendered.shape == scene[0].shape
    assert {n_all for _, n_all in told} == {100}
    shares = [n_done for n_done, _ in told]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert len(set(shares)) > 30
    assert 80 < shares[-1] <= 100


@pytest.mark.parametrize("renderer", ["neural", "hybrid"])
def test_networks_can_be_ended_at_any_time(networks, scene, renderer):
    counted = []
    networks.render(*scene, LENS, renderer=renderer, step=lambda *_: counted.append(None))
    for n_steps in (1, len(counted) // 2, len(counted)):
        left = iter(range(n_steps))

        def impatient(_n_done: int, _n_all: int, left=left) -> None:
            if next(left, None) is None:
                raise Cancelled

        if n_steps == len(counted):
            assert networks.render(*scene, LENS, renderer=renderer, step=impatient).shape == scene[0].shape
        else:
            with pytest.raises(Cancelled, match="cancelled"):
                networks.render(*scene, LENS, renderer=renderer, step=impatient)
