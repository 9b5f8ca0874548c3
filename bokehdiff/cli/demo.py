"""`bokehdiff demo`, `make demo`: the whole way through on a small example, by the same programs that a user runs."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bokehdiff.errors import BokehDiffError, InputError

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[2]
PHOTO = "motorcycle"
CONFIG = "configs/demo.yaml"
EMBEDDED = "assets/tiny-sdxl"
EMBEDDED_ADAPTER = "assets/tiny-sdxl-bokeh"  # what an hour of the same training gives
SIZE_PX = 384  # of the training images


@dataclass(frozen=True)
class DemoOptions:
    """Train on a small procedural set, prepare and render a real photograph with measured depth, and compare.

    Args:
        output_dir: Where everything goes; a second run goes on from what is there.
        max_train_steps: Optimiser steps; none for as many as the configuration says [steps].
        K: Blur strength: radius of the circle of confusion at one unit of disparity from the focus [px].
    """

    output_dir: str = "outputs/demo"
    max_train_steps: int | None = None
    K: float = 24.0


OPTIONS = DemoOptions
POSITIONAL = ()


@dataclass
class Diary:
    """What was done and measured, printed as it happens and written down at the end.

    Args:
        seconds: Wall time of each stage [s].
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Announce a stage and take its time."""
        print(f"\n== {title}", flush=True)
        started = time.perf_counter()
        yield
        self.seconds[title] = round(time.perf_counter() - started, 1)


def run(options: DemoOptions) -> int:
    """Do every stage in turn; any failure stops it loudly.

    Args:
        options: The command line.
    """
    if not (REPOSITORY / CONFIG).is_file():
        raise InputError(f"the demo runs from a clone of the repository: {REPOSITORY / CONFIG} is not there")
    folder = Path(options.output_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    diary = Diary()
    with diary.stage("1/5 Training set and backbone"):
        base = _make_material(folder)
    with diary.stage("2/5 Training the LoRA"):
        _train(folder, base, options)
    with diary.stage("3/5 Preparing a photograph with measured disparity"):
        _prepare(folder)
    with diary.stage("4/5 Rendering it"):
        rendered = _render(folder, base, options)
    with diary.stage("5/5 Comparing"):
        summary = _compare(folder, base, rendered, options)
    summary["seconds"] = diary.seconds
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(_closing(folder, summary))
    return 0


def _program(*words: str | Path) -> None:
    """Run one of the repository's programs as a user would, its output passed on."""
    command = [sys.executable, *(str(word) for word in words)]
    print("$ python " + " ".join(command[1:]), flush=True)
    if subprocess.run(command, cwd=REPOSITORY, check=False).returncode:
        raise BokehDiffError(f"{words[0]} failed: its message stands above")


def _make_material(folder: Path) -> Path:
    """Write the training set; find the backbone, or write one with random weights where the clone has none."""
    from bokehdiff.models import write_tiny_sdxl

    _program(
        "-m", "bokehdiff", "data", "synthesize", folder / "data", "--n-foregrounds", "24", "--n-backgrounds", "16",
        "--size", str(SIZE_PX),
    )  # fmt: skip
    embedded = REPOSITORY / EMBEDDED
    base = embedded if embedded.is_dir() else write_tiny_sdxl(folder / "tiny-sdxl")
    print(f"backbone: {base}")
    return base


def _train(folder: Path, base: Path, options: DemoOptions) -> None:
    steps = ["--max_train_steps", str(options.max_train_steps)] if options.max_train_steps else []
    _program(
        "train_lora_otf.py", "--config", CONFIG, "--train_data_dir", folder / "data",
        "--pretrained_model_name_or_path", base, "--output_dir", folder / "train", *steps,
    )  # fmt: skip


def _prepare(folder: Path) -> None:
    """Lay the photograph out as a user's would be, with its disparity as measured: in pixels, holes and all."""
    import numpy as np
    import torch
    from skimage.data import stereo_motorcycle

    from bokehdiff.images import save_image, write_atomically

    photograph, _, disparity_px = stereo_motorcycle()
    root = folder / "photo"
    for name in ("input", "depth"):
        (root / name).mkdir(parents=True, exist_ok=True)
    image_srgb = torch.from_numpy(photograph).permute(2, 0, 1)[None].float() / 255.0
    save_image(root / "input" / f"{PHOTO}.png", image_srgb)
    with write_atomically(root / "depth" / f"{PHOTO}.npy") as partial, partial.open("wb") as stream:
        np.save(stream, disparity_px)
    _program("prepare_data.py", "--root", root, "--fill-holes")


