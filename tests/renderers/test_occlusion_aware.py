"""Gradients of the occlusion-aware renderer, its openings and colours, and what makes up hidden surfaces."""

from __future__ import annotations

import pytest
import torch

from bokehdiff.errors import InputError
from bokehdiff.optics import Aperture, Lens
from bokehdiff.renderers import METHODS, LayerStack, render_layers, render_photo, scatter
from bokehdiff.renderers.edge_matte import edge_matte
from bokehdiff.renderers.inpainting import INPAINTERS, inpainter
from tests.helpers import assert_close, psnr

EIGHT_BITS = {"diffusion": 1e-5, "telea": 3e-2, "navier-stokes": 5e-3}  # OpenCV fills in display values of 8 bits


def scene(size_hw=(9, 11), dtype=torch.float64):
    """A subject with a soft matte before a slope, touching the border; disparities away from kinks."""
    height, width = size_hw
    image = 0.2 + 0.6 * torch.rand(1, 3, height, width, dtype=dtype)
    disparity = 0.131 + 0.01 * torch.rand(1, height, width, dtype=dtype)
    disparity[:, 3:, 2:6] = 0.847
    matte = torch.zeros(1, height, width, dtype=dtype)
    matte[:, 3:, 2:6] = 1.0
    matte[:, 3:, 6] = 0.4
    return image, disparity, matte


@pytest.mark.parametrize("focus", [0.13, 0.45, 0.847])  # the last exactly on the subject
def test_gradients_reach_image_disparity_focus_and_strength(focus):
    image, disparity, _ = scene()
    lens = [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (focus, 7.3)]

    def picture(image, disparity, focus_disparity, strength_px):
        return render_photo(image, disparity, Lens(focus_disparity, strength_px), method="occlusion_aware")

    inputs = (image.requires_grad_(), disparity.requires_grad_(), *lens)
    assert torch.autograd.gradcheck(picture, inputs, eps=1e-7, atol=1e-5, fast_mode=True)
    for gradient in torch.autograd.grad(picture(*inputs).square().sum(), inputs):
        assert gradient.abs().sum() > 0


def test_gradients_reach_the_matte():
    image, disparity, matte = scene()
    soft = (0.3 + 0.3 * torch.rand(6, dtype=torch.float64)).requires_grad_()

    def picture(image, soft):
        mixed = torch.cat([matte[:, 3:, :6], soft[None, :, None], matte[:, 3:, 7:]], dim=2)
        whole = torch.cat([matte[:, :3], mixed], dim=1)
        return render_photo(image, disparity, Lens(0.2, 9.1), matte=whole, method="occlusion_aware")

    assert torch.autograd.gradcheck(picture, (image.requires_grad_(), soft), eps=1e-7, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize("strength_px", [0.0, 1e-3, 71.0, 300.0])
def test_nothing_is_nan_at_any_lens_size_in_float32(strength_px):
    image, disparity, matte = scene((13, 12), torch.float32)
    strength = torch.tensor([strength_px], requires_grad=True)
    inputs = (image.requires_grad_(), disparity.requires_grad_(), matte.requires_grad_(), strength)
    got = render_photo(*inputs[:2], Lens(0.5, strength), matte=inputs[2], method="occlusion_aware")
    assert got.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(got.sum(), inputs))


def test_the_strength_of_a_blurred_picture_is_found_by_descent():
    _, disparity, _ = scene((24, 26), torch.float32)
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 7), size=(24, 26), mode="bicubic").clamp(0, 1)
    seen = render_photo(image, disparity, Lens(0.13, 9.0), method="occlusion_aware")
    strength = torch.tensor([6.0], requires_grad=True)
    optimiser = torch.optim.Adam([strength], lr=0.5)
    for _ in range(25):
        optimiser.zero_grad()
        got = render_photo(image, disparity, Lens(0.13, strength), method="occlusion_aware")
        (got - seen).square().mean().backward()
        optimiser.step()
    assert float(strength.detach()) == pytest.approx(9.0, abs=0.3)


@pytest.mark.parametrize("method", ["scatter", "occlusion_aware", "layered"])
@pytest.mark.parametrize(
    "aperture",
    [
        Aperture(blades=5, rotation_deg=10.0),
        Aperture(blades=3),
        Aperture(edge=0.8),
        Aperture(transmission=(torch.arange(16) % 8 < 4).float().expand(16, 16)),
        Aperture(cat_eye=0.9),
        Aperture(blades=6, edge=0.3, cat_eye=0.6, falloff=True),
    ],
)
@pytest.mark.parametrize("coc_px", [-12.0, 9.0])
def test_openings_are_those_of_the_layered_tracer(method, aperture, coc_px):
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 11), size=(54, 66), mode="bicubic").clamp(0, 1)
    image[..., 20:23, 30:33] = 20.0
    lens, disparity = Lens(0.5, 30.0, aperture), 0.5 + coc_px / 30.0
    stack = LayerStack(
        torch.cat([image, torch.ones(1, 1, 54, 66)], 1)[:, None], torch.tensor([[[disparity, 0.0, 0.0]]])
    )
    traced = render_layers(stack, lens, n_samples=512)[:, :3]
    got = render_photo(image, torch.full((1, 54, 66), disparity), lens, method=method)
    assert psnr(got, traced) > (34 if aperture.cat_eye else 38)  # cat's eyes change much across the least of tiles


