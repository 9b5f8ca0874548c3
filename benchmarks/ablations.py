"""The paper's table of ablations on a laptop: `python benchmarks/ablations.py` trains each variant, and measures.

Each variant is the same training (configs/tiny_full.yaml, the same samples in the same order) with one part left out,
measured on composites of subjects and scenes that no variant was trained on; beside them the all-in-focus image and
what the autoencoder makes of it. Sets are drawn and networks trained on first use; a second run goes on from what is
there. Results go to benchmarks/results/ablations.json, beside those of other variants measured before with the same
settings, and all of them as a table to the terminal; its last column is the mean of what each picture lacks to the
whole method's, with the standard error of that mean over the pairs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from bokehdiff.cli.options import parse_options
from bokehdiff.data import TrainBatch, write_training_set
from bokehdiff.inference.detail import keep_focus, match_colour
from bokehdiff.metrics import psnr, ssim
from bokehdiff.models import OneStepGenerator, load_adapter
from bokehdiff.training.build import Run, build
from bokehdiff.training.config import TrainConfig
from bokehdiff.training.held_out import pairs_of
from bokehdiff.training.loop import train
from bokehdiff.training.lora import ADAPTER_FOLDER

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "ablations.json"
CONFIG = ROOT / "configs" / "tiny_full.yaml"

Picture = Callable[[TrainBatch], Float[Tensor, "b 3 h w"]]

WHOLE, FINISHED = "physics-inspired attention", ", focus and colour kept"

VARIANTS: dict[str, list[str]] = {
    WHOLE: [],
    "ordinary attention": ["--ablation", "pisa"],
    "no circle of confusion": ["--ablation", "coc"],
    "normalised over sources": ["--ablation", "normalisation"],
    "no occlusion": ["--ablation", "occlusion"],
    "no edge loss": ["--no-edge"],
}


@dataclass(frozen=True)
class Sets:
    """Where images lie.

    Args:
        train: What is trained on.
        held_out: What is measured on.
    """

    train: Path
    held_out: Path


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/ablations"), help="sets, runs and adapters")
    parser.add_argument(
        "--steps", type=int, default=800, help="of each variant; fewer than some 600 show haze, not blur"
    )
    parser.add_argument("--pairs", type=int, default=64, help="held-out composites that are measured")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--adapter", type=Path, help="measure this adapter of the whole method too")
    options = parser.parse_args()
    unknown = [name for name in options.only if name not in VARIANTS]
    if unknown:
        parser.error(f"--only knows {', '.join(VARIANTS)}; got {', '.join(unknown)}")
    return options


def draw_sets(folder: Path) -> Sets:
    """The procedural sets that the configuration names, with subjects and scenes apart."""
    sets = Sets(folder / "data", folder / "held_out")
    write_training_set(sets.train, n_foregrounds=200, n_backgrounds=120, size_px=384, seed=0)
    write_training_set(sets.held_out, n_foregrounds=32, n_backgrounds=32, size_px=384, seed=1)
    return sets


def configuration(sets: Sets, run_dir: Path, options: argparse.Namespace, flags: list[str]) -> TrainConfig:
    """That of the file, with the flags of a variant."""
    config: TrainConfig = parse_options(
        TrainConfig,
        [
            "--config", str(CONFIG), "--train-data-dir", str(sets.train), "--validation-data-dir", str(sets.held_out),
            "--output-dir", str(run_dir), "--pretrained-model-name-or-path", str(ROOT / "assets" / "tiny-sdxl"),
            "--max-train-steps", str(options.steps), "--validation-samples", str(options.pairs),
            "--validation-steps", "0", "--preview-steps", "0", *flags,
        ],
        program="ablations.py",
    )  # fmt: skip
    return config


def trained(config: TrainConfig, adapter: Path) -> Run:
    """The run as it was built, with an adapter of it in place."""
    run = build(config)
    generator = run.method.main.bare
    load_adapter(adapter, generator.unet, generator.vae)
    return run


def finished(picture: Picture) -> Picture:
    """The same as the pipeline finishes it: colours matched, what is in focus kept."""

    def finish(batch: TrainBatch) -> Tensor:
        rendered = match_colour(picture(batch), batch.image_srgb, batch.coc_px)
        return keep_focus(rendered, batch.image_srgb, batch.coc_px)

    return finish


def by_autoencoder(generator: OneStepGenerator) -> Picture:
    """The all-in-focus image, encoded and decoded."""
    return lambda batch: generator.decode(generator.encode(batch.image_srgb)).clamp(0.0, 1.0)


@torch.no_grad()
def measured(run: Run, pictures: dict[str, Picture]) -> Iterator[dict[str, Any]]:
    """Mean PSNR [dB] and SSIM of each kind of picture over the held-out pairs."""
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in pictures}
    run.method.main.bare.eval()
    batches = pairs_of(run.held_out, run.accelerator.device, run.held_out.numbers)
    for batch in tqdm(batches, total=len(run.held_out.numbers), desc=", ".join(pictures), unit="pair"):
        for name, picture in pictures.items():
            made = picture(batch)
            scores[name].append((float(psnr(made, batch.target_srgb)), float(ssim(made, batch.target_srgb))))
    for name, pairs in scores.items():
        ratios, likenesses = zip(*pairs, strict=True)
        yield {
            "method": name, "psnr": statistics.mean(ratios), "ssim": statistics.mean(likenesses),
            "psnr_of_each": [round(value, 3) for value in ratios],
        }  # fmt: skip


def both(name: str, picture: Picture) -> dict[str, Picture]:
    """A network's picture as it is, and finished."""
    return {name: picture, name + FINISHED: finished(picture)}


