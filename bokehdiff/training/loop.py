"""The story of a training run, top to bottom: build, resume, for each batch step, log, preview, save."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from bokehdiff.attention import INFERENCE_HARDNESS, training_hardness
from bokehdiff.data import TrainBatch, collate, training_loader
from bokehdiff.errors import BokehDiffError, at_fault
from bokehdiff.images import save_image
from bokehdiff.models import save_adapter
from bokehdiff.pictures import colour_coc, contact_sheet
from bokehdiff.training.build import Network, Run, build
from bokehdiff.training.checkpoint import Progress, find_checkpoint, load_checkpoint, save_checkpoint
from bokehdiff.training.config import TrainConfig, check_config
from bokehdiff.training.records import append_record, draw_loss_curve, truncate_records
from bokehdiff.training.steps import GeneratorLosses, discriminator_step, generator_step, pisa_inputs

logger = logging.getLogger(__name__)

ADAPTER_FOLDER = "adapter"
N_PREVIEWS = 3  # pictures of the very last samples, which no training run reaches


def train(config: TrainConfig) -> Path:
    """Train an adapter. The same command again goes on from the newest whole checkpoint.

    Args:
        config: What to train, on what, how long.

    Returns:
        The run's folder: `adapter/`, `log.jsonl`, `loss.png`, previews, checkpoints, `config.yaml`, `command.txt`.
    """
    check_config(config)
    run = build(config)
    progress = resume(run)
    bar = tqdm(
        total=run.length.n_steps,
        initial=progress.n_steps,
        desc="training",
        unit="step",
        disable=not run.accelerator.is_main_process,
    )
    for batch in batches(run, progress):
        losses = optimise(run, batch, progress)
        if not run.accelerator.sync_gradients:
            continue
        progress = Progress(progress.n_steps + 1, progress.n_samples_seen + run.length.n_samples_per_step)
        log(run, progress, losses, bar)
        if is_due(progress, run.length.preview_steps):
            preview(run, progress)
        if is_due(progress, run.length.checkpointing_steps) and progress.n_steps < run.length.n_steps:
            save(run, progress)
    bar.close()
    return finish(run, progress)


def resume(run: Run) -> Progress:
    """Go on where the newest whole checkpoint stands; from nothing if there is none."""
    with at_fault("--resume-from-checkpoint"):
        folder = find_checkpoint(run.folder, run.length.resume_from)
    if folder is None:
        return Progress()
    progress, states = load_checkpoint(folder)
    for name, part in _parts(run).items():
        part.load_state(states[name])
    if run.accelerator.is_main_process:
        truncate_records(run.folder, progress.n_steps)
        logger.info("Resuming from %s: %d samples seen", folder, progress.n_samples_seen)
    return progress


def batches(run: Run, progress: Progress) -> Iterator[TrainBatch]:
    """The batches that are left for this process, on its device."""
    left = run.length.n_steps * run.length.n_samples_per_step - progress.n_samples_seen
    if left <= 0:
        return
    loader: DataLoader[TrainBatch] = training_loader(
        run.dataset,
        batch_size=run.length.batch_size,
        first_sample=progress.n_samples_seen,
        n_samples=left,
        n_workers=run.length.n_workers,
        rank=run.accelerator.process_index,
        world_size=run.accelerator.num_processes,
    )
    for batch in loader:
        yield batch.to(run.accelerator.device)


def optimise(run: Run, batch: TrainBatch, progress: Progress) -> GeneratorLosses:
    """One batch through both networks: the generator first, then the discriminator on what it made."""
    accelerator = run.accelerator
    trained = [network.module for network in (run.generator, run.discriminator) if network]
    with accelerator.accumulate(*trained):
        pisa = pisa_inputs(
            batch, run.generator.bare, run.attention, hardness=training_hardness(progress.n_samples_seen)
        )
        feels_gan = progress.n_steps >= run.objective.gan_step
        prediction_srgb, losses = generator_step(
            run.generator, batch, run.objective, accelerator, pisa=pisa, prompt=run.prompt,
            discriminator=run.discriminator if feels_gan else None,
        )  # fmt: skip
        if run.discriminator:
            loss = discriminator_step(
                run.discriminator, prediction_srgb.detach(), batch, accelerator, kind=run.objective.gan_kind
            )
            losses = replace(losses, discriminator=loss)
    total = float(losses.total.detach())
    if not math.isfinite(total):
        raise BokehDiffError(
            f"the loss is {total} at step {progress.n_steps}, samples {list(batch.n)}: training stopped, "
            f"the newest checkpoint in {run.folder} is kept. Try a smaller --learning-rate or --mixed-precision no"
        )
    return losses


def log(run: Run, progress: Progress, losses: GeneratorLosses, bar: tqdm) -> None:
    """Tell the terminal, the log file and the trackers."""
    numbers = losses.as_numbers()
    bar.set_postfix({name: f"{value:.4f}" for name, value in numbers.items()}, refresh=False)
    bar.update()
    if run.accelerator.is_main_process:
        counters = {"n_steps": progress.n_steps, "n_samples_seen": progress.n_samples_seen}
        rates = {"learning_rate": run.generator.schedule.get_last_lr()[0]}
        append_record(run.folder, counters | numbers | rates)
    run.accelerator.log(numbers, step=progress.n_samples_seen)


def is_due(progress: Progress, every_steps: int) -> bool:
    """Whether something that is done every so many steps is due now; 0 is never."""
    return every_steps > 0 and progress.n_steps % every_steps == 0


@torch.no_grad()
def preview(run: Run, progress: Progress) -> None:
    """Draw input, circle of confusion, prediction and target of samples that training never sees."""
    if not run.accelerator.is_main_process:
        return
    samples = [run.dataset[len(run.dataset) - 1 - index] for index in range(N_PREVIEWS)]
    batch = collate(samples).to(run.accelerator.device)
    generator = run.generator.bare.eval()
    pisa = pisa_inputs(batch, generator, run.attention.for_inference(), hardness=INFERENCE_HARDNESS)
    prediction_srgb = generator(batch.image_srgb, pisa, run.prompt)
    generator.train()
    columns = {
        "input": batch.image_srgb,
        "circle of confusion": colour_coc(batch.coc_px),
        "prediction": prediction_srgb,
        "target": batch.target_srgb,
    }
    save_image(run.folder / f"preview_{progress.n_steps:08d}.png", contact_sheet(columns))
    draw_loss_curve(run.folder)


def save(run: Run, progress: Progress) -> None:
    """Write a checkpoint; the other processes wait for it."""
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        states = {name: part.state() for name, part in _parts(run).items()}
        save_checkpoint(
            run.folder, progress, states=states, write_adapter=lambda folder: _save_adapter(run, progress, folder),
            keep=run.length.checkpoints_kept,
        )  # fmt: skip
    run.accelerator.wait_for_everyone()


def finish(run: Run, progress: Progress) -> Path:
    """Leave the last checkpoint, the adapter and the loss curve."""
    save(run, progress)
    if run.accelerator.is_main_process:
        _save_adapter(run, progress, run.folder / ADAPTER_FOLDER)
        draw_loss_curve(run.folder)
        logger.info("Adapter, log and pictures are in %s", run.folder)
    run.accelerator.end_training()
    return run.folder


def _parts(run: Run) -> dict[str, Network[Any]]:
    parts: dict[str, Network[Any] | None] = {"generator": run.generator, "discriminator": run.discriminator}
    return {name: part for name, part in parts.items() if part is not None}


def _save_adapter(run: Run, progress: Progress, folder: Path) -> None:
    metadata = run.description | {"n_samples_seen": str(progress.n_samples_seen), "n_steps": str(progress.n_steps)}
    save_adapter(folder, run.generator.bare.unet, run.generator.bare.vae, metadata=metadata)
