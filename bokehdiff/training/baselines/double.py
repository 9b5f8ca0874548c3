"""The Double V-Net's method: regression and a Wasserstein GAN, each network stepped by its own optimiser only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from bokehdiff.data import TrainBatch, turned
from bokehdiff.metrics import psnr, ssim
from bokehdiff.models import BaselineSpec, DoubleVNet, network_picture, whole_picture, write_baseline
from bokehdiff.training.baselines.critics import Critics
from bokehdiff.training.baselines.fidelity import Fidelity, fidelity_losses
from bokehdiff.training.baselines.pyramid import RESULT_FOLDER
from bokehdiff.training.checkpoint import Progress
from bokehdiff.training.network import Network
from bokehdiff.training.records import Tally
from bokehdiff.training.run import Judge

SEEDS_APART = 2**32  # samples of one seed before those of the next
SEED_LIMIT = 2**63


@dataclass(frozen=True)
class Adversary:
    """The critics and how much they count.

    Args:
        critics: With their optimiser.
        weight: Of their praise in the generator's loss.
        penalty_weight: Of the slope in theirs.
    """

    critics: Network[Critics]
    weight: float
    penalty_weight: float


@dataclass(frozen=True)
class DoubleMethod:
    """See `run.Method`.

    Args:
        generator: The Double V-Net.
        adversary: Its critics; None trains without.
        spec: What it is built from.
        fidelity: What it is asked for besides.
        seed: Dropout, and where slopes are measured, are functions of this and the samples' numbers.
        turns: Turn crops by quarters.
    """

    generator: Network[DoubleVNet]
    adversary: Adversary | None
    spec: BaselineSpec
    fidelity: Fidelity
    seed: int
    turns: bool = False

    @property
    def main(self) -> Network[DoubleVNet]:
        """See `run.Method`."""
        return self.generator

    @property
    def networks(self) -> dict[str, Network[Any]]:
        """See `run.Method`."""
        return {"generator": self.generator} | ({"critics": self.adversary.critics} if self.adversary else {})

    @property
    def accumulated(self) -> list[nn.Module]:
        """See `run.Method`."""
        return [network.module for network in self.networks.values()]

    @property
    def judges(self) -> dict[str, Judge]:
        """PSNR [dB] and SSIM."""
        return {"psnr": psnr, "ssim": ssim}

    @property
    def result_name(self) -> str:
        """See `run.Method`."""
        return RESULT_FOLDER

    def step(self, batch: TrainBatch, progress: Progress, accelerator: Accelerator, tally: Tally) -> None:
        """The critics first, on what the generator makes now, then the generator; see `run.Method`."""
        if self.turns:
            batch = turned(batch, seed=self.seed)
        torch.manual_seed((self.seed * SEEDS_APART + batch.n[0]) % SEED_LIMIT)
        share = torch.rand(len(batch)).to(batch.image_srgb)
        prediction_srgb = network_picture(self.generator.module, self.spec, batch.image_srgb, None).float()
        told, norms = {}, {}
        if self.adversary is not None:
            critics = self.adversary.critics
            loss = critics.module(batch.target_srgb, prediction_srgb.detach(), share, self.adversary.penalty_weight)
            critics.gradients.follow(accelerator, loss)
            told["critics"], norms["critics"] = loss.detach(), critics.step(accelerator)
        losses = fidelity_losses(prediction_srgb, batch.target_srgb, self.fidelity)
        if self.adversary is not None:
            with self.adversary.critics.held_still() as judge:
                losses["gan"] = -judge.praise(prediction_srgb)
            losses["loss"] = losses["loss"] + self.adversary.weight * losses["gan"]
        self.generator.gradients.follow(accelerator, losses["loss"])
        told |= {name: loss.detach() for name, loss in losses.items()}
        tally.add(batch, told, generator=self.generator.step(accelerator), **norms)

    def picture(self, batch: TrainBatch) -> Float[Tensor, "b 3 h w"]:
        """See `run.Method`."""
        return whole_picture(self.generator.bare, self.spec, batch.image_srgb, None)

    def target(self, batch: TrainBatch) -> Float[Tensor, "b 3 h w"]:
        """See `run.Method`."""
        return batch.target_srgb

    def shown(self, batch: TrainBatch) -> dict[str, Float[Tensor, "b 3 h w"]]:
        """See `run.Method`."""
        return {"input": batch.image_srgb}

    def handed_over(self) -> dict[str, Tensor]:
        """See `run.Method`."""
        return self.generator.copied()

    def write(
        self,
        folder: Path,
        tensors: Mapping[str, Tensor],
        told: Mapping[str, str],
        scores: Mapping[str, float] | None,
        *,
        name: str,
    ) -> None:
        """See `run.Method`."""
        write_baseline(folder, tensors, self.spec, told)
