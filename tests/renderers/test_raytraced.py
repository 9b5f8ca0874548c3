"""The laws of the layered renderer, for every backend, and its definition as slow loops."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from bokehdiff.errors import InputError
from bokehdiff.optics import Aperture, Lens
from bokehdiff.renderers import BACKENDS, LayerStack, render_layers
from bokehdiff.renderers.lens_values import lens_values
from bokehdiff.renderers.raytraced import on_cpu, tiles
from bokehdiff.renderers.raytraced.prefilter import gaussian_blur, prefiltered
from bokehdiff.renderers.raytraced.rays import Rays, walks
from tests.helpers import assert_close, psnr

# OpenCV 5 keeps places in float32, OpenCV 4 in 1/32 px: on images whose neighbours differ by at most
# 0.1 this is 3e-3 per lookup, and far less in a mean over many.
CV_TOLERANCE = {"rtol": 0.0, "atol": 2e-3}

every_backend = pytest.mark.parametrize("backend", ["cpu", "torch"])  # "cupy": test_raytraced_cupy.py


def smooth(n_layers, size_hw, *, batch=1, dtype=torch.float32):
    """Layers [b l 4 h w] of smooth random colour and coverage."""
    coarse = torch.rand(batch * n_layers, 4, 4, 4, dtype=dtype)
    rgba = torch.nn.functional.interpolate(coarse, size=size_hw, mode="bilinear", align_corners=True)
    rgba = rgba.unflatten(0, (batch, n_layers))
    return torch.cat([rgba[:, :, :3] * rgba[:, :, 3:], rgba[:, :, 3:]], dim=2)


def opaque(image_linear):
    """One opaque layer [b 1 4 h w]."""
    return torch.cat([image_linear, torch.ones_like(image_linear[:, :1])], dim=1)[:, None]


def facing(*disparities, batch=1):
    """Planes that face the camera [b l 3]."""
    return torch.tensor([[d, 0.0, 0.0] for d in disparities]).expand(batch, -1, -1).clone()


def oracle(stack, lens, points):
    """The definition, one ray at a time: meet each layer by fixed-point iteration, sort, lay over one another."""
    rgba, planes = stack.rgba_linear.double(), stack.planes.double()
    batch, n_layers, _, height, width = rgba.shape
    out = torch.zeros(batch, 4, height, width, dtype=torch.float64)
    focus, strength = float(lens.focus_disparity), float(lens.strength_px)
    for b in range(batch):
        for row in range(height):
            for column in range(width):
                for u in points.double().tolist():
                    hits = []
                    for i in range(n_layers):
                        c0, cx, cy = planes[b, i].tolist()
                        x, y = column + 0.5, row + 0.5
                        for _ in range(200):
                            coc = strength * (c0 + cx * x + cy * y - focus)
                            x, y = column + 0.5 + coc * u[0], row + 0.5 + coc * u[1]
                        hits.append((c0 + cx * x + cy * y, -i, bilinear(rgba[b, i], x, y)))
                    passes = 1.0
                    for _, _, seen in sorted(hits, key=lambda hit: hit[:2], reverse=True):
                        out[b, :, row, column] += passes * seen / len(points)
                        passes *= 1.0 - float(seen[3])
    return out


def bilinear(rgba, x, y):
    """One lookup in [4 h w], edge pixels repeated."""
    height, width = rgba.shape[1:]
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    across, down = x - 0.5 - left, y - 0.5 - top
    total = torch.zeros(4, dtype=rgba.dtype)
    for row, row_weight in ((top, 1 - down), (top + 1, down)):
        for column, column_weight in ((left, 1 - across), (left + 1, across)):
            texel = rgba[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
            total += row_weight * column_weight * texel
    return total


@every_backend
def test_rays_are_what_the_slow_loops_say(backend):
    """Three layers, one tilted, one crossing it, lens points that are no symmetric set."""
    planes = torch.tensor([[[0.2, 0.05, 0.02], [0.55, -0.03, 0.04], [0.1, 0.0, 0.0]]])
    stack = LayerStack(smooth(3, (7, 9)), planes)
    lens = Lens(0.3, 6.0)
    points = torch.tensor([[0.9, 0.1], [-0.2, 0.7], [0.3, -0.4]])
    walks_px = walks(planes, lens_values(lens, planes), points, size_hw=(7, 9))
    got = BACKENDS[backend](stack, Rays(walks_px, points, torch.full((3,), 1 / 3), Aperture(), spacing=1.0)).rgba
    torch.testing.assert_close(got, oracle(stack, lens, points).float(), **CV_TOLERANCE)
    if backend == "torch":
        assert_close(got, oracle(stack, lens, points).float())


@every_backend
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 6), (5, 3), (33, 47)])
def test_a_closed_or_focused_lens_returns_the_composite(backend, size_hw):
    rgba = torch.rand(2, 2, 4, *size_hw) * 0.5
    tilted = LayerStack(rgba, torch.rand(2, 2, 3) * 0.01)
    closed = render_layers(tilted, Lens(0.7, 0.0), n_samples=8, backend=backend)
    torch.testing.assert_close(closed, tilted.composite(), rtol=0, atol=1e-6)
    focused = LayerStack(rgba, facing(0.4, 0.4, batch=2))
    sharp = render_layers(focused, Lens(0.4, 50.0), n_samples=8, backend=backend)
    torch.testing.assert_close(sharp, focused.composite(), rtol=0, atol=1e-6)


@every_backend
def test_a_constant_stays_constant_up_to_the_border(backend):
    stack = LayerStack(torch.full((1, 1, 4, 15, 21), 0.25), torch.tensor([[[0.9, 0.01, -0.02]]]))
    got = render_layers(stack, Lens(0.1, 12.0), n_samples=64, backend=backend)
    assert_close(got, torch.full((1, 4, 15, 21), 0.25))


@every_backend
@pytest.mark.parametrize("disparity", [0.2, 0.8])
def test_a_dot_becomes_a_disc_of_the_right_radius_and_the_same_light(backend, disparity):
    image = torch.zeros(1, 3, 61, 61)
    image[:, :, 30, 30] = 700.0  # HDR in, HDR out
    got = render_layers(LayerStack(opaque(image), facing(disparity)), Lens(0.5, 40.0), n_samples=512, backend=backend)
    light = got[0, 0]
    assert float(light.sum()) == pytest.approx(700.0, rel=2e-3)
    offset = torch.arange(61) - 30.0
    square = offset[:, None].square() + offset[None, :].square()
    assert float((light * square).sum() / light.sum()) == pytest.approx(12.0**2 / 2, rel=0.03)
    inside = light[square <= 10.0**2]
    assert inside.min() > 0.75 * inside.mean()
    assert light[square > 14.5**2].abs().max() < 0.01 * inside.mean()


@every_backend
def test_blur_grows_linearly_with_aperture_and_with_size(backend):
    image = torch.zeros(1, 3, 81, 81)
    image[:, :, 40, 40] = 1.0
    square = (torch.arange(81) - 40.0).square()
    spreads = []
    for strength in (20.0, 40.0):
        lens = Lens(0.5, strength)
        light = render_layers(LayerStack(opaque(image), facing(1.0)), lens, n_samples=80, backend=backend)[0, 0]
        spreads.append(float((light.sum(0) * square).sum()) ** 0.5)
    assert spreads[1] / spreads[0] == pytest.approx(2.0, rel=0.02)
    twice = Lens(0.5, 20.0).resized(2.0)
    light = render_layers(LayerStack(opaque(image), facing(1.0)), twice, n_samples=80, backend=backend)[0, 0]
    assert float((light.sum(0) * square).sum()) ** 0.5 == pytest.approx(spreads[1], rel=1e-4)


@every_backend
def test_a_focused_subject_takes_no_light_from_behind(backend):
    subject = torch.zeros(1, 1, 4, 32, 32)
    subject[..., 8:24, 8:24] = torch.tensor([0.1, 0.2, 0.3, 1.0])[:, None, None]
    behind = opaque(torch.full((1, 3, 32, 32), 500.0))
    stack = LayerStack(torch.cat([subject, behind], 1), facing(0.8, 0.1))
    got = render_layers(stack, Lens(0.8, 20.0), n_samples=64, backend=backend)
    torch.testing.assert_close(got[..., 8:24, 8:24], subject[:, 0, :, 8:24, 8:24], rtol=0, atol=1e-5)


@every_backend
def test_doubly_blurred_layers_share_each_ray(backend):
    """Two halves right behind one another cover what one covers: a product of averages would be off by .25."""
    half = torch.zeros(1, 1, 4, 64, 64)
    half[..., :32] = 1.0
    lens = Lens(0.3, 20.0)
    one = render_layers(LayerStack(half, facing(0.9)), lens, backend=backend)
    two = render_layers(LayerStack(half.expand(1, 2, 4, 64, 64), facing(0.9, 0.899)), lens, backend=backend)
    torch.testing.assert_close(two, one, rtol=0, atol=0.04)


@every_backend
def test_crossing_planes_are_ordered_ray_by_ray(backend):
    """Red comes nearer to the right and passes blue in the middle: blue left, red right, mixed where rays differ."""
    red, blue = torch.zeros(1, 3, 9, 80), torch.zeros(1, 3, 9, 80)
    red[:, 0], blue[:, 2] = 1.0, 1.0
    planes = torch.tensor([[[0.1, 0.01, 0.0], [0.5, 0.0, 0.0]]])
    stack = LayerStack(torch.cat([opaque(red), opaque(blue)], 1), planes)
    row = render_layers(stack, Lens(0.2, 30.0), n_samples=128, backend=backend)[0, :, 4]
    assert_close(row[2, :30], torch.ones(30))
    assert_close(row[0, 50:], torch.ones(30))
    assert_close(row[0] + row[2], torch.ones(80))
    assert 0.2 < float(row[0, 39]) < 0.8


def test_tiles_of_the_picture_do_not_show(monkeypatch):
    """Three planes that cross along slanted lines, in and out of focus, through cat's eyes, whose light is cut too."""
    planes = torch.tensor([[[0.1, 0.006, 0.004], [0.55, -0.003, 0.001], [0.3, 0.0, -0.0005]]])
    stack = LayerStack(smooth(3, (61, 83)), planes)
    lens = Lens(0.3, 15.0, Aperture(cat_eye=0.7, falloff=True))
    pictures = []
    for tile_px in (2**10, 16):
        monkeypatch.setattr(tiles, "TILE_PX", tile_px)
        pictures.append(render_layers(stack, lens, n_samples=12, backend="cpu"))
    assert_close(*pictures)


