"""Which files lie below a folder, and what their headers say: found once, remembered until a folder or file changes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bokehdiff.errors import InputError
from bokehdiff.images import IMAGE_SUFFIXES, cache_folder, make_folder, write_atomically

logger = logging.getLogger(__name__)

VERSION = 1
SETTLED_NS = 2 * 10**9  # a folder that changed less than this ago may change again within its clock's tick


@dataclass
class FolderIndex:
    """What is known of the files below a folder; kept in `cache_folder()`/index between runs.

    A folder is listed again when its own time of change moved, a file checked again when its size or time did. So a set
    of ten thousand files costs a listing and ten thousand headers once, then one look at each folder and file.

    Args:
        root: Folder.
        listings: Of each folder by its path under `root`: time of change [ns], names of images, names of folders.
        checks: Of each file by its path under `root` and what it was checked as: size, time of change, problem or "".
    """

    root: Path
    listings: dict[str, tuple[int, list[str], list[str]]] = field(default_factory=dict)
    checks: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path) -> FolderIndex:
        """What an earlier run left, or nothing.

        Args:
            root: Folder.
        """
        try:
            content = json.loads(_store(root).read_text(encoding="utf-8"))
            if content["version"] != VERSION or content["root"] != str(root.resolve()):
                return cls(root)
            listings = {key: (int(t), list(files), list(folders)) for key, (t, files, folders) in content["folders"]}
            checks = {key: (int(size), int(t), str(problem)) for key, (size, t, problem) in content["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            return cls(root)
        return cls(root, listings, checks)

    def images(self) -> Iterator[Path]:
        """Every image below the root, hidden files left out, links followed once; in no particular order."""
        found: dict[str, tuple[int, list[str], list[str]]] = {}
        seen: set[tuple[int, int]] = set()
        waiting = [""]
        while waiting:
            key = waiting.pop()
            folder = self.root / key
            stat = folder.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                continue
            seen.add((stat.st_dev, stat.st_ino))
            known = self.listings.get(key)
            if known is None or known[0] != stat.st_mtime_ns:
                known = (stat.st_mtime_ns, *_listed(folder))
            if time.time_ns() - stat.st_mtime_ns > SETTLED_NS:
                found[key] = known
            waiting += [str(Path(key) / name) for name in known[2]]
            yield from (folder / name for name in known[1])
        self.listings = found

    def problem(self, path: Path, kind: str, check: Callable[[Path], None]) -> str:
        """What is wrong with a file, "" if nothing is; asked only once while the file stays as it is.

        Args:
            path: File below the root.
            kind: What it is checked as.
            check: Raises InputError if it is unusable.
        """
        key = f"{kind}:{os.path.relpath(path, self.root)}"
        try:
            stat = path.stat()
        except OSError as error:
            return f"{path}: cannot be read: {error.strerror}"
        known = self.checks.get(key)
        if known is None or known[:2] != (stat.st_size, stat.st_mtime_ns):
            try:
                check(path)
                known = (stat.st_size, stat.st_mtime_ns, "")
            except InputError as error:
                known = (stat.st_size, stat.st_mtime_ns, str(error))
            self.checks[key] = known
        return known[2]

    def save(self) -> None:
        """Keep it for the next run; where that cannot be, the next run looks again."""
        content = {
            "version": VERSION,
            "root": str(self.root.resolve()),
            "folders": list(self.listings.items()),
            "files": list(self.checks.items()),
        }
        store = _store(self.root)
        try:
            make_folder(store.parent)
            with write_atomically(store) as partial:
                partial.write_text(json.dumps(content), encoding="utf-8")
        except InputError as error:
            logger.info("the index of %s is not kept: %s", self.root, error)


def _store(root: Path) -> Path:
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:24]
    return cache_folder() / "index" / f"{name}.json"


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the images and of the folders in a folder."""
    images, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
                images.append(entry.name)
    return images, folders
