"""A network that is trained, with what moves it and what a checkpoint must hold of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from accelerate import Accelerator
from torch import Tensor, nn

from bokehdiff.errors import InputError
from bokehdiff.training.averaging import Average
from bokehdiff.training.sharding import is_sharded, reshard, share_optimizer_state, shared_as, whole

Bare = TypeVar("Bare", bound=nn.Module)

SMALLEST_SCALE = (
    1e-3  # float16's loss scale begins at 65536 and is halved by each overflow: 26 in a row are no accident
)


@runtime_checkable
class Gradients(Protocol):
    """How a loss becomes the gradients that a network steps by."""

    def follow(self, accelerator: Accelerator, loss: Tensor) -> None:
        """Add the loss's gradients to those of the step's batches before it.

        Args:
            accelerator: Precision, accumulation.
            loss: Of one batch.
        """

    def clip(self, accelerator: Accelerator, weights: Collection[nn.Parameter], max_norm: float) -> float:
        """Clip the gradients of a whole step; their norm before.

        Args:
            accelerator: As of `follow`.
            weights: Whose gradients.
            max_norm: What they are clipped to.
        """
        ...


class AcceleratesGradients:
    """As accelerate has them, for every launcher of its but DeepSpeed."""

    def follow(self, accelerator: Accelerator, loss: Tensor) -> None:
        """As of `Gradients`."""
        accelerator.backward(loss)

    def clip(self, accelerator: Accelerator, weights: Collection[nn.Parameter], max_norm: float) -> float:
        """As of `Gradients`."""
        return float(whole(accelerator.clip_grad_norm_(weights, max_norm)))


@dataclass(frozen=True)
class Network(Generic[Bare]):
    """A network with its optimiser.

    Args:
        module: As wrapped by accelerate: what is called in training, so that all processes agree on gradients.
        bare: The same, not wrapped: whose state is saved, who is called outside training.
        optimizer: Steps the trainable weights.
        schedule: Course of the learning rates, stepped once per optimiser step.
        max_grad_norm: Gradients are clipped to this norm [1].
        average: Running mean of the trained weights, shown and saved in their place; None to take them as they are.
        gradients: How they are found.
    """

    module: nn.Module
    bare: Bare
    optimizer: Any
    schedule: Any
    max_grad_norm: float
    average: Average | None = None
    gradients: Gradients = field(default_factory=AcceleratesGradients)

    @cached_property
    def is_sharded(self) -> bool:
        """Whether this process holds a share of it only, so that all must call it, and ask for its state, together."""
        return any(is_sharded(weight) for weight in self.trained.values())

    @cached_property
    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that are trained, by name; looked up once, among the thousands of a large network."""
        return trained_weights(self.bare)

    def step(self, accelerator: Accelerator) -> float | None:
        """Clip, step, forget the gradients; nothing until accumulation is complete.

        A gradient that is no number touches no weight. All processes see the same gradient, and decide alike.

        Returns:
            The gradient's norm before clipping; None while gradients are accumulated, and where float16's loss scale
            was too large and has to come down first.
        """
        if not accelerator.sync_gradients:
            return None
        norm = self.gradients.clip(accelerator, self.trained.values(), self.max_grad_norm)
        overflowed = not math.isfinite(norm) and _overflows_for_now(accelerator)
        if math.isfinite(norm) or overflowed:  # the loss scaler itself skips the step of an overflow
            self.optimizer.step()
            self.schedule.step()
            if self.average:
                self.average.update()
        self.optimizer.zero_grad()
        return None if overflowed else norm

    @contextmanager
    def held_still(self) -> Iterator[Bare]:
        """The bare network with nothing to train in it: gradients pass through and leave nothing behind."""
        for parameter in self.trained.values():
            parameter.requires_grad_(False)
        try:
            yield self.bare
        finally:
            for parameter in self.trained.values():
                parameter.requires_grad_(True)

    @contextmanager
    def as_handed_over(self) -> Iterator[Bare]:
        """The bare network as it is shown and saved: with averaged weights if there are any, in evaluation mode."""
        with self.average.applied() if self.average else nullcontext():
            was_training = self.bare.training
            self.bare.eval()
            try:
                yield self.bare
            finally:
                self.bare.train(was_training)
                reshard(self.bare)

    def copied(self) -> dict[str, Tensor]:
        """Copies of all weights as they are handed over, trained or not, by name."""
        with self.as_handed_over() as bare:
            return {name: weight.detach().clone() for name, weight in bare.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: trained weights, buffers, their mean, optimiser, schedule; nothing frozen.

        Whole tensors: where they are sharded all processes must ask together.
        """
        state = {
            "weights": self._kept(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        return whole(state | {"average": self.average.state()} if self.average else state)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave; a mean that is new begins at the weights of the checkpoint.

        Args:
            state: Of a network built from the same configuration.
        """
        here = self._kept()
        if set(state["weights"]) != set(here):
            different = sorted(set(state["weights"]) ^ set(here))
            raise InputError(
                f"the checkpoint was made with another configuration: {len(different)} tensors differ, such as "
                f"{different[0]}; train into another --output-dir or pass the configuration it was made with"
            )
        self.bare.load_state_dict(
            {name: shared_as(value, here[name]) for name, value in state["weights"].items()}, strict=False
        )
        self.optimizer.load_state_dict(share_optimizer_state(state["optimizer"], list(self.trained.values())))
        self.schedule.load_state_dict(state["schedule"])
        if self.average:
            self.average.load_state(state.get("average") or {"n_updates": 0, "means": self.average.weights})

    def _kept(self) -> dict[str, Tensor]:
        """Trained weights and buffers by name, as they lie."""
        frozen = {name for name, parameter in self.bare.named_parameters() if not parameter.requires_grad}
        return {name: tensor for name, tensor in self.bare.state_dict().items() if name not in frozen}


def trained_weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that gradients are followed for, by name.

    Args:
        network: Any network, frozen in part.
    """
    return {name: weight for name, weight in network.named_parameters() if weight.requires_grad}


def _overflows_for_now(accelerator: Accelerator) -> bool:
    """Whether float16's loss scale may still come down: such a step is skipped, not lost."""
    return accelerator.scaler is not None and accelerator.scaler.get_scale() > SMALLEST_SCALE