@pytest.mark.parametrize("aperture", [Aperture(), Aperture(cat_eye=0.6), Aperture(edge=0.5, blades=5)])
@pytest.mark.parametrize("focus", [0.9, 0.6, 0.45, 0.2, 0.05])
def test_what_is_hidden_empty_or_in_focus_is_left_out_without_a_trace(monkeypatch, focus, aperture):
    """Solid patches with soft rims, two facing the camera, two not, one of which crosses the others."""
    monkeypatch.setattr(tiles, "TILE_PX", 9)
    y, x = torch.meshgrid(torch.arange(41.0), torch.arange(53.0), indexing="ij")
    patches = [(12, 14, 9), (20, 25, 12), (28, 33, 10)]
    alphas = [(radius + 0.5 - (y - row).hypot(x - column)).clamp(0, 1) for row, column, radius in patches]
    alpha = torch.stack([*alphas, torch.ones_like(x)])[None, :, None]
    rgba = torch.cat([torch.rand(1, 4, 3, 41, 53) * alpha, alpha], dim=2)
    planes = torch.tensor([[[0.9, 0.0, 0.0], [0.6, 0.0, 0.0], [0.2, 0.011, 0.002], [0.05, 0.0, 0.0]]])
    stack, lens = LayerStack(rgba, planes), Lens(focus, 11.0, aperture)
    got = render_layers(stack, lens, n_samples=on_cpu.LEAST_RAYS_TO_CONVOLVE, backend="cpu")
    expected = render_layers(stack, lens, n_samples=on_cpu.LEAST_RAYS_TO_CONVOLVE, backend="torch")
    torch.testing.assert_close(got, expected, **CV_TOLERANCE)
    assert psnr(got, expected) > 80


