"""`bokehdiff render`: photographs with disparity, blurred by a physical lens and no network."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bokehdiff.cli.photographs import render_each
from bokehdiff.errors import InputError, at_fault

logger = logging.getLogger(__name__)

MAP_SUFFIXES = (".npy", ".npz", ".png", ".tif", ".tiff", ".exr", ".jpg", ".jpeg", ".webp")
MAP_ENDINGS = ("_pred", "", "_depth", "_disparity")
ASPECT_TOLERANCE_PX = 2.0  # a map of other size may be off by so much of the photograph, from its own rounding


@dataclass(frozen=True)
class RenderOptions:
    """Blur photographs as a lens of your choice would, without any network.

    Each photograph NAME.jpg needs its disparity: a file, or a folder with NAME.npy, NAME_pred.npy, NAME.png and the
    like. Two ways to say what lens: --K for disparity in [0, 1], or --f-number (with focal length, sensor and focus
    distance from EXIF or from flags) for metric disparity, 1 / distance in 1/m. Results: OUTPUT_DIR/NAME.png.

    Args:
        image: Photographs, all in focus: a file, a folder or a glob.
        disparity: Disparity, larger is nearer: a file for one photograph, or a folder.
        output_dir: Where results go.
        K: Blur strength: radius of the circle of confusion at one unit of disparity from the focus [px];
            none for 20, or for what --f-number says.
        focus: Disparity in focus, in the units of the map.
        focus_point: Focus on the point X,Y [px].
        focus_box: Focus on the median of the box LEFT,TOP,RIGHT,BOTTOM [px].
        mask: Focus on the subject, bright in this mask: a file or a folder; without any focus, on the centre.
        matte: Subject's soft mask, file or folder, that parts its hair from what is behind; not for "scatter".
        f_number: Opening of a real lens, such as 1.8; the disparity is metric then.
        focal_length_mm: True focal length [mm]; none for EXIF's.
        focus_distance_m: Distance in focus [m]; none for the focus flags, else EXIF's.
        sensor_width_mm: Width of the sensor [mm]; none for EXIF's, else 36.
        method: layered (sees past depth edges and parts their pixels by colour), occlusion_aware (sees past them as
            the map has them), scatter (only what the photograph shows), or auto for the best.
        inpainting: What makes up hidden surfaces: diffusion, telea, navier-stokes, or a TorchScript file (LaMa).
        blades: Blades of the aperture, 3 or more; 0 for a disc.
        blade_rotation_deg: Turn of the blades, clockwise in the picture [degree].
        blade_rounding: Curvature of the blades: 0 straight, 1 a disc.
        highlights: How many times brighter than white clipped lights were, guessed back before blurring; 1 for none.
        focus_sweep: Number of pictures from the farthest to the nearest focus, in OUTPUT_DIR/NAME_sweep; 0 for one
            picture at the focus.
        transfer: How display values become light: gamma22 or the piecewise srgb curve.
        normalize_disparity: Stretch each map to [0, 1] first.
        invert_disparity: The maps are 0 at the nearest point.
        disparity_key: Name of the array in .npz files; none if they hold one.
        format: File format of the results.
        bit_depth: Bits per channel of the results: 8, or 16 for png and tif.
    """

    image: str
    disparity: str
    output_dir: str = "bokehdiff_render"
    K: float | None = None
    focus: float | None = None
    focus_point: str | None = None
    focus_box: str | None = None
    mask: str | None = None
    matte: str | None = None
    f_number: float | None = None
    focal_length_mm: float | None = None
    focus_distance_m: float | None = None
    sensor_width_mm: float | None = None
    method: Literal["auto", "layered", "occlusion_aware", "scatter"] = "auto"
    inpainting: str = "diffusion"
    blades: int = 0
    blade_rotation_deg: float = 0.0
    blade_rounding: float = 0.0
    highlights: float = 1.0
    focus_sweep: int = 0
    transfer: Literal["gamma22", "srgb"] = "gamma22"
    normalize_disparity: bool = False
    invert_disparity: bool = False
    disparity_key: str | None = None
    format: Literal["png", "jpg", "webp", "tif"] = "png"
    bit_depth: int = 8


OPTIONS = RenderOptions
POSITIONAL = ("image", "disparity")

DEFAULT_STRENGTH_PX = 20.0


def run(options: RenderOptions) -> int:
    """Render every photograph; one that cannot be rendered stops none of the others.

    Args:
        options: The command line.

    Returns:
        0 if all were rendered, else 1.
    """
    from bokehdiff.images import find_images

    _check_flags(options)
    with at_fault("--image"):
        photographs = find_images(options.image)
    return render_each(photographs, lambda path: _render(path, options, single=len(photographs) == 1))


def _check_flags(options: RenderOptions) -> None:
    """Refuse what contradicts itself before any file is read."""
    camera = {
        "--focal-length-mm": options.focal_length_mm,
        "--focus-distance-m": options.focus_distance_m,
        "--sensor-width-mm": options.sensor_width_mm,
    }
    given = [flag for flag, value in camera.items() if value is not None]
    if options.f_number is None and given:
        raise InputError("describes a real lens, which needs --f-number too", flag=given[0])
    if options.f_number is not None and options.K is not None:
        raise InputError("pass either --K or --f-number, not both", flag="--K")
    if options.f_number is not None and (options.normalize_disparity or options.invert_disparity):
        flag = "--normalize-disparity" if options.normalize_disparity else "--invert-disparity"
        raise InputError("metric disparity, which --f-number needs, must stay as it is", flag=flag)
    if options.focus_sweep < 0:
        raise InputError(f"must be 0 or more pictures; got {options.focus_sweep}", flag="--focus-sweep")
    focus = {
        "--focus": options.focus,
        "--focus-point": options.focus_point,
        "--focus-box": options.focus_box,
        "--mask": options.mask,
        "--focus-distance-m": options.focus_distance_m,
    }
    given = [flag for flag, value in focus.items() if value is not None]
    if len(given) > 1:
        raise InputError(f"the focus is given more than once: {', '.join(given)}", flag=given[1])


def _render(path: Path, options: RenderOptions, *, single: bool) -> Iterator[Path]:
    """Render one photograph, at one focus or at many; gives each file once it is written."""
    from bokehdiff.images import load_mask, load_photo, srgb_to_linear
    from bokehdiff.renderers import recover_highlights

    with at_fault("--image"):
        photo = load_photo(path)
    with at_fault("--disparity"):
        disparity = _load_disparity(path, photo.size_hw, options, single=single)
    if photo.alpha is not None:
        logger.warning("%s: its transparency is not carried over to the result", path.name)
    matte = None
    if options.matte is not None:
        with at_fault("--matte"):
            matte = _fitted(load_mask(_map_of(path, options.matte, single=single)), photo.size_hw, what="matte")
    lens = _lens(photo, disparity, options, single=single)
    with at_fault("--highlights"):
        image_linear = recover_highlights(
            srgb_to_linear(photo.image_srgb, transfer=options.transfer), options.highlights
        )
    for target, focused in _shots(path, lens, disparity, options):
        yield _save(_blur(image_linear, disparity, focused, matte, options, progress=single), target, photo, options)


def _shots(path: Path, lens: Any, disparity: Any, options: RenderOptions) -> Iterator[tuple[Path, Any]]:
    """Each picture's file and lens."""
    from dataclasses import replace

    folder = Path(options.output_dir)
    if not options.focus_sweep:
        yield folder / f"{path.stem}.{options.format}", lens
        return
    least, most = float(disparity.min()), float(disparity.max())
    for i in range(options.focus_sweep):
        focus = least + (most - least) * i / max(options.focus_sweep - 1, 1)
        yield folder / f"{path.stem}_sweep" / f"{i:03d}.{options.format}", replace(lens, focus_disparity=focus)


