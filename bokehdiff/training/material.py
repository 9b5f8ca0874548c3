"""What a run learns from and what it is judged by: composed pairs, photographed ones, mixtures, pairs held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bokehdiff.data import Composition, OnTheFlyDataset, PairedDataset, SampleSource, SourceSpec, parse_sources
from bokehdiff.errors import InputError, at_fault
from bokehdiff.training.run import HeldOut


def composed_pairs(root: str, *, flag: str, seed: int, composition: Composition) -> OnTheFlyDataset:
    """Pairs composed on the fly.

    Args:
        root: Folder with foregrounds and backgrounds.
        flag: That named it.
        seed: Sample n is a function of (seed, n).
        composition: What they are drawn from.
    """
    with at_fault(flag):
        return OnTheFlyDataset(Path(root), seed=seed, composition=composition)


def named_pairs(where: str) -> SourceSpec | None:
    """Photographed pairs, where a flag names them as LAYOUT:FOLDER; None where it names a folder.

    Args:
        where: Value of the flag.
    """
    if ":" not in where or Path(where).exists():
        return None
    (spec,) = parse_sources(where)
    return spec


def held_out_pairs(
    where: str | None,
    otherwise: HeldOut,
    *,
    n_wanted: int,
    compose: Callable[[str], OnTheFlyDataset],
    needs_lens: bool,
    width_multiple: int = 1,
) -> HeldOut:
    """Pairs of their own folder where one is named.

    Args:
        where: Value of --validation-data-dir: a folder to compose from, LAYOUT:FOLDER, or None.
        otherwise: What is held out where none is named.
        n_wanted: Pairs; fewer if there are fewer.
        compose: Makes pairs from a folder.
        needs_lens: Refuse pairs that do not tell their circles of confusion.
        width_multiple: Photographs are cut to a multiple of this [px].
    """
    if where is None:
        return otherwise
    with at_fault("--validation-data-dir"):
        spec = named_pairs(where)
        source: SampleSource
        if spec is None:
            source = compose(where)
        else:
            source = whole_photographs(spec, needs_lens=needs_lens, width_multiple=width_multiple)
    return replace(otherwise, source=source, numbers=tuple(range(min(n_wanted, len(source)))))


def last_numbers(source: SampleSource, n_wanted: int) -> tuple[int, ...]:
    """Numbers of the last samples of a source, from its end.

    Args:
        source: Makes samples by number.
        n_wanted: How many; fewer if there are fewer.
    """
    return tuple(len(source) - 1 - index for index in range(min(n_wanted, len(source))))


def whole_photographs(spec: SourceSpec, *, needs_lens: bool, width_multiple: int = 1) -> PairedDataset:
    """Whole photographs of the part that is kept for validation, each once.

    Args:
        spec: Layout and folder.
        needs_lens: Refuse pairs that do not tell their circles of confusion.
        width_multiple: Photographs are cut to a multiple of this [px].
    """
    pairs = PairedDataset(spec.root, layout=spec.layout, split="val", width_multiple=width_multiple)
    if needs_lens and not pairs.knows_lens:
        raise InputError(
            f"pairs in the layout {spec.layout!r} tell neither focus nor strength, which this network needs"
        )
    return pairs
