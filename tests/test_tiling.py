from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bokehdiff import tiling
from bokehdiff.errors import InputError
from tests.helpers import assert_close


def _blur(radius: int):
    """A box filter that looks `radius` pixels far, with the border repeated."""
    size = 2 * radius + 1

    def function(image):
        channels = image.shape[1]
        padded = torch.nn.functional.pad(image, [radius] * 4, mode="replicate")
        return torch.nn.functional.conv2d(
            padded, image.new_full((channels, 1, size, size), 1 / size**2), groups=channels
        )

    return function


sizes = st.integers(1, 70)


@st.composite
def tile_and_overlap(draw):
    tile_px = draw(st.integers(1, 40))
    return tile_px, draw(st.integers(0, tile_px - 1))


@settings(max_examples=120, deadline=None)
@given(height=sizes, width=sizes, tile=tile_and_overlap())
def test_windows_cover_the_image_and_share_what_they_must(height, width, tile):
    tile_px, overlap_px = tile
    windows = tiling.tile_windows((height, width), tile_px, overlap_px)
    assert {(window.height, window.width) for window in windows} == {(min(tile_px, height), min(tile_px, width))}
    covered = torch.zeros(height, width)
    for window in windows:
        assert 0 <= window.top <= window.top + window.height <= height
        assert 0 <= window.left <= window.left + window.width <= width
        covered[window.top : window.top + window.height, window.left : window.left + window.width] += 1
    assert covered.min() >= 1
    assert len(set(windows)) == len(windows)
    for starts, length in (
        (sorted({window.top for window in windows}), height),
        (sorted({window.left for window in windows}), width),
    ):
        assert starts[0] == 0
        assert starts[-1] + min(tile_px, length) == length
        steps = [after - before for before, after in itertools.pairwise(starts)]
        assert all(0 < step <= tile_px - overlap_px for step in steps)
        assert not steps or max(steps) - min(steps) <= 1
        fewest = 1 if length <= tile_px else math.ceil((length - overlap_px) / (tile_px - overlap_px))
        assert len(starts) == fewest


@settings(max_examples=40, deadline=None)
@given(height=sizes, width=sizes, tile=tile_and_overlap(), seed=st.integers(0, 9))
def test_split_then_merge_is_the_identity_bit_for_bit(height, width, tile, seed):
    image = torch.rand(1, 2, height, width, generator=torch.Generator().manual_seed(seed)) * 3 - 1
    merged = tiling.map_tiles(lambda tile: tile, image, tile_px=tile[0], overlap_px=tile[1])
    assert torch.equal(merged, image)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_identity_is_exact_in_every_dtype(dtype):
    image = torch.randn(2, 3, 45, 61).to(dtype)
    merged = tiling.map_tiles(lambda tile: tile, image, tile_px=16, overlap_px=11)
    assert merged.dtype == dtype
    assert torch.equal(merged, image)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 90), (64, 65), (97, 41)])
