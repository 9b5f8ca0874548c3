"""What became of each photograph of a folder, and the report that tells it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Status = Literal["kept", "taken in", "predicted", "cut out", "unusable", "failed", "none"]


@dataclass(frozen=True)
class Outcome:
    """What became of one photograph.

    Args:
        name: Path of the photograph under the folder of photographs.
        disparity: "kept" as it was, "taken in" from another map, "predicted", "none" if not asked for, or "failed".
        mask: "kept", "predicted", "none" if not asked for, or "failed".
        foreground: "kept", "cut out", "unusable", "none" if not asked for, or "failed".
        problem: What failed and what to do about it, in one line; None if nothing did.
        note: Why its subject makes no foreground; None if it does.
    """

    name: str
    disparity: Status
    mask: Status
    foreground: Status = "none"
    problem: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class PreparationReport:
    """What became of a folder.

    Args:
        root: The folder.
        outcomes: One per photograph, in natural order.
        disparity_by: What predicted disparity; None if nothing was there to.
        masks_by: What made masks; None if nothing was there to.
        foregrounds: Where foregrounds went; None if none were asked for.
    """

    root: Path
    outcomes: tuple[Outcome, ...]
    disparity_by: str | None
    masks_by: str | None
    foregrounds: Path | None = None

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The photographs that are not ready."""
        return tuple(outcome for outcome in self.outcomes if outcome.problem is not None)

    @property
    def n_foregrounds(self) -> int:
        """How many foregrounds are there now."""
        return sum(outcome.foreground in ("kept", "cut out") for outcome in self.outcomes)

    def lines(self) -> tuple[str, ...]:
        """The report to print: the counts, then each failure, and each subject that makes no foreground, in a line."""
        n_ready = len(self.outcomes) - len(self.failures)
        cut = [] if self.foregrounds is None else [_counted("foregrounds", self._of("foreground"), None)]
        return (
            f"{n_ready} of {len(self.outcomes)} photographs in {self.root} are ready",
            _counted("disparity", self._of("disparity"), self.disparity_by),
            _counted("masks", self._of("mask"), self.masks_by),
            *cut,
            *(f"no foreground: {outcome.name}: {outcome.note}" for outcome in self.outcomes if outcome.note),
            *(f"failed: {outcome.name}: {outcome.problem}" for outcome in self.failures),
        )

    def _of(self, part: str) -> list[Status]:
        return [getattr(outcome, part) for outcome in self.outcomes]

    def joined(self, others: Iterable[PreparationReport]) -> PreparationReport:
        """One report of what several processes did, where each has every n-th photograph, this one the first.

        Args:
            others: Reports of the other processes, in their order.
        """
        reports = [self, *others]
        in_turn = max(len(report.outcomes) for report in reports)
        outcomes = [report.outcomes[i] for i in range(in_turn) for report in reports if i < len(report.outcomes)]
        return PreparationReport(self.root, tuple(outcomes), self.disparity_by, self.masks_by, self.foregrounds)


def _counted(what: str, statuses: Sequence[Status], predicted_by: str | None) -> str:
    counts = Counter(statuses)
    parts = [f"{n} {status}" + (f" by {predicted_by}" if status == "predicted" else "") for status, n in counts.items()]
    return f"  {what}: {', '.join(parts)}"