def test_colours_are_focused_and_magnified_each_by_itself():
    image, disparity = torch.rand(1, 3, 20, 24), torch.full((1, 20, 24), 0.4)
    lens = Lens(0.5, 40.0, focus_shift_rgb=(0.0, 0.0, -0.1))
    got = render_photo(image, disparity, lens)
    assert_close(got[:, 2], image[:, 2])
    assert_close(got[:, :2], render_photo(image, disparity, Lens(0.5, 40.0))[:, :2])
    dot = torch.zeros(1, 3, 101, 101)
    dot[..., 50, 90] = 1.0
    wide = render_photo(dot, torch.full((1, 101, 101), 0.5), Lens(0.5, 9.0, magnification_rgb=(1.0, 1.0, 1.05)))
    columns = torch.arange(101) + 0.5
    centre = [float((wide[0, c].sum(0) * columns).sum() / wide[0, c].sum()) for c in range(3)]
    assert centre == pytest.approx([90.5, 90.5, 50.5 + 1.05 * 40], abs=0.05)


@pytest.mark.parametrize("coc_px", [-9.0, 9.0])
def test_cats_eyes_do_not_depend_on_the_tiles(monkeypatch, coc_px):
    """Between the corners of a tile pictures of the opening are blended: many small tiles are the definition."""
    image = torch.rand(1, 3, 90, 120)
    image[..., 40:42, 70:72] = 30.0
    lens = Lens(0.5, abs(coc_px) * 2, Aperture(blades=5, cat_eye=0.8))
    disparity = torch.full((1, 90, 120), 0.5 + coc_px / (abs(coc_px) * 2))
    disparity[:, :40, :50] = 0.5
    pictures = []
    for side in (16, 32):
        monkeypatch.setattr(scatter, "LEAST_TILE_PX", side)
        monkeypatch.setattr(scatter, "TILE_PX", side)
        pictures.append(render_photo(image, disparity, lens))
    assert psnr(*pictures) > 38


@pytest.mark.parametrize("method", METHODS)
def test_cats_eyes_lose_their_outer_side_and_their_light_only_with_falloff(method):
    dot = torch.zeros(1, 3, 121, 121)
    dot[..., 60, 100] = 1000.0
    disparity = torch.full((1, 121, 121), 0.2)
    kept, lost = (
        render_photo(dot, disparity, Lens(0.5, 40.0, Aperture(cat_eye=1.0, falloff=falloff)), method=method)[0, 0]
        for falloff in (False, True)
    )
    columns = torch.arange(121) - 100.0
    assert float((kept * columns).sum() / kept.sum()) < -1.0
    assert (kept[:, 112:] < 0.02 * kept.max()).all()
    assert float(lost.sum()) < 0.8 * float(kept.sum())


@pytest.mark.parametrize("size_hw", [(21, 31), (9, 150)])  # light is found at 129 places of a side at most
def test_falloff_is_that_of_the_layered_tracer_at_any_resolution_and_even_in_focus(size_hw):
    lens = Lens(0.4, 5.0, Aperture(cat_eye=0.7, falloff=True))
    white = torch.ones(1, 3, *size_hw)
    for disparity in (0.4, 0.9):
        stack = LayerStack(torch.ones(1, 1, 4, *size_hw), torch.tensor([[[disparity, 0.0, 0.0]]]))
        traced = render_layers(stack, lens, n_samples=256)[:, :3]
        for method in METHODS:
            got = render_photo(white, torch.full((1, *size_hw), disparity), lens, method=method)
            torch.testing.assert_close(got, traced, rtol=0, atol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_colours_are_magnified_as_by_the_layered_tracer(method):
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 11), size=(54, 66), mode="bicubic").clamp(0, 1)
    lens = Lens(0.5, 30.0, focus_shift_rgb=(0.03, 0.0, -0.02), magnification_rgb=(0.97, 1.0, 1.02))
    for disparity in (0.5, 0.7):
        stack = LayerStack(
            torch.cat([image, torch.ones(1, 1, 54, 66)], 1)[:, None], torch.tensor([[[disparity, 0.0, 0.0]]])
        )
        got = render_photo(image, torch.full((1, 54, 66), disparity), lens, method=method)
        assert psnr(got, render_layers(stack, lens)[:, :3]) > 45


