from __future__ import annotations

import dataclasses
import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bokehdiff.data import (
    CameraRange,
    Composition,
    Ground,
    LensRange,
    OnTheFlyDataset,
    Recipe,
    SceneRange,
    Shadow,
    Shot,
    Subject,
    Told,
    ToldRange,
    compose,
    draw_recipe,
    preset,
    scenery_light,
    subject_light,
)
from bokehdiff.data.compositor import samples_for
from bokehdiff.data.randomness import generator_for
from bokehdiff.errors import InputError
from bokehdiff.images import srgb_to_linear
from bokehdiff.optics import Lens
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


def fronto(disparity=0.2):
    return Ground(0, (0.0, 0.0), 0.0, (-500.0, 500.0), (disparity, disparity))


def subject(**changes):
    return dataclasses.replace(Subject(file=0, scale=0.6, offset_xy=(0.0, 0.0), level=0.8), **changes)


def photograph(recipe, *, composition=SMALL, foregrounds=None, background=None, **more):
    """A composed recipe, by default of a disc before random pixels."""
    light = [subject_light(image, composition) for image in foregrounds or [disc()] * len(recipe.subjects)]
    behind = scenery_light(scenery() if background is None else background, composition)
    return compose(recipe, light, behind, composition=composition, **more)


def plain_recipe(*, focus=0.8, strength_px=10.0, subjects=None, ground=None, told=None, **shot):
    """A subject at disparity 0.8 in focus before an upright background at 0.2."""
    subjects = (subject(),) if subjects is None else subjects
    camera = Shot(**({"crop_xy": (12, 12)} | shot))
    return Recipe(subjects, ground or fronto(), Lens(focus, strength_px), camera, told or Told())


def draw(composition, *, seed=0, n=0, n_foregrounds=3, n_backgrounds=2):
    return draw_recipe(generator_for(seed, n), composition, files=(n % 3, n % n_backgrounds), n_foregrounds=3)


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
    sample = photograph(plain_recipe())
    sharp = sample.coc_px == 0
    behind = sample.coc_px < -0.999 * 6
    assert sharp.sum() > 100
    assert behind.sum() > 500
    assert_close(sample.target_srgb[:, sharp], sample.image_srgb[:, sharp])
    assert sample.target_srgb[:, behind].std() < 0.6 * sample.image_srgb[:, behind].std()
    on_background = photograph(plain_recipe(focus=0.2))
    far_from_edge = on_background.coc_px == 0
    far_from_edge &= -torch.nn.functional.max_pool2d(-far_from_edge[None].float(), 17, 1, 8)[0] > 0
    assert far_from_edge.sum() > 20
    assert_close(on_background.target_srgb[:, far_from_edge], on_background.image_srgb[:, far_from_edge])


def test_the_label_is_the_rendered_circle_of_confusion_times_the_jitter(training_root):
    dataset = OnTheFlyDataset(training_root, seed=2, composition=SMALL)
    for n in range(8):
        sample, jitter = dataset[n], dataset.recipe(n).told.jitter
        assert 2 / 3 <= jitter <= 1
        assert_close(sample.coc_px, jitter * sample.strength_px * (sample.disparity - sample.focus_disparity))


def test_the_rendered_blur_has_the_labelled_radius():
    """A white dot of the background spreads over a disc of radius r = |coc|: variance r^2 / 4 along each axis."""
    background = torch.zeros(3, 96, 96)
    background[:, 48, 48] = 1.0
    composition = Composition(resolution_px=96, image_to_crop=1.0, n_samples=600)
    aside = subject(scale=0.05, offset_xy=(0.45, 0.45))
    recipe = plain_recipe(crop_xy=(0, 0), strength_px=20.0, subjects=(aside,))
    sample = photograph(recipe, composition=composition, foregrounds=[disc(8)], background=background)
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


