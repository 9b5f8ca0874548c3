"""The physical occlusion against rays cast through scenes whose every layer is known, geometry, and loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bokehdiff.attention import sheets, thin_lens, tracing, visibility
from tests.attention.scenes import Layer, disparity_of, layered_disparity, layered_scene, optics_of

# --- rays through scenes of which everything is known ---


def fine_lens(n_across: int = 61) -> Tensor:
    """Points of the lens on a square grid, which are not those of the product."""
    points = torch.cartesian_prod(*[torch.linspace(-1, 1, n_across)] * 2)
    return points[points.norm(dim=1) <= 1]


def hit(layer: Layer, place: Tensor) -> Tensor:
    column, row = place.floor().long().unbind(dim=-1)
    height, width = layer.mask.shape
    return layer.mask[row.clamp(0, height - 1), column.clamp(0, width - 1)]


def rays_through(layers, d_token, strength_px, centres, points, *, solid: bool) -> Tensor:
    """Which rays [n points] get to the lens past all layers; solid ones reach back to infinity behind themselves."""
    through = torch.ones(len(centres), len(points), dtype=torch.bool)
    for layer in layers:
        nearer = layer.disparity > d_token + 1e-4
        for share in torch.linspace(0, 1, 24).tolist() if solid else [1.0]:
            passed = share * (layer.disparity - d_token)
            at_layer = hit(layer, centres[:, None] - (strength_px * passed)[:, None, None] * points)
            through &= ~(at_layer & nearer[:, None])
    return through


GRID_HW, SIZE_HW = (6, 10), (96, 160)


def tokens_of(disparity, grid_hw):
    pitch_px = (disparity.shape[1] / grid_hw[0], disparity.shape[2] / grid_hw[1])
    return visibility.to_tokens(disparity, grid_hw), visibility.token_centres(grid_hw, pitch_px)


def share_errors(strength_px: float, softness_px: float, seeds: range) -> tuple[Tensor, Tensor]:
    """How much the share of the lens that tokens see is off from sheets: as computed, and if layers were solid."""
    off, solid_off = [], []
    for seed in seeds:
        layers = layered_scene(seed, SIZE_HW)
        disparity = disparity_of(layers, softness_px=softness_px)
        d_token, centres = tokens_of(disparity, GRID_HW)
        sees = tracing.lens_points_seen(disparity, d_token, torch.tensor([strength_px]), GRID_HW)[0].float().mean(dim=1)
        d_sharp = tokens_of(disparity_of(layers), GRID_HW)[0][0]
        levels = torch.tensor([layer.disparity for layer in layers])
        on_a_layer = (d_sharp[:, None] - levels).abs().amin(dim=1) < 1e-4  # not on an edge,
        on_a_layer &= (d_token[0] - d_sharp).abs() < 0.01  # nor in the middle of a soft one
        sheet, solid = (
            rays_through(layers, d_sharp, strength_px, centres, fine_lens(41), solid=solid).float().mean(dim=1)
            for solid in (False, True)
        )
        off.append((sees - sheet)[on_a_layer])
        solid_off.append((solid - sheet)[on_a_layer])
    return torch.cat(off), torch.cat(solid_off)


@pytest.mark.parametrize("softness_px", [0.0, 1.5])
@pytest.mark.parametrize(("strength_px", "at_least"), [(60.0, 3), (150.0, 8)])
def test_tokens_see_as_much_of_the_lens_as_rays_past_sheets(strength_px, softness_px, at_least):
    """Objects taken for solid would be off by several times as much."""
    off, solid_off = share_errors(strength_px, softness_px, range(1, 5))
    assert off.abs().mean() < 0.02
    assert off.mean().abs() < 0.01
    assert solid_off.abs().mean() > at_least * off.abs().mean()


@pytest.mark.parametrize("focus", [0.05, 0.5, 0.95])
def test_visibility_is_the_share_of_rays_that_land_in_the_token(focus):
    """Of 11 300 rays of each source, where twenty or more land in the receiver."""
    strength_px, off = 80.0, []
    for seed in range(4):
        layers = layered_scene(seed, SIZE_HW)
        disparity = disparity_of(layers)
        d_token, centres = tokens_of(disparity, GRID_HW)
        points = fine_lens(121)
        through = rays_through(layers, d_token[0], strength_px, centres, points, solid=False)
        landed = centres[:, None] + (strength_px * (d_token[0] - focus))[:, None, None] * points
        cell = (landed / 16).floor().long()
        inside = ((cell >= 0) & (cell < torch.tensor([GRID_HW[1], GRID_HW[0]]))).all(dim=2)
        receiver = torch.where(inside, cell[..., 1] * GRID_HW[1] + cell[..., 0], 60)
        counts = torch.zeros(60, 61).scatter_add_(1, receiver, torch.ones_like(landed[..., 0]))[:, :60]
        clear = torch.zeros(60, 61).scatter_add_(1, receiver, through.float())[:, :60]
        share = (clear / counts.clamp_min(1)).T
        blurred = (strength_px * (d_token[0] - focus)).abs() >= 8
        got = optics_of(disparity, GRID_HW, focus=focus, strength_px=strength_px).dense().visibility[0]
        off.append((got - share)[(counts.T >= 20) & blurred])
    assert torch.cat(off).abs().mean() < 0.03
    assert torch.cat(off).mean().abs() < 0.01


# --- geometry ---


def beyond_chord(distance: Tensor) -> Tensor:
    """Share of a disc of radius 1 on the far side of a line at a distance from its centre."""
    distance = distance.clamp(-1, 1)
    return (torch.acos(distance) - distance * (1 - distance.square()).sqrt()) / math.pi


def half_plane(size_hw=(64, 128), *, near, far, edge_px=64):
    disparity = torch.full((1, *size_hw), far)
    disparity[:, :, :edge_px] = near
    return disparity


def test_light_passes_on_both_sides_of_a_pole():
    """A pole before the lens takes a strip of it, and no more; also where the rays went behind it on their way."""
    disparity = torch.full((1, 128, 256), 0.2)
    disparity[:, :, 126:134] = 0.8
    optics = optics_of(disparity, (16, 32), focus=0.8, strength_px=100.0)
    behind = torch.arange(16 * 32).reshape(16, 32)[8, :16]  # from 4 px beside the pole to far away
    to_pole = (126 - (torch.arange(16) + 0.5) * 8) / 60
    strip = beyond_chord(to_pole) - beyond_chord(to_pole + 8 / 60)
    assert strip.max() > 0.08
    seen = optics.occlusion.sees[0, behind].float().mean(dim=1)
    torch.testing.assert_close(seen, 1 - strip, rtol=0, atol=0.025)
    beside = optics.dense().visibility[0][:, behind[12]].reshape(16, 32)
    assert bool((beside[8, 18:20] == 1).all())  # the light lands beyond the pole
    assert beside[8, 16] < 0.3  # and not on it


def test_a_blurred_foreground_dims_what_is_in_focus_behind_it():
    """Beside a straight edge, the lens loses a circular segment, as geometry has it."""
    near, far, strength_px = 0.9, 0.3, 80.0
    optics = optics_of(half_plane(near=near, far=far), (8, 16), focus=far, strength_px=strength_px)
    sources = torch.arange(8 * 16).reshape(8, 16)[4, 8:]
    blocked = beyond_chord((torch.arange(8) + 0.5) * 8 / (strength_px * (near - far)))
    dense = optics.dense().visibility[0]
    for q in (0, 37, 71):
        torch.testing.assert_close(dense[q, sources], 1 - blocked, rtol=0, atol=0.03)


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


@pytest.mark.parametrize("strength_px", [30.0, 120.0])
def test_a_slanted_plane_and_noise_of_rounding_block_nothing(strength_px):
    """As long as the plane does not go through the lens: it rises by less than 1 / strength per pixel."""
    slope = torch.linspace(0, 1, 128).expand(1, 64, 128)
    rounded = (slope * 255).round() / 255
    assert bool((optics_of(rounded, (4, 8), focus=0.3, strength_px=strength_px).dense().visibility == 1).all())


@pytest.mark.parametrize("softness_px", [0.0, 1.0])
def test_a_pinhole_sees_every_token(softness_px):
    """Rays beside the middle of the lens meet nothing, not even where the token lies on a soft edge."""
    disparity = disparity_of(layered_scene(3, (84, 140)), softness_px=softness_px)
    sees = tracing.lens_points_seen(disparity, visibility.to_tokens(disparity, (12, 20)), torch.tensor([3.0]), (12, 20))
    assert bool(sees[0][:, tracing.lens_points().norm(dim=1) < 0.15].all())


@pytest.mark.parametrize("strength_px", [1e-6, 0.01, 0.4])
def test_a_lens_that_hardly_blurs_is_a_pinhole(strength_px):
    """Rays travel less than a pixel, in which no map can rise by all of its levels."""
    disparity = disparity_of(layered_scene(3, (84, 140)), softness_px=1.0)
    d_token = visibility.to_tokens(disparity, (12, 20))
    lenses = torch.tensor([strength_px, 0.0])
    blurring, pinhole = tracing.lens_points_seen(disparity.expand(2, -1, -1), d_token.expand(2, -1), lenses, (12, 20))
    assert (blurring == pinhole).float().mean() > 0.98


# --- what makes it fast changes nothing ---


def all_looks(disparity, strength_px, grid_hw):
    """`lens_points_seen` of one image, by looking at every ray at every level."""
    d_token, centres = tokens_of(disparity, grid_hw)
    pitch_px = min(disparity.shape[1] / grid_hw[0], disparity.shape[2] / grid_hw[1])
    scene = sheets.Sheets.of(disparity[0], float(d_token.min()), strength_px, pitch_px)
    sees = torch.ones(len(centres), tracing.LENS_POINTS, dtype=torch.bool)
    if scene is None:
        return sees
    first = scene.first_levels(d_token[0], centres)
    for j, d in enumerate(scene.disparity):
        moved_px = strength_px * (d_token[0] - d)
        at = torch.addcmul(centres.T[..., None], moved_px[:, None], tracing.lens_points().T[:, None])
        above = scene.at(*at).int() - j
        sees &= ~(((above == 1) | (above == 2)) & (first <= j)[:, None])
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
    expected = all_looks(disparity, strength_px, grid_hw)
    for looks in (3000, 2**18):
        monkeypatch.setattr(tracing, "LOOKS_PER_CHUNK", looks)
        assert torch.equal(tracing.lens_points_seen(disparity, tokens, strength, grid_hw)[0], expected)


def levels_by_loops(image, farthest, strength_px, pitch_px):
    """Levels of the pixels, and disparity of the levels, in Python's numbers."""
    depth = max(map(max, image)) - farthest
    n_levels = min(max(math.ceil(16 * strength_px * depth / pitch_px), 61), 254)
    step, rise = depth / n_levels, max(1, round(n_levels / (strength_px * depth)))
    level = [[max(math.ceil((d - farthest - 2 / 255) / step), 0) for d in row] for row in image]
    for _ in range(3):
        before = [row[:] for row in level]
        for y, row in enumerate(before):
            for x, own in enumerate(row):
                around = [
                    r[i] for r in before[max(y - 1, 0) : y + 2] for i in range(max(x - 1, 0), min(x + 2, len(row)))
                ]
                high, low = max(around), min(around)
                if high - low > rise:
                    level[y][x] = high if own - low > high - own else low
    return level, [farthest + j * step for j in range(n_levels)]


