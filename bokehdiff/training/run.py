"""What the loop runs: the parts of a run, and what it asks of the method that is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from bokehdiff.data import ComposeOn, SampleSource, TrainBatch
from bokehdiff.training.checkpoint import Progress
from bokehdiff.training.endings import StopRequest
from bokehdiff.training.network import Network
from bokehdiff.training.policy import Policy
from bokehdiff.training.publish import Destination
from bokehdiff.training.records import Tally

Judge = Callable[[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"]], Tensor]  # of a picture and its target


@dataclass(frozen=True)
class HeldOut:
    """Pairs by number that training never sees, and how often they are looked at.

    Args:
        source: Makes them.
        numbers: Which of them; training reaches none.
        measured_every: Steps between two measurements [steps]; 0 for never.
        pictured_every: Steps between two pictures [steps]; 0 for never.
    """

    source: SampleSource
    numbers: tuple[int, ...]
    measured_every: int
    pictured_every: int


@dataclass(frozen=True)
class Length:
    """How long a run is and how often it does what.

    Args:
        n_steps: Optimiser steps in all.
        batch_size: Samples per batch and process.
        n_samples_per_step: Samples per optimiser step over all processes and accumulated batches.
        n_workers: Processes that compose samples.
        compose_on: Where they are rendered.
        checkpointing_steps: A checkpoint every so many steps.
        checkpoints_kept: How many stay; None for all.
        resume_from: "latest", a folder, or None.
        prefetched: Batches that each worker makes ahead; None for what torch does.
    """

    n_steps: int
    batch_size: int
    n_samples_per_step: int
    n_workers: int
    compose_on: ComposeOn
    checkpointing_steps: int
    checkpoints_kept: int | None
    resume_from: str | None
    prefetched: int | None = None


@runtime_checkable
class Method(Protocol):
    """What is trained, and how: its networks, a step, the pictures it makes, the files it leaves."""

    @property
    def main(self) -> Network[Any]:
        """The network that makes the pictures: measured, shown, handed over."""
        ...

    @property
    def networks(self) -> Mapping[str, Network[Any]]:
        """All that train, by their names in a checkpoint."""
        ...

    @property
    def accumulated(self) -> list[nn.Module]:
        """Networks whose gradients wait for the last batch of a step."""
        ...

    @property
    def judges(self) -> Mapping[str, Judge]:
        """What held-out pictures are measured by; "psnr" tells which weights are the best so far."""
        ...

    @property
    def result_name(self) -> str:
        """Folder of what a run leaves."""
        ...

    def step(self, batch: TrainBatch, progress: Progress, accelerator: Accelerator, tally: Tally) -> None:
        """One batch through all networks; its losses, "loss" and "mse" among them, are told to the tally.

        Args:
            batch: Samples on the device.
            progress: How far the run has come.
            accelerator: Precision, accumulation.
            tally: Of the optimiser step.
        """

    def picture(self, batch: TrainBatch) -> Float[Tensor, "b 3 h w"]:
        """What the network would make of a batch at inference, in [0, 1]; called within `main.as_handed_over`.

        Args:
            batch: Pairs on the device, of any size.
        """
        ...

    def target(self, batch: TrainBatch) -> Float[Tensor, "b 3 h w"]:
        """What that picture should be.

        Args:
            batch: As of `picture`.
        """
        ...

    def shown(self, batch: TrainBatch) -> Mapping[str, Float[Tensor, "b 3 h w"]]:
        """What the network is told of a batch, as pictures of the target's size, by caption.

        Args:
            batch: As of `picture`.
        """
        ...

    def handed_over(self) -> Any:
        """The trained parts as they are handed over; all processes together."""

    def write(
        self, folder: Path, tensors: Any, told: Mapping[str, str], scores: Mapping[str, float] | None, *, name: str
    ) -> None:
        """Write what is handed over, with what it is.

        Args:
            folder: Where to.
            tensors: From `handed_over`.
            told: How it was made.
            scores: Measured on held-out pairs; None in a checkpoint, which nobody reads.
            name: What others will call it: a folder or a hub id.
        """


@dataclass(frozen=True)
class Run:
    """Everything that training needs, built.

    Args:
        accelerator: Devices, precision, processes.
        method: What is trained, and how.
        dataset: Training samples by number.
        held_out: Pairs that training never sees.
        length: How long, how often.
        folder: The run's folder.
        destination: Where the result is published; None if nowhere.
        description: What is written beside the weights: what they are, versions.
        config: The configuration as nested mappings, stored with each checkpoint.
        policy: What of it may differ when the run goes on from a checkpoint.
        stop: Whether somebody asked the run to stop.
    """

    accelerator: Accelerator
    method: Method
    dataset: SampleSource
    held_out: HeldOut
    length: Length
    folder: Path
    destination: Destination | None
    description: dict[str, str]
    config: dict[str, Any]
    policy: Policy
    stop: StopRequest