@pytest.mark.parametrize("name", ["published", "bokehdiff"])
@pytest.mark.parametrize("n", range(5))
def test_the_border_is_as_if_the_canvas_were_wider(training_root, n, name):
    wide = dataclasses.replace(preset(name, resolution_px=40, strength_range_px=(60.0, 96.0)), n_samples=64)
    parts = OnTheFlyDataset(training_root, seed=3, composition=wide).uncomposed(n)
    arguments = (parts.recipe, [light.float() for light in parts.subjects], parts.scenery.float())
    sample = compose(*arguments, composition=wide)
    wider = compose(*arguments, composition=wide, wider_px=25)
    assert_close(sample.image_srgb, wider.image_srgb)
    assert_close(sample.disparity, wider.disparity)
    # The prefilter's levels follow the canvas' extremes, and a subject's light is matched to more of the background.
    assert psnr(sample.target_srgb, wider.target_srgb) > (60 if name == "published" else 45)


def test_mirrors_and_exposure_change_both_photographs_alike():
    plain = photograph(plain_recipe())
    for mirror, flip in ((True, False), (False, True), (True, True)):
        turned = photograph(plain_recipe(mirror=mirror, flip=flip))
        axes = [axis for axis, wanted in ((-1, mirror), (-2, flip)) if wanted]
        for name in ("image_srgb", "target_srgb", "disparity", "coc_px"):
            assert torch.equal(getattr(turned, name), getattr(plain, name).flip(axes)), name
    bright = photograph(plain_recipe(exposure=1.1))
    for name in ("image_srgb", "target_srgb"):
        assert_close(getattr(bright, name), (1.1 * getattr(plain, name)).clamp(max=1))
    assert torch.equal(bright.coc_px, plain.coc_px)


def test_coverage_is_resampled_as_light_is():
    """A white foreground with soft edges before white stays white: no dark fringe from colours under transparency."""
    foreground = torch.cat([torch.ones(3, 40, 40), disc()[3:]])
    foreground[:3, foreground[3] == 0] = 0.0
    for scale in (0.2, 0.95):
        recipe = plain_recipe(subjects=(subject(scale=scale),))
        sample = photograph(recipe, foregrounds=[foreground], background=torch.ones(3, 9, 9))
        assert_close(sample.image_srgb, torch.ones(3, 48, 48))
        assert_close(sample.target_srgb, torch.ones(3, 48, 48))


@pytest.mark.parametrize("name", ["published", "bokehdiff"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (7, 3)])
@pytest.mark.parametrize("resolution_px", [1, 17])
def test_any_size_of_image_serves(shape, resolution_px, name):
    composition = preset(name, resolution_px=resolution_px)
    recipe = draw(composition, n=1)
    foregrounds = [torch.rand(4, *shape)] * len(recipe.subjects)
    sample = photograph(recipe, composition=composition, foregrounds=foregrounds, background=torch.rand(3, *shape))
    assert sample.target_srgb.shape == (3, resolution_px, resolution_px)
    assert torch.isfinite(sample.target_srgb).all()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_several_subjects_the_nearest_hides_the_others(order):
    """A green disc before a red one, whatever their order in the recipe."""
    green = torch.cat([torch.zeros(3, 40, 40), disc()[3:]])
    green[1] = 1.0
    pair = [(subject(level=0.9), green), (subject(level=0.6), disc())]
    recipe = plain_recipe(subjects=tuple(pair[i][0] for i in order), focus=0.9)
    sample = photograph(recipe, foregrounds=[pair[i][1] for i in order])
    assert sample.image_srgb[1, 24, 24] > 0.99
    assert sample.disparity[24, 24] == pytest.approx(0.9)
    assert_close(sample.target_srgb[:, 20:28, 20:28], sample.image_srgb[:, 20:28, 20:28])


