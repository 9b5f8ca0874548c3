"""What can be asked for of sweeps: many pictures of one photograph, into a folder, a GIF or an MP4. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bokehdiff.errors import InputError

SWEEP_SUFFIXES = (".gif", ".mp4")


@dataclass(frozen=True)
class SweepOptions:
    """Many pictures of each photograph, in OUTPUT_DIR/NAME_sweep, or as one animation.

    Args:
        focus_sweep: Number of pictures from the farthest to the nearest focus; 0 for none.
        aperture_sweep: Number of pictures from a closed lens to the full blur; 0 for none.
        sweep_format: Pictures in --format, a GIF, or an MP4 (extra video: pip install 'bokehdiff[video]').
        fps: Pictures per second of an animation.
        loop: A GIF begins anew for ever.
        back_and_forth: An animation runs backwards at its end, so that no loop jumps.
    """

    focus_sweep: int = 0
    aperture_sweep: int = 0
    sweep_format: Literal["pictures", "gif", "mp4"] = "pictures"
    fps: float = 12.0
    loop: bool = True
    back_and_forth: bool = False

    @property
    def is_asked(self) -> bool:
        """Whether each photograph gives many pictures."""
        return bool(self.focus_sweep or self.aperture_sweep)


def sweep_problems(sweep: SweepOptions) -> Iterator[InputError]:
    """What contradicts itself.

    Args:
        sweep: The command line's section.
    """
    for flag, count in (("--focus-sweep", sweep.focus_sweep), ("--aperture-sweep", sweep.aperture_sweep)):
        if count < 0:
            yield InputError(f"must be 0 or more pictures; got {count}", flag=flag)
    if sweep.focus_sweep and sweep.aperture_sweep:
        yield InputError("sweeps the lens while --focus-sweep sweeps the focus: one at a time", flag="--aperture-sweep")
    if sweep.sweep_format != "pictures" and not sweep.is_asked:
        yield InputError(
            "needs a sweep: --focus-sweep or --aperture-sweep with 2 or more pictures", flag="--sweep-format"
        )


def sweep_target(folder: Path, stem: str, sweep: SweepOptions) -> Path:
    """Where a sweep goes: an animation, or the folder of its pictures.

    Args:
        folder: Of the results.
        stem: Name of the photograph's results.
        sweep: The command line's section.
    """
    return folder / (f"{stem}_sweep" if sweep.sweep_format == "pictures" else f"{stem}_sweep.{sweep.sweep_format}")