def _blur(image_linear: Any, disparity: Any, lens: Any, matte: Any, options: RenderOptions, *, progress: bool) -> Any:
    from bokehdiff.renderers import render_photo

    with at_fault("--method"):
        return render_photo(
            image_linear,
            disparity,
            lens,
            matte=matte,
            method=options.method,
            inpainting=options.inpainting,
            progress=progress,
        )


def _save(image_linear: Any, target: Path, photo: Any, options: RenderOptions) -> Path:
    from bokehdiff.images import linear_to_srgb, make_folder, save_image

    with at_fault("--output-dir"):
        if target.exists() and target.samefile(photo.path):
            raise InputError(f"the result would replace the photograph {photo.path}: choose another folder")
        make_folder(target.parent)
    with at_fault("--bit-depth"):
        image_srgb = linear_to_srgb(image_linear, transfer=options.transfer)
        save_image(target, image_srgb, bit_depth=options.bit_depth, exif=photo.exif)
    return target


def _load_disparity(path: Path, size_hw: tuple[int, int], options: RenderOptions, *, single: bool) -> Any:
    from bokehdiff.images import load_disparity
    from bokehdiff.optics import normalise_disparity

    found = _map_of(path, options.disparity, single=single)
    disparity = load_disparity(found, invert=options.invert_disparity, key=options.disparity_key)
    if options.normalize_disparity:
        disparity = normalise_disparity(disparity)
    least, most = float(disparity.min()), float(disparity.max())
    if options.f_number is None and not (least >= 0.0 and most <= 1.0):
        raise InputError(
            f"{found}: disparity must be in [0, 1]; got {least:g} ... {most:g}: "
            "pass --normalize-disparity, or --f-number if it is metric"
        )
    return _fitted(disparity, size_hw, what=f"disparity {found.name}")


