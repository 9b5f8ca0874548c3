"""A network that is trained, with what moves it and what a checkpoint must hold of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from accelerate import Accelerator
from torch import nn

from bokehdiff.errors import InputError

Bare = TypeVar("Bare", bound=nn.Module)


@dataclass(frozen=True)
class Network(Generic[Bare]):
    """A network with its optimiser.

    Args:
        module: As wrapped by accelerate: what is called in training, so that all processes agree on gradients.
        bare: The same, not wrapped: whose state is saved, who is called outside training.
        optimizer: Steps the trainable weights.
        schedule: Course of the learning rates, stepped once per optimiser step.
        max_grad_norm: Gradients are clipped to this norm [1].
    """

    module: nn.Module
    bare: Bare
    optimizer: Any
    schedule: Any
    max_grad_norm: float

    def step(self, accelerator: Accelerator) -> None:
        """Clip, step, forget the gradients; nothing until accumulation is complete."""
        if not accelerator.sync_gradients:
            return
        accelerator.clip_grad_norm_([p for p in self.bare.parameters() if p.requires_grad], self.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()

    @contextmanager
    def held_still(self) -> Iterator[Bare]:
        """The bare network with nothing to train in it: gradients pass through and leave nothing behind."""
        trainable = [p for p in self.bare.parameters() if p.requires_grad]
        for parameter in trainable:
            parameter.requires_grad_(False)
        try:
            yield self.bare
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: trained weights and buffers, the optimiser, the schedule; nothing frozen."""
        frozen = {name for name, parameter in self.bare.named_parameters() if not parameter.requires_grad}
        weights = {name: tensor for name, tensor in self.bare.state_dict().items() if name not in frozen}
        return {
            "weights": weights,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave.

        Args:
            state: Of a network built from the same configuration.
        """
        expected = set(self.state()["weights"])
        if set(state["weights"]) != expected:
            different = sorted(set(state["weights"]) ^ expected)
            raise InputError(
                f"the checkpoint was made with another configuration: {len(different)} tensors differ, such as "
                f"{different[0]}; train into another --output-dir or pass the configuration it was made with"
            )
        self.bare.load_state_dict(dict(state["weights"]), strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
