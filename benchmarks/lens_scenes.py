"""Path-trace scenes through thin lenses, as truth for the photograph renderers.

Mitsuba 3 (pip install bokehdiff[scenes]; of LLVM, whose place DRJIT_LIBLLVM_PATH tells, 19 works, 16 stops on x86)
knows nothing of this project. NAME.npz holds `aif` [h w 3], linear light through a pinhole, `disparity` [h w], 1/z
along the optical axis, and one `bokeh_VIEW` [h w 3] per view; NAME.json the focal length and, per view, `focus` (1/z),
`aperture_radius` and `K_px_per_disparity` = f_px * aperture_radius, so that coc_px = K * (disparity - focus).

Everything shines by itself: cards with holes, tilted cards and spheres, with photographs and patterns on them.

    python benchmarks/lens_scenes.py ~/.cache/bokehdiff/lens_scenes
    python benchmarks/lens_scenes.py ~/.cache/bokehdiff/lens_scenes --verify ../shared/lens_ground_truth
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data

SIZE_PX = 320
FIELD_DEG = 40.0
F_PX = SIZE_PX / 2 / math.tan(math.radians(FIELD_DEG / 2))
APERTURE, WIDE_APERTURE = 0.045, 0.12  # radii; at disparity 0.4 from the focus 8 and 21 px
TEXELS = 1280  # of a card's side
OVERSIZE = 1.5  # cards reach beyond the field of view, as the lens does
LINE_BITS = 4  # fixed-point bits of coordinates of OpenCV's lines
MOST_SURFACES = 8  # that one ray passes
SAMPLES_PER_PASS = 256  # bounds memory


@dataclass(frozen=True)
class Card:
    """A shining rectangle across the optical axis.

    Args:
        picture: Linear light [h w 3].
        disparity: 1/z in its middle.
        cover: Where it is there [h w], in [0, 1]; None for everywhere.
        tilt_deg: Turn about the horizontal axis, the top going away from the camera.
        down: How far its middle lies below the axis, in half heights of the field.
        reach: Half its side over half the field at its middle.
        interpolation: Of the picture's texels: "bilinear" or "nearest".
    """

    picture: np.ndarray
    disparity: float
    cover: np.ndarray | None = None
    tilt_deg: float = 0.0
    down: float = 0.0
    reach: float = OVERSIZE
    interpolation: str = "bilinear"


@dataclass(frozen=True)
class Ball:
    """A shining sphere.

    Args:
        picture: Linear light [h w 3], wrapped around it.
        disparity: 1/z of its middle.
        place: Of its middle (x, y) in half fields, y down.
        radius: In half fields.
    """

    picture: np.ndarray
    disparity: float
    place: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class LensScene:
    """Surfaces, and the views of them.

    Args:
        surfaces: Cards and balls.
        views: Focus (1/z) and radius of the opening by name.
    """

    surfaces: list[Card | Ball]
    views: dict[str, tuple[float, float]]


def photograph(name: str) -> np.ndarray:
    """One of scikit-image's pictures as linear light."""
    image = getattr(skimage.data, name)()
    image = image[0] if isinstance(image, tuple) else image
    image = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image[..., :3]
    resized = cv2.resize(image, (TEXELS, TEXELS), interpolation=cv2.INTER_AREA)
    return (resized.astype(np.float32) / 255.0) ** 2.2


def tinted(picture: np.ndarray, *rgb: float) -> np.ndarray:
    """The picture times a colour."""
    return picture * np.array(rgb, np.float32)


def lights(picture: np.ndarray, rng: np.random.Generator, n: int, side_px: tuple[int, int]) -> np.ndarray:
    """The picture with small lights far beyond white."""
    lit = picture.copy()
    for x, y in rng.integers(0, TEXELS, (n, 2)):
        side = int(rng.integers(*side_px))
        lit[y : y + side, x : x + side] = rng.uniform(4, 25) * rng.uniform(0.5, 1.0, 3)
    return lit


