"""Batches of samples by number: which sample comes when depends on nothing but the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset

from bokehdiff.data.samples import TrainBatch, TrainSample, collate
from bokehdiff.errors import InputError


@runtime_checkable
class SampleSource(Protocol):
    """Anything that makes training samples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, n: int) -> TrainSample: ...


@dataclass(frozen=True)
class RankBatches:
    """The sample numbers of each batch of one process among several.

    Concretely, batch i of rank r holds first_sample + (i * world_size + r) * batch_size + j for j below batch_size, as
    far as first_sample + n_samples.

    Args:
        batch_size: Samples per batch and process.
        first_sample: Number of the first sample of all.
        n_samples: How many samples all processes draw together.
        rank: Number of this process.
        world_size: How many processes there are.
    """

    batch_size: int
    first_sample: int
    n_samples: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "n_samples", "world_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.first_sample < 0:
            raise InputError(f"first_sample must be 0 or more; got {self.first_sample}")
        if not 0 <= self.rank < self.world_size:
            raise InputError(f"rank must be in 0 ... {self.world_size - 1}; got {self.rank}")
        share = self.batch_size * self.world_size
        if self.world_size > 1 and self.n_samples % share:
            raise InputError(
                f"n_samples must be a multiple of batch_size * world_size = {share}, so that every process gets as "
                f"many batches; got {self.n_samples}"
            )

    def __len__(self) -> int:
        share = self.batch_size * self.world_size
        return -(-self.n_samples // share)

    def __iter__(self) -> Iterator[list[int]]:
        end = self.first_sample + self.n_samples
        for i in range(len(self)):
            begin = self.first_sample + (i * self.world_size + self.rank) * self.batch_size
            yield list(range(begin, min(begin + self.batch_size, end)))


def training_loader(
    dataset: SampleSource,
    *,
    batch_size: int,
    first_sample: int = 0,
    n_samples: int,
    n_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    prefetched: int | None = None,
) -> DataLoader[TrainBatch]:
    """Batches of samples, in order; a restart passes the number of the first sample it has not seen.

    Nothing is shuffled (samples are random already), nothing is dropped: with one process the last batch may be
    shorter.

    Args:
        dataset: Makes samples by number.
        batch_size: Samples per batch and process.
        first_sample: Number of the first sample of all.
        n_samples: How many samples all processes draw together; a multiple of batch_size * world_size with several.
        n_workers: Processes that make samples beside this one; changes speed, not the result.
        rank: Number of this process among those that train together.
        world_size: How many they are.
        prefetched: Batches that each worker makes ahead; None for what torch does, 2. Changes speed and memory only.
    """
    batches = RankBatches(batch_size, first_sample, n_samples, rank, world_size)
    if first_sample + n_samples > len(dataset):
        raise InputError(f"samples up to {first_sample + n_samples} are asked for; the dataset has {len(dataset)}")
    return DataLoader(
        cast(Dataset[TrainBatch], dataset),  # torch asks by name for what the protocol is enough for
        batch_sampler=batches,
        num_workers=n_workers,
        collate_fn=collate,
        worker_init_fn=worker_threads,
        prefetch_factor=prefetched if n_workers else None,
        generator=torch.Generator().manual_seed(0),  # else each epoch would draw from the global generator
    )


def worker_threads(worker: int) -> None:
    """One thread each: workers are many already, and OpenCV's own threads would hang in a forked process.

    Args:
        worker: Its number, which does not matter.
    """
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
