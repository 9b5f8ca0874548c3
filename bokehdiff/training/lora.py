"""BokehDiff's method: a LoRA on a one-step generator, against a discriminator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from bokehdiff.attention import INFERENCE_HARDNESS, training_hardness
from bokehdiff.data import TrainBatch
from bokehdiff.metrics import psnr, ssim
from bokehdiff.models import (
    AdapterTensors,
    OneStepGenerator,
    PromptEmbedding,
    VisionAidedDiscriminator,
    adapter_tensors,
    write_adapter,
)
from bokehdiff.pictures import colour_coc
from bokehdiff.tiling import pad_to_multiple
from bokehdiff.training.checkpoint import Progress
from bokehdiff.training.network import Network
from bokehdiff.training.publish import model_card, write_card
from bokehdiff.training.records import Tally
from bokehdiff.training.run import Judge
from bokehdiff.training.steps import Attention, Objective, discriminator_step, generator_step, pisa_inputs

ADAPTER_FOLDER = "adapter"


@dataclass(frozen=True)
class LoraMethod:
    """See `run.Method`.

    Args:
        generator: The one-step generator with its optimiser.
        discriminator: The discriminator with its own; None without a GAN.
        prompt: The one prompt's embedding.
        objective: What the generator is asked for.
        attention: How PISA is run.
    """

    generator: Network[OneStepGenerator]
    discriminator: Network[VisionAidedDiscriminator] | None
    prompt: PromptEmbedding
    objective: Objective
    attention: Attention

    @property
    def main(self) -> Network[OneStepGenerator]:
        """The generator."""
        return self.generator

    @property
    def networks(self) -> dict[str, Network[Any]]:
        """See `run.Method`."""
        both: dict[str, Network[Any] | None] = {"generator": self.generator, "discriminator": self.discriminator}
        return {name: network for name, network in both.items() if network is not None}

    @property
    def accumulated(self) -> list[torch.nn.Module]:
        """See `run.Method`; beside a sharded network, a small one's gradients do not wait."""
        waiting = [self.generator] if self.generator.is_sharded else self.networks.values()
        return [network.module for network in waiting]

    @property
    def judges(self) -> dict[str, Judge]:
        """PSNR [dB], SSIM and, with a perceptual loss, LPIPS."""
        judges: dict[str, Judge] = {"psnr": psnr, "ssim": ssim}
        return judges | ({"lpips": self.objective.perceptual} if self.objective.perceptual else {})

    @property
    def result_name(self) -> str:
        """See `run.Method`."""
        return ADAPTER_FOLDER

    def step(self, batch: TrainBatch, progress: Progress, accelerator: Accelerator, tally: Tally) -> None:
        """The generator first, then the discriminator on what it made; see `run.Method`."""
        hardness = training_hardness(progress.n_samples_seen)
        pisa = pisa_inputs(batch, self.generator.bare, self.attention, hardness=hardness)
        feels_gan = progress.n_steps >= self.objective.gan_step
        prediction_srgb, losses, norm = generator_step(
            self.generator, batch, self.objective, accelerator, pisa=pisa, prompt=self.prompt,
            discriminator=self.discriminator if feels_gan else None,
        )  # fmt: skip
        if self.discriminator is None:
            tally.add(batch, losses.parts(), generator=norm)
            return
        critics_loss, critics_norm = discriminator_step(
            self.discriminator, prediction_srgb, batch, accelerator, kind=self.objective.gan_kind
        )
        tally.add(
            batch, losses.parts() | {"discriminator": critics_loss}, generator=norm, discriminator=critics_norm
        )  # fmt: skip

    def picture(self, batch: TrainBatch) -> Float[Tensor, "b 3 h w"]:
        """See `run.Method`."""
        return predict(self.generator.bare, batch, self.attention, self.prompt)

    def target(self, batch: TrainBatch) -> Float[Tensor, "b 3 h w"]:
        """See `run.Method`."""
        return batch.target_srgb

    def shown(self, batch: TrainBatch) -> dict[str, Float[Tensor, "b 3 h w"]]:
        """See `run.Method`."""
        return {"input": batch.image_srgb, "circle of confusion": colour_coc(batch.coc_px)}

    def handed_over(self) -> AdapterTensors:
        """See `run.Method`."""
        with self.generator.as_handed_over() as generator:
            return adapter_tensors(generator.unet, generator.vae)

    def write(
        self,
        folder: Path,
        tensors: AdapterTensors,
        told: Mapping[str, str],
        scores: Mapping[str, float] | None,
        *,
        name: str,
    ) -> None:
        """The adapter with what it is; with scores, a card beside it; see `run.Method`."""
        write_adapter(folder, tensors, metadata=dict(told))
        if scores is not None:
            write_card(folder, model_card(told, scores, name=name))


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
