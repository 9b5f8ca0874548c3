"""What the controls of the page say, as a lens; and between f-numbers and the field's K."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bokehdiff.errors import InputError
from bokehdiff.optics import FULL_FRAME_WIDTH_MM, Aperture, CameraSettings, Lens, lens_from_camera

NORMAL_FOCAL_MM = 50.0  # of a 35-mm camera: what a photograph is taken with if its EXIF does not tell
F_NUMBERS = (0.95, 22.0)


@dataclass(frozen=True, kw_only=True)
class Controls:
    """A lens as the page sets it, for a photograph whose disparity is in [0, 1].

    Args:
        focus_disparity: What is in focus: 0 farthest, 1 nearest.
        strength_px: K at the size of the photograph: radius of the blur at one unit of disparity from the focus [px].
        blades: Of the aperture; 0 for a disc.
        cat_eye: How far discs become lemons towards the corners, in [0, 1].
        highlights: How many times brighter than white clipped lights were; 1 for none.
    """

    focus_disparity: float = 0.5
    strength_px: float = 20.0
    blades: int = 0
    cat_eye: float = 0.0
    highlights: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.focus_disparity <= 1.0:
            raise InputError(f"the focus must be from 0 (far) to 1 (near); got {self.focus_disparity:g}")
        if not self.highlights >= 1.0:
            raise InputError(f"highlights must be 1 (as they are) or more; got {self.highlights:g}")

    def lens(self, scale: float = 1.0) -> Lens:
        """The lens.

        Args:
            scale: Size of the picture it is used with over that of the photograph.
        """
        aperture = Aperture(blades=self.blades, cat_eye=self.cat_eye)
        return Lens(self.focus_disparity, self.strength_px * scale, aperture)

    def focused_at(self, focus_disparity: float) -> Controls:
        """The same lens, focused elsewhere.

        Args:
            focus_disparity: What is in focus.
        """
        return replace(self, focus_disparity=focus_disparity)


@dataclass(frozen=True)
class Camera:
    """What f-numbers mean for one photograph: a full-frame camera with its view, whose scene begins at some distance.

    Disparity 1 is taken to stand for the nearest distance and 0 for infinity.

    Args:
        focal_length_mm: On a sensor of 36 mm [mm].
        image_width_px: Longer side of the photograph, which lies along the sensor's [px].
        nearest_m: Distance of the nearest point [m].
        is_told: The focal length is from the photograph's EXIF.
    """

    focal_length_mm: float
    image_width_px: float
    nearest_m: float = 1.0
    is_told: bool = False

    @classmethod
    def of(cls, settings: CameraSettings, image_width_px: float) -> Camera:
        """From what EXIF tells.

        Args:
            settings: As far as they are known.
            image_width_px: Longer side of the photograph [px].
        """
        focal_mm = settings.focal_length_35mm_mm
        if focal_mm is None and settings.focal_length_mm and settings.sensor_width_mm:
            focal_mm = settings.focal_length_mm * FULL_FRAME_WIDTH_MM / settings.sensor_width_mm
        return cls(focal_mm or NORMAL_FOCAL_MM, image_width_px, is_told=focal_mm is not None)

    def strength_px(self, f_number: float) -> float:
        """K of an opening [px]: K falls as 1 / N.

        Args:
            f_number: N, focal length over the diameter of the opening.
        """
        metric = lens_from_camera(
            f_number=f_number,
            focal_length_mm=self.focal_length_mm,
            focus_distance_m=self.nearest_m,  # the thin lens's strength does not depend on it
            image_width_px=self.image_width_px,
        )
        return float(metric.normalised(0.0, 1.0 / self.nearest_m).strength_px)

    def f_number(self, strength_px: float) -> float:
        """The opening that gives a K, within those that lenses have.

        Args:
            strength_px: K [px].
        """
        widest, narrowest = F_NUMBERS
        if strength_px <= 0:
            return narrowest
        return min(max(self.strength_px(1.0) / strength_px, widest), narrowest)