def spied_strides(monkeypatch):
    """Strides of the tiles that are traced from now on."""
    strides = []

    def tiles_of(*scene):
        made = list(tiles.tiles_of(*scene))
        strides.extend(tile.stride for tile in made)
        return made

    monkeypatch.setattr(on_cpu, "tiles_of", tiles_of)
    return strides


@pytest.mark.parametrize(("strength_px", "strides"), [(30.0, {1}), (110.0, {1, 2}), (260.0, {1, 2, 4})])
def test_what_is_blurred_is_told_from_fewer_pixels_without_a_trace(monkeypatch, strength_px, strides):
    """A wall that goes from focus to deep blur, behind it a lawn, before it a fence in focus; patterns of pixels."""
    monkeypatch.setattr(tiles, "TILE_PX", 16)
    rgba = torch.rand(1, 3, 4, 64, 200)
    rgba[:, 0, 3] = (torch.arange(200) % 24 < 3).float()
    rgba[:, 1:, 3] = (rgba[:, 1:, 3] > torch.tensor([0.5, 0.0])[:, None, None]).float()
    rgba[:, :, :3] *= rgba[:, :, 3:]
    planes = torch.tensor([[[0.9, 0.0, 0.0], [0.9, -0.002, 0.0], [0.6, -0.002, 0.0]]])
    stack, lens = LayerStack(rgba, planes), Lens(0.9, strength_px)
    seen = spied_strides(monkeypatch)
    got = render_layers(stack, lens, n_samples=128, backend="cpu")
    expected = render_layers(stack, lens, n_samples=128, backend="torch")
    assert set(seen) == strides
    assert psnr(got, expected) > 75


