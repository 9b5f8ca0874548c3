"""What light can reach: distances, and both conventions against loops, geometry and the released numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bokehdiff.attention import INFERENCE_HARDNESS, pisa_attention, thin_lens, token_distance, tracing, visibility
from bokehdiff.attention.tokens import TokenOptics
from bokehdiff.errors import InputError
from bokehdiff.optics import Aperture
from tests.attention.scenes import layered_disparity, optics_of
from tests.helpers import SHARED, assert_close

GOLDEN = SHARED / "golden" / "pisa_released_512.npz"


def test_distance_is_in_units_of_ten_pixels_whatever_the_shape():
    distance = token_distance((3, 5), (16.0, 8.0))
    assert distance.shape == (15, 15)
    assert distance[0, 5] == pytest.approx(1.6)  # one row down
    assert distance[0, 1] == pytest.approx(0.8)  # one column across
    assert distance[0, 14] == pytest.approx(math.hypot(2 * 1.6, 4 * 0.8))
    assert_close(distance, distance.T)


def test_released_distance_spans_an_edge_from_first_to_last_token():
    distance = token_distance((32, 32), (16.0, 16.0), convention="released")
    assert distance[0, 31] == pytest.approx(51.2)
    assert distance[0, 32] == pytest.approx(51.2 / 31)
    assert token_distance((1, 1), (16.0, 16.0), convention="released").item() == 0.0
    oblong = token_distance((2, 4), (16.0, 16.0), convention="released")
    assert oblong[0, 3] == pytest.approx(6.4)
    assert oblong[0, 4] == pytest.approx(3.2)


def test_soft_disc_is_half_at_its_radius_and_never_minus_infinity():
    coc = torch.tensor([[2.0, 0.0]])
    distance = torch.tensor([[2.0, 1e4]])
    log_disc = visibility.log_soft_disc(coc, distance, INFERENCE_HARDNESS)
    assert log_disc[0, 0].exp() == pytest.approx(0.5)
    assert bool(log_disc.isfinite().all())


@pytest.mark.parametrize(("size_hw", "grid_hw"), [((1, 1), (1, 1)), ((32, 48), (2, 3)), ((37, 23), (3, 5))])
def test_tokens_have_the_values_of_their_centres(size_hw, grid_hw):
    y = (torch.arange(size_hw[0]) + 0.5)[:, None] / size_hw[0]
    x = (torch.arange(size_hw[1]) + 0.5)[None, :] / size_hw[1]
    tokens = visibility.to_tokens((2 * y + 3 * x)[None], grid_hw)
    rows = (torch.arange(grid_hw[0]) + 0.5)[:, None] / grid_hw[0]
    columns = (torch.arange(grid_hw[1]) + 0.5)[None, :] / grid_hw[1]
    assert_close(tokens, (2 * rows + 3 * columns).reshape(1, -1))


# --- the thin lens ---


def at(image, x, y):
    """Bilinear lookup of nested lists at (x, y) in pixels, the border continued."""
    height, width = len(image), len(image[0])
    x, y = min(max(x - 0.5, 0.0), width - 1.0), min(max(y - 0.5, 0.0), height - 1.0)
    left, top = min(int(x), max(width - 2, 0)), min(int(y), max(height - 2, 0))
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    upper = image[top][left] * (1 - (x - left)) + image[top][right] * (x - left)
    lower = image[bottom][left] * (1 - (x - left)) + image[bottom][right] * (x - left)
    return upper * (1 - (y - top)) + lower * (y - top)


def thin_lens_loops(disparity, grid_hw, *, focus, strength_px, lens_points, n_steps):
    """Visibility [q, k] of one image, ray by ray."""
    image = disparity.double().tolist()
    nearest = max(map(max, image))
    pitch_y, pitch_x = len(image) / grid_hw[0], len(image[0]) / grid_hw[1]
    tokens = [((i + 0.5) * pitch_x, (j + 0.5) * pitch_y) for j in range(grid_hw[0]) for i in range(grid_hw[1])]
    result = torch.zeros(len(tokens), len(tokens))
    for k, (x_k, y_k) in enumerate(tokens):
        d_k = at(image, x_k, y_k)
        radius = strength_px * (d_k - focus)
        landed = []
        for u_x, u_y in lens_points:
            open_way = True
            for step in range(n_steps):
                d = d_k + (nearest - d_k) * (step + 0.5) / n_steps
                moved = strength_px * (d_k - d)
                open_way &= at(image, x_k + moved * u_x, y_k + moved * u_y) <= d + 2 / 255
            landed.append((x_k + radius * u_x, y_k + radius * u_y, u_x, u_y, open_way))
        for q, (x_q, y_q) in enumerate(tokens):
            inside = [r[4] for r in landed if abs(r[0] - x_q) <= pitch_x / 2 and abs(r[1] - y_q) <= pitch_y / 2]
            if abs(radius) < min(pitch_x, pitch_y) / 2:
                inside = [r[4] for r in landed]
            elif not inside:
                w_x, w_y = (x_q - x_k) / radius, (y_q - y_k) / radius
                length = max(1.0, math.hypot(w_x, w_y))
                inside = [min((math.hypot(r[2] - w_x / length, r[3] - w_y / length), r[4]) for r in landed)[1]]
            result[q, k] = sum(inside) / len(inside)
    return result


@pytest.mark.parametrize(
    ("seed", "grid_hw", "focus"), [(1, (3, 4), 0.1), (2, (4, 3), 0.5), (3, (2, 5), 0.95), (4, (1, 1), 0.4)]
)
def test_thin_lens_is_ray_casting(monkeypatch, seed, grid_hw, focus):
    """Against loops over rays; where the nearest lens point decides, the table may be one of 128 cells off."""
    monkeypatch.setattr(tracing, "MAX_STEPS", 16)
    disparity = layered_disparity(seed, (grid_hw[0] * 8, grid_hw[1] * 8))
    got = optics_of(disparity, grid_hw, focus=focus).dense().visibility[0]
    lens_points = Aperture().sample(tracing.LENS_POINTS).tolist()
    expected = thin_lens_loops(
        disparity[0], grid_hw, focus=focus, strength_px=30.0, lens_points=lens_points, n_steps=16
    )
    different = (got - expected).abs() > 1e-3
    assert different.float().mean() < 0.03
    assert (got - expected).abs().mean() < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_thin_lens_agrees_with_a_finer_cast_of_other_rays(seed):
    """The share of the whole lens, from a regular grid of 1200 lens points in 400 steps, looking up the nearest pixel.

    Interpolation at edges makes an occluder half a pixel smaller on each side: here 1 to 2 % of the lens.
    """
    disparity = layered_disparity(seed, (48, 80))
    strength_px, grid_hw = 40.0, (3, 5)
    optics = optics_of(disparity, grid_hw, focus=0.5, strength_px=strength_px)
    side = torch.linspace(-1, 1, 41)
    points = torch.cartesian_prod(side, side)
    points = points[points.norm(dim=1) <= 1]
    d_tokens = visibility.to_tokens(disparity, grid_hw)[0]
    errors = []
    for k, centre in enumerate(visibility.token_centres(grid_hw, (16.0, 16.0))):
        open_way = torch.ones(len(points), dtype=torch.bool)
        for d in torch.linspace(float(d_tokens[k]), 1.0, 401)[1:]:
            x, y = (centre + strength_px * (d_tokens[k] - d) * points).floor().long().unbind(dim=1)
            open_way &= disparity[0, y.clamp(0, 47), x.clamp(0, 79)] <= d
        errors.append(optics.occlusion.sees[0, k].float().mean() - open_way.float().mean())
    assert torch.stack(errors).abs().mean() < 0.035
    assert torch.stack(errors).abs().max() < 0.13


def half_plane(size_hw=(64, 128), *, near, far, edge_px=64):
    disparity = torch.full((1, *size_hw), far)
    disparity[:, :, :edge_px] = near
    return disparity


def test_a_blurred_foreground_dims_what_is_in_focus_behind_it():
    """Beside a straight edge, the lens loses a circular segment, as geometry has it."""
    near, far, strength_px = 0.9, 0.3, 80.0
    optics = optics_of(half_plane(near=near, far=far), (8, 16), focus=far, strength_px=strength_px)
    sources = torch.arange(8 * 16).reshape(8, 16)[4, 8:]
    beyond = ((torch.arange(8) + 0.5) * 8 / (strength_px * (near - far))).clamp(max=1.0)  # of the lens's radius
    blocked = (torch.acos(beyond) - beyond * (1 - beyond.square()).sqrt()) / math.pi
    dense = optics.dense().visibility[0]
    for q in (0, 37, 71):
        torch.testing.assert_close(dense[q, sources], 1 - blocked, rtol=0, atol=0.05)


def test_an_object_in_focus_takes_no_light_from_behind():
    optics = optics_of(half_plane(near=0.9, far=0.3), (8, 16), focus=0.9, strength_px=80.0)
    grid = torch.arange(8 * 16).reshape(8, 16)
    behind = grid[4, 8]  # 4 px from the edge, blurred over 6 tokens
    seen = optics.dense().visibility[0][:, behind].reshape(8, 16)
    assert bool((seen[2:7, 3:7] == 0).all())
    assert bool((seen[2:7, 9:13] == 1).all())


def test_what_is_nearest_is_seen_by_the_whole_lens():
    optics = optics_of(half_plane(near=0.9, far=0.3), (8, 16), focus=0.3, strength_px=80.0)
    foreground = torch.arange(8 * 16).reshape(8, 16)[:, :8].flatten()
    assert bool((optics.dense().visibility[0][:, foreground] == 1).all())


def test_a_slanted_plane_and_noise_of_rounding_block_nothing():
    slope = torch.linspace(0, 1, 128).expand(1, 64, 128)
    rounded = (slope * 255).round() / 255
    assert bool((optics_of(rounded, (4, 8), focus=0.3).dense().visibility == 1).all())


@pytest.mark.parametrize("convention", ["thin_lens", "released"])
@pytest.mark.parametrize("focus", [0.0, 0.37, 1.0])
def test_visibility_is_finite_at_the_ends_of_disparity_and_in_focus(convention, focus):
    disparity = torch.zeros(1, 30, 42)
    disparity[:, :, 14:28] = focus
    disparity[:, :, 28:] = 1.0
    seen = optics_of(disparity, (5, 7), focus=focus, convention=convention).dense().visibility
    assert bool(((seen >= 0) & (seen <= 1)).all())


MIRROR = torch.tensor([-1.0, 1.0])[:, None, None]


@pytest.mark.parametrize("convention", ["thin_lens", "released"])
def test_a_mirrored_scene_through_a_mirrored_lens_has_mirrored_visibility(monkeypatch, convention):
    disparity = layered_disparity(5, (32, 48))
    seen = optics_of(disparity, (4, 6), convention=convention).dense().visibility.reshape(4, 6, 4, 6)
    points, nearest = tracing.lens_points() * torch.tensor([-1.0, 1.0]), thin_lens._nearest_points_on_cpu().flip(1)
    groups = tracing._groups_on_cpu()
    mirrored_groups = replace(
        groups, points=groups.points * MIRROR, centre=groups.centre * MIRROR, farthest=float(points.abs().max())
    )
    monkeypatch.setattr(thin_lens, "lens_points", lambda: points)
    monkeypatch.setattr(thin_lens, "_nearest_points_on_cpu", lambda: nearest)
    monkeypatch.setattr(tracing, "_groups_on_cpu", lambda: mirrored_groups)
    mirrored = optics_of(disparity.flip(2), (4, 6), convention=convention).dense().visibility.reshape(4, 6, 4, 6)
    difference = (seen - mirrored.flip(1, 3)).abs()
    assert (difference > 0).float().mean() < 0.01  # rounding may turn a ray that grazes an edge, or a tie between cells


def test_the_lens_prefers_no_side():
    """Its spiral of points has no mirror symmetry; what the whole lens sees has it nearly."""
    disparity = layered_disparity(5, (32, 48))
    share = optics_of(disparity, (4, 6)).occlusion.sees.float().mean(dim=2).reshape(4, 6)
    mirrored = optics_of(disparity.flip(2), (4, 6)).occlusion.sees.float().mean(dim=2).reshape(4, 6)
    assert (share - mirrored.flip(1)).abs().max() < 0.03


def all_looks(disparity, strength_px, grid_hw):
    """`lens_points_seen` of one image, by looking at every ray at every step."""
    d_token = visibility.to_tokens(disparity, grid_hw)[0]
    pitch = (disparity.shape[1] / grid_hw[0], disparity.shape[2] / grid_hw[1])
    centres, nearest = visibility.token_centres(grid_hw, pitch), disparity.max()
    travel_px = float(strength_px * (nearest - d_token.min()))
    n_steps = min(max(math.ceil(16 * travel_px / min(pitch)), 16), 256)
    sees = torch.ones(len(d_token), 256, dtype=torch.bool)
    size = torch.tensor([disparity.shape[2], disparity.shape[1]])
    for step in range(n_steps):
        d_ray = d_token + (nearest - d_token) * ((step + 0.5) / n_steps)
        at = centres[:, None] + (strength_px * (d_token - d_ray))[:, None, None] * tracing.lens_points()
        grid = (at * (2.0 / size) - 1.0)[None]
        met = F.grid_sample(disparity[None], grid, padding_mode="border", align_corners=False)[0, 0]
        sees &= met <= d_ray[:, None] + 2 / 255
    return sees


@pytest.mark.parametrize(
    ("size_hw", "grid_hw", "strength_px"),
    [((48, 80), (3, 5), 30.0), ((37, 53), (5, 4), 90.0), ((64, 64), (8, 8), 0.0), ((7, 300), (1, 9), 700.0)],
)
@pytest.mark.parametrize("kind", ["layers", "noise", "slope"])
def test_rays_that_are_left_out_would_have_changed_nothing(monkeypatch, size_hw, grid_hw, strength_px, kind):
    """Bit by bit, also in scenes that leave the bounds nothing to find, and where rays go far beyond the border."""
    disparity = layered_disparity(11, size_hw)
    if kind == "noise":
        disparity = torch.rand(1, *size_hw)
    if kind == "slope":
        disparity = disparity * torch.linspace(0.2, 1, size_hw[1])
    tokens, strength = visibility.to_tokens(disparity, grid_hw), torch.tensor([strength_px])
    expected = all_looks(disparity, strength[0], grid_hw)
    for looks in (300, 2**17):
        monkeypatch.setattr(tracing, "LOOKS_PER_CHUNK", looks)
        assert torch.equal(tracing.lens_points_seen(disparity, tokens, strength, grid_hw)[0], expected)


@pytest.mark.parametrize("convention", ["thin_lens", "released"])
def test_chunks_and_batches_change_nothing(monkeypatch, convention):
    scenes = torch.cat([layered_disparity(6, (24, 40)), torch.rand(1, 24, 40)])
    focus, strengths = torch.tensor([0.2, 0.8]), torch.tensor([20.0, 50.0])
    coc_px = strengths[:, None, None] * (scenes - focus[:, None, None])

    def dense(some):
        options = {"focus_disparity": focus[some], "strength_px": strengths[some], "convention": convention}
        return TokenOptics.from_maps(scenes[some], coc_px[some], (3, 5), **options).dense()

    together = dense(slice(0, 2))
    monkeypatch.setattr(thin_lens, "RAYS_PER_CHUNK", 1)
    monkeypatch.setattr("bokehdiff.attention.tokens.SOURCES_PER_CHUNK", 4)
    for b in range(2):
        alone = dense(slice(b, b + 1))
        assert torch.equal(together.visibility[b], alone.visibility[0])
        assert torch.equal(together.distance, alone.distance)


# --- the released convention ---


def released_loops(disparity, grid_hw, n_steps):
    """Visibility [q, k], sample by sample; square grids or not."""
    rows, columns = grid_hw
    scene = F.interpolate(disparity[None], (3 * rows, 3 * columns), mode="bilinear", align_corners=False)
    d = F.interpolate(disparity[None], grid_hw, mode="bilinear", align_corners=False).flatten().tolist()
    tokens = [((2 * i + 1) / columns - 1, (2 * j + 1) / rows - 1) for j in range(rows) for i in range(columns)]
    result = torch.ones(len(d), len(d))
    for q, (x_q, y_q) in enumerate(tokens):
        for k, (x_k, y_k) in enumerate(tokens):
            for p in np.linspace(0.1, 0.9, n_steps):
                dp_q, dp_k = p * d[q] + 1 - p, p * d[k] + 1 - p
                rho = (1 - dp_q) * d[k] / (dp_q * (1 - d[k]))
                where = torch.tensor([[[[x_q + rho * (x_k - x_q), y_q + rho * (y_k - y_q)]]]], dtype=torch.float32)
                met = F.grid_sample(scene, where, padding_mode="zeros", align_corners=False)
                if float(met) > dp_k:
                    result[q, k] = 0.0
    return result


@pytest.mark.parametrize("grid_hw", [(3, 4), (4, 3), (1, 5)])
def test_released_visibility_is_the_published_rule_on_any_grid(grid_hw):
    disparity = 0.05 + 0.9 * layered_disparity(8, (grid_hw[0] * 16, grid_hw[1] * 16))
    got = optics_of(disparity, grid_hw, convention="released", released_steps=5).dense().visibility[0]
    assert_close(got, released_loops(disparity, grid_hw, 5))


def test_released_jitter_is_seeded_and_a_share():
    disparity = layered_disparity(9, (64, 64))
    options = {"convention": "released", "n_jittered": 3}
    first, again, other = (
        optics_of(disparity, (8, 8), **options, jitter_seed=seed).dense().visibility for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert set((first * 4).unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}


def test_released_refuses_disparity_beyond_its_range():
    with pytest.raises(InputError, match=r"needs disparity in \[0, 1\]; got 0 ... 255"):
        optics_of(torch.linspace(0, 255, 64).reshape(1, 8, 8), (2, 2), convention="released")


@pytest.mark.skipif(not GOLDEN.exists(), reason="needs the numbers of the released code")
@pytest.mark.parametrize("backend", ["reference", "local"])
@pytest.mark.parametrize(
    ("name", "hard", "released_steps"), [("y_inference", 1e7, 7), ("y_train_start", 3.0, 7), ("y_no_occlusion", 1e7, 0)]
)
def test_released_attention_gives_the_released_numbers(backend, name, hard, released_steps):
    golden = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN).items()}
    disparity, coc = golden["disp_coc"].unbind(dim=1)
    optics = TokenOptics.from_maps(
        disparity,
        10.0 * coc,
        (32, 32),
        focus_disparity=0.5,
        convention="released",
        released_steps=released_steps,
    )
    query, key, value = (
        F.linear(golden["x"], golden[f"to_{which}.weight"]).unflatten(-1, (2, 16)).transpose(1, 2) for which in "qkv"
    )
    received = pisa_attention(query, key, value, optics, hardness=math.log(hard), backend=backend)
    got = F.linear(received.transpose(1, 2).flatten(2), golden["to_out.0.weight"], golden["to_out.0.bias"])
    torch.testing.assert_close(got, golden[name], rtol=0, atol=1e-4)
