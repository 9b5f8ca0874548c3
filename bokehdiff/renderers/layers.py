"""A scene as planar layers of premultiplied colour, and how light passes through a pile of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError

N_CHANNELS = 4  # red, green, blue, coverage
N_PLANE_COEFFICIENTS = 3  # c0, cx, cy
ALPHA_SLACK = 1e-3  # coverage may leave [0, 1] by this much: resampling and float32 rounding


@dataclass(frozen=True)
class LayerStack:
    """Planar layers of one scene; each may be tilted in depth, and they may cross.

    Concretely, layer l has the disparity planes[b, l, 0] + planes[b, l, 1] * x + planes[b, l, 2] * y at the point
    (x, y) of the image, where the centre of pixel (column i, row j) lies at (i + 0.5, j + 0.5). A plane in space is
    exactly that: disparity as an affine function of the image point.

    Args:
        rgba_linear: Premultiplied colour in linear light (HDR above 1 allowed) and coverage in [0, 1], stored near
            first. What hides what is decided by disparity along each ray, not by this order, which settles ties only.
        planes: (c0, cx, cy) of each layer: disparity at the corner (0, 0), and its change per pixel to the right and
            down [1/px].
    """

    rgba_linear: Float[Tensor, "b l c h w"]
    planes: Float[Tensor, "pb pl p"]

    def __post_init__(self) -> None:
        shape = tuple(self.rgba_linear.shape)
        if shape[2] != N_CHANNELS or min(shape) < 1:
            raise InputError(f"rgba_linear must be [b l 4 h w] with no empty axis; got {list(shape)}")
        if tuple(self.planes.shape) != (*shape[:2], N_PLANE_COEFFICIENTS):
            raise InputError(
                f"planes must be [b l 3], here {[*shape[:2], N_PLANE_COEFFICIENTS]}; got {list(self.planes.shape)}"
            )
        for name in ("rgba_linear", "planes"):
            if not bool(torch.isfinite(getattr(self, name)).all()):
                raise InputError(f"{name} must be finite; got NaN or infinity")
        least, most = (float(edge) for edge in self.rgba_linear[:, :, 3].detach().aminmax())
        if least < -ALPHA_SLACK or most > 1 + ALPHA_SLACK:
            raise InputError(f"coverage (channel 3 of rgba_linear) must be in [0, 1]; got {least:g} ... {most:g}")

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width [px]."""
        return int(self.rgba_linear.shape[-2]), int(self.rgba_linear.shape[-1])

    def disparity(self) -> Float[Tensor, "b l h w"]:
        """Disparity of every layer at every pixel centre."""
        return evaluate_planes(self.planes, pixel_centres(self.size_hw, like=self.planes))

    def composite(self) -> Float[Tensor, "b 4 h w"]:
        """The scene all in focus: at each pixel the layers laid over one another, nearest on top."""
        return composite_by_disparity(self.rgba_linear, self.disparity())


def pixel_centres(size_hw: tuple[int, int], *, like: Tensor) -> Float[Tensor, "2 h w"]:
    """Coordinates (x, y) of the pixel centres [px], in the dtype and on the device of `like`.

    Args:
        size_hw: Height and width [px].
        like: Any tensor.
    """
    y, x = (torch.arange(n, dtype=like.dtype, device=like.device) + 0.5 for n in size_hw)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))


def evaluate_planes(planes: Float[Tensor, "b l 3"], points: Float[Tensor, "2 h w"]) -> Float[Tensor, "b l h w"]:
    """Value of the affine functions (c0, cx, cy) at image points: c0 + cx * x + cy * y.

    Args:
        planes: Coefficients, as in `LayerStack.planes`.
        points: Coordinates (x, y) [px].
    """
    c0, cx, cy = planes[..., None, None].unbind(dim=2)
    return c0 + cx * points[0] + cy * points[1]


def composite_by_disparity(
    rgba_linear: Float[Tensor, "b l 4 h w"], disparity: Float[Tensor, "b l h w"]
) -> Float[Tensor, "b 4 h w"]:
    """Lay layers over one another, the greatest disparity on top, decided at each pixel by itself.

    Concretely, out = sum over k of rgba[k] * product over j < k of (1 - alpha[j]), with k counting from the nearest;
    equal disparities keep their order in the list.

    Args:
        rgba_linear: Premultiplied.
        disparity: Of each layer at each pixel; larger is nearer.
    """
    order = disparity.argsort(dim=1, descending=True, stable=True)[:, :, None].expand_as(rgba_linear)
    front_first = rgba_linear.gather(1, order)
    passes = torch.cumprod(1.0 - front_first[:, :-1, 3:], dim=1)
    return front_first[:, 0] + (front_first[:, 1:] * passes).sum(dim=1)