def test_a_leaning_subject_is_in_focus_along_one_line():
    recipe = plain_recipe(subjects=(subject(scale=0.9, lean_xy=(0.004, 0.0)),), strength_px=40.0)
    sample = photograph(recipe, foregrounds=[torch.cat([disc()[:3], torch.ones(1, 40, 40)])])
    error = (sample.target_srgb - sample.image_srgb).abs().mean(dim=(0, 1))
    assert sample.disparity[24].diff() == pytest.approx(torch.full((47,), 0.004), abs=1e-5)
    assert error[22:26].mean() < 0.3 * error[3:8].mean()
    assert error[22:26].mean() < 0.3 * error[40:45].mean()


@pytest.mark.parametrize("heading", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("disparity", [(0.1, 0.1, 0.3), (0.3, 0.05, 0.3), (0.05, 0.3, 0.05)])
def test_a_bent_background_has_no_gaps(heading, disparity):
    """White stays white where its pieces meet, and disparity is the broken line that the recipe says."""
    ground = Ground(0, (0.0, 0.0), heading, (-200.0, 3.0, 200.0), disparity)
    aside = subject(scale=0.05, offset_xy=(0.45, 0.45))
    recipe = plain_recipe(ground=ground, subjects=(aside,), focus=0.9, strength_px=30.0)
    sample = photograph(recipe, background=torch.ones(3, 9, 9), foregrounds=[torch.ones(4, 8, 8)])
    assert_close(sample.target_srgb, torch.ones(3, 48, 48))
    axis = torch.arange(48) + 12.5 - 36
    t = axis[None] * math.cos(heading) + axis[:, None] * math.sin(heading)
    expected = torch.from_numpy(np.interp(t.numpy(), ground.stops_px, disparity)).float()
    torch.testing.assert_close(sample.disparity[:40, :40], expected[:40, :40], atol=3e-3, rtol=0)


def test_a_bent_background_is_blurred_as_one_surface():
    """A flat background cut into pieces that lie in one plane gives the picture of the uncut one."""
    aside = subject(scale=0.05, offset_xy=(0.45, 0.45))
    whole, cut = (
        photograph(plain_recipe(ground=Ground(0, (0.0, 0.0), 0.4, stops, values), subjects=(aside,), strength_px=20.0))
        for stops, values in (((-200.0, 200.0), (0.1, 0.3)), ((-200.0, -20.0, 5.0, 200.0), (0.1, 0.19, 0.2025, 0.3)))
    )
    assert psnr(cut.target_srgb, whole.target_srgb) > 40
    assert_close(cut.image_srgb, whole.image_srgb)


def test_lights_above_white_bloom_in_the_target_only():
    background = torch.full((3, 72, 72), 0.05)
    background[:, 36, 36] = 1.0
    aside = subject(scale=0.05, offset_xy=(0.45, 0.45))
    lit = dataclasses.replace(SMALL, camera=CameraRange(highlights=1.0))
    plain, bright = (
        photograph(
            plain_recipe(subjects=(aside,), strength_px=12.0, highlight_gain=gain), composition=lit,
            background=background, foregrounds=[disc(8)],
        )
        for gain in (1.0, 9.0)
    )  # fmt: skip
    assert torch.equal(bright.image_srgb, plain.image_srgb)
    light = [srgb_to_linear(sample.target_srgb) - 0.05**2.2 for sample in (plain, bright)]
    inside = torch.hypot(*torch.meshgrid(*(torch.arange(48.0) - 24,) * 2, indexing="ij")) < 5
    assert float(light[1][:, inside].sum()) == pytest.approx(9 * float(light[0][:, inside].sum()), rel=0.1)


def test_noise_and_compression_stay_where_the_picture_stays_sharp():
    worn = {"shot_noise": 2e-3, "read_noise": 4e-3, "jpeg_quality": 70.0}
    clean, dirty = photograph(plain_recipe()), photograph(plain_recipe(**worn))
    added = dirty.image_srgb - clean.image_srgb
    assert added.abs().mean() > 0.01
    sharp, behind = dirty.coc_px == 0, dirty.coc_px < -1
    assert_close(dirty.target_srgb[:, sharp], (clean.target_srgb + added)[:, sharp].clamp(0, 1))
    assert torch.equal(dirty.target_srgb[:, behind], clean.target_srgb[:, behind])
    still = photograph(plain_recipe(strength_px=0.0, **worn))
    assert_close(still.target_srgb, still.image_srgb)
    assert torch.equal(dirty.image_srgb, photograph(plain_recipe(**worn)).image_srgb)
    assert not torch.equal(dirty.image_srgb, photograph(plain_recipe(grain=5, **worn)).image_srgb)


def test_what_is_told_changes_nothing_of_what_is_seen():
    told = Told(growth_px=3, misplaced_px=2.0, blur_px=1.5, squeeze=(0.7, 0.2), levels=40, dice=3)
    true, wrong = photograph(plain_recipe()), photograph(plain_recipe(told=told))
    assert torch.equal(true.image_srgb, wrong.image_srgb)
    assert torch.equal(true.target_srgb, wrong.target_srgb)
    assert not torch.equal(true.disparity, wrong.disparity)
    squeezed = photograph(plain_recipe(told=Told(squeeze=(0.7, 0.2))))
    assert_close(squeezed.disparity, 0.7 * true.disparity + 0.2)
    assert_close(squeezed.coc_px, true.coc_px)


def test_a_shadow_darkens_the_background_and_nothing_else():
    shadow = Shadow(depth=0.5, offset_xy=(0.3, 0.0), softness=0.02)
    cast, none = (photograph(plain_recipe(subjects=(subject(shadow=each),))) for each in (shadow, None))
    on_subject = none.disparity > 0.799999
    assert_close(cast.image_srgb[:, on_subject], none.image_srgb[:, on_subject])
    ratio = srgb_to_linear(cast.image_srgb) / srgb_to_linear(none.image_srgb).clamp_min(1e-4)
    assert float(ratio.min()) == pytest.approx(0.5, abs=0.03)
    assert_close(cast.image_srgb[:, :, :4], none.image_srgb[:, :, :4])


def test_a_matched_subject_takes_the_light_behind_it():
    blue = torch.zeros(3, 9, 9)
    blue[2], blue[0] = 0.9, 0.3
    plain, matched = (
        photograph(plain_recipe(subjects=(subject(colour_match=share),)), background=blue) for share in (0.0, 1.0)
    )
    middle = (slice(None), slice(20, 28), slice(20, 28))
    before, after = (srgb_to_linear(sample.image_srgb[middle]).mean(dim=(1, 2)) for sample in (plain, matched))
    assert float(after[2] / before[2]) == pytest.approx(2.0, rel=0.02)  # no more than a stop
    assert float(after[0] / before[0]) == pytest.approx(0.5, rel=0.02)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), n=st.integers(0, 2**63))
