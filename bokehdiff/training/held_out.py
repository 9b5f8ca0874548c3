"""Pairs that training never sees: measured, drawn, and the judge of which adapter is the best so far."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from bokehdiff.attention import INFERENCE_HARDNESS
from bokehdiff.data import SampleSource, TrainBatch, collate
from bokehdiff.losses import PerceptualLoss
from bokehdiff.metrics import psnr, ssim
from bokehdiff.models import OneStepGenerator, PromptEmbedding
from bokehdiff.pictures import colour_coc, contact_sheet
from bokehdiff.tiling import pad_to_multiple
from bokehdiff.training.network import Network
from bokehdiff.training.steps import Attention, pisa_inputs

BEST_PREFIX = "best-"
SCORES_FILE = "validation.json"
N_PICTURED = 3


@dataclass(frozen=True)
class HeldOut:
    """Pairs by number, and how often they are looked at.

    Args:
        source: Makes them.
        numbers: Which of them; training reaches none.
        measured_every: Steps between two measurements [steps]; 0 for never.
        pictured_every: Steps between two pictures [steps]; 0 for never.
    """

    source: SampleSource
    numbers: tuple[int, ...]
    measured_every: int
    pictured_every: int

    def batches(self, device: torch.device, numbers: tuple[int, ...]) -> Iterator[TrainBatch]:
        """Some of the pairs, one at a time: photographs may differ in size."""
        return (collate([self.source[n]]).to(device) for n in numbers)


@torch.no_grad()
def measure(
    held_out: HeldOut,
    network: Network[OneStepGenerator],
    accelerator: Accelerator,
    *,
    attention: Attention,
    prompt: PromptEmbedding,
    perceptual: PerceptualLoss | None,
) -> dict[str, float]:
    """Mean PSNR [dB], SSIM and, with a perceptual loss, LPIPS of the network as it would be handed over.

    Each process measures its share; all get the same numbers.

    Args:
        held_out: The pairs.
        network: The generator.
        accelerator: Tells processes apart, and adds up.
        attention: Convention of the attention.
        prompt: The one prompt's embedding.
        perceptual: LPIPS; None leaves it out.
    """
    mine = held_out.numbers[accelerator.process_index :: accelerator.num_processes]
    # Where the network is in shares all processes must call it equally often: some measure a pair for company.
    n_company = -(-len(held_out.numbers) // accelerator.num_processes) - len(mine) if network.is_sharded else 0
    sums = torch.zeros(4, dtype=torch.float64, device=accelerator.device)
    with network.as_handed_over() as generator:
        for batch in held_out.batches(accelerator.device, mine):
            prediction_srgb = predict(generator, batch, attention, prompt)
            lpips = perceptual(prediction_srgb, batch.target_srgb) if perceptual else torch.zeros(())
            scores = (psnr(prediction_srgb, batch.target_srgb), ssim(prediction_srgb, batch.target_srgb), lpips)
            sums += torch.tensor([*(float(score) for score in scores), 1.0], dtype=torch.float64, device=sums.device)
        for batch in held_out.batches(accelerator.device, held_out.numbers[:n_company]):
            predict(generator, batch, attention, prompt)
    *totals, count = accelerator.reduce(sums, reduction="sum").tolist()
    names = ("psnr", "ssim", "lpips") if perceptual else ("psnr", "ssim")
    return {f"validation_{name}": total / count for name, total in zip(names, totals, strict=False)}


def predict(
    generator: OneStepGenerator, batch: TrainBatch, attention: Attention, prompt: PromptEmbedding
) -> Float[Tensor, "b 3 h w"]:
    """What the generator would make of a batch at inference, in [0, 1].

    Args:
        generator: In evaluation mode.
        batch: Pairs on its device.
        attention: Convention; its dropout is left out.
        prompt: The one prompt's embedding.
    """
    multiple = generator.size_multiple
    padded, target = (pad_to_multiple(images, multiple) for images in (batch.image_srgb, batch.target_srgb))
    disparity, coc_px = (pad_to_multiple(plane[:, None], multiple) for plane in (batch.disparity, batch.coc_px))
    larger = replace(
        batch,
        image_srgb=padded.image,
        target_srgb=target.image,
        known_disparity=disparity.image[:, 0],
        known_coc_px=coc_px.image[:, 0],
    )
    pisa = pisa_inputs(larger, generator, attention.for_inference(), hardness=INFERENCE_HARDNESS)
    return padded.crop(generator(padded.image, pisa, prompt).float()).clamp(0.0, 1.0)


@torch.no_grad()
def picture(
    held_out: HeldOut,
    network: Network[OneStepGenerator],
    device: torch.device,
    *,
    attention: Attention,
    prompt: PromptEmbedding,
) -> Float[Tensor, "1 3 h w"]:
    """The same few pairs every time: input, circle of confusion, prediction, target.

    Args:
        held_out: The pairs; of the first one's size are drawn.
        network: The generator.
        device: Where it is.
        attention: Convention of the attention.
        prompt: The one prompt's embedding.
    """
    rows = []
    with network.as_handed_over() as generator:
        for batch in held_out.batches(device, held_out.numbers[:N_PICTURED]):
            columns = {
                "input": batch.image_srgb,
                "circle of confusion": colour_coc(batch.coc_px),
                "prediction": predict(generator, batch, attention, prompt),
                "target": batch.target_srgb,
            }
            rows.append({name: images.cpu() for name, images in columns.items()})
    alike = [row for row in rows if row["input"].shape == rows[0]["input"].shape]
    return contact_sheet({name: torch.cat([row[name] for row in alike]) for name in rows[0]})


def best_so_far(run_dir: Path, n_steps: int) -> float:
    """PSNR [dB] of the best adapter that a run has kept; minus infinity if there is none.

    Args:
        run_dir: The run's folder.
        n_steps: Steps done; what was found later, by a run that went back to an older checkpoint, is found again.
    """
    folders = {int(folder.name.removeprefix(BEST_PREFIX)): folder for folder in run_dir.glob(f"{BEST_PREFIX}*")}
    known = [folder for n, folder in folders.items() if n <= n_steps]
    if not known:
        return -math.inf
    return max(json.loads((folder / SCORES_FILE).read_text(encoding="utf-8"))["validation_psnr"] for folder in known)
