"""The networks of the neural node: loaded once, and kept until others are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bokehdiff.devices import pick_device
from bokehdiff.errors import BokehDiffError, InputError

if TYPE_CHECKING:
    from bokehdiff.inference import BokehDiffPipeline

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INPUT_OF_FLAG = {"--pretrained-model-name-or-path": "base", "--resume-from-checkpoint": "adapter"}


@dataclass(frozen=True)
class Weights:
    """Which networks, and where they compute.

    Args:
        base: Folder in the diffusers layout, hub id, or a saved pipeline.
        adapter: Folder, file or hub id; "" for none.
        adapter_variant: Folder of the adapter on the hub; "" for none. A local adapter has none.
        base_variant: File variant of the base, such as fp16; "" for none.
        precision: Of the UNet, a key of PRECISIONS.
        device: As of `bokehdiff.devices.pick_device`.
    """

    base: str
    adapter: str
    adapter_variant: str
    base_variant: str
    precision: str
    device: str


class KeptPipeline:
    """The pipeline that was used last: SDXL takes gigabytes, so there is never a second."""

    def __init__(self) -> None:
        self._weights: Weights | None = None
        self._pipeline: BokehDiffPipeline | None = None

    def of(self, weights: Weights) -> BokehDiffPipeline:
        """The pipeline of these weights, loaded if it is not the one that is kept.

        Args:
            weights: Which.
        """
        if self._pipeline is None or weights != self._weights:
            self._pipeline = None  # the old one leaves memory before the new one comes
            self._pipeline = _load(weights)
            self._weights = weights
        return self._pipeline


def _load(weights: Weights) -> BokehDiffPipeline:
    from bokehdiff.inference import BokehDiffPipeline

    if not weights.base:
        raise InputError("name an SDXL base: a folder in the diffusers layout, or a hub id", flag="base")
    is_local = Path(weights.adapter).expanduser().exists()
    # ComfyUI runs nodes in inference mode, where weights would be made that nothing outside of it could use.
    with _inputs_named(), torch.inference_mode(False):
        return BokehDiffPipeline.from_pretrained(
            weights.base,
            adapter=weights.adapter or None,
            adapter_variant=None if is_local else weights.adapter_variant or None,
            variant=weights.base_variant or None,
            device=pick_device(weights.device),
            dtype=PRECISIONS[weights.precision],
        )


@contextmanager
def _inputs_named() -> Iterator[None]:
    """Within this block, errors speak of the node's inputs where they would speak of flags of the command line."""
    try:
        yield
    except BokehDiffError as error:
        for flag, name in INPUT_OF_FLAG.items():
            error.flag = name if error.flag == flag else error.flag
            error.message = error.message.replace(flag, name)
        raise
