"""One network taught by one loss: crops, steps, looks at held-out images, checkpoints; goes on where it was stopped."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from bokehdiff.data import EndlessCrops, RankBatches
from bokehdiff.errors import BokehDiffError
from bokehdiff.images import save_image
from bokehdiff.training.averaging import Average
from bokehdiff.training.checkpoint import Progress, find_checkpoint, save_checkpoint
from bokehdiff.training.records import append_record, truncate_records

Taught = TypeVar("Taught", bound=nn.Module)

logger = logging.getLogger(__name__)

BETAS = (0.9, 0.99)
GRADIENT_NORM = 1.0  # of the largest step that one batch may cause


@dataclass(frozen=True)
class Schedule:
    """How long, and how fast: a rise, a plain, a fall to 0, each of a step's learning rate a function of its number.

    Args:
        n_steps: Optimiser steps in all.
        learning_rate: On the plain.
        warmup_steps: Length of the rise.
        decay_steps: Length of the fall, at the end.
    """

    n_steps: int
    learning_rate: float
    warmup_steps: int
    decay_steps: int

    def at(self, step: int) -> float:
        """Learning rate of step number `step`, from 0."""
        rise = (step + 1) / self.warmup_steps
        fall = (self.n_steps - step) / self.decay_steps
        return self.learning_rate * max(0.0, min(1.0, rise, fall))


@dataclass(frozen=True)
class Stage(Generic[Taught]):
    """What is taught, and by what.

    Args:
        name: Of its folder.
        network: Trained in place.
        losses: Of a batch and a seed for its noise: "loss", and its parts.
        quality: Numbers of the network on held-out images.
        picture: Of the same, to look at.
    """

    name: str
    network: Taught
    losses: Callable[[Float[Tensor, "b 3 h w"], int], dict[str, Tensor]]
    quality: Callable[[], dict[str, float]]
    picture: Callable[[], Float[Tensor, "1 3 sheet_h sheet_w"]]


@dataclass(frozen=True)
class Teaching:
    """How a stage is run.

    Args:
        schedule: How long, how fast.
        batch_size: Crops per step.
        weight_decay: Of AdamW.
        ema_decay: Of the averaged weights.
        device: Where the network lies.
        autocast_dtype: Of the forward pass; None for float32.
        n_workers: Processes that cut crops.
        checkpointing_steps: Steps between checkpoints.
        checkpoints_kept: How many stay.
    """

    schedule: Schedule
    batch_size: int
    weight_decay: float
    ema_decay: float
    device: torch.device
    autocast_dtype: torch.dtype | None
    n_workers: int
    checkpointing_steps: int
    checkpoints_kept: int


def teach(
    stage: Stage[Taught], crops: EndlessCrops, teaching: Teaching, *, config: Mapping[str, Any], folder: Path
) -> Taught:
    """Run a stage to its end, from its newest checkpoint if there is one.

    Args:
        stage: What is taught.
        crops: By number.
        teaching: How.
        config: The run's configuration, kept with its checkpoints.
        folder: Of this stage: log, pictures, checkpoints.

    Returns:
        The network, with its averaged weights.
    """
    optimizer = torch.optim.AdamW(stage.network.parameters(), lr=1.0, betas=BETAS, weight_decay=teaching.weight_decay)
    average = Average(dict(stage.network.named_parameters()), teaching.ema_decay)
    progress = _resume(stage, optimizer, average, folder)
    schedule = teaching.schedule
    bar = tqdm(total=schedule.n_steps, initial=progress.n_steps, desc=stage.name, unit="step", dynamic_ncols=True)
    for image_srgb in _batches(crops, progress, teaching):
        for group in optimizer.param_groups:
            group["lr"] = schedule.at(progress.n_steps)
        losses = _step(stage, optimizer, image_srgb.to(teaching.device), teaching, seed=progress.n_samples_seen)
        progress = progress.after_step(len(image_srgb))
        average.update()
        numbers = {name: float(value.detach()) for name, value in losses.items()}
        if not math.isfinite(numbers["loss"]):
            raise BokehDiffError(
                f"{stage.name}: the loss is {numbers['loss']} at step {progress.n_steps}: stopped; the newest "
                f"checkpoint in {folder} is kept. Try a smaller learning_rate"
            )
        bar.set_postfix({name: f"{value:.4f}" for name, value in numbers.items()}, refresh=False)
        bar.update()
        due = progress.n_steps % teaching.checkpointing_steps == 0 or progress.n_steps == schedule.n_steps
        if due:
            with average.applied():
                numbers |= _look(stage, teaching, folder)
        append_record(folder, asdict(progress) | numbers)
        if due:
            states = {
                "network": stage.network.state_dict(),
                "average": average.state(),
                "optimizer": optimizer.state_dict(),
            }
            keep = teaching.checkpoints_kept
            save_checkpoint(folder, progress, states=states, config=config, write_adapter=lambda _: None, keep=keep)
    bar.close()
    average.settle()
    return stage.network.eval().requires_grad_(False)


def _look(stage: Stage[Taught], teaching: Teaching, folder: Path) -> dict[str, float]:
    with torch.autocast(teaching.device.type, teaching.autocast_dtype, enabled=teaching.autocast_dtype is not None):
        save_image(folder / "preview.png", stage.picture())
        return stage.quality()


def _resume(stage: Stage[Taught], optimizer: torch.optim.Optimizer, average: Average, folder: Path) -> Progress:
    found = find_checkpoint(folder, "latest")
    if found is None:
        return Progress()
    stage.network.load_state_dict(found.states["network"])
    average.load_state(found.states["average"])
    optimizer.load_state_dict(found.states["optimizer"])
    truncate_records(folder, found.progress.n_steps)
    logger.info("%s: going on from step %d", stage.name, found.progress.n_steps)
    return found.progress


def _batches(crops: EndlessCrops, progress: Progress, teaching: Teaching) -> DataLoader[Tensor]:
    left = teaching.schedule.n_steps - progress.n_steps
    numbers = RankBatches(teaching.batch_size, progress.n_samples_seen, max(left, 1) * teaching.batch_size)
    return DataLoader(
        cast(Dataset[Tensor], crops),  # torch asks by name for what an index is enough for
        batch_sampler=numbers if left > 0 else [],
        num_workers=teaching.n_workers,
        generator=torch.Generator().manual_seed(0),
    )


def _step(
    stage: Stage[Taught], optimizer: torch.optim.Optimizer, image_srgb: Tensor, teaching: Teaching, *, seed: int
) -> dict[str, Tensor]:
    kind, dtype = teaching.device.type, teaching.autocast_dtype
    with torch.autocast(kind, dtype, enabled=dtype is not None):
        losses = stage.losses(image_srgb, seed)
    losses["loss"].backward()
    torch.nn.utils.clip_grad_norm_(stage.network.parameters(), GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return losses
