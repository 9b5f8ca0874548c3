"""The story of a training run, top to bottom: build, resume, for each batch step, log, measure, draw, save."""

from __future__ import annotations

import json
import logging
import shutil
import signal
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from bokehdiff.data import TrainBatch, training_batches
from bokehdiff.errors import at_fault
from bokehdiff.images import make_folder, save_image
from bokehdiff.training.build import build
from bokehdiff.training.checkpoint import Progress, find_checkpoint, save_checkpoint, whole_or_not_at_all
from bokehdiff.training.config import TrainConfig, check_config
from bokehdiff.training.endings import Stopped, memory_errors_told, signal_name
from bokehdiff.training.held_out import BEST_PREFIX, SCORES_FILE, best_so_far, measure, picture
from bokehdiff.training.policy import compare_configs, flat_fields
from bokehdiff.training.publish import push
from bokehdiff.training.records import (
    VALIDATION_FILE,
    Tally,
    append_record,
    draw_loss_curve,
    last_scores,
    truncate_records,
)
from bokehdiff.training.run import Run
from bokehdiff.training.watch import refuse_disagreement, refuse_divergence

logger = logging.getLogger(__name__)

TRACKED_RUN = "logs"


def train(config: TrainConfig) -> Path:
    """Train an adapter. The same command again goes on from the newest whole checkpoint.

    Args:
        config: What to train, on what, how long.

    Returns:
        The run's folder: `adapter/`, `log.jsonl`, `loss.png`, previews, checkpoints, `config.yaml`, `command.txt`.

    Raises:
        Stopped: If SIGTERM or Ctrl-C asked for it; a checkpoint was saved first.
    """
    check_config(config)
    with memory_errors_told():
        return train_run(build(config))


def train_run(run: Run) -> Path:
    """Train what was built, from where it stands to its last step; signals ask it to stop after a step.

    Args:
        run: Of any method.
    """
    with run.stop.listening():
        return _train_run(run)


def _train_run(run: Run) -> Path:
    progress = resume(run)
    start_tracker(run, progress)
    bar = progress_bar(run, progress)
    tally = Tally()
    for batch in tally.waiting_for(batches(run, progress)):
        optimise(run, batch, progress, tally)
        if not run.accelerator.sync_gradients:
            continue
        numbers, stop = tally.close(run.accelerator, run.length.n_samples_per_step, stop=run.stop.is_asked)
        refuse_divergence(run, progress, numbers, tally)
        tally.clear()
        progress = progress.after_step(run.length.n_samples_per_step)
        log(run, progress, numbers, bar)
        if is_due(progress, run.held_out.measured_every):
            validate(run, progress)
        if is_due(progress, run.held_out.pictured_every):
            preview(run, progress)
        if stop or (is_due(progress, run.length.checkpointing_steps) and progress.n_steps < run.length.n_steps):
            save(run, progress)
        if stop:
            end_early(run, progress)
    bar.close()
    return finish(run, progress)


def resume(run: Run) -> Progress:
    """Go on where the newest whole checkpoint stands; from nothing if there is none."""
    with at_fault("--resume-from-checkpoint"):
        checkpoint = find_checkpoint(run.folder, run.length.resume_from)
        if checkpoint is None:
            return Progress()
        compare_configs(checkpoint.config, run.config, run.policy)
    for name, part in run.method.networks.items():
        if name in checkpoint.states:
            part.load_state(checkpoint.states[name])
        else:
            logger.warning("%s holds no %s: it starts anew", checkpoint.folder.name, name)
    if run.accelerator.scaler is not None and "scaler" in checkpoint.states:
        run.accelerator.scaler.load_state_dict(checkpoint.states["scaler"])
    if run.accelerator.is_main_process:
        truncate_records(run.folder, checkpoint.progress.n_steps)
        logger.info("Resuming from %s: %d samples seen", checkpoint.folder, checkpoint.progress.n_samples_seen)
    return checkpoint.progress


def start_tracker(run: Run, progress: Progress) -> None:
    """Tell the tracker what is trained; what TensorBoard was told after the checkpoint is done again and replaced."""
    plain = {
        name: value if isinstance(value, int | float | str) else str(value) for name, value in flat_fields(run.config)
    }
    tensorboard = {"tensorboard": {"purge_step": progress.n_samples_seen + 1}} if progress.n_steps else {}
    run.accelerator.init_trackers(TRACKED_RUN, config=plain, init_kwargs=tensorboard)


def progress_bar(run: Run, progress: Progress) -> tqdm:
    """A bar of steps, on the main process only."""
    shown = run.accelerator.is_main_process
    return tqdm(
        total=run.length.n_steps,
        initial=progress.n_steps,
        desc="training",
        unit="step",
        disable=None if shown else True,
    )


def batches(run: Run, progress: Progress) -> Iterator[TrainBatch]:
    """The batches that are left for this process, on its device."""
    left = run.length.n_steps * run.length.n_samples_per_step - progress.n_samples_seen
    if left <= 0:
        return
    yield from training_batches(
        run.dataset,
        device=run.accelerator.device,
        compose_on=run.length.compose_on,
        batch_size=run.length.batch_size,
        first_sample=progress.n_samples_seen,
        n_samples=left,
        n_workers=run.length.n_workers,
        rank=run.accelerator.process_index,
        world_size=run.accelerator.num_processes,
        prefetched=run.length.prefetched,
    )