def test_lights_are_told_from_fewer_pixels_too(monkeypatch):
    """A light of 1e4 on black, blurred to 60 px: no ripples around its disc."""
    rgba = opaque(torch.zeros(1, 3, 128, 160))
    rgba[..., :3, 70, 90] = 1e4
    stack = LayerStack(rgba, torch.tensor([[[0.9, -1e-5, 0.0]]]))
    strides = spied_strides(monkeypatch)
    got = render_layers(stack, Lens(0.1, 75.0), backend="cpu")
    expected = render_layers(stack, Lens(0.1, 75.0), backend="torch")
    assert max(strides) > 1
    assert (got - expected).abs().max() < 0.002 * expected[:, :3].max()
    assert got.min() > -0.002 * expected[:, :3].max()


def test_layers_that_face_the_camera_are_convolved_up_to_the_border():
    """As far as they move, and with light that float32 would smear over the picture in a Fourier transform."""
    rgba = opaque(torch.rand(1, 3, 19, 23))
    rgba[..., :3, 9, 11] = 1e6
    stack, lens = LayerStack(rgba, facing(0.9)), Lens(0.1, 37.0)
    got = render_layers(stack, lens, n_samples=on_cpu.LEAST_RAYS_TO_CONVOLVE, backend="cpu")
    expected = render_layers(stack, lens, n_samples=on_cpu.LEAST_RAYS_TO_CONVOLVE, backend="torch")
    torch.testing.assert_close(got, expected, rtol=2e-3, atol=2e-3)