@pytest.mark.parametrize(("tile_px", "overlap_px"), [(32, 12), (33, 21), (48, 30)])
def test_a_local_function_gives_what_it_gives_for_the_whole(size_hw, tile_px, overlap_px):
    """It looks as far as the margin that blending leaves out at cut edges: a quarter of the overlap."""
    image = torch.rand(2, 3, *size_hw)
    local = _blur(overlap_px // 4)
    assert_close(tiling.map_tiles(local, image, tile_px=tile_px, overlap_px=overlap_px), local(image))


def test_beyond_the_margin_tiles_are_blended_without_seams():
    """Each tile is given its own grey; the steps between pixels stay as small as a raised cosine's."""
    greys = iter(torch.linspace(0, 1, 100))
    overlap_px = 16
    image = torch.zeros(1, 1, 60, 80)
    blended = tiling.map_tiles(
        lambda tile: torch.full_like(tile, next(greys)), image, tile_px=32, overlap_px=overlap_px
    )
    windows = tiling.tile_windows((60, 80), 32, overlap_px)
    largest_step = (len(windows) - 1) / 99
    steepest = torch.pi / 2 / (overlap_px / 2)  # slope of a raised cosine over half the overlap
    assert blended.diff(dim=2).abs().max() <= largest_step * steepest * 1.1
    assert blended.diff(dim=3).abs().max() <= largest_step * steepest * 1.1
    assert blended.min() >= 0.0
    assert blended.max() <= largest_step + 1e-6


def test_blending_is_the_weighted_mean_that_is_written():
    """A slow oracle: weights by the formula, pixel by pixel along one row."""
    tile_px, overlap_px, width = 12, 8, 31
    values = [0.3, -1.0, 2.0, 0.7, 5.0, 1.0, 1.5]
    windows = tiling.tile_windows((1, width), tile_px, overlap_px)
    given_values = iter(values)
    image = torch.zeros(1, 1, 1, width, dtype=torch.float64)
    got = tiling.map_tiles(
        lambda tile: torch.full_like(tile, next(given_values)), image, tile_px=tile_px, overlap_px=overlap_px
    )
    margin, run = overlap_px // 4, overlap_px - 2 * (overlap_px // 4)
    for x in range(width):
        total = weighted = 0.0
        for window, value in zip(windows, values, strict=False):
            inside = x + 0.5 - window.left
            if not 0 < inside < window.width:
                continue
            weight = 1.0
            for is_cut, distance in (
                (window.left > 0, inside),
                (window.left + window.width < width, window.width - inside),
            ):
                if is_cut:
                    weight *= 0.5 - 0.5 * math.cos(math.pi * min(max((distance - margin) / run, 0.0), 1.0))
            total += weight
            weighted += weight * value
        assert total > 0
        assert float(got[0, 0, 0, x]) == pytest.approx(weighted / total, abs=1e-12)


@pytest.mark.parametrize("overlap_px", [0, 1, 2, 3, 5, 9])
def test_small_overlaps_leave_no_gap(overlap_px):
    image = torch.rand(1, 1, 30, 31)
    result = tiling.map_tiles(lambda tile: 2 * tile + 1, image, tile_px=10, overlap_px=overlap_px)
    assert_close(result, 2 * image + 1)


@pytest.mark.parametrize("n_channels", [1, 4, 7])
def test_the_function_may_change_the_number_of_channels_and_the_dtype(n_channels):
    image = torch.rand(2, 3, 37, 29)
    weights = torch.rand(n_channels, 3, dtype=torch.float64)

    def mix(tile):
        return torch.einsum("oc,bchw->bohw", weights, tile.double())

    got = tiling.map_tiles(mix, image, tile_px=16, overlap_px=5)
    assert got.dtype == torch.float64
    assert_close(got, mix(image))


def test_an_image_smaller_than_a_tile_is_handed_over_whole():
    seen = []

    def function(tile):
        seen.append(tuple(tile.shape))
        return tile + 1

    image = torch.rand(1, 3, 5, 40)
    assert_close(tiling.map_tiles(function, image, tile_px=64, overlap_px=8), image + 1)
    assert seen == [(1, 3, 5, 40)]
    tiling.map_tiles(function, image, tile_px=16, overlap_px=4)
    assert set(seen[1:]) == {(1, 3, 5, 16)}


def test_mirroring_the_input_mirrors_the_output():
    image = torch.rand(1, 1, 50, 50)
    wide = _blur(6)  # looks further than the margin, so that blending matters
    options = {"tile_px": 20, "overlap_px": 8}  # (50 - 8) / (20 - 8) windows, evenly spread: symmetric
    mirrored = tiling.map_tiles(wide, image.flip(2, 3), **options).flip(2, 3)
    assert_close(mirrored, tiling.map_tiles(wide, image, **options))


def test_gradients_pass_through_tiles():
    image = torch.rand(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: tiling.map_tiles(lambda tile: tile**2, x, tile_px=4, overlap_px=2), (image,)
    )


@pytest.mark.parametrize("result", [torch.zeros(1, 3, 8, 7), torch.zeros(1, 3, 16, 16), torch.zeros(8, 8)])
@pytest.mark.parametrize("side", [8, 20])
def test_a_function_that_changes_the_size_is_refused(result, side):
    with pytest.raises(InputError, match=r"the function must keep its tile's size, 8 x 8; got shape \["):
        tiling.map_tiles(lambda tile: result, torch.zeros(1, 3, side, side), tile_px=8, overlap_px=2)


@pytest.mark.parametrize(("tile_px", "overlap_px"), [(8, 8), (8, 9), (8, -1), (0, 0)])
def test_impossible_overlaps_are_refused(tile_px, overlap_px):
    message = f"overlap_px must be 0 or more and less than tile_px; got {overlap_px} and {tile_px}"
    with pytest.raises(InputError, match=message):
        tiling.tile_windows((20, 20), tile_px, overlap_px)


def test_empty_images_are_refused():
    with pytest.raises(InputError, match="at least 1 x 1 pixels; got 0 x 5"):
        tiling.tile_windows((0, 5), 8, 2)
    with pytest.raises(InputError, match="an empty image cannot be padded"):
        tiling.pad_to_multiple(torch.zeros(1, 3, 0, 5), 8)


# --- padding


@settings(max_examples=60, deadline=None)
@given(height=sizes, width=sizes, multiple=st.integers(1, 80))
def test_padding_repeats_the_border_and_is_cropped_away(height, width, multiple):
    image = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)
    padded = tiling.pad_to_multiple(image, multiple)
    assert padded.size_hw == (height, width)
    assert padded.image.shape[2] == math.ceil(height / multiple) * multiple
    assert padded.image.shape[3] == math.ceil(width / multiple) * multiple
    rows = torch.arange(padded.image.shape[2]).clamp(max=height - 1)
    columns = torch.arange(padded.image.shape[3]).clamp(max=width - 1)
    assert torch.equal(padded.image, image[:, :, rows[:, None], columns])
    assert torch.equal(padded.crop(padded.image), image)


def test_padding_does_nothing_where_nothing_is_to_do():
    image = torch.rand(2, 3, 16, 24)
    assert tiling.pad_to_multiple(image, 8).image is image


def test_padding_crops_any_number_of_channels_and_refuses_another_size():
    padded = tiling.pad_to_multiple(torch.rand(1, 3, 5, 9), 8)
    assert padded.crop(torch.zeros(2, 7, 8, 16)).shape == (2, 7, 5, 9)
    with pytest.raises(InputError, match=r"expected a result of the padded size \[8, 16\]; got \[8, 8\]"):
        padded.crop(torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match="multiple must be at least 1; got 0"):
        tiling.pad_to_multiple(torch.rand(1, 3, 5, 9), 0)


def test_gradients_of_the_border_add_up():
    image = torch.rand(1, 1, 3, 5, requires_grad=True)
    tiling.pad_to_multiple(image, 4).image.sum().backward()
    expected = torch.ones(3, 5)
    expected[2] *= 2
    expected[:, 4] *= 4
    assert_close(image.grad[0, 0], expected)


def test_windows_tell_a_function_where_its_tile_lies():
    """Each tile replaced by its part of another image, of twice the size, gives that image."""
    image, other = torch.rand(1, 3, 21, 34), torch.rand(1, 3, 42, 68)

    def look_up(_: torch.Tensor, window: tiling.Window) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(window.scaled(2).cut(other), 2)

    got = tiling.map_windows(look_up, image, tile_px=16, overlap_px=4)
    assert_close(got, torch.nn.functional.avg_pool2d(other, 2))
