"""Files: finding images, and writing so that a reader never sees half a file."""

from __future__ import annotations

import glob
import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bokehdiff.errors import InputError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    {
        *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".pfm"),
        *(".avif", ".heic", ".heif", ".jp2", ".exr", ".hdr"),
    }
)


CACHE_VARIABLE = "BOKEHDIFF_CACHE"


def cache_folder() -> Path:
    """Where what can be made again is kept between runs: $BOKEHDIFF_CACHE, or ~/.cache/bokehdiff; it need not exist."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/bokehdiff").expanduser()


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; after the block it takes the place of `path` in one step.

    When the block fails, an older file at `path` stays as it is and nothing is left lying about. The bytes are on the
    disk before the name changes. The temporary name begins with a dot and keeps the suffix, so that writers which
    look at suffixes work. An OSError in the block (disk full, no rights) becomes an InputError that names `path`.

    Args:
        path: File to write; its folder must exist. A link is followed.
    """
    target = Path(path)
    if target.is_symlink():
        target = target.resolve()
    if target.is_dir():
        raise InputError(f"{path}: is a folder; expected the name of a file to write")
    if not target.parent.is_dir():
        raise InputError(f"{path}: cannot be written, its folder {target.parent} does not exist; make it first")
    temporary = target.with_name(f".{target.stem[:40]}.{secrets.token_hex(4)}{target.suffix}")
    try:
        yield temporary
        _flush(temporary)
        if target.exists():
            temporary.chmod(target.stat().st_mode)
        temporary.replace(target)
        _flush(target.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: str | Path) -> Path:
    """Make a folder and those above it, unless it is there; gives it back.

    Args:
        path: The folder.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror or error}; choose another") from error
    return folder


def _flush(path: Path) -> None:
    """Have the system put a file or a folder's entries on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders, and keeps their entries itself
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_images(where: str | Path) -> list[Path]:
    """Images in a folder (not in its subfolders), of a glob pattern, or a single file; `img2` before `img10`.

    Files that are not images by their suffix are left out, with a logged line; hidden files are left out.

    Args:
        where: Folder, pattern such as "photos/*.jpg" (quoted, `**` for any depth), or file.
    """
    place = Path(where).expanduser()
    if place.is_file():
        return [place]
    pattern = f"{glob.escape(str(place))}/*" if place.is_dir() else str(place)
    found = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207  Path.glob refuses absolute ones
    files = [file for file in found if file.is_file() and not file.name.startswith(".")]
    images = sorted((file for file in files if file.suffix.lower() in IMAGE_SUFFIXES), key=natural_order)
    if not images:
        raise InputError(_nothing_found(where, place, files))
    if len(images) < len(files):
        logger.info("%s: %d files are not images by their suffix and are left out", where, len(files) - len(images))
    return images


def _nothing_found(where: str | Path, place: Path, files: list[Path]) -> str:
    if files:
        others = ", ".join(sorted({file.suffix or file.name for file in files})[:5])
        return f"{where}: holds no image, only {others}; images end in {', '.join(sorted(IMAGE_SUFFIXES))}"
    if place.is_dir():
        return f"{where}: the folder holds no image; images end in {', '.join(sorted(IMAGE_SUFFIXES))}"
    return f"{where}: no such file or folder, and no image matches it as a pattern"


def natural_order(path: Path) -> tuple[str, list[tuple[int, int, str]]]:
    """Key that sorts names as people do: numbers by their value, letters without regard to case.

    Args:
        path: File; compared by folder first, then by name.
    """
    parts = re.findall(r"\d+|\D+", path.name)
    return str(path.parent), [(0, int(part), part) if part.isdecimal() else (1, 0, part.casefold()) for part in parts]
