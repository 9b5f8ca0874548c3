"""The thin lens: circles of confusion, lenses from cameras, and where the focus lies.

Conventions stand in docs/conventions.md: disparity is 1 at the nearest point and 0 farthest away (or metric,
1/z in 1/m, where a name says so); the signed circle of confusion is positive in front of the plane in focus.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bokehdiff.errors import InputError

FULL_FRAME_WIDTH_MM = 36.0  # a 35-mm film frame, the reference of "35-mm equivalent" focal lengths
MASK_THRESHOLD = 0.5  # a pixel belongs to the subject where the mask exceeds this
CENTRE_FRACTION = 0.2  # side of the central box that stands in for an empty mask (BokehDiff's data preparation)
SPECKLE_PX = 3  # side of the morphological opening that keeps speckles out of the range of disparities


@dataclass(frozen=True)
class Aperture:
    """Shape of the opening that light passes: a disc of radius 1, of even transmission.

    Every renderer and the attention take their lens points from here, so that a new shape is added once.
    """

    def sample(self, n_samples: int, *, device: torch.device | str = "cpu") -> Float[Tensor, "n 2"]:
        """Points (x, y) of the unit disc, evenly spread by Vogel's spiral, ordered from the centre outwards.

        Concretely, point[i] = sqrt((i + 1/2) / n) * (cos(i * g), sin(i * g)) with the golden angle g; the
        mean is taken out so that an average over the points does not shift the image. Source: H. Vogel, "A better
        way to construct the sunflower head", 1979.

        Args:
            n_samples: Number of points, at least 1. One point is the centre.
            device: Where the points are put.
        """
        if n_samples < 1:
            raise InputError(f"n_samples must be at least 1; got {n_samples}")
        index = torch.arange(n_samples, dtype=torch.float64)
        golden_angle = torch.pi * (3.0 - 5.0**0.5)
        radius = torch.sqrt((index + 0.5) / n_samples)
        points = torch.stack(
            [radius * torch.cos(index * golden_angle), radius * torch.sin(index * golden_angle)], dim=1
        )
        return (points - points.mean(dim=0)).to(device=device, dtype=torch.float32)


@dataclass(frozen=True)
class Lens:
    """A lens as the image sees it: what is in focus, and how fast things blur away from there.

    Args:
        focus_disparity: Disparity of the plane in focus: one number, or [b] for one per image.
        strength_px: Radius of the circle of confusion at one unit of defocus [px]: the field's K, at the size of the
            image it is used with. One number, or [b].
        aperture: Shape of the opening.
    """

    focus_disparity: float | Float[Tensor, " b"]
    strength_px: float | Float[Tensor, " b"]
    aperture: Aperture = Aperture()

    def __post_init__(self) -> None:
        for name in ("focus_disparity", "strength_px"):
            value = torch.as_tensor(getattr(self, name))
            if value.ndim > 1:
                raise InputError(f"{name} must be a number or of shape [b]; got shape {list(value.shape)}")
            if not bool(torch.isfinite(value).all()):
                raise InputError(f"{name} must be finite; got {value.tolist()}")
        if bool((torch.as_tensor(self.strength_px) < 0).any()):
            raise InputError(f"strength_px must be 0 or more; got {torch.as_tensor(self.strength_px).tolist()}")

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
        spread = nearest - farthest
        if not spread > 0:
            raise InputError(f"nearest must exceed farthest; got nearest {nearest:g}, farthest {farthest:g}")
        return replace(
            self,
            focus_disparity=(self.focus_disparity - farthest) / spread,
            strength_px=self.strength_px * spread,
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
        aperture=aperture or Aperture(),
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


def normalise_disparity(disparity: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Map each image's disparity to [0, 1] by its minimum and maximum, taken after speckles are opened away.

    Concretely, out = clip((d - min(open(d))) / (max(open(d)) - min(open(d))), 0, 1), where open is a 3 x 3 erosion
    followed by a 3 x 3 dilation (BokehDiff's data preparation). A constant image becomes 0 everywhere.

    Args:
        disparity: Any finite values, larger is nearer.
    """
    if not bool(torch.isfinite(disparity).all()):
        raise InputError("disparity must be finite; got NaN or infinity")
    eroded = -_max_pool(-disparity)
    opened = _max_pool(eroded)
    farthest = opened.amin(dim=(1, 2), keepdim=True)
    spread = opened.amax(dim=(1, 2), keepdim=True) - farthest
    scale = torch.where(spread > 0, 1.0 / spread.clamp_min(torch.finfo(disparity.dtype).tiny), torch.zeros_like(spread))
    return ((disparity - farthest) * scale).clamp(0.0, 1.0)


