"""What openings, rims and colours do to the picture, for every backend of the layered renderer."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bokehdiff.optics import Aperture, Lens
from bokehdiff.renderers import LayerStack, render_layers
from tests.helpers import assert_close, psnr
from tests.renderers.test_raytraced import facing, opaque, smooth

ON_CPU = ("cpu", "torch")
every_backend = pytest.mark.parametrize("backend", ON_CPU)

CROSS = torch.zeros(9, 9)
CROSS[3:6], CROSS[:, 3:6] = 1.0, 1.0
APERTURES = {
    "disc": Aperture(),
    "pentagon": Aperture(blades=5, rotation_deg=10.0),
    "rounded": Aperture(blades=6, rounding=0.5),
    "cross": Aperture(transmission=CROSS),
    "ring": Aperture(edge=0.9),
    "soft": Aperture(edge=-1.0),
    "cat's eye": Aperture(cat_eye=0.9),
    "all at once": Aperture(blades=7, rounding=0.2, edge=0.4, cat_eye=0.6, falloff=True),
}
every_aperture = pytest.mark.parametrize("aperture", APERTURES.values(), ids=list(APERTURES))


def dot(size_px, row, column, light=1000.0):
    """An HDR dot on black."""
    image = torch.zeros(1, 3, size_px, size_px)
    image[:, :, row, column] = light
    return opaque(image)


@every_backend
@pytest.mark.parametrize("name", [name for name, aperture in APERTURES.items() if not aperture.cat_eye])
@pytest.mark.parametrize("disparity", [0.2, 0.8])
def test_a_dot_shows_the_opening_upright_behind_the_focus_and_turned_before_it(backend, name, disparity):
    lens = Lens(0.5, 50.0, APERTURES[name])
    got = render_layers(LayerStack(dot(61, 30, 30), facing(disparity)), lens, n_samples=300, backend=backend)[0, 0]
    offset = (torch.arange(61) - 30.0) / 15.0 * (1.0 if disparity < 0.5 else -1.0)
    places = torch.stack(torch.meshgrid(offset, offset, indexing="xy"), dim=-1)
    expected = APERTURES[name].transmittance(places, softness=0.15)
    assert float(got.sum()) == pytest.approx(1000.0, rel=0.01)
    similarity = (got * expected).sum() / (got.norm() * expected.norm())
    assert float(similarity) > 0.95


@every_backend
def test_cats_eyes_lose_their_outer_side_and_their_light_only_with_falloff(backend):
    """A dot at the right border, behind the focus: a circle that came from the left cuts its right side."""
    stack = LayerStack(dot(61, 30, 50), facing(0.2))
    kept, lost = (
        render_layers(stack, Lens(0.5, 20.0, Aperture(cat_eye=1.0, falloff=falloff)), n_samples=150, backend=backend)
        for falloff in (False, True)
    )
    kept, lost = kept[0, 0], lost[0, 0]
    columns = torch.arange(61) - 50.0
    assert float((kept * columns).sum() / kept.sum()) < -0.5
    assert (kept[:, 56:] < 0.02 * kept.max()).all()
    assert (kept[:, 45:47].amax(dim=0) > 0.5 * kept.max()).all()
    assert float(lost.sum()) < 0.8 * float(kept.sum())


@every_backend
def test_vignetting_is_the_same_at_any_resolution(backend):
    """Fall-off of a white wall, whose picture is the vignetting itself, once at twice the size."""
    lens = Lens(0.0, 5.0, Aperture(cat_eye=0.7, falloff=True))
    pictures = []
    for size_hw in ((21, 31), (63, 93)):
        wall = LayerStack(torch.ones(1, 1, 4, *size_hw), facing(0.5))
        pictures.append(render_layers(wall, lens, n_samples=64, backend=backend)[0, 0])
    assert_close(pictures[1][1::3, 1::3], pictures[0])
    shift = 0.7 * float(torch.tensor([15.0, 10.0]).norm() / torch.tensor([15.5, 10.5]).norm())
    overlap = (2 * math.acos(shift / 2) - shift / 2 * math.sqrt(4 - shift**2)) / math.pi
    assert float(pictures[0][0, 0]) == pytest.approx(overlap, abs=0.02)


@every_backend
def test_longitudinal_colour_focuses_each_channel_at_its_own_disparity(backend):
    stripes = (torch.arange(64) % 8 < 4).float().expand(1, 3, 5, 64)
    lens = Lens(0.5, 30.0, focus_shift_rgb=(-0.2, 0.0, 0.2))
    for disparity, sharp in ((0.3, 0), (0.5, 1), (0.7, 2)):
        stack = LayerStack(opaque(stripes), facing(disparity))
        got = render_layers(stack, lens, n_samples=24, backend=backend)
        assert_close(got[:, sharp], stripes[:, sharp])
        for other in {0, 1, 2} - {sharp}:
            assert psnr(got[:, other], stripes[:, other]) < 20
        assert_close(got[:, 3], torch.ones(1, 5, 64))


@every_backend
def test_lateral_colour_enlarges_each_channel_about_the_middle(backend):
    ramp = ((torch.arange(101) + 0.5) / 101).expand(1, 3, 3, 101)
    lens = Lens(0.5, 0.0, magnification_rgb=(0.98, 1.0, 1.02))
    got = render_layers(LayerStack(opaque(ramp), facing(0.5)), lens, n_samples=4, backend=backend)[0]
    x = torch.arange(101) + 0.5
    for channel, scale in enumerate(lens.magnification_rgb):
        expected = (50.5 + (x - 50.5) / scale) / 101  # in a larger picture p shows what lies nearer to the middle
        assert_close(got[channel, 1, 5:-5], expected[5:-5], dtype=torch.float16)
    assert_close(got[1], ramp[0, 1])


@every_backend
def test_a_tilted_layer_is_enlarged_together_with_its_blur(backend):
    """Magnification moves the pixel, and the circle of confusion is that of the place it moves to."""
    rgba = smooth(1, (40, 40))
    planes = torch.tensor([[[0.3, 0.008, 0.004]]])
    lens = Lens(0.2, 15.0, magnification_rgb=(1.1, 1.1, 1.1))
    got = render_layers(LayerStack(rgba, planes), lens, n_samples=64, backend=backend)
    plain = render_layers(LayerStack(rgba, planes), Lens(0.2, 15.0), n_samples=64, backend=backend)
    x = (torch.arange(10, 30) + 0.5 - 20) / 1.1 / 20
    grid = torch.stack(torch.meshgrid(x, x, indexing="xy"), dim=-1)[None]
    expected = torch.nn.functional.grid_sample(plain, grid, align_corners=False)
    assert psnr(got[..., 10:30, 10:30], expected) > 55


LENSES = {
    **{name: Lens(0.4, 9.0, aperture) for name, aperture in APERTURES.items()},
    "colours": Lens(0.4, 9.0, Aperture(edge=0.3), focus_shift_rgb=(0.05, 0, -0.1), magnification_rgb=(0.99, 1, 1.02)),
    "one per image": Lens(torch.tensor([0.1, 0.7]), torch.tensor([3.0, 12.0]), Aperture(blades=5, cat_eye=0.5)),
}


@pytest.mark.parametrize("lens", LENSES.values(), ids=list(LENSES))
@pytest.mark.parametrize("size_hw", [(1, 1), (19, 26)])
def test_backends_agree_on_every_lens(lens, size_hw):
    rgba = torch.rand(2, 3, 4, *size_hw) * 0.8
    planes = torch.cat([torch.rand(2, 3, 1), torch.rand(2, 3, 2) * 0.04 - 0.02], dim=-1)
    stack = LayerStack(rgba, planes)
    got, expected = (render_layers(stack, lens, n_samples=40, backend=backend) for backend in ON_CPU)
    assert psnr(got, expected) > 60


@pytest.mark.parametrize("place", [(2, 3), (9, 20)])
def test_small_layers_are_traced_only_where_they_show_and_completely_there(place):
    """A patch in the middle or at the border of a large empty layer, blurred far beyond itself."""
    rgba = torch.zeros(1, 3, 4, 30, 50)
    rgba[:, 0, :, place[0] : place[0] + 3, place[1] : place[1] + 4] = 0.7
    rgba[:, 1, :, 25:, 40:] = 0.6
    stack = LayerStack(rgba, torch.tensor([[[0.9, 0.001, 0.002], [0.3, -0.002, 0.001], [0.1, 0.0, 0.0]]]))
    lens = Lens(0.5, 35.0, Aperture(blades=5))
    got, expected = (render_layers(stack, lens, n_samples=40, backend=backend) for backend in ON_CPU)
    assert psnr(got, expected) > 75
    assert float(expected[:, 3].max()) > 0.01


scenes = st.fixed_dictionaries(
    {
        "size_hw": st.tuples(st.integers(1, 9), st.integers(1, 9)),
        "n_layers": st.integers(1, 4),
        "brightness": st.sampled_from([0.0, 1.0, 1e4]),
        "slope": st.floats(-0.01, 0.01),
        "strength_px": st.floats(0.0, 60.0),
        "focus": st.floats(-1.0, 2.0),
        "n_samples": st.integers(1, 12),
        "seed": st.integers(0, 99),
    }
)
openings = st.builds(
    Aperture,
    blades=st.sampled_from([0, 3, 4, 9]),
    rounding=st.floats(0.0, 1.0),
    rotation_deg=st.floats(-400.0, 400.0),
    edge=st.floats(-1.0, 1.0),
    cat_eye=st.floats(0.0, 1.0),
    falloff=st.booleans(),
) | st.builds(Aperture, transmission=st.sampled_from([CROSS, torch.eye(5)]), cat_eye=st.floats(0.0, 1.0))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(scene=scenes, aperture=openings, backend=st.sampled_from(ON_CPU), colour=st.floats(-0.1, 0.1))
def test_any_scene_and_lens_give_finite_pictures_within_what_the_layers_hold(scene, aperture, backend, colour):
    torch.manual_seed(scene["seed"])
    alpha = torch.rand(1, scene["n_layers"], 1, *scene["size_hw"]).round(decimals=1)
    rgba = torch.cat(
        [torch.rand(1, scene["n_layers"], 3, *scene["size_hw"]) * alpha * scene["brightness"], alpha], dim=2
    )
    planes = torch.cat([torch.rand(1, scene["n_layers"], 1), torch.full((1, scene["n_layers"], 2), scene["slope"])], -1)
    lens = Lens(scene["focus"], scene["strength_px"], aperture, focus_shift_rgb=(colour, 0.0, -colour))
    got = render_layers(LayerStack(rgba, planes), lens, n_samples=scene["n_samples"], backend=backend)
    assert torch.isfinite(got).all()
    assert float(got.min()) >= -1e-4 * max(scene["brightness"], 1.0)
    assert float(got[:, 3].max()) <= 1.0 + 1e-5
    assert float(got[:, :3].max()) <= max(scene["brightness"], 1e-6) * 1.001
