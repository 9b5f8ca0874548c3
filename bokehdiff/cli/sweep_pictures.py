"""A sweep's pictures: the focus or the opening goes from end to end, for one photograph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from bokehdiff.cli.sweeps import SWEEP_SUFFIXES, SweepOptions
from bokehdiff.errors import at_fault
from bokehdiff.images import make_folder, save_animation
from bokehdiff.optics import Lens


def sweep_lenses(lens: Lens, disparity: Tensor, sweep: SweepOptions) -> Iterator[Lens]:
    """The lenses of a sweep.

    Args:
        lens: Whose focus, or strength, is swept.
        disparity: Its ends are those of a sweep of the focus.
        sweep: The command line's section.
    """
    n_pictures = sweep.focus_sweep or sweep.aperture_sweep
    least, most = (float(value) for value in disparity.aminmax())
    for i in range(n_pictures):
        share = i / max(n_pictures - 1, 1)
        if sweep.aperture_sweep:
            yield dataclasses.replace(lens, strength_px=lens.strength_px * share)
        else:
            yield dataclasses.replace(lens, focus_disparity=least + (most - least) * share)


def write_sweep(
    target: Path,
    lenses: Sequence[Lens],
    pictures: Iterable[Tensor],
    sweep: SweepOptions,
    *,
    note: Callable[[Lens], str],
    save: Callable[[Path, Tensor, Lens], Path],
    format: str,
    flag: str = "--sweep-format",
) -> Iterator[Path]:
    """Write a sweep; gives each file once it is written.

    Args:
        target: From `sweep_target`; a suffix says that it is an animation.
        lenses: Of the pictures.
        pictures: Display images [1 3 h w], taken one by one.
        sweep: The command line's section.
        note: What an animation says of its making.
        save: Writes one picture of a folder.
        format: Suffix of those.
        flag: The flag at fault where an animation cannot be written.
    """
    if target.suffix.lower() in SWEEP_SUFFIXES:
        with at_fault(flag):
            save_animation(
                target,
                pictures,
                fps=sweep.fps,
                loop=sweep.loop,
                back_and_forth=sweep.back_and_forth,
                text=note(lenses[-1]),
                n_frames=len(lenses),
            )
        yield target
        return
    with at_fault("--output-dir"):
        make_folder(target)
    digits = max(3, len(str(len(lenses) - 1)))
    for i, (lens, picture) in enumerate(zip(lenses, pictures, strict=True)):
        yield save(target / f"{i:0{digits}d}.{format}", picture, lens)
