"""What a training folder holds, file by file: counts, sizes, how soft outlines are, and everything that is wrong."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from bokehdiff.data.folders import OPAQUE, VISIBLE, find_training_folders, load_background, load_foreground
from bokehdiff.data.pairs import Layout, PairPaths, Split, find_pairs, load_pair
from bokehdiff.errors import InputError

HARD_SHARE = 0.002  # of a subject's box that is partly transparent: below it the outline is a step, cut with scissors
FAINT = 0.02  # mean coverage of a box: below it there is hardly a subject

Item = TypeVar("Item")


@dataclass(frozen=True)
class FileFacts:
    """What one file, or pair, holds.

    Args:
        path: Where it lies.
        size_hw: Height and width; of a subject, of its visible part [px].
        coverage: Mean alpha of a subject's box [1]; None for other files.
        softness: Share of its box that is partly transparent [1]; None for other files.
        knows: What a pair knows beside its two photographs.
        problem: What is wrong; None if nothing is.
    """

    path: Path
    size_hw: tuple[int, int] | None = None
    coverage: float | None = None
    softness: float | None = None
    knows: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class CheckReport:
    """What a folder holds.

    Args:
        root: The folder.
        parts: Facts of each kind of file, by the kind's name.
    """

    root: Path
    parts: dict[str, tuple[FileFacts, ...]]

    @property
    def problems(self) -> list[str]:
        """What is wrong with each file that cannot be used."""
        return [facts.problem for part in self.parts.values() for facts in part if facts.problem]

    def lines(self) -> list[str]:
        """The report to print: counts, sizes, outlines, then each problem in a line."""
        lines = []
        for name, part in self.parts.items():
            good = [facts for facts in part if facts.problem is None]
            lines.append(f"{len(good)} of {len(part)} {name} in {self.root} can be used")
            lines += [f"  {line}" for line in _described(good)]
        return lines + [f"problem: {problem}" for problem in self.problems]


def _described(good: Sequence[FileFacts]) -> Iterator[str]:
    shorter = [min(facts.size_hw) for facts in good if facts.size_hw]
    if shorter:
        low, middle, high = min(shorter), statistics.median(shorter), max(shorter)
        yield f"shorter side {low} to {high} px, median {middle:g}"
    covered = [facts.coverage for facts in good if facts.coverage is not None]
    soft = [facts.softness for facts in good if facts.softness is not None]
    if covered and soft:
        yield f"alpha covers {statistics.median(covered):.0%} of the box in the median, {min(covered):.0%} at least"
        yield f"partly transparent: {statistics.median(soft):.1%} of the box in the median"
        n_hard = sum(share < HARD_SHARE for share in soft)
        if n_hard:
            yield f"{n_hard} have a hard outline (under {HARD_SHARE:.1%} partly transparent): it will look cut out"
        n_faint = sum(share < FAINT for share in covered)
        if n_faint:
            yield f"{n_faint} cover under {FAINT:.0%} of their box: hardly a subject"
    known = [name for facts in good for name in facts.knows]
    for name in sorted(set(known)):
        yield f"{known.count(name)} know their {name}"


def check_folders(root: str | Path, *, n_workers: int = 1, progress: bool = False) -> CheckReport:
    """Decode every foreground and background below a folder and tell what they are.

    Args:
        root: See `find_training_folders`.
        n_workers: Processes that decode; changes speed only.
        progress: Show a bar.
    """
    folders = find_training_folders(root)
    foregrounds = _each(_foreground_facts, folders.foregrounds, "foregrounds", n_workers, progress)
    backgrounds = _each(_background_facts, folders.backgrounds, "backgrounds", n_workers, progress)
    return CheckReport(folders.root, {"foregrounds": foregrounds, "backgrounds": backgrounds})


def check_pairs(
    root: str | Path, *, layout: Layout, split: Split, n_workers: int = 1, progress: bool = False
) -> CheckReport:
    """Decode every pair of a dataset and tell what it knows.

    Args:
        root: See `find_pairs`.
        layout: See `find_pairs`.
        split: See `find_pairs`.
        n_workers: Processes that decode; changes speed only.
        progress: Show a bar.
    """
    pairs = find_pairs(root, layout=layout, split=split)
    return CheckReport(Path(root), {"pairs": _each(_pair_facts, pairs, "pairs", n_workers, progress)})


def _each(
    look: Callable[[Item], FileFacts], items: Iterable[Item], what: str, n_workers: int, progress: bool
) -> tuple[FileFacts, ...]:
    items = list(items)
    if n_workers <= 1:
        return tuple(look(item) for item in tqdm(items, desc=what, disable=not progress))
    with ProcessPoolExecutor(n_workers) as pool:
        found = pool.map(look, items, chunksize=8)
        return tuple(tqdm(found, desc=what, total=len(items), disable=not progress))


def _foreground_facts(path: Path) -> FileFacts:
    try:
        alpha = load_foreground(path)[3]
    except InputError as error:
        return FileFacts(path, problem=str(error))
    soft = (alpha > VISIBLE) & (alpha < OPAQUE)
    return FileFacts(
        path, (alpha.shape[0], alpha.shape[1]), coverage=float(alpha.mean()), softness=float(soft.float().mean())
    )


def _background_facts(path: Path) -> FileFacts:
    try:
        image = load_background(path)
    except InputError as error:
        return FileFacts(path, problem=str(error))
    return FileFacts(path, (image.shape[1], image.shape[2]))


def _pair_facts(paths: PairPaths) -> FileFacts:
    try:
        pair = load_pair(paths)
    except InputError as error:
        return FileFacts(paths.target, problem=str(error))
    known = {"disparity": pair.disparity, "focus and strength": pair.lens, "f-number": pair.f_number}
    knows = tuple(name for name, value in known.items() if value is not None)
    return FileFacts(paths.target, (pair.image_srgb.shape[1], pair.image_srgb.shape[2]), knows=knows)
