"""Tokens in blocks: nothing is lost in the order, no light in the pairs, no number in the tiles."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bokehdiff.attention import INFERENCE_HARDNESS
from bokehdiff.attention.blocks import ALL_VISIBLE, NOT_A_TOKEN, ReachedTokens, TokenBlocks, VisibilityTiles, reach
from bokehdiff.attention.tokens import TokenOptics
from bokehdiff.errors import InputError
from tests.attention.scenes import layered_disparity, optics_of
from tests.helpers import assert_close

sizes = st.tuples(st.integers(1, 13), st.integers(1, 13))


def places(blocks):
    """Place of each token in the blocks."""
    there = (blocks.order != NOT_A_TOKEN).nonzero().flatten()
    return there[blocks.order[there].argsort()]


@settings(max_examples=30, deadline=None)
@given(grid_hw=sizes, block_hw=sizes)
def test_every_token_has_one_place_in_the_block_of_its_corner_of_the_grid(grid_hw, block_hw):
    blocks = TokenBlocks.of_grid(grid_hw, block_hw)
    tokens = torch.arange(grid_hw[0] * grid_hw[1], dtype=torch.int32)
    place = places(blocks)
    assert torch.equal(blocks.order[place], tokens)
    assert len(blocks.order) == blocks.n_blocks * blocks.tokens_per_block
    assert (blocks.order != NOT_A_TOKEN).sum() == len(tokens)
    row, column = tokens // grid_hw[1], tokens % grid_hw[1]
    expected = row // block_hw[0] * blocks.blocks_hw[1] + column // block_hw[1]
    assert torch.equal((place // blocks.tokens_per_block).int(), expected)
    arranged = blocks.arrange(tokens.float()[None], padding=math.inf)
    assert torch.equal(arranged.flatten()[place], tokens.float())
    assert bool(arranged.flatten()[blocks.order == NOT_A_TOKEN].isinf().all())


def test_blocks_without_tokens_are_refused():
    with pytest.raises(InputError, match="block_hw must be at least 1 x 1 tokens; got 0 x 4"):
        TokenBlocks.of_grid((4, 4), (0, 4))


def two_scenes(grid_hw, *, convention="thin_lens", strengths=(60.0, 15.0)):
    scenes = torch.cat([layered_disparity(seed, (grid_hw[0] * 16, grid_hw[1] * 16)) for seed in (1, 2)])
    focus = torch.tensor([0.2, 0.6])
    coc_px = torch.tensor(strengths)[:, None, None] * (scenes - focus[:, None, None])
    return TokenOptics.from_maps(scenes, coc_px, grid_hw, focus_disparity=focus, convention=convention)


@pytest.mark.parametrize("convention", ["thin_lens", "released"])
@pytest.mark.parametrize(("grid_hw", "block_hw"), [((12, 9), (2, 2)), ((7, 13), (4, 3)), ((5, 6), (8, 8))])
@pytest.mark.parametrize("hardness", [4.0, INFERENCE_HARDNESS])
def test_pairs_are_those_whose_tokens_are_within_reach(convention, grid_hw, block_hw, hardness):
    """By looking at every pair of tokens; a block is a rectangle, so that a pair more in its corner is allowed."""
    optics = two_scenes(grid_hw, convention=convention)
    pairs = optics.block_pairs(hardness, block_hw=block_hw, logit_range=5.0)
    blocks = pairs.blocks
    block = places(blocks) // blocks.tokens_per_block
    distance = optics.dense().distance
    far = reach(optics.coc, hardness=hardness, logit_range=5.0)
    n_needed = 0
    for b in range(2):
        q, k = (distance <= far[b][None]).nonzero().unbind(dim=1)
        needed = torch.stack([block[k], block[q]], dim=1).unique(dim=0).int() + b * blocks.n_blocks
        assert set(map(tuple, needed.tolist())) <= set(zip(pairs.source.tolist(), pairs.receiver.tolist(), strict=True))
        n_needed += len(needed)
    assert pairs.n_pairs <= 1.1 * n_needed
    assert bool((pairs.source // blocks.n_blocks == pairs.receiver // blocks.n_blocks).all())


def test_pairs_are_sorted_both_ways_and_each_block_is_its_own_neighbour():
    pairs = two_scenes((9, 14)).block_pairs(INFERENCE_HARDNESS, block_hw=(2, 4))
    n_blocks = 2 * pairs.blocks.n_blocks
    keys = pairs.source.long() * n_blocks + pairs.receiver
    assert torch.equal(keys, keys.unique())
    assert torch.equal(pairs.source_starts.diff(), pairs.source.bincount(minlength=n_blocks).int())
    assert torch.equal(pairs.receiver_starts.diff(), pairs.receiver.bincount(minlength=n_blocks).int())
    for block in range(n_blocks):
        own = pairs.by_receiver[pairs.receiver_starts[block] : pairs.receiver_starts[block + 1]].long()
        assert bool((pairs.receiver[own] == block).all())
        assert bool((pairs.source[own].diff() > 0).all())
    found = set(keys.tolist())
    assert {block * (n_blocks + 1) for block in range(n_blocks)} <= found
    assert n_blocks - 1 not in found


def test_light_that_is_left_out_is_less_than_a_millionth():
    """In double precision over all pairs, with logits as far apart as stated: the worst that the bound allows."""
    grid_hw, logit_range, hardness = (16, 16), 12.0, 6.0
    optics = two_scenes(grid_hw)
    pairs = optics.block_pairs(hardness, block_hw=(1, 1), logit_range=logit_range)
    left_out = torch.ones(2, 256, 256, dtype=torch.bool)
    place_to_token = pairs.blocks.order.long()
    source, receiver = place_to_token[pairs.source % 256], place_to_token[pairs.receiver % 256]
    left_out[pairs.source // 256, receiver, source] = False
    assert 0.05 < left_out.float().mean() < 0.95
    logits = torch.full((2, 256, 256), logit_range, dtype=torch.float64)
    logits[:, torch.arange(256), torch.arange(256)] = 0.0
    log_disc = torch.nn.functional.logsigmoid(hardness * (optics.coc[:, None] - optics.dense().distance).double())
    weights = (logits + log_disc).softmax(dim=1)
    assert float((weights * left_out).sum(dim=1).max()) < 1e-6


def test_an_infinite_range_of_logits_leaves_nothing_out():
    pairs = two_scenes((6, 7)).block_pairs(INFERENCE_HARDNESS, block_hw=(2, 2), logit_range=math.inf)
    assert pairs.n_pairs == 2 * pairs.blocks.n_blocks**2


def in_small_chunks(monkeypatch):
    monkeypatch.setattr("bokehdiff.attention.blocks.DISTANCES_PER_CHUNK", 1000)
    monkeypatch.setattr("bokehdiff.attention.thin_lens.RAYS_PER_CHUNK", 5 * 256)
    monkeypatch.setattr("bokehdiff.attention.released.RAYS_PER_CHUNK", 100)


@pytest.mark.parametrize("convention", ["thin_lens", "released"])
@pytest.mark.parametrize(
    ("grid_hw", "block_hw"), [((6, 9), (2, 2)), ((5, 7), (4, 3)), ((3, 4), (8, 8)), ((1, 1), (1, 1))]
)
def test_tiles_hold_the_dense_numbers_of_tokens_within_reach(monkeypatch, convention, grid_hw, block_hw):
    in_small_chunks(monkeypatch)
    optics = two_scenes(grid_hw, convention=convention)
    pairs = optics.block_pairs(INFERENCE_HARDNESS, block_hw=block_hw, logit_range=2.0)
    compressed = VisibilityTiles.of(pairs, optics.occlusion)
    dense, order = optics.dense().visibility, pairs.blocks.order.reshape(-1, pairs.blocks.tokens_per_block).long()
    within = optics.dense().distance <= reach(optics.coc, hardness=INFERENCE_HARDNESS, logit_range=2.0)[:, None]
    assert compressed.index.shape == pairs.source.shape
    assert compressed.index.max() == len(compressed.tiles) - 1
    for p in range(pairs.n_pairs):
        image, source = divmod(int(pairs.source[p]), pairs.blocks.n_blocks)
        k, q = order[source], order[int(pairs.receiver[p]) % pairs.blocks.n_blocks]
        counts = (k >= 0)[:, None] & (q >= 0)[None] & within[image][q][:, k].T
        expected = dense[image][q][:, k].T.where(counts, torch.tensor(1.0))
        index = int(compressed.index[p])
        if index == ALL_VISIBLE:
            assert bool((expected == 1).all())
        else:
            assert torch.equal(compressed.tiles[index], expected)
            assert bool((expected < 1).any())


@pytest.mark.parametrize("convention", ["thin_lens", "released"])
@pytest.mark.parametrize(("grid_hw", "block_hw"), [((6, 9), (2, 2)), ((5, 7), (4, 3)), ((1, 1), (4, 4))])
def test_reached_tokens_are_those_that_any_source_of_a_block_reaches(monkeypatch, convention, grid_hw, block_hw):
    in_small_chunks(monkeypatch)
    optics = two_scenes(grid_hw, convention=convention)
    pairs = optics.block_pairs(INFERENCE_HARDNESS, block_hw=block_hw, logit_range=2.0)
    reached = ReachedTokens.of(pairs, optics.occlusion)
    beyond = optics.dense().distance - reach(optics.coc, hardness=INFERENCE_HARDNESS, logit_range=2.0)[:, None]
    members = pairs.blocks.order.reshape(-1, pairs.blocks.tokens_per_block).long()
    assert torch.equal(reached.visible[0], torch.ones(pairs.blocks.tokens_per_block))
    for block in range(2 * pairs.blocks.n_blocks):
        image, source = divmod(block, pairs.blocks.n_blocks)
        places = (members[source] != NOT_A_TOKEN).nonzero().flatten()
        of_sources = beyond[image][:, members[source][places]]
        own = slice(int(reached.starts[block]), int(reached.starts[block + 1]))
        token = reached.token[own].long()
        assert torch.equal(token.sort().values, (of_sources.amin(dim=1) <= 0).nonzero().flatten())
        assert_close(reached.beyond[own], of_sources[token].amin(dim=1))
        dense = optics.dense().visibility[image][token][:, members[source][places]]
        got = reached.visible[reached.index[own]][:, places]
        assert torch.equal(got, dense.where(of_sources[token] <= 0, torch.tensor(1.0)))


def test_where_nothing_is_in_the_way_nothing_is_stored():
    optics = optics_of(torch.full((1, 64, 64), 0.7), (4, 4), focus=0.2)
    pairs = optics.block_pairs(INFERENCE_HARDNESS, block_hw=(2, 2))
    compressed = VisibilityTiles.of(pairs, optics.occlusion)
    assert compressed.tiles.shape == (0, 4, 4)
    assert bool((compressed.index == ALL_VISIBLE).all())
    reached = ReachedTokens.of(pairs, optics.occlusion)
    assert reached.visible.shape == (1, 4)
    assert not reached.index.any()


def test_blocks_and_pairs_are_made_once():
    optics = two_scenes((6, 7))
    pairs = optics.block_pairs(5.0)
    assert optics.block_pairs(5.0) is pairs
    assert optics.block_pairs(5.0, logit_range=1.0) is not pairs
    assert optics.to("cpu").block_pairs(5.0) is not pairs