def test_idle_options_are_refused():
    image, disparity = torch.rand(1, 3, 4, 5), torch.rand(1, 4, 5)
    with pytest.raises(InputError, match="'scatter' fills in nothing"):
        render_photo(image, disparity, Lens(0.5, 2.0), method="scatter", inpainting="telea")


@pytest.mark.parametrize("name", sorted(INPAINTERS))
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (13, 7)])
def test_what_is_known_stays_and_even_surroundings_go_on(name, size_hw):
    image, known = torch.rand(2, 3, *size_hw), torch.ones(2, *size_hw)
    assert_close(inpainter(name)(image, known, 1.0 - known), image)
    known[:, :, size_hw[1] // 2 :] = 0.0
    image = torch.where(known[:, None] > 0, 0.3, 9.0).expand(2, 3, *size_hw)
    if bool(known.any()):
        filled = inpainter(name)(image, known, 1.0 - known)
        torch.testing.assert_close(filled, torch.full_like(image, 0.3), rtol=0, atol=EIGHT_BITS[name])


def test_a_torchscript_network_fills_the_hole_at_any_size(tmp_path):
    class Grey(torch.nn.Module):
        def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            assert image.shape[2] % 8 == 0
            assert image.shape[3] % 8 == 0
            return image * (1.0 - mask) + 0.5 * mask

    path = tmp_path / "grey.pt"
    with pytest.warns((FutureWarning, DeprecationWarning)):
        torch.jit.script(Grey()).save(str(path))
    image, known = torch.rand(1, 3, 9, 13), torch.ones(1, 9, 13)
    known[:, 2:5, 3:8] = 0.0
    filled = inpainter(str(path))(image, known, 1.0 - known)
    assert_close(filled[:, :, 2:5, 3:8], torch.full((1, 3, 3, 5), 0.5**2.2))
    assert_close(filled * known, image * known)
    photo, disparity, _ = scene((17, 19), torch.float32)
    assert render_photo(photo, disparity, Lens(0.1, 9.0), inpainting=str(path)).isfinite().all()


def test_inpainters_that_are_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="inpainting must be one of diffusion, telea, navier-stokes or a TorchScript"):
        inpainter("magic")
    (tmp_path / "not.pt").write_bytes(b"no network")
    with pytest.raises(InputError, match="is not a TorchScript file"):
        inpainter(str(tmp_path / "not.pt"))


def test_the_share_of_mixed_pixels_is_read_from_their_colours():
    """Strands of known width before an even wall: disparity knows the middle of each pixel only."""
    share = torch.zeros(1, 30, 30)
    share[:, :, 5], share[:, :, 12], share[:, :, 20:26] = 0.7, 1.0, 1.0
    share[:, :, 13], share[:, :, 19] = 0.3, 0.4
    disparity = torch.where(share > 0.5, 20.0, 0.0)
    front, wall = torch.tensor([0.1, 0.1, 0.2]).view(3, 1, 1), torch.tensor([0.9, 0.5, 0.3]).view(3, 1, 1)
    image = share[:, None] * front + (1 - share[:, None]) * wall
    matte = edge_matte(image, disparity)
    # The strand that is mixed wherever it is seen looks lighter than it is.
    sure = matte.band & (torch.arange(30) > 8)
    assert (matte.share - share).abs()[sure].max() < 0.06
    assert ((matte.trust >= 0.0) & (matte.trust <= 1.0)).all()
    plate = matte.behind.permute(0, 2, 3, 1)[sure]
    torch.testing.assert_close(plate, wall.view(1, 3).expand_as(plate), rtol=0, atol=0.06)


def test_where_three_surfaces_meet_the_middle_one_is_no_share_of_the_near_one():
    """A dark bar in focus before a leaf before a white sky: the leaf beside the bar is no mixture of bar and sky."""
    coc_px = torch.full((1, 20, 20), -20.0)
    coc_px[:, :10] = -10.0
    coc_px[:, :, :10] = 0.0
    colours = {0.0: (0.2, 0.1, 0.05), -10.0: (0.1, 0.6, 0.1), -20.0: (1.0, 1.0, 1.0)}
    image = torch.zeros(1, 3, 20, 20)
    for surface_px, colour in colours.items():
        image = torch.where(coc_px[:, None] == surface_px, torch.tensor(colour).view(3, 1, 1), image)
    matte = edge_matte(image, coc_px)
    assert matte.band[0, 9, 10]
    assert float(matte.share[0, 9, 10]) < 0.05
    assert float(matte.far_px[0, 9, 10]) == -10.0
    torch.testing.assert_close(matte.behind[0, :, 9, 10], torch.tensor(colours[-10.0]), rtol=0, atol=0.02)
