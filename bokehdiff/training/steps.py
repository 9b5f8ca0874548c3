"""One step of each network: functions of (networks, batch, weights), each testable alone."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from bokehdiff.attention import PisaInputs, TokenOptics
from bokehdiff.data import TrainBatch
from bokehdiff.losses import PerceptualLoss, edge_loss, mse_loss
from bokehdiff.models import OneStepGenerator


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
    """

    lambda_mse: float
    lambda_edge: float
    lambda_lpips: float
    perceptual: PerceptualLoss | None
    lambda_gan: float
    gan_step: int


@dataclass(frozen=True)
class GeneratorLosses:
    """The generator's loss and its unweighted parts; None where a part is not used.

    Args:
        total: What is differentiated.
        mse: Mean squared error in [-1, 1].
        edge: Edge loss.
        lpips: Perceptual loss.
        gan: Adversarial loss.
    """

    total: Float[Tensor, ""]
    mse: Float[Tensor, ""]
    edge: Float[Tensor, ""] | None
    lpips: Float[Tensor, ""] | None
    gan: Float[Tensor, ""] | None

    def as_numbers(self) -> dict[str, float]:
        """The parts that are used, by name, as plain numbers for the log."""
        parts = {"loss": self.total, "mse": self.mse, "edge": self.edge, "lpips": self.lpips, "gan": self.gan}
        return {name: float(value.detach()) for name, value in parts.items() if value is not None}


@dataclass(frozen=True)
class Attention:
    """How PISA is run in training.

    Args:
        convention: "thin_lens" or "released".
        dropout: Share of attention weights dropped, in [0, 1).
        seed: Dropout of a step is a function of this and the step.
    """

    convention: str
    dropout: float
    seed: int


def pisa_inputs(
    batch: TrainBatch, generator: OneStepGenerator, attention: Attention, *, hardness: float, n_samples_seen: int
) -> PisaInputs:
    """What the attention needs to know of a batch: the optics of its tokens, the hardness of the disc, the dropout.

    Args:
        batch: Training batch.
        generator: Tells the token grid of its PISA layer.
        attention: Convention and dropout.
        hardness: h of the soft disc.
        n_samples_seen: Seeds the dropout, with the run's seed.
    """
    optics = TokenOptics.from_maps(
        batch.disparity,
        batch.coc_px,
        generator.token_grid(batch.image_srgb.shape[-2:]),
        focus_disparity=batch.focus_disparity,
        convention=attention.convention,
    )
    return PisaInputs(
        optics, hardness=hardness, dropout=attention.dropout, seed=attention.seed * 1_000_003 + n_samples_seen
    )


def generator_losses(
    prediction_srgb: Float[Tensor, "b 3 h w"],
    batch: TrainBatch,
    objective: Objective,
    *,
    discriminator: nn.Module | None = None,
) -> GeneratorLosses:
    """The published objective (BokehDiff, section on training), on display images.

    Concretely, total = lambda_mse * mse + lambda_edge * edge + lambda_lpips * lpips + lambda_gan * gan.

    Args:
        prediction_srgb: The generator's picture.
        batch: Holds the target and the all-in-focus image.
        objective: Which parts, how much of each.
        discriminator: Judges the prediction; None before `objective.gan_step` and without a GAN.
    """
    mse = mse_loss(prediction_srgb, batch.target_srgb)
    edge = edge_loss(prediction_srgb, batch.target_srgb, batch.image_srgb) if objective.lambda_edge else None
    lpips = objective.perceptual(prediction_srgb, batch.target_srgb) if objective.perceptual else None
    gan = discriminator(prediction_srgb, for_generator=True) if discriminator is not None else None
    total = objective.lambda_mse * mse
    if edge is not None:
        total = total + objective.lambda_edge * edge
    if lpips is not None:
        total = total + objective.lambda_lpips * lpips
    if gan is not None:
        total = total + objective.lambda_gan * gan
    return GeneratorLosses(total=total, mse=mse, edge=edge, lpips=lpips, gan=gan)
