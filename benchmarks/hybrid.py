"""What the two factors of `mix_where_guessed` should be: `python benchmarks/hybrid.py SCENES`, path-traced ones.

Rays tell the truth of each view. Where physics made light up, its squared error over share^2 times contrast is the
first factor; the network's squared error there, over its error where physics is sure, is the second. The network is
to be believed only where it is better for certain: the least of the first is chosen, and nearly the most of the
second. Beside them the views' PSNR by physics, by the network, and mixed. Results go to benchmarks/results/hybrid.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from bokehdiff.evaluation.cases import Case, lens_ground_truth
from bokehdiff.images import linear_to_srgb
from bokehdiff.inference import BokehDiffPipeline, mix_where_guessed
from bokehdiff.inference.detail import GUESS_ERROR, HARDER_AT_EDGES, SURE_SHARE, contrast
from bokehdiff.metrics import psnr
from bokehdiff.renderers import made_up_share, render_photo

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "hybrid.json"
COLUMNS = ("guess_error", "harder_at_edges", "share_made_up", "physical_db", "neural_db", "hybrid_db")


def main() -> int:
    """Measure each view, print a table, write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path, help="NAME.npz with NAME.json, such as benchmarks/lens_scenes.py traces")
    parser.add_argument("--base", default=str(ROOT / "assets" / "tiny-sdxl"))
    parser.add_argument("--adapter", default=str(ROOT / "assets" / "tiny-sdxl-bokeh"))
    options = parser.parse_args()
    pipeline = BokehDiffPipeline.from_pretrained(options.base, adapter=options.adapter)
    views = tqdm(lens_ground_truth(options.scenes), unit="view")
    rows = [measured(view.load(), pipeline) for view in views]
    chosen = {"guess_error": GUESS_ERROR, "harder_at_edges": HARDER_AT_EDGES}
    RESULTS.write_text(json.dumps({"chosen": chosen, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(table(rows) + "\n")
    return 0


@torch.no_grad()
def measured(case: Case, pipeline: BokehDiffPipeline) -> dict[str, Any]:
    """Both factors as this view has them, and how good its pictures are."""
    farthest, nearest = float(case.disparity.min()), float(case.disparity.max())
    disparity, lens = (case.disparity - farthest) / (nearest - farthest), case.lens.normalised(farthest, nearest)
    photo, truth = (linear_to_srgb(light.clamp(0.0, 1.0)) for light in (case.image_linear, case.reference_linear))
    (result,) = pipeline.render_lenses(photo, disparity, [lens])
    neural = result.images_srgb
    physical = linear_to_srgb(render_photo(case.image_linear, disparity, lens).clamp(0.0, 1.0))
    made_up = made_up_share(case.image_linear, disparity, lens)
    hybrid = mix_where_guessed(neural, physical, photo, made_up, result.coc_px)

    guessed = made_up >= SURE_SHARE
    by_physics, by_network = wrong(physical, truth), wrong(neural, truth)
    expected = made_up.square() * contrast(photo, result.coc_px)[:, 0]
    factors = (
        float(by_physics[guessed].sum() / expected[guessed].sum()),
        float(by_network[guessed].mean() / by_network[~guessed].mean()),
        float(guessed.float().mean()),
    )
    qualities = (float(psnr(picture, truth)) for picture in (physical, neural, hybrid))
    return {"view": case.name} | dict(zip(COLUMNS, (*factors, *qualities), strict=True))


def wrong(picture: Tensor, truth: Tensor) -> Tensor:
    """Squared error of display values [b h w]."""
    return (picture - truth).square().mean(dim=1)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, means in the last line."""
    means = {"view": "mean"} | {name: statistics.mean(row[name] for row in rows) for name in COLUMNS}
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    return "\n".join(
        lines
        + [f"| {row['view']} | " + " | ".join(f"{row[name]:.2f}" for name in COLUMNS) + " |" for row in (*rows, means)]
    )


if __name__ == "__main__":
    sys.exit(main())
