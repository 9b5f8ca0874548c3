"""Which photographs are meant, where what belongs to each of them lies, and where its results go."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bokehdiff.cli.render.options import RenderOptions
from bokehdiff.cli.sweeps import sweep_target
from bokehdiff.errors import InputError

logger = logging.getLogger(__name__)

MAP_SUFFIXES = (".npy", ".npz", ".png", ".tif", ".tiff", ".exr", ".jpg", ".jpeg", ".webp")
DISPARITY_ENDINGS = ("_pred", "", "_depth", "_disparity")
MASK_ENDINGS = ("", "_mask", "_matte", "_alpha")
PREPARED = "depth"  # where `bokehdiff prepare` puts maps, beside the folder of photographs


@dataclass(frozen=True)
class Task:
    """One photograph, and what tells it apart from the others.

    Args:
        photograph: The file.
        subfolder: Where it lies below the folder that all photographs have in common.
        stem: Name of its results.
        alone: It is the only photograph.
        unique: No other photograph has its name, suffix aside.
    """

    photograph: Path
    subfolder: Path
    stem: str
    alone: bool
    unique: bool

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.subfolder / self.photograph.name)


def tasks_of(photographs: Sequence[Path]) -> list[Task]:
    """Tell photographs apart: those of subfolders keep them, a.jpg and a.png in one folder become a_jpg and a_png.

    Args:
        photographs: Files, among which maps may lie that belong to others; those are left out, with a logged line.
    """
    photographs = _without_maps(photographs)
    folders = [path.resolve().parent for path in photographs]
    common = Path(os.path.commonpath(folders))
    stems = Counter(path.stem.casefold() for path in photographs)
    tasks = [
        Task(path, folder.relative_to(common), path.stem, len(photographs) == 1, stems[path.stem.casefold()] == 1)
        for path, folder in zip(photographs, folders, strict=True)
    ]
    twice = _names_taken_twice(tasks)
    tasks = [
        replace(task, stem=f"{task.stem}_{task.photograph.suffix[1:]}") if _result_name(task) in twice else task
        for task in tasks
    ]
    for name in sorted(twice):
        logger.info("%s is the name of several photographs: their results are told apart by their suffix", name)
    if left := _names_taken_twice(tasks):
        raise InputError(f"several photographs would give the result {', '.join(sorted(left))}: rename one of them")
    return tasks


def _result_name(task: Task) -> str:
    """As a file system sees it that knows no upper case."""
    return str(task.subfolder / task.stem).casefold()


def _names_taken_twice(tasks: Iterable[Task]) -> set[str]:
    counted = Counter(_result_name(task) for task in tasks)
    return {name for name, count in counted.items() if count > 1}


def _without_maps(photographs: Sequence[Path]) -> list[Path]:
    """The photographs less what is named after one of them: a_depth.png beside a.jpg is no photograph."""
    stems = {(path.parent, path.stem) for path in photographs}
    endings = [ending for ending in (*DISPARITY_ENDINGS, *MASK_ENDINGS) if ending]

    def is_map(path: Path) -> bool:
        owners = [path.stem.removesuffix(ending) for ending in endings if path.stem.endswith(ending)]
        return any((path.parent, owner) in stems for owner in owners)

    maps = [path for path in photographs if is_map(path)]
    if maps:
        shown = ", ".join(path.name for path in maps[:4]) + (", ..." if len(maps) > 4 else "")
        logger.info("%d files are maps of photographs by their names and are not rendered: %s", len(maps), shown)
    return [path for path in photographs if path not in maps]


def disparity_of(task: Task, options: RenderOptions) -> Path:
    """The file with a photograph's disparity.

    Args:
        task: The photograph.
        options: Says where maps lie, or leaves it open: beside it, or in ../depth.
    """
    if options.disparity is not None:
        return map_of(task, options.disparity, DISPARITY_ENDINGS)
    folder = task.photograph.parent
    beside = [ending for ending in DISPARITY_ENDINGS if ending]
    found = [*_candidates(folder, task, beside), *_candidates(folder.parent / PREPARED, task, DISPARITY_ENDINGS)]
    if not found:
        raise InputError(
            f"is needed: no {task.photograph.stem}_depth.png or the like lies beside {task.photograph.name} or in "
            f"../{PREPARED}; pass a file or a folder (`bokehdiff prepare` predicts disparity)"
        )
    return _first(task, found)


def map_of(task: Task, where: str, endings: Sequence[str]) -> Path:
    """The map that belongs to a photograph: the file given, or the one named after it in the folder given.

    Args:
        task: The photograph.
        where: File, or folder, in which the photograph's own subfolder is looked into first.
        endings: What may follow its name, the best first.
    """
    place = Path(where).expanduser()
    if place.is_file():
        if not task.alone:
            raise InputError(f"{where} is one file for several photographs: pass a folder")
        return place
    if not place.is_dir():
        raise InputError(f"{where}: no such file or folder")
    found = list(_candidates(place / task.subfolder, task, endings))
    if not found and task.unique:
        found = list(_candidates(place, task, endings))
    if not found:
        stem = task.subfolder / task.photograph.stem
        raise InputError(f"{where}: holds no map for {task.name}, such as {stem}{endings[0]}.npy or {stem}.png")
    return _first(task, found)


def _candidates(folder: Path, task: Task, endings: Iterable[str]) -> Iterator[Path]:
    for ending in endings:
        for suffix in MAP_SUFFIXES:
            candidate = folder / f"{task.photograph.stem}{ending}{suffix}"
            if candidate.is_file() and not candidate.samefile(task.photograph):
                yield candidate


def _first(task: Task, found: Sequence[Path]) -> Path:
    if len(found) > 1:
        logger.info("%s: takes %s; %s left aside", task.name, found[0].name, ", ".join(p.name for p in found[1:]))
    return found[0]


def result_of(task: Task, options: RenderOptions) -> Path:
    """Where a photograph's result goes: a picture, an animation, or the folder of a sweep's pictures.

    Args:
        task: The photograph.
        options: The command line.
    """
    if options.output is not None:
        if not task.alone:
            raise InputError("is one file for several photographs: pass --output-dir", flag="--output")
        return Path(options.output).expanduser()
    folder = Path(options.output_dir).expanduser() / task.subfolder
    if not options.sweep.is_asked:
        return folder / f"{task.stem}.{options.result.format}"
    return sweep_target(folder, task.stem, options.sweep)


def intermediates_of(task: Task, options: RenderOptions) -> Path:
    """The folder for what a photograph's renderer works with.

    Args:
        task: The photograph.
        options: The command line.
    """
    beside = Path(options.output).parent if options.output is not None else Path(options.output_dir)
    root = Path(options.result.save_intermediates or beside / "intermediates").expanduser()
    return root / task.subfolder / task.stem
