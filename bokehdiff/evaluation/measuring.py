"""From pairs on disk, or from cases and a method, to records; past pictures that cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from bokehdiff.errors import BokehDiffError
from bokehdiff.evaluation.cases import Case, Promised
from bokehdiff.evaluation.comparisons import Comparison, Framing, load_comparison
from bokehdiff.evaluation.judges import Panel, judged, panel
from bokehdiff.evaluation.records import Record
from bokehdiff.images import linear_to_srgb, save_image

logger = logging.getLogger(__name__)

Work = TypeVar("Work")
Made = TypeVar("Made")
Method = Callable[[Case], Float[Tensor, "1 3 h w"]]  # gives display values in [0, 1]


@dataclass(frozen=True)
class Setup:
    """What every process needs to judge.

    Args:
        metrics: Names of judges.
        framing: What of a picture counts.
        device: Where judges compute.
        hub_dir: As in `judges.panel`.
    """

    metrics: tuple[str, ...]
    framing: Framing
    device: str = "cpu"
    hub_dir: Path | None = None

    def panel(self) -> Panel:
        """The judges, made once per process."""
        return _panel(self)


@dataclass(frozen=True)
class Outcome:
    """What came of measuring.

    Args:
        records: Of each picture that could be measured, in order.
        failures: Why the others could not, by name.
    """

    records: list[Record]
    failures: dict[str, str]


@cache
def _panel(setup: Setup) -> Panel:
    return panel(setup.metrics, device=torch.device(setup.device), hub_dir=setup.hub_dir)


def measure_comparisons(
    pairs: Sequence[Comparison],
    setup: Setup,
    *,
    dataset: str,
    method: str,
    n_processes: int = 1,
    progress: bool = False,
) -> Outcome:
    """Measure pictures that are on disk.

    Args:
        pairs: What to compare.
        setup: How.
        dataset: For the records.
        method: For the records.
        n_processes: How many work side by side; changes speed, not the result.
        progress: Show a bar.
    """
    records, failures = [], {}
    judge = partial(_judge_comparison, setup=setup)
    for pair, found in zip(pairs, tqdm(_in_order(judge, pairs, n_processes), total=len(pairs), desc="judging",
                                       unit="picture", disable=not progress), strict=True):  # fmt: skip
        if isinstance(found, str):
            failures[pair.name] = found
        else:
            records.append(Record(dataset, method, pair.name, found))
    return Outcome(records, failures)


def _judge_comparison(pair: Comparison, setup: Setup) -> dict[str, float] | str:
    """The numbers, or why there are none."""
    try:
        picture, reference = load_comparison(pair, setup.framing)
        return judged(setup.panel(), picture.to(setup.device), reference.to(setup.device))
    except BokehDiffError as error:
        return str(error)


def measure_method(
    cases: Sequence[Promised],
    method: Method,
    setup: Setup,
    *,
    name: str,
    variant: str = "",
    keep_in: Path | None = None,
    n_processes: int = 1,
    progress: bool = False,
) -> Outcome:
    """Make each case's picture and measure it.

    Args:
        cases: What is asked for.
        method: Makes pictures. With several processes it is sent to each of them, so that it must be picklable.
        setup: How they are judged.
        name: Of the method, for the records.
        variant: What was done to the cases, for the records.
        keep_in: Folder for the pictures; None to keep none.
        n_processes: How many work side by side; changes speed, not the result.
        progress: Show a bar.
    """
    records, failures = [], {}
    measure = partial(_measure_case, method=method, setup=setup, name=name, variant=variant, keep_in=keep_in)
    for promised, found in zip(cases, tqdm(_in_order(measure, cases, n_processes), total=len(cases), desc=name,
                                           unit="picture", disable=not progress), strict=True):  # fmt: skip
        if isinstance(found, str):
            failures[promised.name] = found
            logger.error("%s, %s: %s", name, promised.name, found)
        else:
            records.append(found)
    return Outcome(records, failures)


def _measure_case(
    promised: Promised, *, method: Method, setup: Setup, name: str, variant: str, keep_in: Path | None
) -> Record | str:
    """The record, or why there is none."""
    try:
        case = promised.load()
        with torch.no_grad():
            picture = method(case).clamp(0.0, 1.0)
        reference = linear_to_srgb(case.reference_linear.clamp(0.0, 1.0))
        numbers = judged(setup.panel(), setup.framing.cut(picture).cpu(), setup.framing.cut(reference))
    except BokehDiffError as error:
        return str(error)
    record = Record(case.dataset, name, case.name, numbers, case.blur_px, variant)
    if keep_in is not None:
        save_image(keep_in / picture_of(record), picture)
    return record


def _in_order(work: Callable[[Work], Made], things: Sequence[Work], n_processes: int) -> Iterator[Made]:
    """What is made of each thing, by several processes where there are some."""
    if n_processes == 1:
        yield from map(work, things)
        return
    threads = max(1, torch.get_num_threads() // n_processes)
    # Forked processes inherit threads of torch that no longer run.
    with ProcessPoolExecutor(n_processes, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        yield from pool.map(work, things)


def picture_of(record: Record) -> str:
    """Name of the file that a record's picture is kept in.

    Args:
        record: Of a picture that a method made.
    """
    name = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in record.name)
    return f"{name}_{record.method}.png"