def visibility_by_loops(disparity, grid_hw, *, focus, strength_px):
    """Visibility [q, k] of one image, ray by ray."""
    d_token, centres = (of_tokens.tolist() for of_tokens in tokens_of(disparity, grid_hw))
    d_token, image = d_token[0], disparity[0].tolist()
    height, width = len(image), len(image[0])
    pitch_y, pitch_x = height / grid_hw[0], width / grid_hw[1]
    level, levels = levels_by_loops(image, min(d_token), strength_px, min(pitch_y, pitch_x))

    def at(x, y):
        return level[min(max(math.floor(y), 0), height - 1)][min(max(math.floor(x), 0), width - 1)]

    result = torch.zeros(len(centres), len(centres))
    for k, ((x_k, y_k), d_k) in enumerate(zip(centres, d_token, strict=True)):
        own = min(at(x_k + right, y_k + down) for right in (-0.49, 0.49) for down in (-0.49, 0.49))
        radius, landed = strength_px * (d_k - focus), []
        for u_x, u_y in tracing.lens_points().tolist():
            ways = ((j, strength_px * (d_k - d)) for j, d in enumerate(levels) if d > d_k and j >= own)
            clear = all(at(x_k + moved * u_x, y_k + moved * u_y) - j not in (1, 2) for j, moved in ways)
            landed.append((x_k + radius * u_x, y_k + radius * u_y, u_x, u_y, clear))
        for q, (x_q, y_q) in enumerate(centres):
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
def test_visibility_is_the_formula(seed, grid_hw, focus):
    """Against loops over rays; where the nearest lens point decides, the table may be one of 128 cells off."""
    disparity = layered_disparity(seed, (grid_hw[0] * 8, grid_hw[1] * 8))
    got = optics_of(disparity, grid_hw, focus=focus).dense().visibility[0]
    expected = visibility_by_loops(disparity, grid_hw, focus=focus, strength_px=30.0)
    different = (got - expected).abs() > 1e-3
    assert different.float().mean() < 0.03
    assert (got - expected).abs().mean() < 0.02


