"""Detail and colour that the photograph knows better, held to loops and to what physics says."""

from __future__ import annotations

import math

import pytest
import torch

from bokehdiff.images import linear_to_srgb, srgb_to_linear
from bokehdiff.inference import keep_focus, match_colour, mix_where_guessed
from bokehdiff.inference.detail import spill_px
from bokehdiff.optics import Lens
from bokehdiff.renderers import made_up_share, render_photo
from tests.helpers import assert_close, psnr


def two_planes(size=64, near=0.8, far=0.3):
    """A textured square before a textured wall."""
    disparity = torch.full((1, size, size), far)
    disparity[:, size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = near
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    texture = 0.5 + 0.3 * torch.sin(rows * 0.9) * torch.cos(columns * 0.7)
    photo_srgb = torch.stack([texture, 0.8 * texture, 0.6 + 0.2 * torch.sin(columns / 9)])[None]
    return photo_srgb.clamp(0, 1), disparity


def physics(photo_srgb, disparity, lens):
    return linear_to_srgb(render_photo(srgb_to_linear(photo_srgb), disparity, lens)).clamp(0, 1)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (13, 17)])
def test_spill_is_what_loops_say(size_hw):
    reach = torch.where(torch.rand(1, *size_hw) > 0.8, 6.5 * torch.rand(1, *size_hw), torch.zeros(1, *size_hw))
    expected = torch.where(reach >= 1.0, reach, torch.zeros_like(reach))
    seeds = expected.clone()
    for y in range(size_hw[0]):
        for x in range(size_hw[1]):
            for v in range(size_hw[0]):
                for u in range(size_hw[1]):
                    gone = max(abs(y - v), abs(x - u))
                    expected[0, y, x] = max(expected[0, y, x], seeds[0, v, u] - gone)
    assert_close(spill_px(reach), expected.clamp_min(0.0))


def test_what_is_in_focus_is_the_photograph_and_what_is_blurred_is_not():
    photo_srgb, disparity = two_planes()
    coc_px = Lens(0.8, 20.0).coc_px(disparity)
    rendered = torch.rand_like(photo_srgb)
    kept = keep_focus(rendered, photo_srgb, coc_px)
    inside, outside = slice(20, 44), slice(0, 12)
    assert torch.equal(kept[..., inside, inside], photo_srgb[..., inside, inside])
    assert torch.equal(kept[..., outside, :], rendered[..., outside, :])


def test_a_blurred_foreground_lies_over_what_is_in_focus():
    """Focus on the wall: under the discs of the square before it, of 10 px, the wall's own pixels do not show."""
    photo_srgb, disparity = two_planes()
    coc_px = Lens(0.3, 20.0).coc_px(disparity)
    rendered = torch.rand_like(photo_srgb)
    kept = keep_focus(rendered, photo_srgb, coc_px)
    assert torch.equal(kept[..., 8:16, 20:44], rendered[..., 8:16, 20:44]), "the discs reach here"
    assert torch.equal(kept[..., :5, :], photo_srgb[..., :5, :]), "and not there"


