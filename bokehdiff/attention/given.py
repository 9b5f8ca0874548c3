"""Visibility that is known for every pair of tokens: of another tracer, or learned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class GivenVisibility:
    """An `Occlusion` that is looked up, and that gradients reach by the back ends `reference` and `local`.

    Args:
        of_pairs: Share of the light from source (last) to receiver that nothing blocks, in [0, 1].
    """

    of_pairs: Float[Tensor, "b n n"]

    def between(
        self, image: Int[Tensor, " e"], source: Int[Tensor, " e"], receiver: Int[Tensor, " e"]
    ) -> Float[Tensor, " e"]:
        """As given.

        Args:
            image: Of each pair.
            source: Its source.
            receiver: Its receiver.
        """
        return self.of_pairs[image, receiver, source]

    def to(self, device: torch.device | str) -> GivenVisibility:
        """The same on another device."""
        return GivenVisibility(self.of_pairs.to(device))
