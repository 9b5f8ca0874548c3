"""The lens that a command line asks for, for one view."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.cli.render.options import ApertureOptions, RenderOptions, numbers
from bokehdiff.cli.render.places import Task
from bokehdiff.cli.render.scene import View, load_mask_of
from bokehdiff.errors import at_fault
from bokehdiff.images import load_mask
from bokehdiff.optics import Aperture, Lens, focus_from_box, focus_from_centre, focus_from_mask, focus_from_pixel

logger = logging.getLogger(__name__)

DEFAULT_STRENGTH_PX = 20.0


def lens_of(task: Task, view: View, options: RenderOptions) -> Lens:
    """The lens for one view, in the units of its disparity.

    Args:
        task: The photograph.
        view: The same, loaded.
        options: The command line.
    """
    aperture = aperture_of(options.aperture)
    focus = _focus(task, view, options)
    lens = _camera_lens(view, focus, options) if options.lens.f_number is not None else _plain_lens(focus, options)
    if focus is not None:
        lens = replace(lens, focus_disparity=focus)
    if options.aperture.focus_shift_rgb is not None:
        shift = numbers(options.aperture.focus_shift_rgb, "R,G,B", flag="--focus-shift-rgb")
        with at_fault("--focus-shift-rgb"):
            lens = replace(lens, focus_shift_rgb=(shift[0], shift[1], shift[2]))
    if options.aperture.magnification_rgb is not None:
        size = numbers(options.aperture.magnification_rgb, "R,G,B", flag="--magnification-rgb")
        with at_fault("--magnification-rgb"):
            lens = replace(lens, magnification_rgb=(size[0], size[1], size[2]))
    logger.info("%s: in focus at disparity %g, %g px per unit", task.name, lens.focus_disparity, lens.strength_px)
    return replace(lens, aperture=aperture)


def within_radius(
    disparity: Float[Tensor, "1 h w"], lens: Lens, largest_radius_px: float | None
) -> Float[Tensor, "1 h w"]:
    """Disparity brought so near to the focus that no disc is larger than allowed.

    Concretely, clip(disparity, focus - r / K, focus + r / K).

    Args:
        disparity: In the lens's units.
        lens: The lens.
        largest_radius_px: The limit r [px]; None for none.
    """
    if largest_radius_px is None or not float(lens.strength_px) > 0:
        return disparity
    reach = largest_radius_px / float(lens.strength_px)
    return disparity.clamp(float(lens.focus_disparity) - reach, float(lens.focus_disparity) + reach)


def aperture_of(options: ApertureOptions) -> Aperture:
    """The opening; what cannot be is blamed on its own flag.

    Args:
        options: The command line's section.
    """
    aperture = Aperture()
    if options.aperture_image is not None:
        with at_fault("--aperture-image"):
            aperture = replace(aperture, transmission=_opening_from(Path(options.aperture_image)))
    with at_fault("--blades"):
        aperture = replace(aperture, blades=options.blades)
    with at_fault("--blade-rotation-deg"):
        aperture = replace(aperture, rotation_deg=options.blade_rotation_deg)
    with at_fault("--blade-rounding"):
        aperture = replace(aperture, rounding=options.blade_rounding)
    with at_fault("--spherical-aberration"):
        aperture = replace(aperture, edge=options.spherical_aberration)
    with at_fault("--cat-eye"):
        return replace(aperture, cat_eye=options.cat_eye, falloff=options.vignetting)


def _opening_from(path: Path) -> Float[Tensor, "side side"]:
    """A picture of the opening as a square map, closed where the picture does not reach."""
    light = load_mask(path.expanduser())[0]
    height, width = light.shape
    side = max(height, width)
    if height != width:
        logger.info("%s: %d x %d px, closed on both sides to a square of %d", path.name, width, height, side)
    above, left = (side - height) // 2, (side - width) // 2
    return F.pad(light, (left, side - width - left, above, side - height - above))


def _plain_lens(focus: float | None, options: RenderOptions) -> Lens:
    assert focus is not None  # noqa: S101  only a camera has a focus of its own
    with at_fault("--K"):
        return Lens(focus, DEFAULT_STRENGTH_PX if options.lens.K is None else options.lens.K)


def _camera_lens(view: View, focus: float | None, options: RenderOptions) -> Lens:
    with at_fault("--f-number"):
        return view.photo.camera.lens(
            image_width_px=view.photo.sensor_width_px,
            f_number=options.lens.f_number,
            focal_length_mm=options.lens.focal_length_mm,
            # Overruled where the focus is given as disparity; the thin lens's strength does not depend on it.
            focus_distance_m=options.focus.focus_distance_m if focus is None else 1.0,
            sensor_width_mm=options.lens.sensor_width_mm,
        )


def _focus(task: Task, view: View, options: RenderOptions) -> float | None:
    """The disparity in focus; None where the camera says it."""
    focus, disparity = options.focus, view.disparity
    if focus.focus is not None:
        return focus.focus
    if focus.focus_point is not None:
        x, y = numbers(focus.focus_point, "X,Y", flag="--focus-point")
        with at_fault("--focus-point"):
            return float(focus_from_pixel(disparity, x, y))
    if focus.focus_box is not None:
        left, top, right, bottom = numbers(focus.focus_box, "LEFT,TOP,RIGHT,BOTTOM", flag="--focus-box")
        with at_fault("--focus-box"):
            return float(focus_from_box(disparity, (left, top, right, bottom)))
    mask = load_mask_of(task, view.photo, focus.mask, flag="--mask")
    if mask is not None:
        return float(focus_from_mask(disparity, mask))
    if options.lens.f_number is not None and (focus.focus_distance_m or view.photo.camera.focus_distance_m):
        return None
    if focus.focus_distance_m is not None:
        return _of_distance(view, focus.focus_distance_m)
    logger.info("%s: no focus given: focused on the centre", task.name)
    return float(focus_from_centre(disparity))


def _of_distance(view: View, distance_m: float) -> float:
    """Where a distance lies between the farthest, 0, and the nearest, 1."""
    assert view.farthest is not None  # noqa: S101  checked before anything was read
    assert view.nearest is not None  # noqa: S101
    return (1.0 / distance_m - view.farthest) / (view.nearest - view.farthest)
