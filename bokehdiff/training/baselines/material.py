"""The pairs of a baseline's training, and those held out of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from bokehdiff.data import MixedDataset, OnTheFlyDataset, PairedDataset, SampleSource, SourceSpec, parse_sources, preset
from bokehdiff.errors import InputError, at_fault
from bokehdiff.models import BaselineSpec
from bokehdiff.training.baselines.config import BaselineConfig
from bokehdiff.training.material import composed_pairs, held_out_pairs, last_numbers, whole_photographs
from bokehdiff.training.run import HeldOut

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """What is learned from, and what is looked at.

    Args:
        dataset: Training samples by number.
        held_out: Pairs that training never sees.
    """

    dataset: SampleSource
    held_out: HeldOut


def build_material(config: BaselineConfig, spec: BaselineSpec) -> Material:
    """Find the pairs, and refuse those that do not tell what the network needs.

    Args:
        config: Checked configuration.
        spec: Of the network.
    """
    composed = (
        _composed(config, config.data.train_data_dir, flag="--train-data-dir") if config.data.train_data_dir else None
    )
    with at_fault("--pairs"):
        specs = parse_sources(config.data.pairs or "")
    kept, n_left_out = (None, 0) if composed is not None else _kept_for_validation(config, specs)
    with at_fault("--pairs"):
        photographed = [_crops(config, each, spec, n_left_out=n_left_out) for each in specs]
    sources: list[SampleSource] = [*([composed] if composed is not None else []), *photographed]
    weights = [*([1.0] if composed is not None else []), *(each.weight for each in specs)]
    dataset = sources[0] if len(sources) == 1 else MixedDataset(sources, weights, seed=config.run.seed)
    validation, pictured = config.validation, config.run.preview_steps
    n_wanted = validation.validation_samples
    otherwise = HeldOut(dataset, (), validation.validation_steps, pictured)
    if composed is not None:
        otherwise = HeldOut(composed, last_numbers(composed, n_wanted), validation.validation_steps, pictured)
    elif kept is not None:
        numbers = last_numbers(kept, n_wanted)
        otherwise = HeldOut(kept, numbers, validation.validation_steps, pictured)
    held_out = held_out_pairs(
        validation.validation_data_dir,
        otherwise,
        n_wanted=n_wanted,
        compose=lambda root: _composed(config, root, flag="--validation-data-dir"),
        needs_lens=spec.needs_lens,
        width_multiple=config.data.width_multiple,
    )
    with at_fault("--validation-data-dir"):
        _refuse_ignorant(held_out.source, spec)
    return Material(dataset, held_out)


def _composed(config: BaselineConfig, root: str, *, flag: str) -> OnTheFlyDataset:
    data = config.data
    composition = preset(
        data.composition,
        resolution_px=data.resolution,
        strength_range_px=(data.strength_min_px, data.strength_max_px),
    )
    return composed_pairs(root, flag=flag, seed=config.run.seed, composition=composition)


def _kept_for_validation(config: BaselineConfig, specs: Sequence[SourceSpec]) -> tuple[PairedDataset | None, int]:
    """Whole photographs that the first layout keeps for validation, or its last ones; how many to leave out for them.

    Nothing where a folder of its own is named, or nothing is looked at.
    """
    validation = config.validation
    if validation.validation_data_dir is not None or not (validation.validation_steps or config.run.preview_steps):
        return None, 0
    first, multiple = specs[0], config.data.width_multiple
    with at_fault("--pairs"):
        everything = PairedDataset(first.root, layout=first.layout, width_multiple=multiple)
        try:
            kept = whole_photographs(first, needs_lens=False, width_multiple=multiple)
        except InputError:  # the layout has a part for validation, and it is not there
            kept = everything
        if not {pair.target for pair in kept.pairs} & {pair.target for pair in everything.pairs}:
            return kept, 0
    n_left_out = min(validation.validation_samples, len(everything) // 2)
    logger.info("%s keeps no pairs for validation: the last %d take no part in training", first.root, n_left_out)
    return everything, n_left_out


def _crops(config: BaselineConfig, source: SourceSpec, spec: BaselineSpec, *, n_left_out: int) -> PairedDataset:
    data = config.data
    pairs = PairedDataset(
        source.root,
        layout=source.layout,
        seed=config.run.seed,
        resolution_px=data.resolution,
        mirror=data.mirror,
        width_multiple=data.width_multiple,
        shuffle_buffer=data.shuffle_buffer,
        n_left_out=n_left_out,
    )
    _refuse_ignorant(pairs, spec)
    return pairs


def _refuse_ignorant(source: SampleSource, spec: BaselineSpec) -> None:
    """Pairs must tell what the network is told."""
    if not isinstance(source, PairedDataset):
        return
    if spec.needs_disparity and not source.knows_disparity:
        lacking = next(pair for pair in source.pairs if pair.disparity is None and pair.depth is None)
        raise InputError(
            f"{lacking.image} has no map of disparity, which PyNET is told: `bokehdiff prepare` makes one, or pass "
            "--guide none"
        )
    if spec.needs_lens and not source.knows_lens:
        raise InputError("pairs tell neither focus nor strength, which --guide coc needs: pass --guide disparity")
