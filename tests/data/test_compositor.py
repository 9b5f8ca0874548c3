from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bokehdiff.data import Composition, OnTheFlyDataset, Recipe, compose, draw_recipe
from bokehdiff.data.compositor import samples_for
from bokehdiff.data.randomness import generator_for
from bokehdiff.errors import InputError
from tests.helpers import assert_close, psnr

SMALL = Composition(resolution_px=48)


def fields_equal(a, b):
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for x, y in zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True)
    )


def disc(size_px=40):
    """A soft reddish disc: display RGB with straight alpha."""
    axis = torch.linspace(-1, 1, size_px)
    alpha = ((1 - torch.hypot(axis[:, None], axis[None])) * 6).clamp(0, 1)
    texture = torch.rand(3, size_px, size_px, generator=torch.Generator().manual_seed(1)) * 0.4
    return torch.cat([texture + torch.tensor([0.5, 0.1, 0.1])[:, None, None], alpha[None]])


def scenery(size_px=64):
    return torch.rand(3, size_px, size_px, generator=torch.Generator().manual_seed(2))


def plain_recipe(**changes):
    """A foreground at disparity 0.8 in focus before an upright background at 0.2."""
    plain = Recipe(
        foreground=0, background=0, scale=0.6, offset_xy=(0.0, 0.0), background_xy=(0.0, 0.0), plane=(0.2, 0.0, 0.0),
        level=0.8, focus_disparity=0.8, strength_px=10.0, crop_xy=(12, 12), mirror=False, flip=False, exposure=1.0,
        jitter=1.0,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def test_a_sample_is_a_function_of_seed_and_number(training_root):
    dataset = OnTheFlyDataset(training_root, seed=7, composition=SMALL)
    first = dataset[5]
    dataset[3]
    assert fields_equal(first, dataset[5])
    assert fields_equal(first, OnTheFlyDataset(training_root, seed=7, composition=SMALL)[5])
    assert not fields_equal(first, dataset[6])
    assert not fields_equal(first, OnTheFlyDataset(training_root, seed=8, composition=SMALL)[5])


def test_samples_have_their_shapes_and_ranges(training_root):
    dataset = OnTheFlyDataset(training_root, seed=7, composition=SMALL)
    for n in range(12):
        sample = dataset[n]
        assert sample.n == n
        assert sample.image_srgb.shape == sample.target_srgb.shape == (3, 48, 48)
        for image in (sample.image_srgb, sample.target_srgb, sample.disparity):
            assert image.min() >= 0
            assert image.max() <= 1
        assert sample.coc_px.shape == sample.disparity.shape == (48, 48)


def test_a_dataset_ends_where_its_length_says(training_root):
    dataset = OnTheFlyDataset(training_root, seed=0, composition=SMALL, length=2)
    assert len(list(dataset)) == len(dataset) == 2
    with pytest.raises(IndexError, match="sample -1 of 2"):
        dataset[-1]


def test_without_blur_both_photographs_are_equal(training_root):
    """One physics: soft edges and hair included."""
    still = dataclasses.replace(SMALL, strength_range_px=(0.0, 0.0))
    dataset = OnTheFlyDataset(training_root, seed=1, composition=still)
    for n in range(8):
        sample = dataset[n]
        assert_close(sample.target_srgb, sample.image_srgb)
        assert sample.strength_px == 0.0
        assert not sample.coc_px.any()


def test_what_is_in_focus_stays_and_the_rest_is_blurred():
    sample = compose(plain_recipe(), disc(), scenery(), composition=SMALL)
    sharp = sample.coc_px == 0
    behind = sample.coc_px < -0.999 * 6
    assert sharp.sum() > 100
    assert behind.sum() > 500
    assert_close(sample.target_srgb[:, sharp], sample.image_srgb[:, sharp])
    assert sample.target_srgb[:, behind].std() < 0.6 * sample.image_srgb[:, behind].std()
    on_background = compose(plain_recipe(focus_disparity=0.2), disc(), scenery(), composition=SMALL)
    far_from_edge = on_background.coc_px == 0
    far_from_edge &= -torch.nn.functional.max_pool2d(-far_from_edge[None].float(), 17, 1, 8)[0] > 0
    assert far_from_edge.sum() > 20
    assert_close(on_background.target_srgb[:, far_from_edge], on_background.image_srgb[:, far_from_edge])


def test_the_label_is_the_rendered_circle_of_confusion_times_the_jitter(training_root):
    dataset = OnTheFlyDataset(training_root, seed=2, composition=SMALL)
    for n in range(8):
        sample, jitter = dataset[n], dataset.recipe(n).jitter
        assert 2 / 3 <= jitter <= 1
        assert_close(sample.coc_px, jitter * sample.strength_px * (sample.disparity - sample.focus_disparity))


def test_the_rendered_blur_has_the_labelled_radius():
    """A white dot of the background spreads over a disc of radius r = |coc|: variance r^2 / 4 along each axis."""
    background = torch.zeros(3, 96, 96)
    background[:, 48, 48] = 1.0
    composition = Composition(resolution_px=96, image_to_crop=1.0, n_samples=600)
    recipe = plain_recipe(crop_xy=(0, 0), strength_px=20.0, scale=0.05, offset_xy=(0.45, 0.45))
    sample = compose(recipe, disc(8), background, composition=composition)
    light = sample.target_srgb[0].double() ** 2.2
    light = torch.where(torch.hypot(*(torch.arange(96.0) - 48,) * 2) < 96, light, 0.0)
    light[80:, 80:] = 0.0
    axis = torch.arange(96).double()
    weight = light / light.sum()
    x = (weight.sum(0) * axis).sum()
    variance = (weight.sum(0) * (axis - x).square()).sum()
    radius_px = float(sample.coc_px[48, 48].abs())
    assert radius_px == pytest.approx(12.0)
    assert math.sqrt(4 * float(variance)) == pytest.approx(radius_px, rel=0.03)


@pytest.mark.parametrize("n", range(6))
def test_the_border_is_as_if_the_canvas_were_wider(training_root, n):
    wide = Composition(resolution_px=40, strength_range_px=(60.0, 96.0), n_samples=64)
    dataset = OnTheFlyDataset(training_root, seed=3, composition=wide)
    recipe = dataset.recipe(n)
    foreground, background = dataset.foregrounds.draw(recipe.foreground), dataset.backgrounds.draw(recipe.background)
    sample = compose(recipe, foreground, background, composition=wide)
    wider = compose(recipe, foreground, background, composition=wide, wider_px=25)
    assert_close(sample.image_srgb, wider.image_srgb)
    assert_close(sample.disparity, wider.disparity)
    assert psnr(sample.target_srgb, wider.target_srgb) > 60  # the prefilter's levels follow the canvas' extremes


def test_mirrors_and_exposure_change_both_photographs_alike():
    plain = compose(plain_recipe(), disc(), scenery(), composition=SMALL)
    for mirror, flip in ((True, False), (False, True), (True, True)):
        turned = compose(plain_recipe(mirror=mirror, flip=flip), disc(), scenery(), composition=SMALL)
        axes = [axis for axis, wanted in ((-1, mirror), (-2, flip)) if wanted]
        for name in ("image_srgb", "target_srgb", "disparity", "coc_px"):
            assert torch.equal(getattr(turned, name), getattr(plain, name).flip(axes)), name
    bright = compose(plain_recipe(exposure=1.1), disc(), scenery(), composition=SMALL)
    for name in ("image_srgb", "target_srgb"):
        assert_close(getattr(bright, name), (1.1 * getattr(plain, name)).clamp(max=1))
    assert torch.equal(bright.coc_px, plain.coc_px)


def test_coverage_is_resampled_as_light_is():
    """A white foreground with soft edges before white stays white: no dark fringe from colours under transparency."""
    foreground = torch.cat([torch.ones(3, 40, 40), disc()[3:]])
    foreground[:3, foreground[3] == 0] = 0.0
    for scale in (0.2, 0.95):
        sample = compose(plain_recipe(scale=scale), foreground, torch.ones(3, 9, 9), composition=SMALL)
        assert_close(sample.image_srgb, torch.ones(3, 48, 48))
        assert_close(sample.target_srgb, torch.ones(3, 48, 48))


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (7, 3)])
@pytest.mark.parametrize("resolution_px", [1, 17])
def test_any_size_of_image_serves(shape, resolution_px):
    composition = Composition(resolution_px=resolution_px)
    foreground, background = torch.rand(4, *shape), torch.rand(3, *shape)
    recipe = draw_recipe(generator_for(0, 0), composition, n_foregrounds=1, n_backgrounds=1)
    sample = compose(recipe, foreground, background, composition=composition)
    assert sample.target_srgb.shape == (3, resolution_px, resolution_px)
    assert torch.isfinite(sample.target_srgb).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), n=st.integers(0, 2**63))
