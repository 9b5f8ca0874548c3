"""What moves trained weights: AdamW, in 8 bits where asked for, and the course of its learning rate."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.optimization import get_scheduler

from bokehdiff.errors import MissingDependencyError


def adamw(
    groups: list[dict[str, Any]],
    *,
    betas: tuple[float, float],
    weight_decay: float,
    epsilon: float,
    in_8_bits: bool = False,
) -> torch.optim.Optimizer:
    """AdamW over groups of weights, each with its own rate.

    Args:
        groups: "params" and "lr" of each group.
        betas: Decays of the two moments, in [0, 1).
        weight_decay: Of AdamW [1].
        epsilon: Smallest denominator [1].
        in_8_bits: Keep the moments of large weights in 8 bits, by bitsandbytes.

    Raises:
        MissingDependencyError: If bitsandbytes is needed and not there.
    """
    kind = _adamw_8bit() if in_8_bits else torch.optim.AdamW
    optimizer: torch.optim.Optimizer = kind(groups, betas=betas, weight_decay=weight_decay, eps=epsilon)
    return optimizer


def learning_rate_course(
    optimizer: torch.optim.Optimizer, *, kind: str, n_warmup_steps: int, n_steps: int, n_cycles: int
) -> Any:
    """Course of the learning rates, counted in optimiser steps whatever the number of processes.

    Args:
        optimizer: Not wrapped by accelerate, which would step a schedule once per process.
        kind: One of diffusers' schedules.
        n_warmup_steps: Steps in which the rate rises from 0.
        n_steps: Steps of the whole run.
        n_cycles: Restarts of a cosine with restarts.
    """
    return get_scheduler(
        kind, optimizer, num_warmup_steps=n_warmup_steps, num_training_steps=n_steps, num_cycles=n_cycles
    )


def _adamw_8bit() -> Any:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise MissingDependencyError(
            f"bitsandbytes is needed ({error}): pip install bokehdiff[train8bit]", flag="--use-8bit-adam"
        ) from error
    return AdamW8bit
