"""How near a baseline's picture must be to its target: the losses that both networks share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bokehdiff.losses import FeatureLoss, mse_loss, ssim_loss


@dataclass(frozen=True)
class Fidelity:
    """Weights of the losses; 0 leaves one out.

    Args:
        lambda_l1: Of the mean absolute difference of values in [0, 1].
        lambda_vgg: Of the difference of features; without `features` it is left out.
        lambda_ssim: Of 1 - SSIM.
        features: VGG-19; None leaves its term out.
    """

    lambda_l1: float
    lambda_vgg: float = 0.0
    lambda_ssim: float = 0.0
    features: FeatureLoss | None = None


def fidelity_losses(
    prediction_srgb: Float[Tensor, "b 3 h w"], target_srgb: Float[Tensor, "b 3 h w"], fidelity: Fidelity
) -> dict[str, Float[Tensor, ""]]:
    """The losses by name: "loss", their weighted sum, then those that are used, unweighted, and "mse" for the record.

    Args:
        prediction_srgb: What was made, not clamped.
        target_srgb: What should have been.
        fidelity: Which losses, how much of each.
    """
    parts = {"l1": (fidelity.lambda_l1, F.l1_loss(prediction_srgb, target_srgb))}
    if fidelity.features is not None and fidelity.lambda_vgg:
        parts["vgg"] = (fidelity.lambda_vgg, fidelity.features(prediction_srgb, target_srgb))
    if fidelity.lambda_ssim:
        parts["ssim"] = (fidelity.lambda_ssim, ssim_loss(prediction_srgb, target_srgb))
    total = torch.stack([weight * part for weight, part in parts.values()]).sum()
    unweighted = {name: part.detach() for name, (_, part) in parts.items()}
    return {"loss": total, **unweighted, "mse": mse_loss(prediction_srgb.detach(), target_srgb)}