@pytest.mark.parametrize("focus", [0.8, 0.3])
def test_keeping_the_focus_brings_a_softened_rendering_nearer_to_physics(focus):
    """An autoencoder softens: the true picture, blurred by a pixel, is what a network would hand over at best."""
    photo_srgb, disparity = two_planes()
    lens = Lens(focus, 16.0)
    true = physics(photo_srgb, disparity, lens)
    soft = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(true, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    assert psnr(keep_focus(soft, photo_srgb, lens.coc_px(disparity)), true) > psnr(soft, true) + 1.5


def test_colour_drift_is_taken_back_and_detail_is_not_touched():
    """A cast of some per cent, in linear light and from one side to the other, as autoencoders leave."""
    photo_srgb, disparity = two_planes(96)
    lens = Lens(0.8, 6.0)
    true = physics(photo_srgb, disparity, lens)
    cast = torch.tensor([1.10, 0.96, 0.90])[None, :, None, None] * torch.linspace(0.95, 1.05, 96)
    drifted = linear_to_srgb(srgb_to_linear(true) * cast).clamp(0, 1)
    matched = match_colour(drifted, photo_srgb, lens.coc_px(disparity))
    assert psnr(matched, true) > psnr(drifted, true) + 6.0
    same = match_colour(true, photo_srgb, lens.coc_px(disparity))
    assert psnr(same, true) > 38.0, "what has not drifted stays"


def test_a_picture_of_its_own_light_is_left_alone():
    photo_srgb, _ = two_planes()
    assert_close(match_colour(photo_srgb, photo_srgb, torch.zeros(1, 64, 64)), photo_srgb)


def test_colours_of_one_image_do_not_depend_on_the_batch():
    images, coc_px = torch.rand(2, 3, 24, 32), torch.stack([torch.full((24, 32), 9.0), torch.zeros(24, 32)])
    both = match_colour(images.flip(0), images, coc_px)
    for index in range(2):
        alone = slice(index, index + 1)
        assert_close(both[alone], match_colour(images.flip(0)[alone], images[alone], coc_px[alone]))


def guessed(focus=0.3):
    """A square of another look than its wall, out of focus: photograph, picture, share made up, circles."""
    photo_srgb, disparity = two_planes(128)
    lens = Lens(focus, 16.0)
    made_up = made_up_share(srgb_to_linear(photo_srgb), disparity, lens)
    return photo_srgb, physics(photo_srgb, disparity, lens), made_up, lens.coc_px(disparity)


def test_light_is_made_up_behind_the_rim_of_a_blurred_subject_and_nowhere_else():
    made_up = guessed()[2][0]
    assert made_up.min() >= 0.0
    assert 0.2 < made_up[32:40, 64].max() <= 1.0, "within the disc of 8 px of the rim at 32 the subject is translucent"
    assert made_up[:24].max() == made_up[44:84, 44:84].max() == 0.0
    _, flat = two_planes()
    assert made_up_share(torch.rand(1, 3, 64, 64), torch.full_like(flat, 0.5), Lens(0.1, 9.0)).max() == 0.0


def test_a_network_that_is_right_where_physics_is_sure_guesses_for_it():
    photo_srgb, physical, made_up, coc_px = guessed()
    neural = torch.where(made_up[:, None] > 0.05, 0.5 * physical, physical)
    mixed = mix_where_guessed(neural, physical, photo_srgb, made_up, coc_px)
    certain = made_up[:, None].expand_as(mixed) < 0.01
    assert_close(mixed[certain], physical[certain])
    wanted = made_up[:, None].expand_as(mixed) > 0.2
    assert float((mixed[wanted] - neural[wanted]).abs().max()) < 0.05, "nine tenths of the way at least"


def test_a_network_that_is_wrong_where_physics_is_sure_is_not_asked():
    photo_srgb, physical, made_up, coc_px = guessed()
    neural = (physical + 0.3 * torch.randn_like(physical)).clamp(0, 1)
    assert torch.equal(mix_where_guessed(neural, physical, photo_srgb, made_up, coc_px), physical)


def test_from_one_renderer_to_the_other_in_no_step_that_an_eye_sees():
    """Where the share of what was made up changes by little, so does the picture."""
    photo_srgb, physical, _, coc_px = guessed()
    made_up = torch.cat([torch.zeros(104), torch.linspace(0, 0.5, 24)])[None, :, None].expand(1, 128, 128)
    physical = torch.full_like(physical, 0.5)
    neural = physical + 0.005 * (-1.0) ** torch.arange(128)
    mixed = mix_where_guessed(neural, physical, photo_srgb, made_up, coc_px)
    weight = ((mixed - physical) / (neural - physical))[0, 0, :, 64]
    assert weight[0] == 0.0
    assert weight[-1] > 0.5
    assert weight.diff().abs().max() < 0.25


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 40), (3, 2)])
def test_the_smallest_pictures_pass(size_hw):
    image, coc_px = torch.rand(1, 3, *size_hw), torch.full((1, *size_hw), -3.0)

    def mix(neural_srgb, photo_srgb, coc_px):
        return mix_where_guessed(neural_srgb, photo_srgb, photo_srgb, torch.rand(1, *size_hw), coc_px)

    for finish in (keep_focus, match_colour, mix):
        out = finish(image, image.flip(-1), coc_px)
        assert out.shape == image.shape
        assert math.isfinite(float(out.sum()))
