"""`bokehdiff data synthesize`: a procedural training set, for trying things out without any photographs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from bokehdiff.errors import InputError, at_fault


@dataclass(frozen=True)
class DataSynthesizeOptions:
    """Write a procedural training set: subjects with transparency into ROOT/fg, scenes behind them into ROOT/bg.

    Hair, leaves, lattices, solids, fur and veils before dead leaves, facades, lights, clouds and scikit-image's free
    photographs. A set that is there already is kept, an interrupted one continued; your own images in these
    folders are not touched.

    Args:
        root: Folder to write to.
        n_foregrounds: How many subjects [images].
        n_backgrounds: How many scenes [images].
        size: Side of each image [px].
        seed: The same seed gives the same set.
        photographs: Every third scene is a crop of a photograph in the public domain.
    """

    root: str
    n_foregrounds: int = 64
    n_backgrounds: int = 48
    size: int = 512
    seed: int = 0
    photographs: bool = True


OPTIONS = DataSynthesizeOptions
POSITIONAL = ("root",)


def run(options: DataSynthesizeOptions) -> int:
    """Write the set.

    Args:
        options: The command line.

    Returns:
        0; errors are raised.
    """
    from bokehdiff.data import SMALLEST_SYNTHETIC_PX, write_training_set

    for flag, value, least in (
        ("--n-foregrounds", options.n_foregrounds, 1),
        ("--n-backgrounds", options.n_backgrounds, 1),
        ("--size", options.size, SMALLEST_SYNTHETIC_PX),
        ("--seed", options.seed, 0),
    ):
        if value < least:
            raise InputError(f"must be at least {least}; got {value}", flag=flag)
    with at_fault("--root"):
        write_training_set(
            Path(options.root),
            n_foregrounds=options.n_foregrounds,
            n_backgrounds=options.n_backgrounds,
            size_px=options.size,
            seed=options.seed,
            photographs=options.photographs,
            progress=sys.stderr.isatty(),
        )
    print(f"{options.n_foregrounds} foregrounds and {options.n_backgrounds} backgrounds in {options.root}")
    print(f"look at samples of it: bokehdiff data preview {options.root} --output samples.png")
    return 0