def optimise(run: Run, batch: TrainBatch, progress: Progress, tally: Tally) -> None:
    """One batch through all networks of the method."""
    with run.accelerator.accumulate(*run.method.accumulated):
        run.method.step(batch, progress, run.accelerator, tally)


def log(run: Run, progress: Progress, numbers: Mapping[str, float], bar: tqdm) -> None:
    """Tell the terminal, the log file and the tracker."""
    rates = {"learning_rate": run.method.main.schedule.get_last_lr()[0]}
    waited = numbers["data_wait_s"] * numbers["samples_per_s"] / run.length.n_samples_per_step
    bar.set_postfix_str(
        f"loss {numbers['loss']:.4f}, PSNR {numbers['psnr']:.2f} dB, {numbers['samples_per_s']:.2f} samples/s, "
        f"{waited:.0%} waiting for data",
        refresh=False,
    )
    bar.update()
    if run.accelerator.is_main_process:
        append_record(run.folder, asdict(progress) | dict(numbers) | rates)
    run.accelerator.log(dict(numbers) | rates, step=progress.n_samples_seen)


def is_due(progress: Progress, every_steps: int) -> bool:
    """Whether something that is done every so many steps is due now; 0 is never."""
    return every_steps > 0 and progress.n_steps % every_steps == 0


def validate(run: Run, progress: Progress) -> None:
    """Measure held-out pairs; keep the weights if they are the best so far."""
    scores = measure(run.held_out, run.method, run.accelerator)
    run.accelerator.log(scores, step=progress.n_samples_seen)
    tensors = run.method.handed_over()
    if not run.accelerator.is_main_process:
        return
    told = ", ".join(f"{name.removeprefix('validation_').upper()} {value:.4f}" for name, value in scores.items())
    logger.info("Held-out pairs after %d steps: %s", progress.n_steps, told)
    append_record(run.folder, asdict(progress) | scores, file=VALIDATION_FILE)
    highest = best_so_far(run.folder, progress.n_steps - 1)
    if scores["validation_psnr"] > highest:
        folder = run.folder / f"{BEST_PREFIX}{progress.n_steps:08d}"
        with whole_or_not_at_all(folder) as partial:
            write(run, progress, tensors, partial, scores)
        for older in run.folder.glob(f"{BEST_PREFIX}*"):
            if older != folder:
                shutil.rmtree(older)


def preview(run: Run, progress: Progress) -> None:
    """Draw input, prediction and target of samples that training never sees."""
    if not (run.accelerator.is_main_process or run.method.main.is_sharded):
        return
    sheet = picture(run.held_out, run.method, run.accelerator.device)
    if run.accelerator.is_main_process:
        save_image(run.folder / f"preview_{progress.n_steps:08d}.png", sheet)
        draw_loss_curve(run.folder)


def save(run: Run, progress: Progress) -> None:
    """Write a checkpoint, after all processes agree on what they trained; the others wait for it."""
    refuse_disagreement(run)
    tensors, states = run.method.handed_over(), {name: part.state() for name, part in run.method.networks.items()}
    if run.accelerator.is_main_process:
        if run.accelerator.scaler is not None:
            states["scaler"] = run.accelerator.scaler.state_dict()
        save_checkpoint(
            run.folder, progress, states=states, config=run.config, keep=run.length.checkpoints_kept,
            write_adapter=lambda folder: write(run, progress, tensors, folder),
        )  # fmt: skip
    run.accelerator.wait_for_everyone()


def end_early(run: Run, progress: Progress) -> None:
    """Say that the run was asked to stop, what it left, and how it goes on."""
    run.accelerator.end_training()
    number = run.stop.signal_number or signal.SIGTERM  # another process may have heard it
    raise Stopped(
        f"stopped by {signal_name(number)} after {progress.n_steps} of {run.length.n_steps} steps; saved in "
        f"{run.folder}: the same command goes on from there",
        signal_number=number,
    )


def finish(run: Run, progress: Progress) -> Path:
    """Leave the last checkpoint, the result with what it is, and the loss curve; publish if that was asked for."""
    save(run, progress)
    tensors = run.method.handed_over()
    if run.accelerator.is_main_process:
        folder = make_folder(run.folder / run.method.result_name)
        write(run, progress, tensors, folder, last_scores(run.folder))
        draw_loss_curve(run.folder)
        logger.info("The result, its log and pictures are in %s", run.folder)
        if run.destination:
            logger.info("Published: %s", push(folder, run.destination))
    run.accelerator.end_training()
    return run.folder


def write(run: Run, progress: Progress, tensors: Any, folder: Path, scores: Mapping[str, float] | None = None) -> None:
    """What is handed over, with what it is; with scores, those beside it."""
    told = run.description | {"n_samples_seen": str(progress.n_samples_seen), "n_steps": str(progress.n_steps)}
    name = run.destination.repository if run.destination else folder.name
    run.method.write(folder, tensors, told, scores, name=name)
    if scores:
        (folder / SCORES_FILE).write_text(json.dumps(dict(scores)) + "\n", encoding="utf-8")
