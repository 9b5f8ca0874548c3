"""Where a photograph and what belongs to it lie: input/A/NAME.jpg, depth/A/NAME_pred.npy, mask/A/NAME.png."""

from __future__ import annotations

import glob
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from bokehdiff.errors import InputError
from bokehdiff.images import IMAGE_SUFFIXES, find_images
from bokehdiff.preparation.maps import MAP_SUFFIXES

logger = logging.getLogger(__name__)

PREDICTION = "_pred"  # the seed's name for the map that everything later reads: NAME_pred.npy
OUR_MARK = "bokehdiff prepare"  # begins the note in pictures of our making: no other is ever overwritten
NOTE_KEYS = ("Software", "Comment")  # where a PNG holds it
FOREGROUND_ENDING = "fg"  # of the folders that training draws foregrounds from
MASK_SUFFIXES = (".png", *sorted(IMAGE_SUFFIXES - {".png"}))

Listing = Mapping[Path, tuple[Path, ...]]


@dataclass(frozen=True)
class Dirnames:
    """Names of the folders under the root.

    Args:
        images: Photographs, at any depth below it; what belongs to one lies as deep in the other folders.
        depth: Disparity.
        mask: Subject masks.
        foregrounds: Foregrounds cut out of photographs; its name ends in fg.
    """

    images: str = "input"
    depth: str = "depth"
    mask: str = "mask"
    foregrounds: str = "fg"

    def __post_init__(self) -> None:
        if not Path(self.foregrounds).name.endswith(FOREGROUND_ENDING):
            raise InputError(
                f"the folder of foregrounds must end in {FOREGROUND_ENDING}, which training looks for; "
                f"got {self.foregrounds}"
            )


@dataclass(frozen=True)
class Places:
    """The folders under a root, and what is there already.

    Args:
        images: Folder of photographs.
        depth: Folder of disparity maps.
        mask: Folder of subject masks.
        foregrounds: Folder of foregrounds.
        maps: Files of `depth` by their path under it without suffix, most exact first.
        masks: Files of `mask` likewise.
    """

    images: Path
    depth: Path
    mask: Path
    foregrounds: Path
    maps: Listing
    masks: Listing

    @classmethod
    def under(cls, root: Path, dirnames: Dirnames) -> Places:
        """List what is there.

        Args:
            root: Folder that holds the others.
            dirnames: Names of the others.
        """
        if not root.is_dir():
            raise InputError(f"{root} is not a folder; expected one with photographs in {root / dirnames.images}")
        images, depth, mask = root / dirnames.images, root / dirnames.depth, root / dirnames.mask
        if not images.is_dir():
            raise InputError(f"{images} is not a folder; expected the photographs there")
        maps, masks = _by_name(depth, MAP_SUFFIXES), _by_name(mask, MASK_SUFFIXES)
        return cls(images, depth, mask, root / dirnames.foregrounds, maps, masks)

    def photographs(self) -> list[Path]:
        """All photographs, those in folders of folders too; none of the maps, masks and foregrounds among them."""
        try:
            found = find_images(f"{glob.escape(str(self.images))}/**/*")
        except InputError:
            raise InputError(f"{self.images}: the folder holds no image, nor do those in it") from None
        others = [folder for folder in (self.depth, self.mask, self.foregrounds) if folder != self.images]
        images = [path for path in found if not any(folder in path.parents for folder in others)]
        if not images:
            raise InputError(f"{self.images}: holds maps, masks and foregrounds, but no photograph")
        return images

    def key(self, image: Path) -> Path:
        """What a photograph and all that belongs to it are called: its path in its folder, without suffix.

        Args:
            image: Photograph.
        """
        return image.relative_to(self.images).with_suffix("")

    def prediction(self, image: Path, ending: str = ".npy") -> Path:
        """Where the disparity of a photograph goes.

        Args:
            image: Photograph.
            ending: Of the file's name.
        """
        return self.beside(image, f"{PREDICTION}{ending}")

    def beside(self, image: Path, ending: str) -> Path:
        """A file in the folder of disparity that belongs to a photograph.

        Args:
            image: Photograph.
            ending: Of the file's name, after the photograph's.
        """
        return _with_suffix(self.depth / self.key(image), ending)

    def map_to_take_in(self, image: Path) -> Path | None:
        """A map of the user's: NAME.*, or NAME_pred.* unless NAME_pred.npy is there, which it then is a picture of.

        Args:
            image: Photograph.
        """
        key = self.key(image)
        own = self.maps.get(key, ())
        if not self.prediction(image).exists():
            own += self.maps.get(key.with_name(key.name + PREDICTION), ())
        if len(own) > 1:
            logger.info("%s has %d maps; %s is used", image.name, len(own), own[0].name)
        return own[0] if own else None

    def mask_of(self, image: Path) -> Path | None:
        """The mask of a photograph, if there is one.

        Args:
            image: Photograph.
        """
        return next(iter(self.masks.get(self.key(image), ())), None)

    def new_mask(self, image: Path) -> Path:
        """Where a mask that is made goes.

        Args:
            image: Photograph.
        """
        return _with_suffix(self.mask / self.key(image), ".png")

    def foreground(self, image: Path) -> Path:
        """Where the foreground cut out of a photograph goes.

        Args:
            image: Photograph.
        """
        return _with_suffix(self.foregrounds / self.key(image), ".png")


def _with_suffix(path: Path, suffix: str) -> Path:
    """Add to a name that may have dots of its own."""
    return path.with_name(path.name + suffix)


def _by_name(folder: Path, suffixes: tuple[str, ...]) -> dict[Path, tuple[Path, ...]]:
    """The files below a folder by their path without suffix, those with earlier suffixes first; none if there is none.

    Args:
        folder: May not exist.
        suffixes: Those that count.
    """
    found: dict[Path, tuple[Path, ...]] = {}
    files = [path for path in folder.rglob("*") if path.suffix.lower() in suffixes] if folder.is_dir() else []
    for path in sorted(files, key=lambda path: (suffixes.index(path.suffix.lower()), path.name)):
        key = path.relative_to(folder).with_suffix("")
        found[key] = (*found.get(key, ()), path)
    return found


def is_ours(path: Path) -> bool:
    """Whether a picture was made by this program, and so may be made anew.

    Args:
        path: Picture.
    """
    try:
        with Image.open(path) as picture:
            return any(str(picture.info.get(key, "")).startswith(OUR_MARK) for key in NOTE_KEYS)
    except (OSError, UnidentifiedImageError):
        return False
