"""Batches rendered one ahead on the training device: while one is trained on, the next is photographed beside it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, Protocol, TypeVar, cast, get_args, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bokehdiff.data.compositor import OnTheFlyDataset, Uncomposed
from bokehdiff.data.loader import RankBatches, SampleSource, training_loader, worker_threads
from bokehdiff.data.samples import TrainBatch, TrainSample, collate
from bokehdiff.data.sources import MixedDataset
from bokehdiff.errors import InputError, MissingDependencyError

logger = logging.getLogger(__name__)

ComposeOn = Literal["auto", "cpu", "gpu"]
Parts = Sequence[Uncomposed | TrainSample]
Result = TypeVar("Result")


@runtime_checkable
class SideStream(Protocol):
    """A queue of work on a device beside the one that training uses."""

    def run(self, work: Callable[[], Result]) -> Result:
        """Do work whose kernels queue here; what it gives back may not be finished yet.

        Args:
            work: Calls kernels.
        """

    def mark(self) -> Any:
        """A sign behind everything that was queued so far."""

    def hand_over(self, mark: Any, tensors: Sequence[Tensor]) -> None:
        """Let the training's queue wait for a mark, and keep the tensors' memory until it is done with them.

        Args:
            mark: From `mark`.
            tensors: Made here, used there.
        """


class CudaSideStream:
    """A CUDA stream of its own on one device; CuPy follows, since our kernels take torch's current stream.

    Args:
        device: CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def run(self, work: Callable[[], Result]) -> Result:
        """See `SideStream`."""
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            return work()

    def mark(self) -> torch.cuda.Event:
        """See `SideStream`."""
        return self.stream.record_event()

    def hand_over(self, mark: torch.cuda.Event, tensors: Sequence[Tensor]) -> None:
        """See `SideStream`."""
        training = torch.cuda.current_stream(self.device)
        training.wait_event(mark)
        for tensor in tensors:
            # Without this the allocator would give the memory to the next picture while training still reads it.
            tensor.record_stream(training)


@dataclass(frozen=True)
class _Rendered:
    batch: TrainBatch
    mark: Any


def rendered_ahead(
    parts: Iterable[Parts], render: Callable[[Parts], TrainBatch], stream: SideStream
) -> Iterator[TrainBatch]:
    """Batches in the order of their parts, each rendered on the side stream while the one before it is used.

    A thread does the rendering, so that what it waits for (a size, a check of values) holds up nobody else. At most two
    batches exist: the one in use and the next.

    Args:
        parts: What each batch is made of, in order.
        render: Makes a batch; its kernels queue on the stream.
        stream: Where to.
    """

    def rendered(batch_parts: Parts) -> _Rendered:
        with torch.no_grad():
            batch = stream.run(lambda: render(batch_parts))
        return _Rendered(batch, stream.mark())

    def handed_over(future: Future[_Rendered]) -> TrainBatch:
        done = future.result()
        stream.hand_over(done.mark, [tensor for _, tensor in done.batch.tensors()])
        return done.batch

    waiting: deque[Future[_Rendered]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="compositor") as thread:
        for batch_parts in parts:
            waiting.append(thread.submit(rendered, batch_parts))
            if len(waiting) > 1:
                yield handed_over(waiting.popleft())
        while waiting:
            yield handed_over(waiting.popleft())


class _PartsOf:
    """A data set whose items are not composed yet: what workers hand over when the device renders."""

    def __init__(self, source: OnTheFlyDataset | MixedDataset) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, n: int) -> Uncomposed | TrainSample:
        return self.source.uncomposed(n)


def training_batches(
    dataset: SampleSource,
    *,
    device: torch.device,
    compose_on: ComposeOn = "auto",
    batch_size: int,
    first_sample: int = 0,
    n_samples: int,
    n_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    prefetched: int | None = None,
) -> Iterator[TrainBatch]:
    """Batches on the training's device, with the sample numbers of `training_loader` in the same order.

    Args:
        dataset: Makes samples by number.
        device: Where training runs.
        compose_on: "cpu" composes in the workers. "gpu" has the workers read and the device render, one batch ahead on
            a stream of its own. "auto" is "gpu" where training runs on CUDA and CuPy is installed. Pictures differ by
            what the renderer's back ends differ by, far below a step of 8 bits.
        batch_size: Samples per batch and process.
        first_sample: Number of the first sample of all.
        n_samples: How many samples all processes draw together.
        n_workers: Processes beside this one; changes speed, not the result.
        rank: Number of this process among those that train together.
        world_size: How many they are.
        prefetched: Batches that each worker makes ahead; None for what torch does, 2. Changes speed and memory only.
    """
    numbers = RankBatches(batch_size, first_sample, n_samples, rank, world_size)
    if _renders_on_device(dataset, device, compose_on):
        loader = DataLoader(
            cast(Dataset[Any], _PartsOf(cast(Any, dataset))),
            batch_sampler=numbers,
            num_workers=n_workers,
            collate_fn=list,
            worker_init_fn=worker_threads,
            prefetch_factor=prefetched if n_workers else None,
            pin_memory=device.type == "cuda",
            generator=torch.Generator().manual_seed(0),
        )
        return rendered_ahead(loader, lambda parts: render_parts(parts, device), CudaSideStream(device))
    loader = training_loader(
        dataset, batch_size=batch_size, first_sample=first_sample, n_samples=n_samples, n_workers=n_workers, rank=rank,
        world_size=world_size, prefetched=prefetched,
    )  # fmt: skip
    return (batch.to(device, non_blocking=True) for batch in loader)


def render_parts(parts: Parts, device: torch.device | str) -> TrainBatch:
    """Compose and photograph a batch on a device.

    Args:
        parts: What it is made of; samples that are whole already are moved.
        device: Where to.
    """
    samples = [part.composed(device) if isinstance(part, Uncomposed) else part for part in parts]
    return collate([sample.to(device) for sample in samples])


def _renders_on_device(dataset: SampleSource, device: torch.device, compose_on: ComposeOn) -> bool:
    if compose_on not in get_args(ComposeOn):
        raise InputError(f"compose_on must be one of {', '.join(get_args(ComposeOn))}; got {compose_on!r}")
    has_parts = isinstance(dataset, OnTheFlyDataset | MixedDataset)
    has_cupy = find_spec("cupy") is not None
    able = device.type == "cuda" and has_parts and has_cupy
    if compose_on == "gpu" and not able:
        if device.type != "cuda" or not has_parts:
            raise InputError(
                f"'gpu' composes samples of the compositor on a CUDA device; got {type(dataset).__name__}, {device}"
            )
        raise MissingDependencyError("CuPy is needed to compose on the GPU: pip install bokehdiff[gpu]")
    chosen = able and compose_on != "cpu"
    logger.info("samples are composed by %s", f"{device}, one batch ahead" if chosen else "the CPU")
    return chosen
