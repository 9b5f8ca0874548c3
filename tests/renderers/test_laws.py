"""What holds for every renderer through every kind of lens: one scene, told to each in its own way."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from bokehdiff.optics import Aperture, Lens
from bokehdiff.renderers import BACKENDS, METHODS, LayerStack, render_layers, render_photo
from tests.helpers import assert_close, psnr

NEAR, FAR, FOCUS = 0.85, 0.15, 0.4
TRACERS = sorted(set(BACKENDS) - {"cupy"})  # cupy: test_raytraced_cupy.py
# Fourier's transform rounds relative to the brightest light, not to each pixel's.
FOURIER = {"rtol": 1e-4, "atol": 2e-5}

ARROW = torch.zeros(7, 7)
ARROW[3], ARROW[1:6, 4] = 1.0, 0.5
APERTURES = {
    "disc": Aperture(),
    "pentagon": Aperture(blades=5, rotation_deg=10.0),
    "rounded": Aperture(blades=6, rounding=0.5),
    "map": Aperture(transmission=ARROW, rotation_deg=20.0),
    "ring": Aperture(edge=0.9),
    "soft": Aperture(edge=-1.0),
    "cat's eye": Aperture(cat_eye=0.9),
    "fall-off": Aperture(blades=7, rounding=0.2, edge=0.4, cat_eye=0.6, falloff=True),
}
LENSES = {name: Lens(FOCUS, 9.0, aperture) for name, aperture in APERTURES.items()}
LENSES["focused by colour"] = Lens(FOCUS, 9.0, focus_shift_rgb=(0.05, 0.0, -0.1))
LENSES["enlarged by colour"] = Lens(FOCUS, 9.0, magnification_rgb=(0.98, 1.0, 1.03))
LENSES["one per image"] = Lens(torch.tensor([FOCUS]), torch.tensor([7.0]), Aperture(blades=5))

every_renderer = pytest.mark.parametrize("renderer", [*sorted(METHODS), *TRACERS])
every_tracer = pytest.mark.parametrize("renderer", TRACERS)
every_lens = pytest.mark.parametrize("lens", LENSES.values(), ids=list(LENSES))


@dataclass(frozen=True)
class Scene:
    """An opaque subject before a wall.

    Args:
        stack: As layers, the subject first.
    """

    stack: LayerStack

    @staticmethod
    def of(subject: Tensor, wall: Tensor, cover: Tensor) -> Scene:
        layers = [torch.cat([subject * cover, cover], dim=1), torch.cat([wall, torch.ones_like(cover)], dim=1)]
        return Scene(LayerStack(torch.stack(layers, dim=1), torch.tensor([[[NEAR, 0.0, 0.0], [FAR, 0.0, 0.0]]])))

    @property
    def image(self) -> Tensor:
        return self.stack.composite()[:, :3]

    def times(self, light: float) -> Scene:
        gain = torch.tensor([light, light, light, 1.0]).view(4, 1, 1)
        return Scene(replace(self.stack, rgba_linear=self.stack.rgba_linear * gain))

    def mirrored(self) -> Scene:
        return Scene(replace(self.stack, rgba_linear=self.stack.rgba_linear.flip(-1)))

    def seen(self, renderer: str, lens: Lens) -> Tensor:
        """By a method of photographs or a tracer of layers."""
        if renderer in METHODS:
            disparity = torch.where(self.stack.rgba_linear[:, 0, 3] > 0.5, NEAR, FAR)
            return render_photo(self.image, disparity, lens, method=renderer)
        return render_layers(self.stack, lens, n_samples=40, backend=renderer)[:, :3]


def textured() -> Scene:
    """Smooth colours, a subject that is not symmetric."""
    colours = torch.nn.functional.interpolate(torch.rand(2, 3, 4, 5), size=(14, 18), mode="bicubic").clamp(0.1, 0.9)
    cover = torch.zeros(1, 1, 14, 18)
    cover[..., 4:11, 2:8] = 1.0
    return Scene.of(colours[:1], colours[1:], cover)


def white() -> Scene:
    """Everything shines alike."""
    ones = torch.ones(1, 3, 14, 18)
    return Scene.of(ones, ones, textured().stack.rgba_linear[:, 0, 3:])


@every_renderer
@every_lens
def test_a_constant_stays_constant_but_for_the_light_that_the_rim_takes(renderer, lens):
    passed = white().seen(renderer, lens)
    torch.testing.assert_close(white().times(0.25).seen(renderer, lens), 0.25 * passed, **FOURIER)
    if lens.aperture.falloff:
        assert passed.max() <= 1.0 + FOURIER["atol"]
        assert passed[0, 0, 0, 0] < 0.9 * passed[0, 0, 7, 9]
    else:
        torch.testing.assert_close(passed, torch.ones_like(passed), **FOURIER)


@every_renderer
@every_lens
def test_a_closed_lens_returns_the_image(renderer, lens):
    closed = replace(lens, strength_px=0.0 * lens.strength_px, magnification_rgb=(1.0, 1.0, 1.0))
    scene = textured()
    expected = scene.image * white().seen(renderer, closed)
    torch.testing.assert_close(scene.seen(renderer, closed), expected, rtol=0, atol=1e-6)


@every_renderer
@every_lens
def test_a_mirrored_scene_through_a_mirrored_lens_gives_the_mirrored_picture(renderer, lens):
    """Up to what Vogel's spiral, which is not symmetric, makes of edges; nor are tiles that blend cat's eyes."""
    opening, scene = lens.aperture, textured()
    flipped = None if opening.transmission is None else opening.transmission.flip(-1)
    other = replace(lens, aperture=replace(opening, rotation_deg=-opening.rotation_deg, transmission=flipped))
    got, expected = scene.mirrored().seen(renderer, other).flip(-1), scene.seen(renderer, lens)
    exact = renderer in METHODS and not opening.cat_eye
    assert psnr(got, expected) > (50 if exact else 35)
    assert psnr(expected.flip(-1), expected) < 25  # or the law would say nothing


@every_tracer
@every_lens
def test_the_order_in_which_layers_are_stored_changes_nothing(renderer, lens):
    stack = textured().stack
    extra = torch.cat([stack.rgba_linear, 0.5 * stack.rgba_linear[:, :1].flip(-1)], dim=1)
    planes = torch.cat([stack.planes, torch.tensor([[[0.55, 0.004, -0.002]]])], dim=1)
    first, *others = (
        render_layers(LayerStack(extra[:, order], planes[:, order]), lens, n_samples=12, backend=renderer)
        for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0])
    )
    for other in others:
        assert_close(other, first)


@every_lens
def test_gradients_of_the_tracer_are_true_through_any_lens(lens):
    """Planes tilted along both axes: where two corners tie for the widest blur, the prefilter has a kink."""
    rgba = (0.1 + 0.6 * torch.rand(1, 2, 4, 3, 4, dtype=torch.float64)).requires_grad_()
    planes = torch.tensor([[[0.7, 0.013, 0.022], [0.2, -0.017, 0.003]]], dtype=torch.float64, requires_grad=True)
    focus, strength = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (0.4, 4.3))

    def picture(rgba, planes, focus, strength):
        through = replace(lens, focus_disparity=focus, strength_px=strength)
        return render_layers(LayerStack(rgba, planes), through, n_samples=3, backend="torch")

    inputs = (rgba, planes, focus, strength)
    assert torch.autograd.gradcheck(picture, inputs, eps=1e-7, atol=1e-5, fast_mode=True)


@every_lens
@pytest.mark.parametrize("soft", [False, True], ids=["parted by colour", "by matte"])
def test_gradients_of_occlusion_aware_are_true_through_any_lens(lens, soft):
    image = 0.2 + 0.6 * torch.rand(1, 3, 6, 7, dtype=torch.float64)
    disparity = 0.131 + 0.01 * torch.rand(1, 6, 7, dtype=torch.float64)
    disparity[:, 2:, 2:5] = NEAR
    matte = (disparity > 0.5).double()
    matte[:, 2:, 5] = 0.4
    focus, strength = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (0.4, 7.3))

    def picture(image, disparity, focus, strength):
        through = replace(lens, focus_disparity=focus, strength_px=strength)
        return render_photo(image, disparity, through, matte=matte if soft else None, method="occlusion_aware")

    inputs = (image.requires_grad_(), disparity.requires_grad_(), focus, strength)
    assert torch.autograd.gradcheck(picture, inputs, eps=1e-7, atol=1e-5, fast_mode=True)