def test_recipes_stay_in_the_published_distribution(seed, n):
    composition = Composition()
    recipe = draw_recipe(generator_for(seed, n), composition, n_foregrounds=3, n_backgrounds=2)
    c0, cx, cy = recipe.plane
    corners = np.array([c0 + cx * x + cy * y for x in (0, 768) for y in (0, 768)])
    assert corners.min() >= 1 / 1000
    assert corners.max() <= 1 / 4
    assert corners.max() <= recipe.level <= 1
    assert 3 - 1e-9 <= recipe.strength_px * max(recipe.focus_disparity, 1 - recipe.focus_disparity) <= 96 + 1e-9
    assert recipe.focus_disparity in (recipe.level, pytest.approx(corners.mean()))
    assert all(0 <= place <= 256 for place in recipe.crop_xy)
    assert recipe.exposure == 1 or 0.5 <= recipe.exposure <= 1.1
    assert recipe.foreground < 3
    assert recipe.background < 2
    assert recipe.strength_px * math.hypot(cx, cy) < 1


def test_half_of_the_samples_focus_on_the_foreground():
    recipes = [draw_recipe(generator_for(0, n), Composition(), n_foregrounds=1, n_backgrounds=1) for n in range(400)]
    assert 0.4 < np.mean([recipe.focus_disparity == recipe.level for recipe in recipes]) < 0.6
    assert 0.65 < np.mean([recipe.exposure != 1 for recipe in recipes]) < 0.85
    assert 0.4 < np.mean([recipe.mirror for recipe in recipes]) < 0.6