def _render(folder: Path, base: Path, options: DemoOptions) -> dict[str, Path]:
    """The neural pictures and the physical one, of the same disparity, focus and strength."""
    photo = folder / "photo"
    for name, adapter in _adapters(folder).items():
        _program(
            "inference_hf.py", "--test_data_dir", photo / "input" / f"{PHOTO}.png", "--output_dir", folder,
            "--data_id", name, "--K", f"{options.K:g}", "--focus", "subject", "--pretrained_model_name_or_path",
            base, "--resume_from_checkpoint", adapter, "--format", "png",
        )  # fmt: skip
    _program(
        "-m", "bokehdiff", "render", photo / "input" / f"{PHOTO}.png",
        "--disparity", photo / "depth" / f"{PHOTO}_pred.npy", "--mask", photo / "mask" / f"{PHOTO}.png",
        "--output-dir", folder / "physical", "--K", f"{options.K:g}",
    )  # fmt: skip
    return {name: _newest(folder / name) for name in ("physical", *_adapters(folder))}


def _adapters(folder: Path) -> dict[str, Path]:
    """The adapter that was trained here, and the one that lies in the clone."""
    adapters = {"neural": folder / "train" / "adapter", "neural_shipped": REPOSITORY / EMBEDDED_ADAPTER}
    return {name: adapter for name, adapter in adapters.items() if adapter.is_dir()}


def _newest(folder: Path) -> Path:
    return max(folder.glob(f"{PHOTO}*"), key=lambda path: path.stat().st_mtime)


def _compare(folder: Path, base: Path, rendered: dict[str, Path], options: DemoOptions) -> dict[str, Any]:
    """Lay everything side by side and measure it."""
    import shutil

    from bokehdiff.data import find_scenes, load_scene
    from bokehdiff.images import load_photo, save_image
    from bokehdiff.inference import resolve_focus
    from bokehdiff.metrics import psnr
    from bokehdiff.models import weights_origin
    from bokehdiff.optics import Lens
    from bokehdiff.pictures import colour_coc, colour_disparity, contact_sheet
    from bokehdiff.training.records import read_records

    (paths,) = find_scenes(str(folder / "photo" / "input"))
    scene = load_scene(paths)
    focus = resolve_focus(scene.disparity, "subject", scene.mask)
    coc_px = Lens(float(focus), options.K).coc_px(scene.disparity)
    pictures = {name: load_photo(file).image_srgb for name, file in rendered.items()}
    physical = pictures["physical"]
    weights = weights_origin(base).get("weights", "pretrained")
    records = read_records(folder / "train")
    captions = {
        "physical": "physically rendered",
        "neural": f"neural ({weights} tiny backbone, {len(records)} steps here)",
        "neural_shipped": "neural (the adapter in the clone: an hour)",
    }
    panel = {
        "input": scene.image_srgb,
        "disparity (measured; yellow is near)": colour_disparity(scene.disparity),
        f"circle of confusion (K = {options.K:g} px)": colour_coc(coc_px),
        **{captions[name]: picture for name, picture in pictures.items()},
    }
    save_image(folder / "comparison.png", contact_sheet(panel, n_across=3))
    shutil.copyfile(folder / "train" / "loss.png", folder / "loss.png")
    tenth = max(1, len(records) // 10)
    return {
        "backbone": f"tiny SDXL, {weights} weights",
        "training": {
            "steps": len(records),
            "samples": records[-1]["n_samples_seen"],
            "loss_first_tenth": _mean([record["loss"] for record in records[:tenth]]),
            "loss_last_tenth": _mean([record["loss"] for record in records[-tenth:]]),
        },
        "photograph": {
            "name": f"{PHOTO} (Middlebury 2014, from scikit-image), measured disparity",
            "size_hw": list(scene.image_srgb.shape[-2:]),
            "focus_disparity": round(float(focus), 4),
            "K_px": options.K,
            "largest_coc_px": round(float(coc_px.abs().max()), 2),
        },
        "psnr_db": {
            f"{name} against physical": round(float(psnr(picture, physical)), 2)
            for name, picture in ({"input": scene.image_srgb} | pictures).items()
            if name != "physical"
        },
    }


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 5)


def _closing(folder: Path, summary: dict[str, Any]) -> str:
    losses = " -> ".join(str(summary["training"][f"loss_{part}_tenth"]) for part in ("first", "last"))
    return "\n".join(
        [
            "",
            f"Look at  {folder / 'comparison.png'}   input, disparity, circle of confusion, physical, neural",
            f"         {folder / 'loss.png'}         the loss: {losses}",
            f"         {folder / 'summary.json'}     what was measured",
            f"The backbone is a {summary['backbone']}, small enough for a laptop: SDXL itself is named in the README.",
        ]
    )
