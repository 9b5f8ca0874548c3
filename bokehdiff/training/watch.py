"""What stops a run before it does harm: numbers that are none, pictures that exploded, processes that drift apart."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from accelerate.utils import gather_object

from bokehdiff.errors import BokehDiffError
from bokehdiff.training.checkpoint import Progress
from bokehdiff.training.endings import FAILURE_FILE, DivergenceError, write_failure
from bokehdiff.training.records import Tally
from bokehdiff.training.run import Run

WORST_MSE = 4.0  # of pictures in [-1, 1]: black where white should be, everywhere; beyond it a network has exploded


def refuse_divergence(run: Run, progress: Progress, numbers: Mapping[str, float], tally: Tally) -> None:
    """Stop on a number that is none, or pictures worse than any can be; write down which samples it came with.

    The numbers are the same on all processes, so all stop.
    """
    lost = [name for name, value in numbers.items() if not math.isfinite(value)]
    if not lost and numbers["mse"] <= WORST_MSE:
        return
    what = f"{lost[0]} is {numbers[lost[0]]}" if lost else f"the mean squared error is {numbers['mse']:.3g}"
    batches = [{"samples": list(n), "losses": {k: float(v) for k, v in parts.items()}} for n, parts in tally.batches]
    batches = gather_object(batches)
    samples = sorted(n for batch in batches for n in batch["samples"])
    if run.accelerator.is_main_process:
        record = {"n_steps": progress.n_steps, "seed": run.config["run"]["seed"], "what": what, "batches": batches}
        write_failure(run.folder, record)
    raise DivergenceError(
        f"{what} at step {progress.n_steps}, samples {samples} ({run.folder / FAILURE_FILE}): training stopped, the "
        "newest checkpoint is kept. Try a smaller --learning-rate, or --mixed-precision bf16 or no"
    )


def refuse_disagreement(run: Run) -> None:
    """Processes that train together hold the same weights bit for bit: a sum over all of them tells.

    Weights in shares are there once and cannot disagree.
    """
    alike = [part.trained.values() for part in run.method.networks.values() if not part.is_sharded]
    sums = [weight.detach().double().sum() for weights in alike for weight in weights]
    if not sums:
        return
    mine = torch.stack(sums)
    everyones = run.accelerator.gather(mine[None])
    different = [rank for rank, theirs in enumerate(everyones) if not torch.equal(theirs, everyones[0])]
    if different:
        raise BokehDiffError(
            f"the trained weights of processes {different} are not those of process 0: nothing is saved"
        )
