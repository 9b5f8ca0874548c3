"""Pairs that training never sees: measured, drawn, and the judge of which weights are the best so far."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from bokehdiff.data import TrainBatch, collate
from bokehdiff.pictures import contact_sheet
from bokehdiff.training.run import HeldOut, Method

BEST_PREFIX = "best-"
SCORES_FILE = "validation.json"
N_PICTURED = 3
SMALLEST_PICTURED_PX = 128  # smaller pictures, of coarse levels, are shown with pixels as squares


def pairs_of(held_out: HeldOut, device: torch.device, numbers: tuple[int, ...]) -> Iterator[TrainBatch]:
    """Some of the pairs, one at a time: photographs may differ in size.

    Args:
        held_out: Makes them.
        device: Where to.
        numbers: Which.
    """
    return (collate([held_out.source[n]]).to(device) for n in numbers)


@torch.no_grad()
def measure(held_out: HeldOut, method: Method, accelerator: Accelerator) -> dict[str, float]:
    """Mean of each judge's numbers over the pictures of the network as it would be handed over.

    Each process measures its share; all get the same numbers.

    Args:
        held_out: The pairs.
        method: Makes pictures, and says what they are measured by.
        accelerator: Tells processes apart, and adds up.
    """
    mine = held_out.numbers[accelerator.process_index :: accelerator.num_processes]
    # Where the network is in shares all processes must call it equally often: some measure a pair for company.
    n_company = -(-len(held_out.numbers) // accelerator.num_processes) - len(mine) if method.main.is_sharded else 0
    judges = method.judges
    sums = torch.zeros(len(judges) + 1, dtype=torch.float64, device=accelerator.device)
    with method.main.as_handed_over():
        for batch in pairs_of(held_out, accelerator.device, mine):
            picture_srgb, target_srgb = method.picture(batch), method.target(batch)
            scores = [float(judge(picture_srgb, target_srgb)) for judge in judges.values()]
            sums += torch.tensor([*scores, 1.0], dtype=torch.float64, device=sums.device)
        for batch in pairs_of(held_out, accelerator.device, held_out.numbers[:n_company]):
            method.picture(batch)
    *totals, count = accelerator.reduce(sums, reduction="sum").tolist()
    return {f"validation_{name}": total / count for name, total in zip(judges, totals, strict=True)}


@torch.no_grad()
def picture(held_out: HeldOut, method: Method, device: torch.device) -> Float[Tensor, "1 3 h w"]:
    """The same few pairs every time: what the network is told, what it makes of it, the target.

    Args:
        held_out: The pairs; of the first one's size are drawn.
        method: Makes pictures.
        device: Where its networks are.
    """
    rows = []
    with method.main.as_handed_over():
        for batch in pairs_of(held_out, device, held_out.numbers[:N_PICTURED]):
            columns = {**method.shown(batch), "prediction": method.picture(batch), "target": method.target(batch)}
            rows.append({name: images.cpu() for name, images in columns.items()})
    alike = [row for row in rows if row["target"].shape == rows[0]["target"].shape]
    columns = {name: torch.cat([row[name] for row in alike]) for name in rows[0]}
    times = max(1, SMALLEST_PICTURED_PX // rows[0]["target"].shape[-1])
    return contact_sheet({name: _squares(images, times) for name, images in columns.items()})


def _squares(images: Float[Tensor, "b 3 h w"], times: int) -> Float[Tensor, "b 3 h2 w2"]:
    """Each pixel so many times beside and below itself."""
    return images.repeat_interleave(times, dim=-1).repeat_interleave(times, dim=-2)


def best_so_far(run_dir: Path, n_steps: int) -> float:
    """PSNR [dB] of the best weights that a run has kept; minus infinity if there are none.

    Args:
        run_dir: The run's folder.
        n_steps: Steps done; what was found later, by a run that went back to an older checkpoint, is found again.
    """
    folders = {int(folder.name.removeprefix(BEST_PREFIX)): folder for folder in run_dir.glob(f"{BEST_PREFIX}*")}
    known = [folder for n, folder in folders.items() if n <= n_steps]
    if not known:
        return -math.inf
    return max(json.loads((folder / SCORES_FILE).read_text(encoding="utf-8"))["validation_psnr"] for folder in known)
