"""What the compositor hands over: one training sample, and a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError


@dataclass(frozen=True)
class TrainSample:
    """A pair of photographs of one scene, all in focus and through a lens, with what the lens is.

    Args:
        image_srgb: All in focus, display values in [0, 1].
        target_srgb: Through the lens, display values in [0, 1].
        disparity: 0 farthest, 1 nearest; where a pixel is part foreground, part background, mixed by its alpha.
        coc_px: Signed circle of confusion [px] as told to the network: the rendered one, times a jitter.
        focus_disparity: Disparity of the plane in focus.
        strength_px: Strength that the target was rendered with [px per unit of disparity], at the sample's size.
        n: Number of the sample.
    """

    image_srgb: Float[Tensor, "3 h w"]
    target_srgb: Float[Tensor, "3 h w"]
    disparity: Float[Tensor, "h w"]
    coc_px: Float[Tensor, "h w"]
    focus_disparity: float
    strength_px: float
    n: int


@dataclass(frozen=True)
class TrainBatch:
    """Training samples of one size, stacked; see `TrainSample`.

    Args:
        image_srgb: All in focus, display values in [0, 1].
        target_srgb: Through the lens, display values in [0, 1].
        disparity: 0 farthest, 1 nearest.
        coc_px: Signed circle of confusion as told to the network [px].
        focus_disparity: Disparity of the plane in focus.
        strength_px: Strength that the targets were rendered with [px per unit of disparity].
        n: Numbers of the samples.
    """

    image_srgb: Float[Tensor, "b 3 h w"]
    target_srgb: Float[Tensor, "b 3 h w"]
    disparity: Float[Tensor, "b h w"]
    coc_px: Float[Tensor, "b h w"]
    focus_disparity: Float[Tensor, " b"]
    strength_px: Float[Tensor, " b"]
    n: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.n)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> TrainBatch:
        """The same batch on a device.

        Args:
            device: Where to.
            non_blocking: Do not wait for copies from pinned memory; does not change the result.
        """
        moved = {name: value.to(device, non_blocking=non_blocking) for name, value in vars(self).items() if name != "n"}
        return TrainBatch(**moved, n=self.n)


def collate(samples: Sequence[TrainSample]) -> TrainBatch:
    """Stack samples into a batch, in their order.

    Args:
        samples: At least one, all of one size.
    """
    sizes = {tuple(sample.image_srgb.shape[1:]) for sample in samples}
    if len(sizes) != 1:
        raise InputError(f"a batch needs samples of one size; got {len(samples)} samples of sizes {sorted(sizes)}")
    maps = {
        name: torch.stack([getattr(sample, name) for sample in samples])
        for name in ("image_srgb", "target_srgb", "disparity", "coc_px")
    }
    return TrainBatch(
        **maps,
        focus_disparity=torch.tensor([sample.focus_disparity for sample in samples]),
        strength_px=torch.tensor([sample.strength_px for sample in samples]),
        n=tuple(sample.n for sample in samples),
    )
