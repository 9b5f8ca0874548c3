"""What the compositor hands over: one training sample, and a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError

LENS_REMEDY = "train on composed samples or BLB, whose lens is known, or a network that needs no lens"


@dataclass(frozen=True)
class TrainSample:
    """A pair of photographs of one scene, all in focus and through a lens, with what is known of the lens.

    Composed samples know everything. Photographed pairs know less, and say so by None: nothing is guessed.

    Args:
        image_srgb: All in focus, display values in [0, 1].
        target_srgb: Through the lens, display values in [0, 1].
        disparity: 0 farthest, 1 nearest, as told to the network; where a pixel is part foreground, part background,
            mixed by its alpha. None where the pair has no map.
        coc_px: Signed circle of confusion [px] as told to the network: the rendered one, times a jitter. None where the
            lens or the disparity is not known.
        focus_disparity: Disparity of the plane in focus, in the units of `disparity`; None as for `coc_px`.
        strength_px: Strength that the target was rendered with [px per unit of `disparity`], at the sample's size; None
            as for `coc_px`.
        n: Number of the sample.
        f_number: Of the lens of the target [1]; None where it is not known.
    """

    image_srgb: Float[Tensor, "3 h w"]
    target_srgb: Float[Tensor, "3 h w"]
    disparity: Float[Tensor, "h w"] | None
    coc_px: Float[Tensor, "h w"] | None
    focus_disparity: float | None
    strength_px: float | None
    n: int
    f_number: float | None = None

    def to(self, device: torch.device | str) -> TrainSample:
        """The same sample on a device.

        Args:
            device: Where to.
        """
        moved = {key: value.to(device) for key, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)  # type: ignore[arg-type]

    def pin_memory(self) -> TrainSample:
        """The same sample in memory that a GPU can copy from by itself; PyTorch's loader asks for it."""
        pinned = {key: value.pin_memory() for key, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **pinned)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TrainBatch:
    """Training samples of one size, stacked; see `TrainSample`.

    What every sample knows is there; else it is None here, and asking for it by the plain name (`batch.coc_px`) is an
    error that says what to do. So a network that needs the lens cannot train on pairs that do not know theirs.

    Args:
        image_srgb: All in focus, display values in [0, 1].
        target_srgb: Through the lens, display values in [0, 1].
        known_disparity: 0 farthest, 1 nearest.
        known_coc_px: Signed circle of confusion as told to the network [px].
        known_focus_disparity: Disparity of the plane in focus.
        known_strength_px: Strength that the targets were rendered with [px per unit of disparity].
        f_number: Of the lenses of the targets [1].
        n: Numbers of the samples.
    """

    image_srgb: Float[Tensor, "b 3 h w"]
    target_srgb: Float[Tensor, "b 3 h w"]
    known_disparity: Float[Tensor, "b h w"] | None
    known_coc_px: Float[Tensor, "b h w"] | None
    known_focus_disparity: Float[Tensor, " b"] | None
    known_strength_px: Float[Tensor, " b"] | None
    f_number: Float[Tensor, " b"] | None
    n: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.n)

    @property
    def disparity(self) -> Float[Tensor, "b h w"]:
        """0 farthest, 1 nearest."""
        return self._known(self.known_disparity, "disparity", "`bokehdiff prepare` predicts it")

    @property
    def coc_px(self) -> Float[Tensor, "b h w"]:
        """Signed circle of confusion as told to the network [px]."""
        return self._known(self.known_coc_px, "circle of confusion", LENS_REMEDY)

    @property
    def focus_disparity(self) -> Float[Tensor, " b"]:
        """Disparity of the plane in focus."""
        return self._known(self.known_focus_disparity, "focus", LENS_REMEDY)

    @property
    def strength_px(self) -> Float[Tensor, " b"]:
        """Strength that the targets were rendered with [px per unit of disparity]."""
        return self._known(self.known_strength_px, "strength", LENS_REMEDY)

    def _known(self, value: Tensor | None, what: str, remedy: str) -> Tensor:
        if value is None:
            raise InputError(f"samples {list(self.n)} do not know their {what}, which is needed here: {remedy}")
        return value

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> TrainBatch:
        """The same batch on a device.

        Args:
            device: Where to.
            non_blocking: Do not wait for copies from pinned memory; does not change the result.
        """
        moved = {key: value.to(device, non_blocking=non_blocking) for key, value in self.tensors()}
        return replace(self, **moved)  # type: ignore[arg-type]

    def pin_memory(self) -> TrainBatch:
        """The same batch in memory that a GPU can copy from by itself; PyTorch's loader asks for it."""
        pinned = {key: value.pin_memory() for key, value in self.tensors()}
        return replace(self, **pinned)  # type: ignore[arg-type]

    def tensors(self) -> list[tuple[str, Tensor]]:
        """The tensors that are there, with their names."""
        return [(key, value) for key, value in vars(self).items() if isinstance(value, Tensor)]


def collate(samples: Sequence[TrainSample]) -> TrainBatch:
    """Stack samples into a batch, in their order.

    Args:
        samples: At least one, all of one size.
    """
    sizes = {tuple(sample.image_srgb.shape[1:]) for sample in samples}
    if len(sizes) != 1:
        raise InputError(f"a batch needs samples of one size; got {len(samples)} samples of sizes {sorted(sizes)}")
    return TrainBatch(
        image_srgb=torch.stack([sample.image_srgb for sample in samples]),
        target_srgb=torch.stack([sample.target_srgb for sample in samples]),
        known_disparity=_stacked([sample.disparity for sample in samples]),
        known_coc_px=_stacked([sample.coc_px for sample in samples]),
        known_focus_disparity=_stacked([sample.focus_disparity for sample in samples]),
        known_strength_px=_stacked([sample.strength_px for sample in samples]),
        f_number=_stacked([sample.f_number for sample in samples]),
        n=tuple(sample.n for sample in samples),
    )


def _stacked(values: Sequence[Tensor | float | None]) -> Tensor | None:
    """One tensor of what every sample knows; None where one does not."""
    known = [torch.as_tensor(value) for value in values if value is not None]
    return torch.stack(known).to(known[0]) if len(known) == len(values) else None
