"""`bokehdiff data preview`: what training will see, on one sheet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bokehdiff.errors import InputError, at_fault

MOST_SAMPLES = 64  # rows of the sheet: a taller one is no overview any more


@dataclass(frozen=True)
class DataPreviewOptions:
    """Draw a contact sheet of training samples: all in focus, disparity, circle of confusion, through the lens.

    Args:
        root: Folder with foregrounds (*fg/) and backgrounds (bg/).
        n: How many samples, a row each.
        output: Picture to write: PNG, JPEG or WebP.
        resolution: Side of a sample [px].
        seed: As for training: the same seed shows the same samples.
        first_sample: Number of the first sample shown.
    """

    root: str
    n: int = 6
    output: str = "samples.png"
    resolution: int = 256
    seed: int = 0
    first_sample: int = 0


OPTIONS = DataPreviewOptions
POSITIONAL = ("root",)


def run(options: DataPreviewOptions) -> int:
    """Compose the samples and draw the sheet.

    Args:
        options: The command line.

    Returns:
        0; errors are raised.
    """
    from bokehdiff.data import Composition, OnTheFlyDataset, collate
    from bokehdiff.images import make_folder, save_image
    from bokehdiff.pictures import colour_coc, colour_disparity, contact_sheet

    if not 1 <= options.n <= MOST_SAMPLES:
        raise InputError(f"must be 1 to {MOST_SAMPLES}; got {options.n}", flag="--n")
    with at_fault("--resolution"):
        composition = Composition(resolution_px=options.resolution)
    with at_fault("--root"):
        dataset = OnTheFlyDataset(options.root, seed=options.seed, composition=composition)
        batch = collate([dataset[options.first_sample + i] for i in range(options.n)])
    sheet = contact_sheet(
        {
            "all in focus": batch.image_srgb,
            "disparity (yellow is near)": colour_disparity(batch.disparity),
            f"coc, full colour {float(batch.coc_px.abs().max()):.0f} px": colour_coc(batch.coc_px),
            "through the lens": batch.target_srgb,
        }
    )
    with at_fault("--output"):
        make_folder(Path(options.output).parent)
        save_image(options.output, sheet)
    print(f"{options.n} samples of {options.root}: {options.output}")
    return 0
