"""What a method is asked for when it is measured: a photograph, its disparity, a lens, and what the lens saw."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.data import Composition, Layout, OnTheFlyDataset, PairPaths, Split, find_pairs, load_pair
from bokehdiff.errors import InputError
from bokehdiff.images import srgb_to_linear
from bokehdiff.optics import Lens, focus_from_centre


@dataclass(frozen=True)
class Case:
    """One picture to be made.

    Args:
        dataset: Where it is from.
        name: Of the picture.
        image_linear: All in focus, linear light; HDR above 1 allowed.
        disparity: In the units of the lens.
        lens: What is asked for.
        reference_linear: What the lens saw.
    """

    dataset: str
    name: str
    image_linear: Float[Tensor, "1 3 h w"]
    disparity: Float[Tensor, "1 h w"]
    lens: Lens
    reference_linear: Float[Tensor, "1 3 h w"]

    @property
    def blur_px(self) -> float:
        """Largest circle of confusion asked for [px]."""
        return float(self.lens.coc_px(self.disparity).abs().max())


@dataclass(frozen=True)
class Promised:
    """A case that has not been read yet, so that one which cannot be read stops none of the others.

    Args:
        name: Of the picture.
        load: Reads it.
    """

    name: str
    load: Callable[[], Case]


def lens_ground_truth(folder: Path) -> list[Promised]:
    """Path-traced scenes: NAME.npz with aif, disparity and bokeh_VIEW in linear light, NAME.json with each view's lens.

    Args:
        folder: Where they lie.
    """
    scenes = sorted(folder.glob("*.npz"))
    if not scenes:
        raise InputError(f"{folder} holds no scenes NAME.npz with NAME.json")
    promised = []
    for scene in scenes:
        description = scene.with_suffix(".json")
        if not description.is_file():
            raise InputError(f"{scene} needs {description.name} beside it, which tells its lenses")
        views = json.loads(description.read_text(encoding="utf-8"))["views"]
        for view, lens in views.items():
            seen_by = Lens(float(lens["focus"]), float(lens["K_px_per_disparity"]))
            promised.append(Promised(f"{scene.stem} {view}", partial(_path_traced, scene, view, seen_by)))
    return promised


def _path_traced(scene: Path, view: str, lens: Lens) -> Case:
    with np.load(scene) as arrays:
        return Case(
            dataset="lens ground truth",
            name=f"{scene.stem} {view}",
            image_linear=_image(arrays["aif"]),
            disparity=torch.from_numpy(arrays["disparity"]).float()[None],
            lens=lens,
            reference_linear=_image(arrays[f"bokeh_{view}"]),
        )


def _image(array: np.ndarray) -> Float[Tensor, "1 3 h w"]:
    return torch.from_numpy(array).float().permute(2, 0, 1)[None].contiguous()


@dataclass(frozen=True)
class Benchmark:
    """A dataset that the field measures on.

    Args:
        title: Its name in tables.
        layout: How its files are laid out; see `data.find_pairs`.
        split: Which part is measured on.
    """

    title: str
    layout: Layout
    split: Split


BENCHMARKS = {
    "ebb-val294": Benchmark("EBB! Val294", "ebb", "val"),
    "ebb400": Benchmark("EBB400", "folders", "val"),
    "blb": Benchmark("BLB", "blb", "all"),
    "realbokeh": Benchmark("RealBokeh", "realbokeh", "test"),
    "aim": Benchmark("AIM", "aim", "val"),
    "folders": Benchmark("pairs", "folders", "all"),
}


def photographed(root: Path, benchmark: Benchmark, *, strength_px: float) -> list[Promised]:
    """Pairs of photographs; where nothing is known of the lens, it is focused on the middle of the picture.

    Args:
        root: Folder of the dataset.
        benchmark: Which it is. BLB's strengths are datasets of their own, "BLB level 1" to 5.
        strength_px: Strength of lenses that are not known [px per unit of disparity in [0, 1]].
    """
    return [
        Promised(paths.name, partial(_photographed, paths, _title(paths, benchmark), strength_px))
        for paths in find_pairs(root, layout=benchmark.layout, split=benchmark.split)
    ]


def _title(paths: PairPaths, benchmark: Benchmark) -> str:
    if benchmark.layout != "blb":
        return benchmark.title
    strength = int(paths.target.stem.split("_")[1])  # bokeh_II_JJ, II counted from 0
    return f"{benchmark.title} level {strength + 1}"


def _photographed(paths: PairPaths, dataset: str, strength_px: float) -> Case:
    pair = load_pair(paths)
    if pair.disparity is None:
        raise InputError(f"{paths.image} has no disparity: `bokehdiff prepare` makes it")
    disparity = pair.disparity[None]
    return Case(
        dataset=dataset,
        name=paths.name,
        image_linear=srgb_to_linear(pair.image_srgb[None]),
        disparity=disparity,
        lens=pair.lens or Lens(float(focus_from_centre(disparity)), strength_px),
        reference_linear=srgb_to_linear(pair.target_srgb[None]),
    )


def composites(root: Path, composition: Composition, *, n_cases: int, seed: int) -> list[Promised]:
    """Pairs composed from a folder of foregrounds and backgrounds, with the lens that they were rendered through.

    The last ones of the endless row, which no training reaches.

    Args:
        root: Folder with foregrounds (*fg/) and backgrounds (bg/).
        composition: What they are drawn from.
        n_cases: How many.
        seed: The same seed gives the same pairs.
    """
    dataset = OnTheFlyDataset(root, seed=seed, composition=composition)
    return [Promised(f"{index:04d}", partial(_composite, dataset, index)) for index in range(n_cases)]


def _composite(dataset: OnTheFlyDataset, index: int) -> Case:
    sample = dataset[len(dataset) - 1 - index]
    if sample.disparity is None or sample.focus_disparity is None or sample.strength_px is None:
        raise InputError(f"sample {sample.n} knows no lens")
    transfer = dataset.composition.transfer
    return Case(
        dataset="composites",
        name=f"{index:04d}",
        image_linear=srgb_to_linear(sample.image_srgb[None], transfer=transfer),
        disparity=sample.disparity[None],
        lens=Lens(sample.focus_disparity, sample.strength_px),
        reference_linear=srgb_to_linear(sample.target_srgb[None], transfer=transfer),
    )