def test_recipes_stay_in_the_published_distribution(seed, n):
    recipe = draw(Composition(), seed=seed, n=n)
    (one,) = recipe.subjects
    (plane,) = recipe.ground.planes(768)
    c0, cx, cy = plane
    corners = np.array([c0 + cx * x + cy * y for x in (0, 768) for y in (0, 768)])
    focus, strength_px = recipe.lens.focus_disparity, recipe.lens.strength_px
    assert corners.min() >= 1 / 1000
    assert corners.max() <= 1 / 4
    assert corners.max() <= one.level <= 1
    assert 3 - 1e-9 <= strength_px * max(focus, 1 - focus) <= 96 + 1e-9
    assert focus in (one.level, pytest.approx(corners.mean()))
    assert all(0 <= place <= 256 for place in recipe.shot.crop_xy)
    assert recipe.shot.exposure == 1 or 0.5 <= recipe.shot.exposure <= 1.1
    assert one == Subject(one.file, one.scale, one.offset_xy, one.level)
    assert recipe.lens == Lens(focus, strength_px)
    assert recipe.told == Told(jitter=recipe.told.jitter)
    assert strength_px * math.hypot(cx, cy) <= 0.25


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), n=st.integers(0, 2**63), strength=st.floats(0.0, 400.0))
def test_every_recipe_can_be_rendered(seed, n, strength):
    """Planes stay in front of the background and of the camera, and never as steep as a ray."""
    composition = preset("bokehdiff", strength_range_px=(strength, strength))
    recipe = draw(composition, seed=seed, n=n)
    highest = max(recipe.ground.disparity)
    assert 0 <= min(recipe.ground.disparity) <= highest <= 0.4 + 1e-9
    assert 1 <= len(recipe.subjects) <= 4
    steepest = max(recipe.ground.steepest(), *(math.hypot(*one.lean_xy) for one in recipe.subjects))
    assert recipe.lens.strength_px * steepest <= 0.25 + 1e-9
    for one in recipe.subjects:
        reach = sum(map(abs, one.lean_xy)) * 768 / 2
        assert highest - 1e-9 <= one.level - reach <= one.level + reach <= 1 + 1e-9
    scale, shift = recipe.told.squeeze
    assert 0 <= shift <= 1 - scale + 1e-9