def _max_pool(image: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    return torch.nn.functional.max_pool2d(image[:, None], SPECKLE_PX, stride=1, padding=SPECKLE_PX // 2)[:, 0]


def focus_from_mask(disparity: Float[Tensor, "b h w"], mask: Float[Tensor, "b mh mw"]) -> Float[Tensor, " b"]:
    """Focus on a subject: the median disparity where its mask exceeds 0.5; of the image's centre where it never does.

    Args:
        disparity: Any units.
        mask: Share of each pixel that is subject, in [0, 1].
    """
    if mask.shape != disparity.shape:
        raise InputError(
            f"the mask must have the size of the disparity; got {list(mask.shape)} for {list(disparity.shape)}"
        )
    inside = mask > MASK_THRESHOLD
    empty = ~inside.flatten(1).any(dim=1)
    inside = torch.where(empty[:, None, None], _central_box(disparity), inside)
    return torch.stack([values[chosen].median() for values, chosen in zip(disparity, inside, strict=True)])


def focus_from_centre(disparity: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Focus on the centre: the median disparity of the central 20 % x 20 % of the image."""
    return focus_from_mask(disparity, torch.zeros_like(disparity))


def _central_box(disparity: Float[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    height, width = disparity.shape[1:]
    reach = CENTRE_FRACTION / 2
    return _box_mask(
        disparity, (width * (0.5 - reach), height * (0.5 - reach), width * (0.5 + reach), height * (0.5 + reach))
    )


def focus_from_box(
    disparity: Float[Tensor, "b h w"], box_xyxy: tuple[float, float, float, float]
) -> Float[Tensor, " b"]:
    """Focus on a box: the median disparity of the pixels it touches.

    Args:
        disparity: Any units.
        box_xyxy: Left, top, right, bottom [px]; the part inside the image counts.
    """
    height, width = disparity.shape[1:]
    left, top, right, bottom = box_xyxy
    if not (left < right and top < bottom and left < width and top < height and right > 0 and bottom > 0):
        raise InputError(
            f"the box must be left < right, top < bottom and overlap the {width} x {height} image; got {box_xyxy}"
        )
    return focus_from_mask(disparity, _box_mask(disparity, box_xyxy).to(disparity.dtype))


def _box_mask(disparity: Float[Tensor, "b h w"], box_xyxy: tuple[float, float, float, float]) -> Bool[Tensor, "b h w"]:
    """Pixels that the box touches: the pixel at column i covers [i, i + 1)."""
    height, width = disparity.shape[1:]
    left, top, right, bottom = box_xyxy
    columns = torch.arange(width, device=disparity.device)
    rows = torch.arange(height, device=disparity.device)
    in_columns = (columns + 1 > left) & (columns < right)
    in_rows = (rows + 1 > top) & (rows < bottom)
    return (in_rows[:, None] & in_columns[None, :]).expand_as(disparity)


def focus_from_pixel(disparity: Float[Tensor, "b h w"], x: float, y: float) -> Float[Tensor, " b"]:
    """Focus on a point: the median disparity of the 3 x 3 pixels around it, so that one speckle decides nothing.

    Args:
        disparity: Any units.
        x: To the right, in [0, w) [px].
        y: Down, in [0, h) [px].
    """
    height, width = disparity.shape[1:]
    if not (0 <= x < width and 0 <= y < height):
        raise InputError(f"the focus point must lie in the {width} x {height} image; got x = {x:g}, y = {y:g}")
    column, row = int(x), int(y)
    return focus_from_box(disparity, (column - 1, row - 1, column + 2, row + 2))
