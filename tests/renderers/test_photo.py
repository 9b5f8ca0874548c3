"""The laws of the photograph renderers, for every method, and their score against path-traced lenses."""

from __future__ import annotations

import inspect
import json
import math

import pytest
import torch

from bokehdiff.errors import InputError
from bokehdiff.optics import Aperture, Lens
from bokehdiff.renderers import METHODS, LayerStack, render_layers, render_photo
from bokehdiff.renderers.layered import split_by_matte, steepen_edges
from bokehdiff.renderers.scatter import slice_radii
from bokehdiff.renderers.spread import aperture_kernel
from tests.helpers import SHARED, assert_close, psnr

# Fourier's transform rounds relative to the brightest light, not to each pixel's.
FOURIER = {"rtol": 1e-4, "atol": 1e-5}

every_method = pytest.mark.parametrize("method", sorted(METHODS))


def subject_before(colour, behind, size_hw=(48, 64)):
    """A square subject of even colour before a background, and its disparity (0.8 before 0.2)."""
    image = torch.full((1, 3, *size_hw), float(behind))
    disparity = torch.full((1, *size_hw), 0.2)
    image[..., 16:32, 20:44] = colour
    disparity[:, 16:32, 20:44] = 0.8
    return image, disparity


@every_method
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 7), (5, 3), (37, 51)])
def test_a_closed_or_focused_lens_returns_the_image(method, size_hw):
    image, disparity = torch.rand(2, 3, *size_hw) * 3, torch.rand(2, *size_hw)
    assert_close(render_photo(image, disparity, Lens(0.4, 0.0), method=method), image)
    flat = torch.full_like(disparity, 0.4)
    assert_close(render_photo(image, flat, Lens(0.4, 60.0), method=method), image)


@every_method
@pytest.mark.parametrize("size_hw", [(1, 1), (3, 2), (29, 41)])
def test_a_constant_stays_constant_up_to_the_border(method, size_hw):
    image, disparity = torch.full((2, 3, *size_hw), 0.25), torch.rand(2, *size_hw)
    lens = Lens(torch.tensor([0.1, 0.5]), torch.tensor([4.0, 20.0]))
    torch.testing.assert_close(render_photo(image, disparity, lens, method=method), image, **FOURIER)


@every_method
@pytest.mark.parametrize("disparity", [0.2, 0.8])
def test_a_dot_becomes_a_disc_of_the_right_radius_and_the_same_light(method, disparity):
    image = torch.zeros(1, 3, 61, 61)
    image[:, :, 30, 30] = 700.0  # HDR in, HDR out
    light = render_photo(image, torch.full((1, 61, 61), disparity), Lens(0.5, 40.0), method=method)[0, 0]
    assert float(light.sum()) == pytest.approx(700.0, rel=1e-3)
    offset = torch.arange(61) - 30.0
    distance = torch.hypot(offset[:, None], offset[None, :])
    assert float((light * distance.square()).sum() / light.sum()) == pytest.approx(12.0**2 / 2, rel=0.02)
    assert_close(light[distance < 11.4], torch.full_like(light[distance < 11.4], float(light[30, 30])))
    assert light[distance > 12.6].max() < 1e-3


@every_method
def test_blur_grows_linearly_with_aperture_and_with_size(method):
    image = torch.zeros(1, 3, 81, 81)
    image[:, :, 40, 40] = 1.0
    square = (torch.arange(81) - 40.0).square()

    def spread(lens):
        light = render_photo(image, torch.ones(1, 81, 81), lens, method=method)[0, 0]
        return float((light.sum(0) * square).sum()) ** 0.5

    assert spread(Lens(0.5, 40.0)) / spread(Lens(0.5, 20.0)) == pytest.approx(2.0, rel=0.01)
    assert spread(Lens(0.5, 20.0).resized(2.0)) == pytest.approx(spread(Lens(0.5, 40.0)), rel=1e-4)


@every_method
def test_a_focused_subject_takes_no_light_from_behind(method):
    image, disparity = subject_before(0.1, 50.0)
    got = render_photo(image, disparity, Lens(0.8, 20.0), method=method)
    torch.testing.assert_close(got[..., 16:32, 20:44], image[..., 16:32, 20:44], rtol=0, atol=2e-3)


