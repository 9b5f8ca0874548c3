"""A lens before it has met its picture: the plane in focus may still be a point of a picture to come."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from bokehdiff.optics import Aperture, Lens, focus_from_pixel


@dataclass(frozen=True)
class FocusPoint:
    """A point of the picture, whatever its size.

    Args:
        x: To the right, as a share of the width, in [0, 1].
        y: Down, as a share of the height, in [0, 1].
    """

    x: float
    y: float


@dataclass(frozen=True)
class LensChoice:
    """What the node "BokehDiff Lens" hands to the nodes that render.

    Args:
        focus: Disparity in focus, in [0, 1], 1 nearest; or the point that is to be sharp.
        strength_px: K: radius of the circle of confusion at one unit of disparity from the focus [px].
        aperture: Shape of the opening.
    """

    focus: float | FocusPoint
    strength_px: float
    aperture: Aperture

    def for_picture(self, disparity: Float[Tensor, "1 h w"]) -> Lens:
        """The lens for one picture.

        Args:
            disparity: In [0, 1], 1 nearest.
        """
        if not isinstance(self.focus, FocusPoint):
            return Lens(self.focus, self.strength_px, self.aperture)
        height, width = disparity.shape[1:]
        # The right and the lower edge belong to the last pixel.
        x, y = min(self.focus.x * width, width - 1), min(self.focus.y * height, height - 1)
        return Lens(focus_from_pixel(disparity, x, y), self.strength_px, self.aperture)
