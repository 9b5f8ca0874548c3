"""`bokehdiff data preview`: what training will see, on one sheet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bokehdiff.errors import InputError, at_fault

MOST_SAMPLES = 64  # rows of the sheet: a taller one is no overview any more


@dataclass(frozen=True)
class DataPreviewOptions:
    """Draw a contact sheet of training samples: all in focus, disparity, circle of confusion, through the lens.

    The last column is what the lens changes: grey where nothing.

    Args:
        root: Folder with foregrounds (*fg/) and backgrounds (bg/), or of a dataset of pairs.
        n: How many samples, a row each.
        output: Picture to write: PNG, JPEG or WebP.
        resolution: Side of a sample [px].
        seed: As for training: the same seed shows the same samples.
        first_sample: Number of the first sample shown.
        composition: Distribution of composed samples: published is BokehDiff's, bokehdiff is ours.
        layout: composed for foregrounds and backgrounds; else how pairs are laid out.
        split: Part of a dataset of pairs; val of ebb is Val294.
    """

    root: str
    n: int = 6
    output: str = "samples.png"
    resolution: int = 256
    seed: int = 0
    first_sample: int = 0
    composition: Literal["published", "bokehdiff"] = "published"
    layout: Literal["composed", "ebb", "aim", "realbokeh", "blb", "folders"] = "composed"
    split: Literal["train", "val", "test", "all"] = "train"


OPTIONS = DataPreviewOptions
POSITIONAL = ("root",)


def run(options: DataPreviewOptions) -> int:
    """Compose the samples and draw the sheet.

    Args:
        options: The command line.

    Returns:
        0; errors are raised.
    """
    from bokehdiff.data import collate
    from bokehdiff.images import make_folder, save_image
    from bokehdiff.pictures import contact_sheet

    if not 1 <= options.n <= MOST_SAMPLES:
        raise InputError(f"must be 1 to {MOST_SAMPLES}; got {options.n}", flag="--n")
    if options.resolution < 1:
        raise InputError(f"must be at least 1; got {options.resolution}", flag="--resolution")
    with at_fault("--root"):
        source = _source(options)
        batch = collate([source[options.first_sample + i] for i in range(options.n)])
    with at_fault("--output"):
        make_folder(Path(options.output).parent)
        save_image(options.output, contact_sheet(_columns(batch)))
    print(f"{options.n} samples of {options.root}: {options.output}")
    return 0


def _source(options: DataPreviewOptions) -> Any:
    from bokehdiff.data import OnTheFlyDataset, PairedDataset, preset

    if options.layout == "composed":
        composition = preset(options.composition, resolution_px=options.resolution)
        return OnTheFlyDataset(options.root, seed=options.seed, composition=composition)
    return PairedDataset(
        options.root, layout=options.layout, split=options.split, seed=options.seed, resolution_px=options.resolution
    )


def _columns(batch: Any) -> dict[str, Any]:
    """What is known of the samples, as pictures under captions."""
    from bokehdiff.pictures import colour_coc, colour_disparity

    columns = {"all in focus": batch.image_srgb}
    if batch.known_disparity is not None:
        columns["disparity (yellow is near)"] = colour_disparity(batch.known_disparity)
    if batch.known_coc_px is not None:
        limit_px = float(batch.known_coc_px.abs().max())
        columns[f"coc, full colour {limit_px:.0f} px"] = colour_coc(batch.known_coc_px)
    columns["through the lens"] = batch.target_srgb
    columns["what the lens changes"] = 0.5 + 0.5 * (batch.target_srgb - batch.image_srgb)
    return columns
