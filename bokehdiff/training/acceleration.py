"""Devices, precision, processes and the tracker, as accelerate has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from bokehdiff.errors import InputError, MissingDependencyError
from bokehdiff.training.sharding import refuse_other_launchers
from bokehdiff.training.zero import zero_is_asked_for, zero_settings

HALF_PRECISION = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WITHOUT_TRACKER = {"", "none"}


def build_accelerator(
    folder: Path, *, mixed_precision: str, n_accumulated: int, report_to: str, allow_tf32: bool
) -> Accelerator:
    """What tells this process where to compute, with whom, and whom to report to.

    Args:
        folder: The run's.
        mixed_precision: "no", "fp16" or "bf16".
        n_accumulated: Batches summed into one step.
        report_to: A tracker of accelerate; "none" for none.
        allow_tf32: Allow TF32 matrix products on NVIDIA cards.
    """
    tracker = None if report_to in WITHOUT_TRACKER else report_to
    there = sorted(str(name) for name in get_available_trackers())
    if tracker is not None and tracker not in there:
        raise MissingDependencyError(
            f"no tracker called {tracker!r} is installed; there are {', '.join(there)}, and none", flag="--report-to"
        )
    refuse_other_launchers()
    by_zero = zero_is_asked_for()
    settings: dict[str, Any] = zero_settings() if by_zero else {"mixed_precision": mixed_precision}
    accelerator = Accelerator(
        # Else several processes without a GPU would not find each other; DeepSpeed is told its own way.
        cpu=not by_zero and not torch.accelerator.is_available(),
        **settings,
        gradient_accumulation_steps=n_accumulated,
        log_with=tracker,
        project_dir=folder,
    )
    if mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("fp16 needs a GPU: on a CPU train with bf16 or no", flag="--mixed-precision")
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    torch.backends.cudnn.allow_tf32 = allow_tf32
    return accelerator