@every_backend
def test_mirroring_the_scene_mirrors_the_picture(backend):
    """With many points: Vogel's spiral is not symmetric itself."""
    rgba, planes = smooth(2, (20, 30)), torch.tensor([[[0.6, 0.004, 0.002], [0.1, 0.001, -0.003]]])
    mirrored = planes.clone()
    mirrored[..., 0] += planes[..., 1] * 30
    mirrored[..., 1] *= -1
    lens = Lens(0.3, 20.0)
    got = render_layers(LayerStack(rgba.flip(-1), mirrored), lens, backend=backend).flip(-1)
    torch.testing.assert_close(got, render_layers(LayerStack(rgba, planes), lens, backend=backend), rtol=0, atol=3e-3)


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 17), (31, 23)])
@pytest.mark.parametrize("n_layers", [1, 2, 4])
def test_backends_agree(size_hw, n_layers):
    """On rough images too, where OpenCV 5 is exact: float32 places differ by 1e-5 px."""
    rgba = torch.rand(2, n_layers, 4, *size_hw) * 0.8
    planes = torch.cat([torch.rand(2, n_layers, 1), torch.rand(2, n_layers, 2) * 0.02 - 0.01], dim=-1)
    stack = LayerStack(rgba, planes)
    lens = Lens(torch.tensor([0.2, 0.6]), torch.tensor([5.0, 17.0]))
    got = render_layers(stack, lens, n_samples=48, backend="cpu")
    assert psnr(got, render_layers(stack, lens, n_samples=48, backend="torch")) > 60


def test_backends_have_one_signature():
    first, *others = (inspect.signature(backend, eval_str=False) for backend in BACKENDS.values())
    assert all(list(other.parameters) == list(first.parameters) for other in others)


def test_one_lens_per_image_equals_each_alone():
    stack = LayerStack(smooth(2, (9, 11), batch=2), facing(0.9, 0.3, batch=2))
    together = render_layers(stack, Lens(torch.tensor([0.1, 0.8]), torch.tensor([4.0, 9.0])), n_samples=16)
    for b, lens in enumerate([Lens(0.1, 4.0), Lens(0.8, 9.0)]):
        alone = LayerStack(stack.rgba_linear[b : b + 1], stack.planes[b : b + 1])
        assert_close(together[b : b + 1], render_layers(alone, lens, n_samples=16))


def test_auto_takes_torch_for_gradients_and_says_so(caplog):
    rgba = smooth(1, (4, 5)).requires_grad_()
    with caplog.at_level("INFO", logger="bokehdiff.renderers"):
        render_layers(LayerStack(rgba, facing(0.9)), Lens(0.2, 3.0), n_samples=4).sum().backward()
        render_layers(LayerStack(rgba.detach(), facing(0.9)), Lens(0.2, 3.0), n_samples=4)
    assert "backend torch" in caplog.text
    assert "backend cpu" in caplog.text
    assert float(rgba.grad.sum()) == pytest.approx(4 * 20, rel=1e-4)


def test_gradients_to_layers_planes_focus_and_strength():
    """Planes tilted along both axes: where two corners tie for the widest blur, the prefilter has a kink."""
    rgba = smooth(2, (2, 3), dtype=torch.float64).requires_grad_()
    planes = torch.tensor([[[0.7, 0.013, 0.022], [0.2, -0.017, 0.003]]], dtype=torch.float64, requires_grad=True)
    focus = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    strength = torch.tensor([4.3], dtype=torch.float64, requires_grad=True)

    def picture(rgba, planes, focus, strength):
        return render_layers(LayerStack(rgba, planes), Lens(focus, strength), n_samples=3, backend="torch")

    assert torch.autograd.gradcheck(picture, (rgba, planes, focus, strength), eps=1e-7, atol=1e-5)


