"""The two critics of the Double V-Net: one looks at patches, one at large parts of the picture."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bokehdiff.losses import wasserstein_critic_loss
from bokehdiff.models import Critic, Norm

HALVINGS = (3, 5)


class Critics(nn.Module):
    """Both critics as one network, whose forward pass is their loss: so what wraps it sees every gradient.

    Args:
        norm: As in the network that they judge.
        width: Multiple of the published numbers of channels [1].
    """

    def __init__(self, *, norm: Norm, width: float) -> None:
        super().__init__()
        self.critics = nn.ModuleList(Critic(n_halvings=n, norm=norm, width=width) for n in HALVINGS)

    def forward(
        self,
        target_srgb: Float[Tensor, "b 3 h w"],
        prediction_srgb: Float[Tensor, "b 3 h w"],
        share: Float[Tensor, " b"],
        penalty_weight: float,
    ) -> Float[Tensor, ""]:
        """Mean of their losses; see `losses.wasserstein_critic_loss`.

        Args:
            target_srgb: Real pictures.
            prediction_srgb: Made ones, without their graph.
            share: Where the slope is measured.
            penalty_weight: Of the slope's deviation from 1.
        """
        losses = [
            wasserstein_critic_loss(critic, target_srgb, prediction_srgb, share=share, penalty_weight=penalty_weight)
            for critic in self.critics
        ]
        return torch.stack(losses).mean()

    def praise(self, prediction_srgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        """Mean of their scores; higher is more real.

        Args:
            prediction_srgb: Made pictures.
        """
        return torch.stack([critic(prediction_srgb).mean() for critic in self.critics]).mean()
