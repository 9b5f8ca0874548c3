"""Where the app writes: one folder for results, one that ends with the program for everything else."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from bokehdiff.errors import InputError
from bokehdiff.images import make_folder

LONGEST_NAME = 60  # characters of a photograph's name that its results keep
NAMELESS = "photo"


@dataclass(frozen=True)
class Places:
    """The only two folders that the app writes to.

    Args:
        results: Finished pictures; they stay.
        passing: Uploads, previews and maps; removed with the program.
    """

    results: Path
    passing: Path
    _naming: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def under(cls, output_dir: str | Path) -> Places:
        """Both folders, made.

        Args:
            output_dir: Folder of the results.
        """
        results = make_folder(Path(output_dir).expanduser()).resolve()
        return cls(results, Path(tempfile.mkdtemp(prefix="bokehdiff-app-")))

    def new_result(self, name: str, suffix: str) -> Path:
        """An empty file of a name that no result has yet, so that two users cannot overwrite each other.

        Args:
            name: What it shall be called; whatever cannot stand in a file's name is replaced.
            suffix: Of the file, with its dot.
        """
        stem = safe_stem(name)
        with self._naming:
            path = self.results / f"{stem}{suffix}"
            number = 2
            while path.exists():
                path = self.results / f"{stem}-{number}{suffix}"
                number += 1
            try:
                path.touch()
            except OSError as error:
                raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
        return path

    def remove_passing(self) -> None:
        """Remove what does not stay."""
        shutil.rmtree(self.passing, ignore_errors=True)


def safe_stem(name: str) -> str:
    """A name without folders, dots in front, or signs that some system does not allow in names.

    Args:
        name: A file's name as a stranger gives it.
    """
    last = re.split(r"[\\/]", name)[-1]
    plain = re.sub(r"[^\w.-]+", "_", last).strip("._-")
    return plain[:LONGEST_NAME] or NAMELESS