def _map_of(path: Path, where: str, *, single: bool) -> Path:
    """The map that belongs to a photograph."""
    place = Path(where).expanduser()
    if place.is_file():
        if not single:
            raise InputError(f"{where} is one file for several photographs: pass a folder")
        return place
    if not place.is_dir():
        raise InputError(f"{where}: no such file or folder")
    candidates = [place / f"{path.stem}{ending}{suffix}" for ending in MAP_ENDINGS for suffix in MAP_SUFFIXES]
    found = [candidate for candidate in candidates if candidate.is_file() and not candidate.samefile(path)]
    if not found:
        raise InputError(f"{where}: holds no map for {path.name}, such as {path.stem}_pred.npy or {path.stem}.png")
    if len(found) > 1:
        logger.info("%s: takes %s; %s left aside", path.name, found[0].name, ", ".join(p.name for p in found[1:]))
    return found[0]


def _fitted(plane: Any, size_hw: tuple[int, int], *, what: str) -> Any:
    """A map at the size of the photograph, if it shows the same view."""
    from bokehdiff.images import resize

    height, width = plane.shape[1:]
    if (height, width) == size_hw:
        return plane
    if abs(width * size_hw[0] / height - size_hw[1]) > ASPECT_TOLERANCE_PX * size_hw[0] / height:
        raise InputError(
            f"the {what} has another shape than the photograph: {width} x {height} for {size_hw[1]} x {size_hw[0]}"
        )
    logger.info("%s: resized from %d x %d to %d x %d", what, width, height, size_hw[1], size_hw[0])
    return resize(plane[:, None], size_hw)[:, 0].clamp(plane.min(), plane.max())


def _lens(photo: Any, disparity: Any, options: RenderOptions, *, single: bool) -> Any:
    from dataclasses import replace

    from bokehdiff.optics import Aperture, Lens

    focus = _focus(photo, disparity, options, single=single)
    with at_fault("--blades"):
        aperture = Aperture(
            blades=options.blades, rotation_deg=options.blade_rotation_deg, rounding=options.blade_rounding
        )
    if options.f_number is None:
        assert focus is not None  # noqa: S101  only a camera has a focus of its own
        strength = DEFAULT_STRENGTH_PX if options.K is None else options.K
        with at_fault("--K"):
            return Lens(focus, strength, aperture)
    with at_fault("--f-number"):
        lens = photo.camera.lens(
            image_width_px=photo.sensor_width_px,
            f_number=options.f_number,
            focal_length_mm=options.focal_length_mm,
            # Overruled below where the focus is given as disparity; the thin lens's strength does not depend on it.
            focus_distance_m=options.focus_distance_m if focus is None else 1.0,
            sensor_width_mm=options.sensor_width_mm,
        )
    lens = (
        replace(lens, aperture=aperture) if focus is None else replace(lens, aperture=aperture, focus_disparity=focus)
    )
    logger.info("%s: in focus at disparity %g, %g px per unit", photo.path.name, lens.focus_disparity, lens.strength_px)
    return lens


def _focus(photo: Any, disparity: Any, options: RenderOptions, *, single: bool) -> float | None:
    """The disparity in focus; None where the camera says it."""
    from bokehdiff.images import load_mask
    from bokehdiff.optics import focus_from_box, focus_from_centre, focus_from_mask, focus_from_pixel

    if options.focus is not None:
        return options.focus
    if options.focus_point is not None:
        with at_fault("--focus-point"):
            x, y = _numbers(options.focus_point, "X,Y")
            return float(focus_from_pixel(disparity, x, y))
    if options.focus_box is not None:
        with at_fault("--focus-box"):
            left, top, right, bottom = _numbers(options.focus_box, "LEFT,TOP,RIGHT,BOTTOM")
            return float(focus_from_box(disparity, (left, top, right, bottom)))
    if options.mask is not None:
        with at_fault("--mask"):
            mask = _fitted(load_mask(_map_of(photo.path, options.mask, single=single)), photo.size_hw, what="mask")
            return float(focus_from_mask(disparity, mask))
    if options.f_number is not None and (options.focus_distance_m or photo.camera.focus_distance_m):
        return None
    logger.info("%s: no focus given: focused on the centre", photo.path.name)
    return float(focus_from_centre(disparity))


def _numbers(text: str, form: str) -> list[float]:
    parts = text.split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != len(form.split(",")):
        raise InputError(f"expected {form}; got {text!r}")
    return numbers
