"""`bokehdiff data check`: whether a training folder is fit for a night of training."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from bokehdiff.errors import InputError, at_fault


@dataclass(frozen=True)
class DataCheckOptions:
    """Decode every file that training would draw from; report counts, sizes, how soft outlines are, and problems.

    The exit status is 0 if every file can be used, else 1. Training itself passes over up to a tenth of unusable files.

    Args:
        root: Folder with foregrounds (*fg/) and backgrounds (bg/), or of a dataset of pairs.
        layout: composed for foregrounds and backgrounds; else how pairs are laid out.
        split: Part of a dataset of pairs; val of ebb is Val294.
        workers: Processes that decode.
    """

    root: str
    layout: Literal["composed", "ebb", "aim", "realbokeh", "blb", "folders"] = "composed"
    split: Literal["train", "val", "test", "all"] = "train"
    workers: int = 1


OPTIONS = DataCheckOptions
POSITIONAL = ("root",)


def run(options: DataCheckOptions) -> int:
    """Check the folder and print the report.

    Args:
        options: The command line.

    Returns:
        0 if every file can be used, else 1.
    """
    from bokehdiff.data.check import check_folders, check_pairs

    if options.workers < 1:
        raise InputError(f"must be at least 1; got {options.workers}", flag="--workers")
    progress = sys.stderr.isatty()
    with at_fault("--root"):
        if options.layout == "composed":
            report = check_folders(options.root, n_workers=options.workers, progress=progress)
        else:
            report = check_pairs(
                options.root, layout=options.layout, split=options.split, n_workers=options.workers, progress=progress
            )
    print("\n".join(report.lines()))
    return 1 if report.problems else 0
