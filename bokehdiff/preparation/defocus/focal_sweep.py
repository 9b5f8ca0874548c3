"""How well discs of every radius, the same everywhere, explain every pixel of defocused images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.images import Transfer, linear_to_srgb
from bokehdiff.optics import Aperture
from bokehdiff.preparation.defocus.labelling import STEP_PX, guided
from bokehdiff.renderers.scatter import FIRST_RADII_PX
from bokehdiff.renderers.spread import aperture_kernel

NOISE_SRGB = 0.004  # one step of 8 bits: differences below tell nothing
ROBUST_SRGB = 0.1  # larger differences come from occlusion and clipped lights, and count no more than this
LEAST_SLICE_PX = FIRST_RADII_PX[1]
N_PROBES = 4000  # pixels that vote for the lens, ...
PROBE_SHARE = 0.25  # ... but no more than this share of all


@dataclass(frozen=True)
class Sweep:
    """Costs of circles of confusion in each defocused image, on a ladder of radii.

    Args:
        costs: Squared difference, robust, display values, averaged within surfaces; n images, m rungs.
        first_px: Signed circle of confusion of each image's first rung [px].
        steps_px: Between the rungs of each image [px].
        signed: Whether rungs are signed circles of confusion, or radii that serve both sides of the focus.
    """

    costs: Float[Tensor, "n m h w"]
    first_px: Float[Tensor, " n"]
    steps_px: Float[Tensor, " n"]
    signed: bool

    def at(self, image: int, coc_px: Float[Tensor, " k"], where: Tensor | None = None) -> Float[Tensor, "k ..."]:
        """Costs of one image for signed circles of confusion, between two rungs by linear shares.

        Args:
            image: Which.
            coc_px: Signed [px]; beyond the ladder's ends as for those.
            where: Flat indices of pixels; None for all, as h w.
        """
        costs = self.costs[image] if where is None else self.costs[image].flatten(1)[:, where]
        rung = (coc_px if self.signed else coc_px.abs()) - self.first_px[image]
        position = (rung / self.steps_px[image]).clamp(0, len(costs) - 1)
        low = position.floor().long().clamp(max=max(len(costs) - 2, 0))
        share = (position - low).view(-1, *[1] * (costs.ndim - 1))
        return torch.lerp(costs[low], costs[(low + 1).clamp(max=len(costs) - 1)], share)

    def explained(
        self,
        levels_px: Float[Tensor, " k"],
        scales: Sequence[float],
        shifts: Float[Tensor, " n"],
        images: Sequence[int],
        where: Tensor | None = None,
    ) -> Float[Tensor, "k ..."]:
        """Costs, summed over images, if the circle of confusion in image i is scales[i] * level + shifts[i].

        Args:
            levels_px: Signed circles of confusion in the first image.
            scales: Of each image's over the first's.
            shifts: Added to it [px].
            images: Which.
            where: Flat indices of pixels; None for all, as h w.
        """
        total = self.at(images[0], scales[images[0]] * levels_px + shifts[images[0]], where)
        for i in images[1:]:
            total += self.at(i, scales[i] * levels_px + shifts[i], where)
        return total

    def probes(self) -> Tensor:
        """Flat indices of the pixels that one disc explains far better than others, those that see one surface only.

        Concretely, those with the largest sum over images of log(max cost / (min cost + NOISE_SRGB^2)).
        """
        ratios = self.costs.amax(dim=1) / (self.costs.amin(dim=1) + NOISE_SRGB**2)
        told = ratios.log().sum(dim=0).flatten()
        return told.topk(min(N_PROBES, math.ceil(PROBE_SHARE * len(told)))).indices


class Blurrer:
    """Blurs images by discs of many radii: the transform of an image is taken once.

    Concretely, blurred[c, y, x] = sum over (i, j) of kernel[i, j] image[c, y - i, x - j]; beyond the border the edge
    pixels go on.

    Args:
        size_hw: Of the images [px].
        largest_px: Largest radius [px].
        aperture: Shape of the opening.
    """

    def __init__(self, size_hw: tuple[int, int], largest_px: float, aperture: Aperture) -> None:
        self._size_hw = size_hw
        self._margin = math.ceil(largest_px) + 1
        self._padded_hw = [cv2.getOptimalDFTSize(side + 2 * self._margin) for side in size_hw]
        self._aperture = aperture

    def transform(self, image: Float[Tensor, "c h w"]) -> Tensor:
        """What `blurred` takes for an image."""
        return torch.fft.rfft2(F.pad(image[None], (self._margin,) * 4, mode="replicate")[0], s=self._padded_hw)

    def kernel(self, coc_px: float) -> Float[Tensor, "k k"]:
        """Picture of a dot; see `scatter.aperture_kernel`. Below the renderer's least slice, as it blends two."""
        share = min(abs(coc_px) / LEAST_SLICE_PX, 1.0)
        kernel = aperture_kernel(coc_px if share == 1.0 else LEAST_SLICE_PX, self._aperture, like=torch.zeros(()))
        dot = torch.zeros_like(kernel)
        dot[len(kernel) // 2, len(kernel) // 2] = 1.0
        return torch.lerp(dot, kernel, share)

    def blurred(self, transform: Tensor, kernel: Float[Tensor, "k k"]) -> Float[Tensor, "c h w"]:
        """The image convolved with a kernel no wider than the largest disc."""
        first = self._margin + kernel.shape[0] // 2
        product = transform * torch.fft.rfft2(kernel, s=self._padded_hw)
        height, width = self._size_hw
        return torch.fft.irfft2(product, s=self._padded_hw)[..., first : first + height, first : first + width]


@dataclass(frozen=True)
class Uniform:
    """The one radius that explains the whole of each image.

    Args:
        squared: Mean squared difference of display values; n images, m radii of 0, STEP_PX, 2 STEP_PX, ...
    """

    squared: Float[Tensor, "n m"]

    def best_px(self, levels_px: Float[Tensor, " k"], scales: Sequence[float], shifts: Float[Tensor, " n"]) -> float:
        """The circle of confusion in the first image with the least sum of squares over all images [px].

        Args:
            levels_px: To choose from, signed.
            scales: Of each image's over the first's.
            shifts: Added to it [px].
        """
        sweep = _of_radii(self.squared[..., None, None])
        total = sweep.explained(levels_px, scales, shifts, range(len(self.squared)))
        return float(levels_px[int(total.flatten().argmin())])


def difference(picture_srgb: Float[Tensor, "3 h w"], seen_srgb: Float[Tensor, "3 h w"]) -> Float[Tensor, "h w"]:
    """Mean over the colours of e^2 / (1 + e^2 / ROBUST_SRGB^2), e the difference of display values."""
    squared = (picture_srgb - seen_srgb).square_()
    return (squared / (1.0 + squared / ROBUST_SRGB**2)).mean(dim=0)


def sweep_radii(
    sharp_linear: Float[Tensor, "1 3 h w"],
    blurred_srgb: Float[Tensor, "n 3 h w"],
    *,
    largest_px: float,
    aperture: Aperture,
    transfer: Transfer,
) -> tuple[Sweep, Uniform]:
    """Blur the sharp image by discs of every radius, each once, and compare it with the defocused images.

    Concretely, with D[n, m, y, x] = `difference` of blur_m and image n, costs[n, m] = `labelling.guided` averages of
    D[n, m]. A disc is the same before and behind the focus; of a lopsided opening one side is taken for both.

    Args:
        sharp_linear: All in focus.
        blurred_srgb: Defocused images, display values in [0, 1].
        largest_px: Largest radius [px].
        aperture: Shape of the opening.
        transfer: How light becomes display values.
    """
    n_radii = math.ceil(largest_px / STEP_PX) + 1
    blurrer = Blurrer((sharp_linear.shape[2], sharp_linear.shape[3]), (n_radii - 1) * STEP_PX, aperture)
    transform = blurrer.transform(sharp_linear[0])
    costs = sharp_linear.new_zeros(len(blurred_srgb), n_radii, *sharp_linear.shape[2:])
    squared = costs.new_zeros(len(blurred_srgb), n_radii)
    for m in range(n_radii):
        picture = blurrer.blurred(transform, blurrer.kernel(m * STEP_PX)).clamp_min(0.0)
        picture = linear_to_srgb(picture[None], transfer=transfer)[0].clamp(0.0, 1.0)
        for n, seen in enumerate(blurred_srgb):
            costs[n, m] = difference(picture, seen)
            squared[n, m] = (picture - seen).square().mean()
    sharp_srgb = linear_to_srgb(sharp_linear, transfer=transfer).clamp(0.0, 1.0)
    averaged = torch.stack([guided(part, sharp_srgb) for part in costs])
    return _of_radii(averaged), Uniform(squared)


def _of_radii(costs: Float[Tensor, "n m h w"]) -> Sweep:
    return Sweep(costs, torch.zeros(len(costs)), torch.full((len(costs),), STEP_PX), signed=False)
