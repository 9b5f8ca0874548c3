"""The lens as the image sees it, from its own numbers or from those of a camera."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.optics.aperture import Aperture

FULL_FRAME_WIDTH_MM = 36.0  # a 35-mm film frame, the reference of "35-mm equivalent" focal lengths
DISC = Aperture()
MAGNIFICATION_RANGE = (0.9, 1.1)  # no lens parts colours by more; what lies outside is meant as something else


@dataclass(frozen=True)
class Lens:
    """A lens as the image sees it: what is in focus, and how fast things blur away from there.

    Args:
        focus_disparity: Disparity of the plane in focus: one number, or [b] for one per image.
        strength_px: Radius of the circle of confusion at one unit of defocus [px]: the field's K, at the size of the
            image it is used with. One number, or [b].
        aperture: Shape of the opening.
        focus_shift_rgb: Longitudinal chromatic aberration: added to the disparity in focus for red, green and blue
            [disparity]. (0, 0, 0.01) lets blue focus nearer, so that it blurs more behind the focus and less before it.
        magnification_rgb: Lateral chromatic aberration: size of the red, green and blue image over the nominal one,
            about the image's centre [1]; (1, 1, 1.001) makes the blue picture a thousandth larger.
    """

    focus_disparity: float | Float[Tensor, " b"]
    strength_px: float | Float[Tensor, " b"]
    aperture: Aperture = DISC
    focus_shift_rgb: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0), kw_only=True)
    magnification_rgb: tuple[float, float, float] = field(default=(1.0, 1.0, 1.0), kw_only=True)

    def __post_init__(self) -> None:
        for name in ("focus_disparity", "strength_px"):
            value = torch.as_tensor(getattr(self, name))
            if value.ndim > 1:
                raise InputError(f"{name} must be a number or of shape [b]; got shape {list(value.shape)}")
            if not bool(torch.isfinite(value).all()):
                raise InputError(f"{name} must be finite; got {value.tolist()}")
        if bool((torch.as_tensor(self.strength_px) < 0).any()):
            raise InputError(f"strength_px must be 0 or more; got {torch.as_tensor(self.strength_px).tolist()}")
        if not all(math.isfinite(shift) for shift in self.focus_shift_rgb):
            raise InputError(f"focus_shift_rgb must be finite; got {self.focus_shift_rgb}")
        least, most = MAGNIFICATION_RANGE
        if not all(least <= scale <= most for scale in self.magnification_rgb):
            raise InputError(f"magnification_rgb must be within {least:g} ... {most:g}; got {self.magnification_rgb}")

    @property
    def is_chromatic(self) -> bool:
        """Whether the three colours are focused or magnified differently."""
        return len(set(self.focus_shift_rgb)) > 1 or len(set(self.magnification_rgb)) > 1

    def of_channel(self, channel: int) -> Lens:
        """The lens as one colour sees it: the same focus and magnification for all three channels.

        Args:
            channel: 0 red, 1 green, 2 blue.
        """
        return replace(
            self,
            focus_disparity=self.focus_disparity + self.focus_shift_rgb[channel],
            focus_shift_rgb=(0.0, 0.0, 0.0),
            magnification_rgb=(self.magnification_rgb[channel],) * 3,
        )

    def coc_px(self, disparity: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
        """Signed circle of confusion of each pixel [px]; see `circle_of_confusion`."""
        return circle_of_confusion(disparity, self.focus_disparity, self.strength_px)

    def resized(self, scale: float) -> Lens:
        """The same lens for an image resized by `scale`: its blur has as many times more pixels."""
        return replace(self, strength_px=self.strength_px * scale)

    def normalised(self, farthest: float, nearest: float) -> Lens:
        """The same lens for disparities mapped to (disparity - farthest) / (nearest - farthest).

        Concretely, K' = K * (nearest - farthest) and focus' = (focus - farthest) / (nearest - farthest), which leaves
        every circle of confusion as it is.

        Args:
            farthest: Disparity that becomes 0, in the units of `focus_disparity`.
            nearest: Disparity that becomes 1.
        """
        red, green, blue = self.focus_shift_rgb
        spread = nearest - farthest
        if not spread > 0:
            raise InputError(f"nearest must exceed farthest; got nearest {nearest:g}, farthest {farthest:g}")
        return replace(
            self,
            focus_disparity=(self.focus_disparity - farthest) / spread,
            strength_px=self.strength_px * spread,
            focus_shift_rgb=(red / spread, green / spread, blue / spread),
        )


def circle_of_confusion(
    disparity: Float[Tensor, "b h w"],
    focus_disparity: float | Float[Tensor, " b"],
    strength_px: float | Float[Tensor, " b"],
) -> Float[Tensor, "b h w"]:
    """Signed radius of the circle of confusion, in pixels of the grid of `disparity`.

    Concretely, coc[b, y, x] = strength_px[b] * (disparity[b, y, x] - focus_disparity[b]): positive in front of the
    plane in focus, negative behind it, zero on it.

    Args:
        disparity: 0 at infinity, 1 at the nearest point of the scene; or metric [1/m] with a metric lens.
        focus_disparity: Disparity of the plane in focus: a number, or [b].
        strength_px: Radius at one unit of defocus [px]: a number, or [b]; grows with aperture and with image width.
    """
    return _per_image(strength_px, disparity) * (disparity - _per_image(focus_disparity, disparity))


def _per_image(value: float | Tensor, like: Tensor) -> Tensor:
    """A number or [b] as [b or 1, 1, 1], on the device and in the dtype of `like`; gradients flow through."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1, 1)