def test_strength_follows_the_size_of_the_sample():
    small, large = (
        draw_recipe(generator_for(0, 4), Composition(resolution_px=size), n_foregrounds=1, n_backgrounds=1)
        for size in (128, 512)
    )
    assert large.strength_px == pytest.approx(4 * small.strength_px)


def test_more_blur_takes_more_lens_points_up_to_a_limit():
    assert samples_for(0.0) == 16
    assert samples_for(10.0) == 31
    assert samples_for(1000.0) == 128


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution_px": 0}, "resolution_px and image_to_crop must be at least 1; got 0 and 1.5"),
        ({"image_to_crop": 0.5}, "resolution_px and image_to_crop must be at least 1; got 512 and 0.5"),
        ({"strength_range_px": (5.0, 3.0)}, "strength_range_px must rise within 0 ... inf; got 5, 3"),
        ({"coc_jitter": (-1.0, 1.0)}, "coc_jitter must rise within"),
        ({"flip": 2.0}, r"flip must be in \[0, 1\]; got 2"),
        ({"n_samples": 0}, "n_samples must be at least 1, or None; got 0"),
        ({"foreground_scale": (0.0, 1.0)}, "a foreground needs a size above 0"),
    ],
)
def test_compositions_that_cannot_be_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Composition(**changes)