def main() -> int:
    """Train what is missing, measure everything, write it down."""
    options = arguments()
    sets = draw_sets(options.folder)
    untouched = build(configuration(sets, options.folder / "untouched", options, []))
    plain: dict[str, Picture] = {
        "all-in-focus image": lambda batch: batch.image_srgb,
        "its reconstruction": by_autoencoder(untouched.method.main.bare),
    }
    rows = list(measured(untouched, plain))
    for name in options.only:
        config = configuration(sets, options.folder / name.replace(" ", "_"), options, VARIANTS[name])
        adapter = train(config) / ADAPTER_FOLDER
        run = trained(config, adapter)
        rows += measured(run, both(name, run.method.picture))
    if options.adapter:
        config = configuration(sets, options.folder / "given", options, [])
        run = trained(config, options.adapter)
        rows += measured(run, both("the adapter given", run.method.picture))
    settings = {"steps": options.steps, "pairs": options.pairs}
    sys.stdout.write(table(written_down(settings, rows)) + "\n")
    return 0


def written_down(settings: dict[str, int], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put rows among those of earlier runs, in place of what the same settings gave for the same methods."""
    records = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else []
    same = [record for record in records if settings.items() <= record.items()]
    others = [record for record in records if record not in same]
    new = {row["method"] for row in rows}
    earlier = [row for record in same for row in record["rows"] if row["method"] not in new]
    together = [*earlier, *rows]
    RESULTS.write_text(json.dumps([*others, settings | {"rows": together}], indent=1) + "\n", encoding="utf-8")
    return together


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    by_name = {row["method"]: row for row in rows}
    lines = ["| | PSNR [dB] | SSIM | lacks [dB] |", "|---|---|---|---|"]
    for name, row in by_name.items():
        lines.append(f"| {name} | {row['psnr']:.2f} | {row['ssim']:.3f} | {lacking(row, by_name)} |")
    return "\n".join(lines)


def lacking(row: dict[str, Any], by_name: dict[str, dict[str, Any]]) -> str:
    """What a network's pictures lack to those of the whole method, both as they are or both finished."""
    whole = by_name.get(WHOLE + FINISHED if row["method"].endswith(FINISHED) else WHOLE)
    if whole is None or row is whole:
        return ""
    lacks = [best - each for best, each in zip(whole["psnr_of_each"], row["psnr_of_each"], strict=True)]
    return f"{statistics.mean(lacks):.2f} +- {statistics.stdev(lacks) / math.sqrt(len(lacks)):.2f}"


if __name__ == "__main__":
    sys.exit(main())
