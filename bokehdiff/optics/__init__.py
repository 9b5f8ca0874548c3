"""The thin lens: circles of confusion, openings and their lens points, lenses from cameras, and where the focus lies.

Conventions stand in docs/conventions.md: disparity is 1 at the nearest point and 0 farthest away (or metric,
1/z in 1/m, where a name says so); the signed circle of confusion is positive in front of the plane in focus.
"""

from bokehdiff.optics.aperture import LEAST_SHARE, Aperture, image_field
from bokehdiff.optics.focus import (
    MASK_THRESHOLD,
    SPECKLE_PX,
    focus_from_box,
    focus_from_centre,
    focus_from_mask,
    focus_from_pixel,
    normalise_disparity,
)
from bokehdiff.optics.lens import (
    FULL_FRAME_WIDTH_MM,
    CameraSettings,
    Lens,
    circle_of_confusion,
    lens_from_camera,
)

__all__ = [
    "FULL_FRAME_WIDTH_MM",
    "LEAST_SHARE",
    "MASK_THRESHOLD",
    "SPECKLE_PX",
    "Aperture",
    "CameraSettings",
    "Lens",
    "circle_of_confusion",
    "focus_from_box",
    "focus_from_centre",
    "focus_from_mask",
    "focus_from_pixel",
    "image_field",
    "lens_from_camera",
    "normalise_disparity",
]