@every_method
def test_noise_in_the_depth_of_a_focused_subject_opens_no_gaps(method):
    """One level of an 8-bit map up and down, column by column."""
    image, disparity = subject_before(0.1, 50.0)
    disparity = disparity + (torch.arange(64) % 2) / 255.0
    got = render_photo(image, disparity, Lens(0.8, 100.0), method=method)
    torch.testing.assert_close(got[..., 19:29, 23:41], image[..., 19:29, 23:41], rtol=0, atol=2e-3)


@every_method
def test_a_dark_subject_out_of_focus_leaves_no_hard_edge_where_the_hidden_is_known(method):
    """Seen past its blurred edge, the bright wall behind goes on: light rises evenly over the width of the disc."""
    image, disparity = subject_before(0.0, 1.0, (48, 96))
    image[..., 20:], disparity[..., 20:] = 1.0, 0.2
    image[..., :48], disparity[..., :48] = 0.0, 0.8
    row = render_photo(image, disparity, Lens(0.2, 15.0), method=method)[0, 0, 24]
    step = row.diff()
    assert row[:38].max() < 0.02
    assert row[59:].min() > 0.98
    if method != "scatter":
        assert float(row[47:49].mean()) == pytest.approx(0.5, abs=0.05)
        assert step.max() < 0.12


@every_method
def test_mirroring_the_scene_mirrors_the_picture(method):
    image, disparity = torch.rand(1, 3, 33, 40), torch.rand(1, 1, 5, 5)
    disparity = torch.nn.functional.interpolate(disparity, size=(33, 40), mode="bicubic")[:, 0]
    lens = Lens(0.6, 9.0)
    got = render_photo(image.flip(-1), disparity.flip(-1), lens, method=method).flip(-1)
    assert psnr(got, render_photo(image, disparity, lens, method=method)) > 55


@every_method
@pytest.mark.parametrize("coc_px", [1.5, -6.0, 12.3])
def test_renderers_agree_on_one_layer_that_faces_the_camera(method, coc_px):
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 11), size=(54, 66), mode="bicubic").clamp(0, 1)
    lens, disparity = Lens(0.5, 30.0), 0.5 + coc_px / 30.0
    stack = LayerStack(
        torch.cat([image, torch.ones(1, 1, 54, 66)], 1)[:, None], torch.tensor([[[disparity, 0.0, 0.0]]])
    )
    traced = render_layers(stack, lens)[:, :3]
    assert psnr(render_photo(image, torch.full((1, 54, 66), disparity), lens, method=method), traced) > 50


@every_method
def test_batches_equal_their_images_alone(method):
    image, disparity = torch.rand(2, 3, 17, 19), torch.rand(2, 17, 19)
    together = render_photo(image, disparity, Lens(torch.tensor([0.1, 0.8]), 6.0), method=method)
    for b, focus in enumerate([0.1, 0.8]):
        alone = render_photo(image[b : b + 1], disparity[b : b + 1], Lens(focus, 6.0), method=method)
        assert psnr(together[b : b + 1], alone) > 60  # slices between others share their radii only if ranges do


