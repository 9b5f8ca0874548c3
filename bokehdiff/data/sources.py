"""Where training samples come from beside the compositor: photographed pairs, and mixtures of sources by weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, cast, get_args

from jaxtyping import Float
from torch import Tensor

from bokehdiff.data.compositor import OnTheFlyDataset, Uncomposed
from bokehdiff.data.folders import UsableFiles
from bokehdiff.data.loader import SampleSource
from bokehdiff.data.pairs import Layout, Pair, PairPaths, Split, find_pairs, load_pair
from bokehdiff.data.randomness import generator_for, shuffled, shuffled_in_buffer
from bokehdiff.data.samples import TrainSample
from bokehdiff.errors import InputError


class PairedDataset:
    """Photographed pairs by number: sample n is a function of (seed, n) and the files.

    Training samples are shuffled decks of crops, without end; with `resolution_px` None they are whole photographs in
    order, each once, for validation. What a pair does not know stays None; see `TrainSample`.

    Args:
        root: Folder of the dataset.
        layout: See `find_pairs`.
        split: See `find_pairs`.
        seed: The same seed gives the same samples.
        resolution_px: Side of the crops [px]; None for whole photographs.
        mirror: Probability that a crop is mirrored, left and right.
        length: How many crops there are said to be.
        width_multiple: As in `load_pair`.
        shuffle_buffer: Shuffle as tf.data does, through a buffer of so many pairs; None shuffles whole decks.
        n_left_out: So many pairs at the end take no part.
    """

    def __init__(
        self, root: str | Path, *, layout: Layout, split: Split = "train", seed: int = 0,
        resolution_px: int | None = None, mirror: float = 0.5, length: int = 2**40, width_multiple: int = 1,
        shuffle_buffer: int | None = None, n_left_out: int = 0,
    ) -> None:  # fmt: skip
        found = find_pairs(root, layout=layout, split=split)
        if not n_left_out < len(found):
            raise InputError(f"{root} holds {len(found)} pairs: none is left when {n_left_out} are kept apart")
        self.pairs = found[: len(found) - n_left_out]
        self.width_multiple = width_multiple
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.resolution_px = resolution_px
        self.mirror = mirror
        self.length = len(self.pairs) if resolution_px is None else length
        self.usable = UsableFiles(tuple(pair.target for pair in self.pairs))

    def __len__(self) -> int:
        return self.length

    @property
    def knows_disparity(self) -> bool:
        """Whether every pair has a map."""
        return all(pair.disparity is not None or pair.depth is not None for pair in self.pairs)

    @property
    def knows_lens(self) -> bool:
        """Whether every pair tells its circles of confusion."""
        return all(pair.lens is not None for pair in self.pairs)

    def __getitem__(self, n: int) -> TrainSample:
        if not 0 <= n < self.length:
            raise IndexError(f"sample {n} of {self.length}")
        if self.resolution_px is None:
            return _sample(load_pair(self.pairs[n], width_multiple=self.width_multiple), n)
        place = self._place(n)
        return _sample(self.usable.draw(place, lambda tried, _: self._crop(self.pairs[tried], n)), n)

    def _place(self, n: int) -> int:
        if self.shuffle_buffer is None:
            return shuffled(n, len(self.pairs), seed=self.seed)
        return shuffled_in_buffer(n, len(self.pairs), self.shuffle_buffer, seed=self.seed)

    def _crop(self, paths: PairPaths, n: int) -> Pair:
        pair, side = load_pair(paths, width_multiple=self.width_multiple), self.resolution_px
        height, width = pair.image_srgb.shape[1:]
        if side is None or min(height, width) < side:
            raise InputError(f"{paths.image} has {width} x {height} pixels: too small for a crop of {side} px")
        rng = generator_for(self.seed, n, purpose="pair")
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        mirrored = rng.uniform() < self.mirror

        def cut(image: Float[Tensor, "*c h w"]) -> Float[Tensor, "*c s s"]:
            part = image[..., top : top + side, left : left + side]
            return (part.flip(-1) if mirrored else part).contiguous()

        disparity = None if pair.disparity is None else cut(pair.disparity)
        return Pair(cut(pair.image_srgb), cut(pair.target_srgb), disparity, pair.lens, pair.f_number)


def _sample(pair: Pair, n: int) -> TrainSample:
    coc_px = focus_disparity = strength_px = None
    if pair.lens is not None and pair.disparity is not None:
        coc_px = pair.lens.coc_px(pair.disparity[None])[0]
        focus_disparity, strength_px = float(pair.lens.focus_disparity), float(pair.lens.strength_px)
    return TrainSample(
        image_srgb=pair.image_srgb,
        target_srgb=pair.target_srgb,
        disparity=pair.disparity,
        coc_px=coc_px,
        focus_disparity=focus_disparity,
        strength_px=strength_px,
        n=n,
        f_number=pair.f_number,
    )


class MixedDataset:
    """Several sources in one: which of them makes sample n is a function of (seed, n), by their weights.

    Args:
        sources: At least one.
        weights: Share of the samples of each, above 0; their sum does not matter.
        seed: The same seed gives the same mixture.
    """

    def __init__(self, sources: Sequence[SampleSource], weights: Sequence[float], *, seed: int) -> None:
        if not sources or len(sources) != len(weights) or min(weights) <= 0:
            raise InputError(f"a mixture needs sources with weights above 0; got {len(sources)} and {list(weights)}")
        self.sources = tuple(sources)
        self.shares = tuple(weight / sum(weights) for weight in accumulate(weights))
        self.seed = seed

    def __len__(self) -> int:
        return min(len(source) for source in self.sources)

    def which(self, n: int) -> int:
        """Place of the source that makes sample n.

        Args:
            n: Number of the sample.
        """
        drawn = generator_for(self.seed, n, purpose="source").uniform()
        return next((place for place, share in enumerate(self.shares) if drawn < share), len(self.shares) - 1)

    def __getitem__(self, n: int) -> TrainSample:
        return self.sources[self.which(n)][n]

    def uncomposed(self, n: int) -> Uncomposed | TrainSample:
        """Sample n before it is composed, or whole where nothing is.

        Args:
            n: Number of the sample.
        """
        source = self.sources[self.which(n)]
        return source.uncomposed(n) if isinstance(source, OnTheFlyDataset | MixedDataset) else source[n]


@dataclass(frozen=True)
class SourceSpec:
    """A source of pairs as a configuration names it.

    Args:
        layout: See `find_pairs`.
        root: Folder.
        weight: Share of the samples, where the compositor's is 1.
    """

    layout: Layout
    root: Path
    weight: float


def parse_sources(text: str) -> tuple[SourceSpec, ...]:
    """Sources from one line: LAYOUT:FOLDER@WEIGHT, several with commas; the weight is 1 if it is not said.

    Args:
        text: Such as "ebb:/data/EBB@0.3,blb:/data/BLB".
    """
    specs = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        layout, colon, rest = part.partition(":")
        root, _, weight = rest.rpartition("@") if "@" in rest else (rest, "", "1")
        try:
            share = float(weight)
        except ValueError:
            share = -1.0
        if not colon or not root or layout not in get_args(Layout) or not share > 0:
            raise InputError(
                f"a source is LAYOUT:FOLDER@WEIGHT with LAYOUT one of {', '.join(get_args(Layout))} and a weight above "
                f"0; got {part!r}"
            )
        specs.append(SourceSpec(cast(Any, layout), Path(root), share))
    return tuple(specs)


def mix_in(
    composed: SampleSource, specs: Sequence[SourceSpec], *, seed: int, resolution_px: int, needs_lens: bool
) -> SampleSource:
    """The compositor's samples mixed with those of photographed pairs.

    Args:
        composed: Source of weight 1.
        specs: Others; none leaves it as it is.
        seed: The same seed gives the same mixture.
        resolution_px: Side of the samples [px].
        needs_lens: Refuse pairs that do not tell their circles of confusion, as BokehDiff's attention must.
    """
    if not specs:
        return composed
    others = []
    for spec in specs:
        source = PairedDataset(spec.root, layout=spec.layout, seed=seed, resolution_px=resolution_px)
        if needs_lens and not source.knows_lens:
            raise InputError(
                f"{spec.root}: pairs in the layout {spec.layout!r} tell neither focus nor strength, which this network "
                "needs; they serve networks without a lens, and validation"
            )
        others.append(source)
    return MixedDataset([composed, *others], [1.0, *(spec.weight for spec in specs)], seed=seed)
