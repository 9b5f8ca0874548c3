"""The folders that training draws from: foregrounds with transparency (*fg) and backgrounds (bg)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.images import IMAGE_SUFFIXES, load_photo, load_rgba

logger = logging.getLogger(__name__)

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
    """

    root: Path
    foregrounds: tuple[Path, ...]
    backgrounds: tuple[Path, ...]


def find_training_folders(root: str | Path) -> TrainingFolders:
    """List the images of all folders called *fg (foregrounds) and bg (backgrounds) anywhere below `root`.

    Args:
        root: Folder to search, with everything in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"no such folder: {root}")
    return TrainingFolders(
        root=root,
        foregrounds=_images_below(root, "*fg", "images with transparency, such as RGBA PNGs"),
        backgrounds=_images_below(root, "bg", "photographs"),
    )


def _images_below(root: Path, pattern: str, expected: str) -> tuple[Path, ...]:
    folders = [path for path in sorted(root.rglob(pattern)) if path.is_dir()]
    if not folders:
        raise InputError(f"no folder matching {pattern} under {root}: put {expected} there")
    files = {path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES}
    images = tuple(sorted(path for path in files if path.is_file() and not path.name.startswith(".")))
    if not images:
        raise InputError(f"no image in {', '.join(str(folder) for folder in folders)}: put {expected} there")
    return images


def load_foreground(path: Path) -> Float[Tensor, "4 h w"]:
    """Read a subject: display RGB and straight alpha, cut to what can be seen of it.

    Args:
        path: Image with transparency; refused by name if it has none, or nothing else.
    """
    rgba = load_rgba(path)[0]
    alpha = rgba[3]
    if min(alpha.shape) < SMALLEST_PX:
        raise InputError(
            f"{path} is too small for a foreground: {tuple(alpha.shape)} px, at least {SMALLEST_PX} needed"
        )
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
    if min(image.shape[1:]) < SMALLEST_PX:
        raise InputError(
            f"{path} is too small for a background: {tuple(image.shape[1:])} px, at least {SMALLEST_PX} needed"
        )
    if photo.alpha is not None and float(photo.alpha.min()) < OPAQUE:
        raise InputError(f"{path} has transparency: a background must cover everything; is it in the wrong folder?")
    return image


@dataclass
class UsableFiles:
    """Files to draw from by number, where a few may turn out to be unusable: those are named once and passed over.

    Which file a number gives depends on the files only, not on what was drawn before.

    Args:
        paths: Files, in a fixed order.
        load: Reads one; an InputError from it marks the file as unusable.
        unusable: Message of each file found unusable so far, by its place.
    """

    paths: tuple[Path, ...]
    load: Callable[[Path], Float[Tensor, "c h w"]]
    unusable: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def draw(self, index: int) -> Float[Tensor, "c h w"]:
        """The image of file `index`, or of the next usable one after it.

        Args:
            index: Place of the file, from 0.
        """
        for step in range(len(self.paths)):
            place = (index + step) % len(self.paths)
            if place in self.unusable:
                continue
            try:
                return self.load(self.paths[place])
            except InputError as error:
                self._mark(place, str(error))
        raise InputError(f"none of {len(self.paths)} files can be used; the first: {self.unusable[0]}")

    def _mark(self, place: int, message: str) -> None:
        self.unusable[place] = message
        allowed = math.ceil(UNUSABLE_SHARE * len(self.paths))
        if len(self.unusable) > allowed and len(self.unusable) < len(self.paths):
            raise InputError(
                f"{len(self.unusable)} of {len(self.paths)} files cannot be used, more than the {allowed} passed over: "
                + "; ".join(self.unusable.values())
            )
        if len(self.paths) > 1:
            logger.warning("passed over: %s", message)
