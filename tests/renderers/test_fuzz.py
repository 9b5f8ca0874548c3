"""Every renderer on scenes that nobody would think of: never NaN, never a crash, always within what is documented."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bokehdiff.errors import InputError
from bokehdiff.optics import Aperture, Lens
from bokehdiff.renderers import BACKENDS, METHODS, LayerStack, recover_highlights, render_layers, render_photo

ON_CPU = tuple(name for name in BACKENDS if name != "cupy")
LIGHT_SLACK = 1e-4  # of the brightest light: rounding of float32 through Fourier transforms
COVERAGE_SLACK = 1e-5
UNMIXED_GAIN = 20.0  # a surface that is a twentieth of a pixel may have sent all of its light

# The same examples on every run, and nothing of them kept on the disk.
QUICK = settings(
    max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
# A counterexample is told as it was found: making it smaller takes longer than all the examples.
THOROUGH = settings(QUICK, max_examples=120, phases=[Phase.generate])
profiles = pytest.mark.parametrize(
    "profile", [pytest.param(QUICK, id="quick"), pytest.param(THOROUGH, id="thorough", marks=pytest.mark.slow)]
)


def holds(profile: settings, law: Callable[..., None], **drawn: st.SearchStrategy) -> None:
    """Look for a counterexample of a law."""
    profile(given(**drawn)(law))()


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


LIGHTS = {
    "noise": lambda image: image,
    "black": torch.zeros_like,
    "white": torch.ones_like,
    "black and white": torch.round,
    "coloured": lambda image: image.round() * torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1),
    "one lamp": lambda image: 1e4 * (image == image.max()).to(image),
    "HDR": lambda image: image**-0.5,
    "hardly any": lambda image: 1e-30 * image,
}
DEPTHS = {
    "noise": lambda plane: plane,
    "far": torch.zeros_like,
    "near": torch.ones_like,
    "two planes": torch.round,
    "a speck": lambda plane: (plane == plane.max()).to(plane),
    "ramp": lambda plane: torch.linspace(0.0, 1.0, plane.numel()).view_as(plane),
    "beyond [0, 1]": lambda plane: 8.0 * plane - 3.0,
    "metric": lambda plane: 0.02 / (plane + 0.001),
    "hardly any": lambda plane: 0.5 + 1e-7 * plane,
}
MATTES = {
    "none": lambda plane: None,
    "nothing": torch.zeros_like,
    "all": torch.ones_like,
    "hard": torch.round,
    "soft": lambda plane: plane,
    "a speck": lambda plane: (plane == plane.max()).to(plane),
}
COVERS = {
    "nothing": torch.zeros_like,
    "all": torch.ones_like,
    "hard": torch.round,
    "soft": lambda plane: plane,
    "hardly any": lambda plane: 1e-6 * plane,
}
MAPS = (torch.eye(5), torch.ones(1, 1), torch.tensor([[0.0, 1.0], [0.0, 0.0]]), random(3, 4, 7))

sizes = st.tuples(st.integers(1, 24), st.integers(1, 24)) | st.sampled_from(
    [(1, 1), (1, 97), (83, 1), (2, 3), (41, 37)]
)
seeds = st.integers(0, 2**31)
shares = st.sampled_from([0.0, 1.0]) | st.floats(0.0, 1.0)
rims = {"edge": st.sampled_from([-1.0, 0.0, 1.0]) | st.floats(-1.0, 1.0), "rotation_deg": st.floats(-720.0, 720.0)}
flat_openings = st.builds(Aperture, blades=st.sampled_from([0, 3, 4, 5, 9, 64]), rounding=shares, **rims) | st.builds(
    Aperture, transmission=st.sampled_from(MAPS), **rims
)
openings = flat_openings | st.builds(
    Aperture, blades=st.sampled_from([0, 3, 6]), cat_eye=shares, falloff=st.booleans(), edge=rims["edge"]
)
shifts = st.just((0.0, 0.0, 0.0)) | st.tuples(*[st.floats(-0.3, 0.3)] * 3)
sizes_rgb = st.just((1.0, 1.0, 1.0)) | st.tuples(*[st.floats(0.9, 1.1)] * 3)


widths_px = st.sampled_from([0.0, 1e-3, 0.7, 3.0, 12.0]) | st.floats(0.0, 40.0)


@st.composite
def lenses(draw: st.DrawFn, aperture: st.SearchStrategy[Aperture]) -> Callable[[torch.Tensor], Lens]:
    """A lens for a scene: its strength says how wide the widest disc of the scene is."""
    focus, widest_px = draw(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(-0.5, 1.5)), draw(widths_px)
    opening, shift, size = draw(aperture), draw(shifts), draw(sizes_rgb)

    def of_scene(disparity: torch.Tensor) -> Lens:
        defocus = float((disparity - focus).abs().max()) + max(map(abs, shift))
        return Lens(focus, widest_px / max(defocus, 1e-3), opening, focus_shift_rgb=shift, magnification_rgb=size)

    return of_scene


def check_light(got: torch.Tensor, brightest: float, *, gain: float = 1.0) -> None:
    """Finite, no negative light, and none that is brighter than the brightest."""
    assert torch.isfinite(got).all()
    slack = LIGHT_SLACK * max(brightest, 1.0)
    assert float(got.min()) >= -slack, f"negative light {float(got.min()):g}"
    assert float(got.max()) <= gain * brightest + slack, f"{float(got.max()):g} of at most {brightest:g}"


@profiles
@pytest.mark.parametrize("method", METHODS)
def test_photographs_of_any_kind_give_light_within_what_they_hold(method, profile):
    def law(size_hw, seed, light, depth, matte, lens, dtype):
        image = LIGHTS[light](random(seed, 1, 3, *size_hw).clamp_min(1e-9)).to(dtype)
        disparity = DEPTHS[depth](random(seed + 1, 1, *size_hw))
        subject = MATTES[matte](random(seed + 2, 1, *size_hw)) if method != "scatter" else None
        through = lens(disparity)
        got = render_photo(image, disparity, through, matte=subject, method=method)
        assert got.shape == image.shape
        assert got.dtype == dtype
        unmixes = method != "scatter" and matte in ("none", "soft")
        check_light(got, float(image.max()), gain=UNMIXED_GAIN if unmixes else 1.0)
        assert got.equal(render_photo(image, disparity, through, matte=subject, method=method)), "the same every time"

    holds(
        profile,
        law,
        size_hw=sizes,
        seed=seeds,
        light=st.sampled_from(sorted(LIGHTS)),
        depth=st.sampled_from(sorted(DEPTHS)),
        matte=st.sampled_from(sorted(MATTES)),
        lens=lenses(openings),
        dtype=st.sampled_from([torch.float32, torch.float64]),
    )


@profiles
def test_hundreds_of_pixels_of_blur_are_no_different(profile):
    """Discs many times as wide as the picture; few examples, since each is as much work as a large photograph."""

    def law(method, size_hw, seed, focus, strength_px):
        image, disparity = random(seed, 1, 3, *size_hw), random(seed + 1, 1, *size_hw)
        got = render_photo(image, disparity, Lens(focus, strength_px), method=method)
        check_light(got, float(image.max()))

    holds(
        settings(profile, max_examples=profile.max_examples // 10),
        law,
        method=st.sampled_from(sorted(METHODS)),
        size_hw=st.sampled_from([(1, 1), (1, 9), (5, 7)]),
        seed=seeds,
        focus=st.floats(0.0, 1.0),
        strength_px=st.floats(100.0, 500.0),
    )


@profiles
@pytest.mark.parametrize("backend", ON_CPU)
def test_layers_of_any_kind_give_light_and_coverage_within_what_they_hold(backend, profile):
    def law(size_hw, n_layers, seed, light, cover, tilt, lens, n_samples):
        alpha = COVERS[cover](random(seed, 1, n_layers, 1, *size_hw))
        colour = LIGHTS[light](random(seed + 1, n_layers, 3, *size_hw).clamp_min(1e-9))[None]
        planes = torch.cat([random(seed + 2, 1, n_layers, 1), tilt * (random(seed + 3, 1, n_layers, 2) - 0.5)], dim=-1)
        stack = LayerStack(torch.cat([colour * alpha, alpha], dim=2), planes)
        through = lens(planes[..., 0])
        try:
            got = render_layers(stack, through, n_samples=n_samples, backend=backend)
        except InputError as error:
            assert "a layer is too steep for this lens" in str(error)  # noqa: PT017  the only thing to refuse here
            return
        assert got.shape == (1, 4, *size_hw)
        check_light(got[:, :3], float(colour.max()))
        assert -COVERAGE_SLACK <= float(got[:, 3].min()) <= float(got[:, 3].max()) <= 1.0 + COVERAGE_SLACK
        assert got.equal(render_layers(stack, through, n_samples=n_samples, backend=backend)), "the same every time"

    holds(
        profile,
        law,
        size_hw=sizes,
        n_layers=st.integers(1, 4),
        seed=seeds,
        light=st.sampled_from(sorted(LIGHTS)),
        cover=st.sampled_from(sorted(COVERS)),
        tilt=st.sampled_from([0.0, 0.0, 1e-4, 0.01]),
        lens=lenses(openings),
        n_samples=st.integers(1, 40),
    )


@profiles
def test_highlights_are_brought_back_by_no_more_than_the_gain(profile):
    def law(size_hw, seed, light, gain):
        image = LIGHTS[light](random(seed, 1, 3, *size_hw).clamp_min(1e-9))
        got = recover_highlights(image, gain)
        check_light(got, float(image.max()), gain=gain)
        assert (got >= image * (1 - 1e-6)).all(), "no light is lost"

    holds(profile, law, size_hw=sizes, seed=seeds, light=st.sampled_from(sorted(LIGHTS)), gain=st.floats(1.0, 100.0))