def test_prefilter_leaves_focus_alone_and_follows_the_tilt():
    """A plane that passes through the focus in the middle: sharp there, blurred at both ends."""
    stripes = (torch.arange(101) % 2).float().expand(1, 3, 5, 101)
    stack = LayerStack(opaque(stripes), torch.tensor([[[-0.505, 0.01, 0.0]]]))
    values = lens_values(Lens(0.0, 60.0), stack.rgba_linear)
    contrast = prefiltered(stack, values, spacing=Aperture().spacing(256)).rgba_linear[0, 0, 0, 2].diff().abs()
    assert contrast[49:51].min() > 0.97
    assert contrast[1:6].max() < 0.1
    assert contrast[-6:-1].max() < 0.1


@pytest.mark.parametrize("aperture", [Aperture(), Aperture(blades=5), Aperture(edge=0.9)])
@pytest.mark.parametrize("n_samples", [16, 64])
def test_the_prefilter_does_not_widen_the_blur(aperture, n_samples):
    """Points are drawn together by what the Gaussian spreads: second moments of a dot's picture are the opening's."""
    image = torch.zeros(1, 3, 101, 101)
    image[:, :, 50, 50] = 1.0
    lens = Lens(0.5, 60.0, aperture)
    light = render_layers(LayerStack(opaque(image), facing(0.0)), lens, n_samples=n_samples)[0, 0]
    square = (torch.arange(101) - 50.0).square()
    got = float((light * (square[:, None] + square)).sum() / light.sum())
    points, weights = aperture.sample(4096), aperture.weights(4096)
    mean = weights @ points
    assert got == pytest.approx(30.0**2 * float(weights @ (points - mean).square().sum(1)), rel=0.015)


def test_gaussian_blur_by_box_is_part_of_the_whole():
    rough = torch.rand(4, 13, 9)
    box = (slice(0, 5), slice(3, 9))
    for image in (rough, rough.clone().requires_grad_()):
        whole = gaussian_blur(image, torch.tensor(1.7))
        assert_close(gaussian_blur(image, torch.tensor(1.7), box), whole[:, :5, 3:9])


def test_gaussian_blur_has_its_standard_deviation_and_keeps_a_constant():
    dot = torch.zeros(4, 1, 41)
    dot[..., 20] = 1.0
    blurred = gaussian_blur(dot, torch.tensor(3.0))[0, 0]
    assert float((blurred * (torch.arange(41) - 20.0).square()).sum()) == pytest.approx(9.0, rel=2e-2)
    assert_close(gaussian_blur(torch.ones(4, 2, 3), torch.tensor(5.0)), torch.ones(4, 2, 3))
    rough = torch.rand(4, 13, 9)
    by_torch = gaussian_blur(rough.requires_grad_(), torch.tensor(1.7))
    assert_close(gaussian_blur(rough.detach(), torch.tensor(1.7)), by_torch)


def test_bad_requests_are_refused():
    stack = LayerStack(smooth(1, (4, 5)), torch.tensor([[[0.5, 0.1, 0.0]]]))
    with pytest.raises(InputError, match=r"too steep for this lens.*got 1\.2"):
        render_layers(stack, Lens(0.5, 12.0))
    with pytest.raises(InputError, match="backend must be one of auto, torch, cpu, cupy; got 'gpu'"):
        render_layers(stack, Lens(0.5, 1.0), backend="gpu")
    double = LayerStack(stack.rgba_linear.double(), stack.planes.double())
    with pytest.raises(InputError, match=r"takes float32 on cpu without gradients; got torch\.float64"):
        render_layers(double, Lens(0.5, 1.0), backend="cpu")
    with pytest.raises(InputError, match="strength_px must be a number or one per image; got 3 for 1"):
        render_layers(stack, Lens(0.5, torch.ones(3)))
    with pytest.raises(InputError, match="n_samples must be at least 1"):
        render_layers(stack, Lens(0.5, 1.0), n_samples=0)
