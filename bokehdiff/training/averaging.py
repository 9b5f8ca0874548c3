"""A running mean of trained weights: less noisy than the weights themselves, and what a run hands over if asked to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bokehdiff.training.sharding import shared_as

WARM_UP = 10  # steps in which the mean forgets faster, so that it does not remember the untrained weights for long


class Average:
    """Exponential moving average of weights, in float32.

    Concretely, after step n (from 0): mean += (1 - d) * (weight - mean) with d = min(decay, (1 + n) / (10 + n)).

    Args:
        weights: Trained weights by name; the mean begins at their present values.
        decay: What of the mean stays per step, in [0, 1).
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], decay: float) -> None:
        self.weights = dict(weights)
        self.decay = decay
        self.n_updates = 0
        self.means = {name: weight.detach().clone().float() for name, weight in self.weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the weights as they are now."""
        decay = min(self.decay, (1 + self.n_updates) / (WARM_UP + self.n_updates))
        for name, mean in self.means.items():
            mean.lerp_(self.weights[name].detach().to(mean.dtype), 1.0 - decay)
        self.n_updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this block the network holds the mean; after it its own weights again, bit for bit."""
        own = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._fill(self.means)
        try:
            yield
        finally:
            self._fill(own)

    def settle(self) -> None:
        """Leave the mean in the network for good."""
        self._fill(self.means)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"n_updates": self.n_updates, "means": dict(self.means)}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave.

        Args:
            state: Of the same weights.
        """
        self.n_updates = state["n_updates"]
        for name, mean in self.means.items():
            mean.copy_(shared_as(state["means"][name], mean))

    def _fill(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(values[name])
