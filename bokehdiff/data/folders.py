"""The folders that training draws from: foregrounds with transparency (*fg) and backgrounds (bg)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.data.index import FolderIndex
from bokehdiff.errors import InputError
from bokehdiff.images import load_photo, load_rgba, read_header

logger = logging.getLogger(__name__)

Drawn = TypeVar("Drawn")

UNUSABLE_SHARE = 0.1  # of a folder's files that may be unusable, each named in the log, before it is an error
SMALLEST_PX = 8  # an image below this on either side shows nothing that could be composed
OPAQUE = 1 - 1 / 512  # an alpha above this rounds to full in 8 bits
VISIBLE = 1 / 255  # an alpha below this is nothing in 8 bits


@dataclass(frozen=True)
class TrainingFolders:
    """Paths of the images that training draws from, in sorted order.

    Args:
        root: Where they were found.
        foregrounds: Images with transparency.
        backgrounds: Images without.
        problems: What is wrong with those that cannot be used, as far as their headers tell.
    """

    root: Path
    foregrounds: tuple[Path, ...]
    backgrounds: tuple[Path, ...]
    problems: Mapping[Path, str] = field(default_factory=dict)


def find_training_folders(root: str | Path) -> TrainingFolders:
    """List and check the images of all folders called *fg (foregrounds) and bg (backgrounds) anywhere below `root`.

    Whatever lies in such a folder, at any depth, belongs to it. Headers are read: files that are broken, tiny or of the
    wrong kind are found before the first sample. Pixels are not: what only they tell (an image cut short, one that is
    fully transparent) is found when it is drawn.

    Args:
        root: Folder to search, with everything in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"no such folder: {root}")
    index = FolderIndex.of(root)
    images = sorted(index.images())
    found = {}
    for pattern, expected in (("*fg", "images with transparency, such as RGBA PNGs"), ("bg", "photographs")):
        found[pattern] = tuple(path for path in images if _lies_in(path, root, pattern))
        if not found[pattern]:
            folders = [str(folder) for folder in sorted(root.rglob(pattern)) if folder.is_dir()]
            missing = f"no image in {', '.join(folders)}" if folders else f"no folder matching {pattern} under {root}"
            raise InputError(f"{missing}: put {expected} there")
    problems = {path: index.problem(path, "fg", check_foreground) for path in found["*fg"]}
    problems |= {path: index.problem(path, "bg", check_background) for path in found["bg"]}
    index.save()
    return TrainingFolders(root, found["*fg"], found["bg"], {path: text for path, text in problems.items() if text})


def _lies_in(path: Path, root: Path, pattern: str) -> bool:
    return any(fnmatchcase(folder, pattern) for folder in path.relative_to(root).parts[:-1])


def check_foreground(path: Path) -> None:
    """Refuse a file whose header already says that it cannot be a foreground.

    Args:
        path: Image file.
    """
    header = read_header(path)
    if header is None:
        return
    _refuse_tiny(path, header.size_hw, "foreground")
    if not header.has_alpha:
        raise InputError(f"{path} has no transparency: a foreground needs an alpha channel that shows its outline")


def check_background(path: Path) -> None:
    """Refuse a file whose header already says that it cannot be a background.

    Args:
        path: Image file.
    """
    header = read_header(path)
    if header is not None:
        _refuse_tiny(path, header.size_hw, "background")


def _refuse_tiny(path: Path, size_hw: tuple[int, ...], role: str) -> None:
    if min(size_hw) < SMALLEST_PX:
        raise InputError(
            f"{path} is too small for a {role}: {size_hw[1]} x {size_hw[0]} px, at least {SMALLEST_PX} needed"
        )


def load_foreground(path: Path) -> Float[Tensor, "4 h w"]:
    """Read a subject: display RGB and straight alpha, cut to what can be seen of it.

    Args:
        path: Image with transparency; refused by name if it has none, or nothing else.
    """
    rgba = load_rgba(path)[0]
    alpha = rgba[3]
    _refuse_tiny(path, tuple(alpha.shape), "foreground")
    if float(alpha.min()) > OPAQUE:
        raise InputError(f"{path} has no transparency: a foreground needs an alpha channel that shows its outline")
    visible = alpha >= VISIBLE
    if not bool(visible.any()):
        raise InputError(f"{path} is fully transparent: nothing of it could be seen")
    rows, columns = visible.any(dim=1).nonzero()[:, 0], visible.any(dim=0).nonzero()[:, 0]
    return rgba[:, int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]


def load_background(path: Path) -> Float[Tensor, "3 h w"]:
    """Read a scene to stand behind a subject: display RGB.

    Args:
        path: Image without transparency; refused by name if it has some.
    """
    photo = load_photo(path)
    image = photo.image_srgb[0]
    _refuse_tiny(path, tuple(image.shape[1:]), "background")
    if photo.alpha is not None and float(photo.alpha.min()) < OPAQUE:
        raise InputError(f"{path} has transparency: a background must cover everything; is it in the wrong folder?")
    return image


class UsableFiles:
    """Files to draw from by number, where a few may turn out to be unusable: those are named once and passed over.

    Which file a number gives depends on the files only, not on what was drawn before. What is known to be unusable when
    it is made is told in one report; what turns out later, by the worker that found it, and all workers know.

    Args:
        paths: Files, in a fixed order.
        problems: What is known to be wrong with some of them.
        most_unusable: Share of the files that may be passed over before it is an error [1].
    """

    def __init__(
        self, paths: tuple[Path, ...], *, problems: Mapping[Path, str] | None = None,
        most_unusable: float = UNUSABLE_SHARE,
    ) -> None:  # fmt: skip
        self.paths = paths
        self.problems = {path: text for path, text in (problems or {}).items() if path in set(paths)}
        self.allowed = math.ceil(most_unusable * len(paths))
        places = {path: place for place, path in enumerate(paths)}
        self._marked = torch.zeros(max(len(paths), 1), dtype=torch.bool).share_memory_()
        for path in self.problems:
            self._marked[places[path]] = True
        self._refuse_too_many()
        if self.problems:
            logger.warning(
                "%d of %d files cannot be used and are passed over: %s", len(self.problems), len(paths), self._report()
            )

    def __len__(self) -> int:
        return len(self.paths)

    def draw(self, place: int, load: Callable[[int, Path], Drawn]) -> Drawn:
        """What is loaded from a file, or from the next usable one after it.

        Args:
            place: Place of the file, from 0.
            load: Takes the place and the path; an InputError from it marks the file as unusable.
        """
        for step in range(len(self.paths)):
            tried = (place + step) % len(self.paths)
            if self._marked[tried]:
                continue
            try:
                return load(tried, self.paths[tried])
            except InputError as error:
                self._mark(tried, str(error))
        raise InputError(f"none of {len(self.paths)} files can be used: {self._report()}")

    def _mark(self, place: int, message: str) -> None:
        self._marked[place] = True
        self.problems[self.paths[place]] = message
        self._refuse_too_many()
        logger.warning("passed over: %s", message)

    def _refuse_too_many(self) -> None:
        n_unusable = int(self._marked.sum())
        if n_unusable == len(self.paths):
            raise InputError(f"none of {len(self.paths)} files can be used: {self._report()}")
        if n_unusable > self.allowed:
            raise InputError(
                f"{n_unusable} of {len(self.paths)} files cannot be used, more than the {self.allowed} passed over: "
                f"{self._report()}"
            )

    def _report(self) -> str:
        """What is wrong with each file that this process knows of."""
        return "; ".join(self.problems[path] for path in sorted(self.problems))