def strokes(
    rng: np.random.Generator, starts: np.ndarray, headings: np.ndarray, width: tuple, length: tuple
) -> np.ndarray:
    """Curved strands that begin at places, in texels."""
    canvas = np.zeros((TEXELS, TEXELS), np.uint8)
    for start, heading in zip(starts, headings, strict=True):
        place, path, turn = start.astype(float), [], rng.normal(0, 0.03)
        for _ in range(int(rng.integers(*length))):
            path.append(place * 2**LINE_BITS)
            heading += turn + rng.normal(0, 0.08)
            place = place + 5 * np.array([np.cos(heading), np.sin(heading)])
        points = np.round(path).astype(np.int32)
        cv2.polylines(canvas, [points], False, 255, int(rng.integers(*width)), cv2.LINE_AA, LINE_BITS)
    return canvas.astype(np.float32) / 255


def blobs(rng: np.random.Generator, grain_px: float, share: float) -> np.ndarray:
    """Rounded islands that cover a share of the card."""
    noise = cv2.GaussianBlur(rng.normal(size=(TEXELS, TEXELS)).astype(np.float32), (0, 0), grain_px)
    return (noise > np.quantile(noise, 1 - share)).astype(np.float32)


def head(rng: np.random.Generator, n_hairs: int, width: tuple[int, int]) -> np.ndarray:
    """An ellipse with hair around it."""
    angle = rng.uniform(0, 2 * np.pi, n_hairs)
    starts = TEXELS / 2 + np.stack([200 * np.cos(angle), 20 + 240 * np.sin(angle)], axis=1)
    hair = strokes(rng, starts, angle + rng.normal(0, 0.3, n_hairs), width, (12, 50))
    cv2.ellipse(hair, (TEXELS // 2, TEXELS // 2 + 20), (205, 245), 0, 0, 360, 1.0, -1)
    return hair


def four_views(near: float, far: float, wide: float = WIDE_APERTURE) -> dict[str, tuple[float, float]]:
    """Both focused, by a small and by a wide opening."""
    return {"near": (near, APERTURE), "far": (far, APERTURE), "near_wide": (near, wide), "far_wide": (far, wide)}


def fence(rng: np.random.Generator) -> LensScene:
    """Wire netting and two posts before a motorcycle."""
    canvas = np.zeros((TEXELS, TEXELS), np.uint8)
    for offset in range(-TEXELS, 2 * TEXELS, 110):
        cv2.line(canvas, (offset, 0), (offset + TEXELS, TEXELS), 255, 10, cv2.LINE_AA)
        cv2.line(canvas, (offset, TEXELS), (offset + TEXELS, 0), 255, 10, cv2.LINE_AA)
    for left in (330, 900):
        canvas[:, left : left + 40] = 255
    wire = tinted(photograph("gravel"), 0.5, 0.6, 0.7)
    return LensScene(
        [Card(photograph("stereo_motorcycle"), 0.1), Card(wire, 0.5, canvas.astype(np.float32) / 255)],
        four_views(0.5, 0.1),
    )


def blobs_in_three_layers(rng: np.random.Generator) -> LensScene:
    """Islands before islands before a picture."""
    return LensScene(
        [
            Card(photograph("coffee"), 0.1),
            Card(tinted(photograph("grass"), 0.7, 1.0, 0.3), 0.26, blobs(rng, 45, 0.35)),
            Card(photograph("chelsea"), 0.5, blobs(rng, 50, 0.3)),
        ],
        {**four_views(0.5, 0.1), "mid": (0.26, APERTURE), "mid_wide": (0.26, WIDE_APERTURE)},
    )


def tilted_ground(rng: np.random.Generator) -> LensScene:
    """Grass that recedes to a wall, with a ball and stakes on it."""
    stakes = np.zeros((TEXELS, TEXELS), np.float32)
    for left in range(250, 1100, 160):
        stakes[500:, left : left + 28] = 1.0
    ground = Card(photograph("grass") * 1.3, 0.22, tilt_deg=76.0, down=0.9, reach=4.0)
    return LensScene(
        [
            Card(photograph("brick"), 0.09),
            ground,
            Card(tinted(photograph("gravel"), 1.0, 0.6, 0.3), 0.3, stakes),
            Ball(photograph("stereo_motorcycle"), 0.42, (0.35, 0.25), 0.28),
        ],
        four_views(0.42, 0.12),
    )


def lights_behind(rng: np.random.Generator) -> LensScene:
    """A dark subject with hair before a night of small lights."""
    night = lights(0.12 * photograph("hubble_deep_field") + 0.01, rng, 140, (5, 12))
    return LensScene(
        [Card(night, 0.1), Card(0.5 * photograph("astronaut"), 0.5, head(rng, 120, (3, 8)))], four_views(0.5, 0.1)
    )


def fair_hair(rng: np.random.Generator) -> LensScene:
    """Bright, curved hair before a picture of much contrast."""
    fair = 0.35 * photograph("chelsea") + np.array([0.5, 0.35, 0.15], np.float32)
    behind = lights(photograph("stereo_motorcycle"), rng, 20, (6, 12))
    return LensScene([Card(behind, 0.125), Card(fair, 0.5, head(rng, 420, (3, 7)))], four_views(0.5, 0.125))


def twigs(rng: np.random.Generator) -> LensScene:
    """Thin branches at two depths before a bright sky."""

    def branches(n: int, width: tuple[int, int]) -> np.ndarray:
        starts = np.stack([rng.uniform(0, TEXELS, n), np.full(n, TEXELS - 1.0)], axis=1)
        starts[: n // 2] = starts[: n // 2, ::-1]
        headings = np.where(np.arange(n) < n // 2, np.pi, -np.pi / 2) + rng.normal(0, 0.4, n)
        return strokes(rng, starts, headings, width, (100, 300))

    rows = np.linspace(1.6, 0.3, TEXELS, dtype=np.float32)[:, None, None]
    sky = rows * np.array([0.6, 0.8, 1.0], np.float32) + 0.4 * photograph("coffee")
    bark = tinted(photograph("gravel"), 0.4, 0.3, 0.2)
    leaves = tinted(photograph("grass"), 0.5, 0.9, 0.2)
    return LensScene(
        [Card(sky, 0.05), Card(leaves, 0.25, branches(40, (6, 22))), Card(bark, 0.5, branches(24, (10, 40)))],
        {**four_views(0.5, 0.05), "mid_wide": (0.25, WIDE_APERTURE)},
    )


def very_wide(rng: np.random.Generator) -> LensScene:
    """Islands and a ball through an opening of twice the radius: discs of 40 px."""
    return LensScene(
        [
            Card(lights(photograph("rocket"), rng, 25, (5, 12)), 0.1),
            Ball(photograph("coffee"), 0.25, (-0.3, 0.1), 0.4),
            Card(photograph("immunohistochemistry"), 0.5, blobs(rng, 60, 0.25)),
        ],
        four_views(0.5, 0.1, wide=0.24),
    )


SCENES: dict[str, Callable[[np.random.Generator], LensScene]] = {
    "fence": fence,
    "blobs": blobs_in_three_layers,
    "ground": tilted_ground,
    "lights": lights_behind,
    "fair_hair": fair_hair,
    "twigs": twigs,
    "very_wide": very_wide,
}


def load_mitsuba() -> Any:
    """Mitsuba with its variant chosen and our integrator in it."""
    import mitsuba as mi

    mi.set_variant("llvm_ad_rgb")
    import drjit as dr

    class Emission(mi.SamplingIntegrator):  # type: ignore[misc, name-defined]
        """Light that surfaces send, front to back through their holes."""

        def sample(self, scene: Any, sampler: Any, ray: Any, medium: Any = None, active: Any = True) -> Any:
            ray, active = mi.Ray3f(ray), mi.Bool(active)
            light, passing = mi.Spectrum(0.0), mi.Spectrum(1.0)
            for _ in range(MOST_SURFACES):
                hit = scene.ray_intersect(ray, active)
                active &= hit.is_valid()
                light += dr.select(active, passing * hit.emitter(scene).eval(hit, active), 0.0)
                passing *= dr.select(active, hit.bsdf().eval_null_transmission(hit, active), 1.0)
                active &= dr.any(passing > 0.0)
                ray = hit.spawn_ray(ray.d)
            return light, mi.Bool(True), []

    mi.register_integrator("emission", lambda properties: Emission(properties))
    return mi


def _texture(mi: Any, image: np.ndarray, interpolation: str = "bilinear") -> dict[str, Any]:
    bitmap = mi.Bitmap(np.ascontiguousarray(image[::-1]))
    return {"type": "bitmap", "bitmap": bitmap, "raw": True, "wrap_mode": "clamp", "filter_type": interpolation}


def _shape(mi: Any, surface: Card | Ball) -> dict[str, Any]:
    z = 1.0 / surface.disparity
    half_field = z * math.tan(math.radians(FIELD_DEG / 2))
    turn = mi.ScalarTransform4f()
    if isinstance(surface, Ball):
        x, y = (half_field * part for part in surface.place)
        return {
            "type": "sphere",
            "to_world": turn.translate([x, -y, -z]).scale(half_field * surface.radius).rotate([1, 0, 0], -90),
            "emitter": {"type": "area", "radiance": _texture(mi, surface.picture)},
        }
    cover = np.ones(surface.picture.shape[:2], np.float32) if surface.cover is None else surface.cover
    side = half_field * surface.reach
    placed = turn.translate([0, -surface.down * half_field, -z]).rotate([1, 0, 0], -surface.tilt_deg)
    return {
        "type": "rectangle",
        "to_world": placed.scale([side, side, 1]),
        # An emitter shines whatever its opacity.
        "emitter": {
            "type": "area",
            "radiance": _texture(mi, surface.picture * cover[..., None], surface.interpolation),
        },
        "bsdf": {"type": "mask", "opacity": _texture(mi, cover[..., None]), "nested": {"type": "diffuse"}},
    }


def load(mi: Any, scene: LensScene) -> Any:
    """The scene as Mitsuba knows it."""
    return mi.load_dict({"type": "scene", **{f"s{i}": _shape(mi, s) for i, s in enumerate(scene.surfaces)}})


def _camera(mi: Any, focus: float, aperture_radius: float) -> Any:
    return mi.load_dict(
        {
            "type": "thinlens" if aperture_radius else "perspective",
            "fov": FIELD_DEG,
            "to_world": mi.ScalarTransform4f().look_at([0, 0, 0], [0, 0, -1], [0, 1, 0]),
            "sampler": {"type": "multijitter", "sample_count": SAMPLES_PER_PASS},
            "film": {"type": "hdrfilm", "width": SIZE_PX, "height": SIZE_PX, "rfilter": {"type": "box"}},
            **({"aperture_radius": aperture_radius, "focus_distance": 1.0 / focus} if aperture_radius else {}),
        }
    )


def traced(mi: Any, scene: Any, focus: float, aperture_radius: float, n_samples: int) -> np.ndarray:
    """The mean over samples, [h w 3]; an opening of 0 is a pinhole."""
    camera, integrator = _camera(mi, focus, aperture_radius), mi.load_dict({"type": "emission"})
    n_passes = max(1, n_samples // SAMPLES_PER_PASS)
    total = np.zeros((SIZE_PX, SIZE_PX, 3))
    for i in range(n_passes):
        picture = mi.render(scene, sensor=camera, integrator=integrator, spp=n_samples // n_passes, seed=i)
        total += np.array(picture, dtype=np.float64)
    return (total / n_passes).astype(np.float32)


def disparity_map(mi: Any, scene: Any) -> np.ndarray:
    """1/z of the first surface that covers more than half of each pixel's central ray; 0 where there is none."""
    import drjit as dr

    across = (dr.arange(mi.Float, SIZE_PX) + 0.5 - SIZE_PX / 2) / F_PX
    x, y = dr.meshgrid(across, across)
    direction = mi.Vector3f(x, -y, -1.0)
    ray = mi.Ray3f(mi.Point3f(0.0), dr.normalize(direction))
    active, found = mi.Bool(True), mi.Float(0.0)
    for _ in range(MOST_SURFACES):
        hit = scene.ray_intersect(ray, active)
        active &= hit.is_valid()
        solid = active & (hit.bsdf().eval_null_transmission(hit, active).x < 0.5)
        found = dr.select(solid, -1.0 / hit.p.z, found)
        active &= ~solid
        ray = hit.spawn_ray(ray.d)
    return np.array(found).reshape(SIZE_PX, SIZE_PX).astype(np.float32)


def write(mi: Any, name: str, folder: Path, n_samples: int) -> None:
    """Trace one scene and store it."""
    described = SCENES[name](np.random.default_rng(zlib.crc32(name.encode())))
    scene = load(mi, described)
    arrays = {"aif": traced(mi, scene, 1.0, 0.0, SAMPLES_PER_PASS), "disparity": disparity_map(mi, scene)}
    views = {}
    for view, (focus, radius) in described.views.items():
        samples = n_samples * (2 if radius > APERTURE else 1)
        arrays[f"bokeh_{view}"] = traced(mi, scene, focus, radius, samples).astype(np.float16)
        views[view] = {"focus": focus, "aperture_radius": radius, "K_px_per_disparity": F_PX * radius}
        sys.stdout.write(f"{name} {view}\n")
    arrays["aif"] = arrays["aif"].astype(np.float16)
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    (folder / f"{name}.json").write_text(json.dumps({"f_px": F_PX, "views": views}, indent=1) + "\n")


def verify(mi: Any, folder: Path, n_samples: int) -> None:
    """Trace the flat background of each given scene through its lenses: away from all else, both must agree."""
    for path in sorted(folder.glob("*.npz")):
        views = json.loads(path.with_suffix(".json").read_text())["views"]
        with np.load(path) as arrays:
            image, disparity = arrays["aif"].astype(np.float32), arrays["disparity"]
            behind = float(disparity.min())
            scene = load(mi, LensScene([Card(image, behind, reach=1.0, interpolation="nearest")], {}))
            distance = cv2.distanceTransform((disparity < behind * 1.01).astype(np.uint8), cv2.DIST_L2, 5)
            distance = np.minimum(distance, _distance_to_border(disparity.shape))
            for view, camera in views.items():
                reach = camera["K_px_per_disparity"] * float(disparity.max() - behind) + 2.0
                alone = distance > reach
                if not alone.any():
                    continue
                ours = traced(mi, scene, camera["focus"], camera["aperture_radius"], n_samples)
                error = _shown(ours)[alone] - _shown(arrays[f"bokeh_{view}"])[alone]
                decibels = -10 * math.log10(float(np.square(error).mean()))
                sys.stdout.write(f"{path.stem} {view}: {decibels:.1f} dB over {int(alone.sum())} px\n")


def _distance_to_border(size_hw: tuple[int, ...]) -> np.ndarray:
    rows, columns = (np.minimum(np.arange(n) + 0.5, n - np.arange(n) - 0.5) for n in size_hw)
    return np.minimum(rows[:, None], columns[None, :])


def _shown(image_linear: np.ndarray) -> np.ndarray:
    return np.clip(image_linear.astype(np.float32), 0, 1) ** (1 / 2.2)


def main() -> int:
    """Trace the scenes, or check the conventions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the scenes are kept: not in the repository")
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--samples", type=int, default=1024, help="per pixel; twice as many through wide openings")
    parser.add_argument("--verify", type=Path, default=None, help="scenes of the same format to check ours against")
    chosen = parser.parse_args()
    mi = load_mitsuba()
    if chosen.verify:
        verify(mi, chosen.verify, chosen.samples)
        return 0
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for name in chosen.scenes:
        write(mi, name, chosen.folder, chosen.samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
