"""Many photographs, one after the other or several at a time, for the commands that render."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

from bokehdiff.cli.processes import DIED, in_processes
from bokehdiff.errors import BokehDiffError

logger = logging.getLogger(__name__)


@runtime_checkable
class Named(Protocol):
    """A photograph, by its file or by the files of its scene."""

    @property
    def name(self) -> str:
        """What messages call it."""


Photograph = TypeVar("Photograph", bound=Named)


@dataclass(frozen=True)
class Outcome:
    """How it went with one photograph.

    Args:
        failure: Its name and what is wrong; None if it was rendered.
        told: Level and text of what was logged in another process; empty for what was logged in this one.
    """

    failure: str | None
    told: tuple[tuple[int, str], ...] = ()


def render_each(
    photographs: Sequence[Photograph], render: Callable[[Photograph], Iterable[Path]], *, jobs: int = 1
) -> int:
    """Render every photograph; one that cannot be rendered stops none of the others, and is told at the end.

    Args:
        photographs: What to render.
        render: Renders one; gives the files it has written.
        jobs: Photographs rendered at a time. Above 1 each by a process of its own, which `render` and the photographs
            are sent to, so that they must be picklable. Changes time and memory, not what is written.

    Returns:
        Exit status: 0 if all were rendered, else 1.
    """
    from tqdm.auto import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    outcomes = _outcomes(photographs, render, jobs=min(jobs, len(photographs)))
    failures = []
    with logging_redirect_tqdm():
        for outcome in tqdm(
            outcomes, total=len(photographs), desc="rendering", unit="photo", disable=len(photographs) == 1
        ):
            for level, text in outcome.told:
                logger.log(level, "%s", text)
            if outcome.failure is not None:
                failures.append(outcome.failure)
                logger.error("%s", outcome.failure)
    if failures:
        print(f"{len(photographs) - len(failures)} of {len(photographs)} photographs rendered; failed:")
        print("\n".join(failures))
    return 1 if failures else 0


def _outcomes(
    photographs: Sequence[Photograph], render: Callable[[Photograph], Iterable[Path]], *, jobs: int
) -> Iterator[Outcome]:
    if jobs <= 1:
        yield from (_rendered(photograph, render) for photograph in photographs)
        return
    for photograph, outcome in in_processes(photographs, _RenderElsewhere(render), jobs=jobs):
        yield Outcome(f"{photograph.name}: {DIED}; with fewer --jobs there is more") if outcome is None else outcome


def _rendered(photograph: Photograph, render: Callable[[Photograph], Iterable[Path]]) -> Outcome:
    try:
        for written in render(photograph):
            logger.info("wrote %s", written)
    except BokehDiffError as error:
        return Outcome(f"{photograph.name}: {error}")
    return Outcome(None)


@dataclass(frozen=True)
class _RenderElsewhere(Generic[Photograph]):
    """Renders one photograph in another process, and brings home what was logged there."""

    render: Callable[[Photograph], Iterable[Path]]

    def __call__(self, photograph: Photograph) -> Outcome:
        package = logging.getLogger("bokehdiff")
        package.setLevel(logging.INFO)
        collector = _Collector()
        package.addHandler(collector)
        try:
            outcome = _rendered(photograph, self.render)
        finally:
            package.removeHandler(collector)
        return Outcome(outcome.failure, tuple(collector.told))


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text of a record, which may hold what cannot be sent.

        Args:
            record: What was logged.
        """
        self.told.append((record.levelno, record.getMessage()))