# --- mirrors ---

MIRROR = torch.tensor([-1.0, 1.0])[:, None, None]


def test_a_mirrored_scene_through_a_mirrored_lens_has_mirrored_visibility(monkeypatch):
    disparity = layered_disparity(5, (32, 48))
    seen = optics_of(disparity, (4, 6)).dense().visibility.reshape(4, 6, 4, 6)
    points, nearest = tracing.lens_points() * MIRROR[:, 0].T, thin_lens._nearest_points_on_cpu().flip(1)
    groups = tracing._groups_on_cpu()
    mirrored_groups = replace(groups, points=groups.points * MIRROR, offset=groups.offset * MIRROR)
    monkeypatch.setattr(thin_lens, "lens_points", lambda: points)
    monkeypatch.setattr(thin_lens, "_nearest_points_on_cpu", lambda: nearest)
    monkeypatch.setattr(tracing, "_groups_on_cpu", lambda: mirrored_groups)
    mirrored = optics_of(disparity.flip(2), (4, 6)).dense().visibility.reshape(4, 6, 4, 6)
    difference = (seen - mirrored.flip(1, 3)).abs()
    assert (difference > 0).float().mean() < 0.01  # rounding may turn a ray that grazes an edge, or a tie between cells


def test_the_lens_prefers_no_side():
    """Its spiral of points has no mirror symmetry; what the whole lens sees has it nearly."""
    disparity = layered_disparity(5, (32, 48))
    share = optics_of(disparity, (4, 6)).occlusion.sees.float().mean(dim=2).reshape(4, 6)
    mirrored = optics_of(disparity.flip(2), (4, 6)).occlusion.sees.float().mean(dim=2).reshape(4, 6)
    assert (share - mirrored.flip(1)).abs().max() < 0.03


def print_table() -> None:
    """The table of docs/attention.md."""
    for strength_px in (20.0, 60.0, 150.0, 400.0):
        for softness_px in (0.0, 1.5):
            off, solid_off = share_errors(strength_px, softness_px, range(20))
            edges = f"soft (sigma {softness_px:g} px)" if softness_px else "sharp"
            print(
                f"| {strength_px:.0f} px | {edges} | {off.abs().mean():.1%} ({off.mean():+.1%}) | "
                f"{solid_off.abs().mean():.1%} ({solid_off.mean():+.1%}) |"
            )


if __name__ == "__main__":
    print_table()