ranges = st.fixed_dictionaries(
    {
        "scene": st.builds(
            SceneRange, n_foregrounds=st.sampled_from([(1, 1), (1, 3), (4, 4)]), tilt=st.floats(0, 1),
            fronto=st.floats(0, 0.5), curved=st.floats(0, 0.5), colour_match=st.just((0.0, 1.0)),
            shadow=st.floats(0, 1), mirror_foregrounds=st.floats(0, 1),
            background_disparity=st.sampled_from([(0.0, 0.0), (0.0, 0.9), (0.25, 0.25)]),
        ),
        "lens": st.builds(
            LensRange, focus_between=st.floats(0, 1), focus_spread=st.floats(0, 1), shaped=st.floats(0, 1)
        ),
        "camera": st.builds(CameraRange, highlights=st.floats(0, 1), noise=st.floats(0, 1), jpeg=st.floats(0, 1)),
        "told": st.builds(ToldRange, corrupted=st.floats(0, 1), quantised=st.floats(0, 1)),
        "strength_range_px": st.sampled_from([(0.0, 0.0), (3.0, 96.0), (200.0, 300.0)]),
        "resolution_px": st.integers(1, 21),
    }
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(ranges=ranges, n=st.integers(0, 10**6))
def test_any_configuration_gives_whole_samples(ranges, n):
    composition = Composition(n_samples=8, **ranges)
    recipe = draw(composition, n=n)
    sample = photograph(recipe, composition=composition)
    for image in (sample.image_srgb, sample.target_srgb, sample.disparity):
        assert 0 <= image.min() <= image.max() <= 1
    assert_close(sample.coc_px, recipe.told.jitter * sample.strength_px * (sample.disparity - sample.focus_disparity))
    if composition.strength_range_px == (0.0, 0.0):
        assert_close(sample.target_srgb, sample.image_srgb)


def test_half_of_the_samples_focus_on_the_foreground():
    recipes = [draw(Composition(), n=n) for n in range(400)]
    assert 0.4 < np.mean([recipe.lens.focus_disparity == recipe.subjects[0].level for recipe in recipes]) < 0.6
    assert 0.65 < np.mean([recipe.shot.exposure != 1 for recipe in recipes]) < 0.85
    assert 0.4 < np.mean([recipe.shot.mirror for recipe in recipes]) < 0.6


def test_the_focus_may_lie_on_anything_or_between():
    recipes = [draw(preset("bokehdiff"), n=n) for n in range(300)]
    on = [[one.level for one in recipe.subjects].count(recipe.lens.focus_disparity) for recipe in recipes]
    ground = [
        min(recipe.ground.disparity) <= recipe.lens.focus_disparity <= max(recipe.ground.disparity)
        for recipe in recipes
    ]
    between = [not a and not b for a, b in zip(on, ground, strict=True)]
    assert 0.3 < np.mean(on) < 0.55
    assert 0.3 < np.mean(ground) < 0.55
    assert 0.05 < np.mean(between) < 0.25
    assert {len(recipe.subjects) for recipe in recipes} == {1, 2, 3, 4}
    assert {len(recipe.ground.stops_px) for recipe in recipes} == {2, 6}


def test_strength_follows_the_size_of_the_sample():
    small, large = (draw(Composition(resolution_px=size), n=4) for size in (128, 512))
    assert large.lens.strength_px == pytest.approx(4 * small.lens.strength_px)


def test_every_pair_of_files_comes_once_in_a_round(training_root):
    dataset = OnTheFlyDataset(training_root, seed=5, composition=SMALL)
    recipes = [dataset.recipe(n) for n in range(42)]
    pairs = [(recipe.subjects[0].file, recipe.ground.file) for recipe in recipes]
    assert len(set(pairs[:21])) == len(set(pairs[21:])) == 21
    assert pairs[:21] != pairs[21:] != sorted(pairs[21:])


def test_stored_files_change_no_sample(training_root):
    one, other = (
        OnTheFlyDataset(training_root, seed=5, composition=SMALL, cache_bytes=n_bytes) for n_bytes in (0, 2**24)
    )
    for n in (0, 1, 30, 0, 1):
        assert fields_equal(one[n], other[n])


def test_aberrations_and_blades_are_drawn_where_wanted():
    shaped = dataclasses.replace(SMALL, lens=LensRange(shaped=1.0))
    apertures = [draw(shaped, n=n).lens.aperture for n in range(20)]
    assert {aperture.blades for aperture in apertures} == {5, 6, 7, 8, 9}
    assert min(aperture.edge for aperture in apertures) < 0 < max(aperture.edge for aperture in apertures)


def test_more_blur_takes_more_lens_points_up_to_a_limit():
    assert samples_for(0.0) == 16
    assert samples_for(10.0) == 31
    assert samples_for(1000.0) == 128
    assert samples_for(10.0, hdr=True) == 62
    assert samples_for(1000.0, hdr=True) == 256


@pytest.mark.parametrize(
    ("made", "changes", "message"),
    [
        (Composition, {"resolution_px": 0}, "resolution_px and image_to_crop must be at least 1; got 0 and 1.5"),
        (Composition, {"image_to_crop": 0.5}, "resolution_px and image_to_crop must be at least 1; got 512 and 0.5"),
        (Composition, {"strength_range_px": (5.0, 3.0)}, "strength_range_px must rise within 0 ... inf; got 5, 3"),
        (Composition, {"n_samples": 0}, "n_samples must be at least 1, or None; got 0"),
        (ToldRange, {"coc_jitter": (-1.0, 1.0)}, "coc_jitter must rise within"),
        (CameraRange, {"flip": 2.0}, r"flip must be in \[0, 1\]; got 2"),
        (SceneRange, {"foreground_scale": (0.0, 1.0)}, "a foreground needs a size above 0"),
        (SceneRange, {"fronto": 0.7, "curved": 0.7}, "fronto and curved must sum to 1 at most; got 0.7 and 0.7"),
        (SceneRange, {"n_foregrounds": (0, 2)}, "n_foregrounds must rise within 1 ... 8; got 0, 2"),
        (LensRange, {"blades": (2, 5)}, "blades must be 0 .a disc. or 3"),
    ],
)
def test_compositions_that_cannot_be_are_refused(made, changes, message):
    with pytest.raises(InputError, match=message):
        made(**changes)


def test_a_preset_that_is_none_is_refused():
    with pytest.raises(InputError, match="the composition must be one of published, bokehdiff; got 'best'"):
        inspect.unwrap(preset)("best")  # the type checker of the tests is quicker
