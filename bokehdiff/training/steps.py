"""One step of each network: functions of (networks, batch, weights), each testable alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from bokehdiff.attention import Convention, NormalisedOver, PisaInputs, TokenOptics
from bokehdiff.data import TrainBatch
from bokehdiff.losses import (
    AdversarialKind,
    PerceptualLoss,
    discriminator_adversarial_loss,
    edge_loss,
    generator_adversarial_loss,
    mse_loss,
)
from bokehdiff.models import OneStepGenerator, PromptEmbedding, VisionAidedDiscriminator
from bokehdiff.training.network import Network

Ablation = Literal["nothing", "pisa", "coc", "normalisation", "occlusion"]
PISA_LAYERS_AT_MOST = 64  # keeps the dropout seeds of neighbouring samples apart


@dataclass(frozen=True)
class Objective:
    """What the generator is asked for: the published loss is mse + 5 lpips + edge + 0.1 adversarial.

    Args:
        lambda_mse: Weight of the mean squared error.
        lambda_edge: Weight of the edge loss; 0 leaves it out.
        lambda_lpips: Weight of the perceptual loss.
        perceptual: The perceptual loss; None leaves it out.
        lambda_gan: Weight of the adversarial loss; 0 leaves it out.
        gan_step: First step at which the generator feels the discriminator.
        gan_kind: Form of the adversarial loss.
    """

    lambda_mse: float
    lambda_edge: float
    lambda_lpips: float
    perceptual: PerceptualLoss | None
    lambda_gan: float
    gan_step: int
    gan_kind: AdversarialKind = "multilevel_sigmoid_s"


@dataclass(frozen=True)
class GeneratorLosses:
    """The generator's loss and its unweighted parts; None where a part is not used.

    Args:
        total: What is differentiated.
        mse: Mean squared error in [-1, 1].
        edge: Edge loss.
        lpips: Perceptual loss.
        gan: Adversarial loss of the generator.
    """

    total: Float[Tensor, ""]
    mse: Float[Tensor, ""]
    edge: Float[Tensor, ""] | None
    lpips: Float[Tensor, ""] | None
    gan: Float[Tensor, ""] | None

    def parts(self) -> dict[str, Float[Tensor, ""]]:
        """The parts that are used, by name, without their graph; still on the device, where nobody waits for them."""
        parts = {"loss": self.total, "mse": self.mse, "edge": self.edge, "lpips": self.lpips, "gan": self.gan}
        return {name: value.detach() for name, value in parts.items() if value is not None}


@dataclass(frozen=True)
class Attention:
    """How PISA is run in training.

    Args:
        convention: "thin_lens" or "released".
        dropout: Share of attention weights dropped, in [0, 1).
        seed: Dropout of a step is a function of this and the step.
        ablation: What is left out; "pisa" is all of it.
    """

    convention: Convention
    dropout: float
    seed: int
    ablation: Ablation = "nothing"

    def for_inference(self) -> Attention:
        """The same without dropout."""
        return replace(self, dropout=0.0)


def pisa_inputs(
    batch: TrainBatch, generator: OneStepGenerator, attention: Attention, *, hardness: float
) -> PisaInputs | None:
    """What the attention needs to know of a batch: the optics of its tokens, the hardness of the disc, the dropout.

    None for a generator whose attention is ordinary.

    Args:
        batch: Training batch; its first sample's number seeds the dropout, with the run's seed.
        generator: Tells the token grid of its PISA layer.
        attention: Convention and dropout.
        hardness: h of the soft disc [1 / 10 px].
    """
    if attention.ablation == "pisa":
        return None
    height, width = batch.image_srgb.shape[-2:]
    optics = TokenOptics.from_maps(
        batch.disparity,
        batch.coc_px,
        generator.token_grid((height, width)),
        focus_disparity=batch.focus_disparity,
        convention=attention.convention,
    )
    seed = (attention.seed << 32) + PISA_LAYERS_AT_MOST * batch.n[0]  # each layer adds its own number
    match attention.ablation:
        case "coc":
            optics = optics.without_coc()
        case "occlusion":
            optics = optics.without_occlusion()
    over: NormalisedOver = "sources" if attention.ablation == "normalisation" else "receivers"
    return PisaInputs(optics, hardness=hardness, dropout=attention.dropout, seed=seed, normalised_over=over)


def generator_step(
    network: Network[OneStepGenerator],
    batch: TrainBatch,
    objective: Objective,
    accelerator: Accelerator,
    *,
    pisa: PisaInputs | None,
    prompt: PromptEmbedding,
    discriminator: Network[VisionAidedDiscriminator] | None,
) -> tuple[Float[Tensor, "b 3 h w"], GeneratorLosses, float | None]:
    """Render the batch, compare with the targets, follow the gradient.

    Args:
        network: The generator.
        batch: Samples on the device.
        objective: What the generator is asked for.
        accelerator: Precision, accumulation.
        pisa: What the attention needs to know of the batch.
        prompt: The one prompt's embedding.
        discriminator: Judges the prediction, itself untouched; None while it does not count.

    Returns:
        The prediction without its graph, the losses, and the gradient's norm as of `Network.step`.
    """
    prediction_srgb = network.module(batch.image_srgb, pisa, prompt).float()
    if discriminator is None:
        losses = generator_losses(prediction_srgb, batch, objective)
    else:
        with discriminator.held_still() as judge:
            losses = generator_losses(prediction_srgb, batch, objective, discriminator=judge)
    network.gradients.follow(accelerator, losses.total)
    return prediction_srgb.detach(), losses, network.step(accelerator)


def generator_losses(
    prediction_srgb: Float[Tensor, "b 3 h w"],
    batch: TrainBatch,
    objective: Objective,
    *,
    discriminator: VisionAidedDiscriminator | None = None,
) -> GeneratorLosses:
    """The published objective (BokehDiff, section 3.4), on display images.

    Concretely, total = lambda_mse * mse + lambda_edge * edge + lambda_lpips * lpips + lambda_gan * gan.

    Args:
        prediction_srgb: The generator's picture.
        batch: Holds the target and the all-in-focus image.
        objective: Which parts, how much of each.
        discriminator: Judges the prediction; None leaves the adversarial part out.
    """
    mse = mse_loss(prediction_srgb, batch.target_srgb)
    edge = edge_loss(prediction_srgb, batch.target_srgb, batch.image_srgb) if objective.lambda_edge else None
    lpips = objective.perceptual(prediction_srgb, batch.target_srgb) if objective.perceptual else None
    gan = None
    if discriminator is not None:
        gan = generator_adversarial_loss(discriminator(prediction_srgb), kind=objective.gan_kind)
    weighted = [
        (objective.lambda_mse, mse),
        (objective.lambda_edge, edge),
        (objective.lambda_lpips, lpips),
        (objective.lambda_gan, gan),
    ]
    total = torch.stack([weight * part for weight, part in weighted if part is not None]).sum()
    return GeneratorLosses(total=total, mse=mse, edge=edge, lpips=lpips, gan=gan)


def discriminator_step(
    network: Network[VisionAidedDiscriminator],
    prediction_srgb: Float[Tensor, "b 3 h w"],
    batch: TrainBatch,
    accelerator: Accelerator,
    *,
    kind: AdversarialKind,
) -> tuple[Float[Tensor, ""], float | None]:
    """Teach the discriminator to tell targets from predictions.

    Args:
        network: The discriminator.
        prediction_srgb: What the generator made, without its graph.
        batch: Holds the targets.
        accelerator: Precision, accumulation.
        kind: Form of the adversarial loss.

    Returns:
        Its loss, without its graph, and the gradient's norm, as of `Network.step`.
    """
    both = network.module(torch.cat([batch.target_srgb, prediction_srgb]))
    real = [level[: len(batch.n)] for level in both]
    fake = [level[len(batch.n) :] for level in both]
    loss = discriminator_adversarial_loss(real, fake, kind=kind)
    network.gradients.follow(accelerator, loss)
    return loss.detach(), network.step(accelerator)