@every_method
def test_gradients_reach_the_image(method):
    image = torch.rand(1, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    disparity = torch.tensor([0.0, 0.1, 0.4, 0.8, 0.9, 1.0], dtype=torch.float64).expand(1, 5, 6)

    def picture(image):
        return render_photo(image, disparity, Lens(0.4, 9.0), method=method)

    assert torch.autograd.gradcheck(picture, image, fast_mode=True)


def test_auto_says_what_it_picks_and_methods_have_one_signature(caplog):
    with caplog.at_level("INFO", logger="bokehdiff.renderers"):
        render_photo(torch.rand(1, 3, 4, 4), torch.rand(1, 4, 4), Lens(0.5, 2.0))
    assert "method layered" in caplog.text
    first, *others = (inspect.signature(method) for method in METHODS.values())
    assert all(list(other.parameters) == list(first.parameters) for other in others)


def test_a_matte_parts_hair_from_what_is_behind():
    """A half-transparent dark subject in focus before a bright wall far behind: it stays as it is, the wall blurs."""
    image, disparity = subject_before(0.0, 1.0)
    matte = (disparity > 0.5).float()
    matte[:, 16:32, 18:20] = 0.5
    image[..., 16:32, 18:20] = 0.5
    lens = Lens(0.8, 20.0)
    with_matte = render_photo(image, disparity, lens, matte=matte)
    torch.testing.assert_close(with_matte, image, rtol=0, atol=0.02)
    striped = image + (torch.arange(64) % 2) * (disparity < 0.5) * 0.5
    got = render_photo(striped, disparity, lens, matte=matte)[0, 0, 4]
    assert got[8:-8].std() < 0.02


@pytest.mark.parametrize("share", [0.0, 1.0, None])
def test_the_parts_of_a_matte_sum_to_the_photograph(share):
    image, coc_px = torch.rand(1, 3, 8, 9), torch.full((1, 8, 9), 3.0)
    matte = torch.rand(1, 8, 9) if share is None else torch.full((1, 8, 9), share)
    sheets = split_by_matte(image, coc_px, matte)
    assert_close(sum(sheet.light for sheet in sheets), image)
    assert_close(sum(sheet.weight for sheet in sheets), torch.ones(1, 8, 9))
    assert_close(render_photo(image, coc_px, Lens(0.5, 0.0), matte=matte), image)


def test_edges_are_made_steep_and_slopes_are_kept():
    ramp = torch.tensor([7.0, 13.0])
    soft_edge = torch.cat([torch.zeros(20), ramp, torch.full((20,), 20.0)]).expand(1, 9, -1)
    steep = steepen_edges(soft_edge)
    assert set(steep.unique().tolist()) == {0.0, 20.0}
    assert int((steep[0, 0] > 10).sum()) == 21
    slope = torch.linspace(0, 60, 46).expand(1, 9, -1)
    assert_close(steepen_edges(slope), slope)


def splat_in_loops(image, coc_px):
    """The definition of the splat of a photograph without depth edges' help, pixel by pixel."""
    nodes = slice_radii(float(coc_px.min()), float(coc_px.max()))
    kernels = [aperture_kernel(radius, Aperture(), like=image) for radius in nodes]
    (height, width), reach = coc_px.shape, max(len(kernel) for kernel in kernels) // 2
    landed = torch.zeros(len(nodes), 4, height, width, dtype=image.dtype)
    squares = [radius * abs(radius) for radius in nodes]
    for y in range(-reach, height + reach):
        for x in range(-reach, width + reach):
            row, column = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
            light = torch.cat([image[:, row, column], image.new_ones(1)])
            radius = float(coc_px[row, column])
            k = max(i for i, node in enumerate(nodes[:-1]) if node <= radius)
            share = (radius * abs(radius) - squares[k]) / (squares[k + 1] - squares[k])
            for j, part in ((k, 1 - share), (k + 1, share)):
                middle = len(kernels[j]) // 2
                for py in range(max(y - middle, 0), min(y + middle, height - 1) + 1):
                    for px in range(max(x - middle, 0), min(x + middle, width - 1) + 1):
                        landed[j, :, py, px] += part * kernels[j][py - y + middle, px - x + middle] * light
    total, covered = torch.zeros(4, height, width, dtype=image.dtype), torch.zeros(height, width, dtype=image.dtype)
    for k in reversed(range(len(nodes))):
        covered = covered + (landed[k + 3, 3] if k + 3 < len(nodes) else 0.0)
        left = (1 - covered).clamp_min(0.0)
        total += torch.where(left < 0.05, left**2 * (0.1 - left) / 0.0025, left) * landed[k]
    return total[:3] / total[3]


def test_the_splat_is_its_definition():
    image = torch.rand(3, 7, 9, dtype=torch.float64)
    disparity = torch.rand(7, 9, dtype=torch.float64)
    # Every pixel lies within its own disc of a depth edge: nothing is solid.
    got = render_photo(image[None], disparity[None], Lens(0.45, 11.0), method="scatter")[0]
    assert_close(got, splat_in_loops(image, 11.0 * (disparity - 0.45)))


def test_slices_enclose_the_range_and_steps_follow_the_radius():
    assert slice_radii(3.3, 3.3) == pytest.approx([3.2, 3.4])
    assert slice_radii(0.0, 0.0) == [0.0]
    assert slice_radii(-1.0, 1.5) == [-1.2, -0.6, 0.0, 0.6, 1.2, 2.0]
    radii = slice_radii(10.2, 99.0)
    assert radii[0] <= 10.2 < radii[1]
    assert radii[-2] < 99.0 <= radii[-1]
    assert len(radii) < 40


def test_the_disc_has_its_second_moment_and_total_weight():
    like = torch.zeros(1)
    assert aperture_kernel(0.0, Aperture(), like=like).shape == (1, 1)
    for radius in (1.0, 3.7, 20.0):
        kernel = aperture_kernel(radius, Aperture(), like=like)
        offset = torch.arange(len(kernel)) - len(kernel) // 2
        assert float(kernel.sum()) == pytest.approx(1.0, abs=1e-5)
        # Pixels are squares and share the rim: that spreads light a little more, as bilinear lookups do.
        assert 0.0 < float((kernel.sum(0) * offset.square()).sum()) - radius**2 / 4 < 0.17


def test_bad_requests_are_refused():
    image, disparity, lens = torch.rand(1, 3, 4, 5), torch.rand(1, 4, 5), Lens(0.5, 2.0)
    with pytest.raises(InputError, match=r"disparity must have the size of the image, \[1, 4, 5\]; got \[1, 5, 4\]"):
        render_photo(image, torch.rand(1, 5, 4), lens)
    with pytest.raises(InputError, match="matte must have the size of the image"):
        render_photo(image, disparity, lens, matte=torch.rand(1, 2, 2))
    with pytest.raises(InputError, match="disparity must be finite; got NaN or infinity"):
        render_photo(image, disparity / 0.0, lens)
    with pytest.raises(InputError, match="image_linear must be finite"):
        render_photo(image * math.nan, disparity, lens)
    with pytest.raises(InputError, match="method must be one of auto, scatter, occlusion_aware, layered; got 'magic'"):
        render_photo(image, disparity, lens, method="magic")
    with pytest.raises(InputError, match="'scatter' cannot use a matte"):
        render_photo(image, disparity, lens, matte=disparity, method="scatter")


# Measured with this code [dB], near / far / near_wide / far_wide; BokehMe's formula, scored the same way, reaches
# hair 25.9 26.7 25.2 26.0 and spheres 37.1 37.7 34.0 33.9.
SCORES = {
    ("scatter", "s0_hair"): (27.9, 26.6, 27.7, 25.9),
    ("scatter", "s4_spheres"): (40.2, 37.7, 35.8, 33.9),
    ("occlusion_aware", "s0_hair"): (32.8, 35.2, 31.0, 34.5),
    ("occlusion_aware", "s4_spheres"): (40.7, 41.7, 36.5, 37.4),
    ("layered", "s0_hair"): (32.8, 35.2, 31.0, 34.5),
    ("layered", "s4_spheres"): (40.6, 41.7, 36.4, 37.4),
}
MARGIN_DB = 0.2  # rounding of the table and of other machines' Fourier transforms


@pytest.mark.parametrize(("method", "scene"), sorted(SCORES))
def test_score_against_path_traced_lenses(method, scene):
    folder = SHARED / "lens_ground_truth"
    if not (folder / f"{scene}.npz").exists():
        pytest.skip(f"no ground truth in {folder}")
    numpy = pytest.importorskip("numpy")
    views = json.loads((folder / f"{scene}.json").read_text())["views"]
    with numpy.load(folder / f"{scene}.npz") as arrays:
        image = torch.from_numpy(arrays["aif"]).permute(2, 0, 1)[None].float()
        disparity = torch.from_numpy(arrays["disparity"])[None].float()
        for (view, camera), expected in zip(views.items(), SCORES[method, scene], strict=True):
            truth = torch.from_numpy(arrays[f"bokeh_{view}"]).permute(2, 0, 1)[None].float()
            lens = Lens(camera["focus"], camera["K_px_per_disparity"])
            got = render_photo(image, disparity, lens, method=method)
            score = psnr(got.clamp(0, 1) ** (1 / 2.2), truth.clamp(0, 1) ** (1 / 2.2))
            assert score > expected - MARGIN_DB, f"{view}: {score:.2f} dB, was {expected}"


@pytest.mark.parametrize(("method", "fewest"), [("scatter", 1), ("occlusion_aware", 2), ("layered", 3)])
def test_the_surfaces_of_a_picture_can_be_watched_and_change_nothing(method, fewest):
    image, disparity = torch.rand(1, 3, 20, 30), torch.full((1, 20, 30), 0.2)
    disparity[:, 5:15, 8:20] = 0.9
    seen = []
    got = render_photo(image, disparity, Lens(0.2, 12.0), method=method, watch=seen.append)
    assert got.equal(render_photo(image, disparity, Lens(0.2, 12.0), method=method))
    (sheets,) = seen
    assert len(sheets) >= fewest
    assert all(sheet.light.shape == image.shape for sheet in sheets)
    visible = sum(sheet.light for sheet in sheets[: fewest - 1 or 1])
    assert_close(visible[..., 16:, :], image[..., 16:, :])
