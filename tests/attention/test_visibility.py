"""What light can reach: distances, and both conventions against loops, geometry and the released numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bokehdiff.attention import INFERENCE_HARDNESS, pisa_attention, thin_lens, token_distance, visibility
from bokehdiff.attention.tokens import TokenOptics
from bokehdiff.errors import InputError
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


# --- both conventions ---


@pytest.mark.parametrize("convention", ["thin_lens", "released"])
@pytest.mark.parametrize("focus", [0.0, 0.37, 1.0])
def test_visibility_is_finite_at_the_ends_of_disparity_and_in_focus(convention, focus):
    disparity = torch.zeros(1, 30, 42)
    disparity[:, :, 14:28] = focus
    disparity[:, :, 28:] = 1.0
    seen = optics_of(disparity, (5, 7), focus=focus, convention=convention).dense().visibility
    assert bool(((seen >= 0) & (seen <= 1)).all())


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


def test_released_visibility_of_a_mirrored_scene_is_mirrored():
    disparity = layered_disparity(5, (32, 48))
    seen, mirrored = (
        optics_of(scene, (4, 6), convention="released").dense().visibility.reshape(4, 6, 4, 6)
        for scene in (disparity, disparity.flip(2))
    )
    assert ((seen - mirrored.flip(1, 3)).abs() > 0).float().mean() < 0.01  # rounding may turn a ray that grazes an edge


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
