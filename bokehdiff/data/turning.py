"""Quarter turns and mirrorings of square samples, each a function of (seed, n)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bokehdiff.data.randomness import generator_for
from bokehdiff.data.samples import TrainBatch
from bokehdiff.errors import InputError


def turned(batch: TrainBatch, *, seed: int) -> TrainBatch:
    """Each sample turned by 0 to 3 quarters and mirrored upside down half of the time, all its planes together.

    Args:
        batch: Square samples.
        seed: What is done to sample n is a function of (seed, n).
    """
    height, width = batch.image_srgb.shape[-2:]
    if height != width:
        raise InputError(f"only square samples can be turned; got {height} x {width}")
    chances = [generator_for(seed, n, purpose="turn") for n in batch.n]
    turns = [(int(rng.integers(4)), bool(rng.uniform() < 0.5)) for rng in chances]
    return replace(
        batch,
        image_srgb=_each(batch.image_srgb, turns),
        target_srgb=_each(batch.target_srgb, turns),
        known_disparity=None if batch.known_disparity is None else _each(batch.known_disparity, turns),
        known_coc_px=None if batch.known_coc_px is None else _each(batch.known_coc_px, turns),
    )


def _each(planes: Tensor, turns: list[tuple[int, bool]]) -> Tensor:
    done = []
    for plane, (quarters, mirrored) in zip(planes, turns, strict=True):
        plane_turned = plane.rot90(quarters, dims=(-2, -1))
        done.append(plane_turned.flip(-2) if mirrored else plane_turned)
    return torch.stack(done)
