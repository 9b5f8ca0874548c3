from __future__ import annotations

import itertools

import pytest

from bokehdiff.data.randomness import generator_for, shuffled
from bokehdiff.errors import InputError


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 100, 1000])
def test_every_deck_holds_each_card_once(size):
    for deck in (0, 1, 5):
        row = [shuffled(deck * size + place, size, seed=3) for place in range(size)]
        assert sorted(row) == list(range(size))


def test_decks_and_seeds_differ_and_look_shuffled():
    decks = {tuple(shuffled(deck * 50 + i, 50, seed=seed) for i in range(50)) for deck in range(5) for seed in (0, 1)}
    assert len(decks) == 10
    places = [shuffled(i, 4000, seed=0) for i in range(4000)]
    rising = sum(a < b for a, b in itertools.pairwise(places))
    assert 0.45 < rising / 4000 < 0.55
    assert abs(sum(places[:400]) / 400 - 2000) < 4 * 1155 / 20  # four deviations of the mean of 400


def test_a_deck_of_any_size_costs_nothing():
    cards = {shuffled(n, 10**18, seed=9) for n in range(10**12, 10**12 + 100)}
    assert len(cards) == 100
    assert max(cards) < 10**18


@pytest.mark.parametrize(("n", "size"), [(0, 0), (-1, 5)])
def test_decks_that_cannot_be_are_refused(n, size):
    with pytest.raises(InputError, match="a deck needs at least 1 card and a place from 0 on"):
        shuffled(n, size, seed=0)


def test_streams_of_random_numbers_do_not_meet():
    purposes = ("sample", "foreground", "background", "pair", "source", "told", "grain")
    drawn = {
        tuple(generator_for(seed, n, purpose=purpose).integers(2**63, size=4))
        for seed in (0, 1, 2**64 - 1)
        for n in (0, 1, 10**12)
        for purpose in purposes
    }
    assert len(drawn) == 9 * len(purposes)
