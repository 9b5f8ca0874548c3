from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bokehdiff.data import TrainSample, collate, turned
from bokehdiff.data.randomness import shuffled_in_buffer
from bokehdiff.errors import InputError


def sample(n, size_hw=(4, 4)):
    plane = torch.arange(size_hw[0] * size_hw[1]).view(*size_hw) / 100 + n
    return TrainSample(plane.expand(3, -1, -1), plane.expand(3, -1, -1), plane, -plane, 0.5, 1.0, n)


def test_all_planes_of_a_sample_turn_together_and_by_its_number_only():
    batch = turned(collate([sample(n) for n in range(24)]), seed=3)
    assert torch.equal(batch.image_srgb[:, 0], batch.disparity)
    assert torch.equal(batch.target_srgb[:, 1], batch.disparity)
    assert torch.equal(batch.coc_px, -batch.disparity)
    alone = turned(collate([sample(7)]), seed=3)
    assert torch.equal(alone.disparity[0], batch.disparity[7])
    kinds = {tuple((plane - n).flatten().round(decimals=4).tolist()) for n, plane in enumerate(batch.disparity)}
    assert len(kinds) == 8, "the eight of a square"
    lean = replace(collate([sample(0)]), known_disparity=None, known_coc_px=None)
    assert turned(lean, seed=0).known_disparity is None


def test_only_squares_are_turned():
    with pytest.raises(InputError, match="only square samples can be turned; got 4 x 6"):
        turned(collate([sample(0, (4, 6))]), seed=0)


def test_a_buffer_shuffles_each_deck_and_holds_no_card_back_longer_than_it_can():
    rows = [[shuffled_in_buffer(n, 20, 5, seed=1) for n in range(deck * 20, deck * 20 + 20)] for deck in range(3)]
    assert all(sorted(row) == list(range(20)) for row in rows)
    assert rows[0] != rows[1]
    assert all(row.index(card) >= card - 4 for row in rows for card in row)
    assert [shuffled_in_buffer(n, 20, 1, seed=1) for n in range(20)] == list(range(20)), "one card shuffles nothing"
    with pytest.raises(InputError, match="needs cards, a buffer"):
        shuffled_in_buffer(0, 5, 0, seed=1)