def lens_from_camera(
    *,
    f_number: float,
    focal_length_mm: float,
    focus_distance_m: float,
    image_width_px: float,
    sensor_width_mm: float = FULL_FRAME_WIDTH_MM,
    aperture: Aperture | None = None,
) -> Lens:
    """The lens of a camera, for metric disparity 1/z [1/m].

    Concretely, K = f_px * A with f_px = focal_length / sensor_width * image_width and the aperture radius A = f / (2 N)
    in metres, so that r_px = f_px * A * |1/z - 1/z_f|: the thin lens without focus breathing.

    Args:
        f_number: N, focal length over the diameter of the opening [1].
        focal_length_mm: True (not 35-mm equivalent) focal length [mm].
        focus_distance_m: Distance in focus along the optical axis [m]; `inf` for infinity.
        image_width_px: Width of the image that is to be blurred [px], along the sensor's width.
        sensor_width_mm: Width of the sensor [mm]; a full frame if not given.
        aperture: Shape of the opening; None for a disc.
    """
    quantities = {
        "f_number": f_number,
        "focal_length_mm": focal_length_mm,
        "focus_distance_m": focus_distance_m,
        "image_width_px": image_width_px,
        "sensor_width_mm": sensor_width_mm,
    }
    for name, value in quantities.items():
        if not value > 0:
            raise InputError(f"{name} must be above 0; got {value:g}")
    focal_length_px = focal_length_mm / sensor_width_mm * image_width_px
    aperture_radius_m = focal_length_mm / 1000.0 / (2.0 * f_number)
    return Lens(
        focus_disparity=1.0 / focus_distance_m,
        strength_px=focal_length_px * aperture_radius_m,
        aperture=aperture or DISC,
    )


@dataclass(frozen=True)
class CameraSettings:
    """What a photograph's EXIF tells of its lens; None where it is silent.

    Args:
        f_number: N [1].
        focal_length_mm: True focal length [mm].
        focal_length_35mm_mm: Focal length of the same view on a 35-mm frame [mm].
        sensor_width_mm: Width of the sensor [mm], from the focal plane resolution.
        focus_distance_m: Subject distance [m]; `inf` for infinity.
    """

    f_number: float | None = None
    focal_length_mm: float | None = None
    focal_length_35mm_mm: float | None = None
    sensor_width_mm: float | None = None
    focus_distance_m: float | None = None

    def lens(
        self,
        *,
        image_width_px: float,
        f_number: float | None = None,
        focal_length_mm: float | None = None,
        focus_distance_m: float | None = None,
        sensor_width_mm: float | None = None,
    ) -> Lens:
        """The metric lens of these settings, each of which an argument may overrule; see `lens_from_camera`."""
        found = {
            "f_number": f_number or self.f_number,
            "focal_length_mm": focal_length_mm or self.focal_length_mm,
            "focus_distance_m": focus_distance_m or self.focus_distance_m,
        }
        missing = [name for name, value in found.items() if value is None]
        if missing:
            raise InputError(f"the photograph's EXIF does not tell {', '.join(missing)}: pass them instead")
        width_mm = sensor_width_mm or self.sensor_width_mm or self._width_from_equivalent() or FULL_FRAME_WIDTH_MM
        return lens_from_camera(**found, image_width_px=image_width_px, sensor_width_mm=width_mm)  # type: ignore[arg-type]

    def _width_from_equivalent(self) -> float | None:
        if not (self.focal_length_mm and self.focal_length_35mm_mm):
            return None
        return FULL_FRAME_WIDTH_MM * self.focal_length_mm / self.focal_length_35mm_mm
