"""DeepSpeed's ZeRO, stages 1 and 2: moments and gradients of what is trained in shares, the networks whole everywhere.

DeepSpeed takes over one network's backward pass, clipping and step: the generator's. The discriminator stays beside it
as under plain data parallelism. DeepSpeed's own half precision, which casts whole networks, stays off: autocast serves
as everywhere else. Checkpoints hold whole moments in torch's own form, so that any other launcher goes on from them.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn

from bokehdiff.errors import InputError, MissingDependencyError
from bokehdiff.training.sharding import prepare_under

ASKED_FOR = "ACCELERATE_USE_DEEPSPEED"
ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"  # the launcher's, which would overrule the training's own flag
MOMENTS = ("exp_avg", "exp_avg_sq")
STAGES = (1, 2)


def zero_is_asked_for() -> bool:
    """Whether `accelerate launch` was told to use DeepSpeed.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    if os.environ.get(ASKED_FOR, "").lower() != "true":
        return False
    try:
        import deepspeed  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f"DeepSpeed is needed ({error}): pip install bokehdiff[deepspeed]") from error
    os.environ.pop(ACCUMULATION, None)
    return True


def zero_settings() -> dict[str, Any]:
    """What `Accelerator` is told besides; without a GPU, that processes talk over gloo."""
    if torch.accelerator.is_available():
        return {"mixed_precision": "no"}
    return {"mixed_precision": "no", "kwargs_handlers": [InitProcessGroupKwargs(backend="gloo")]}


def tell_zero(accelerator: Accelerator, *, batch_size: int, max_grad_norm: float) -> None:
    """Give DeepSpeed the numbers that the training's own flags say.

    Args:
        accelerator: Changed in place.
        batch_size: Samples per batch and process.
        max_grad_norm: What gradients are clipped to.

    Raises:
        InputError: For a stage that shares out more than moments and gradients.
    """
    plugin = accelerator.state.deepspeed_plugin
    if plugin.zero_stage not in STAGES:
        raise InputError(
            f"DeepSpeed's stage must be 1 or 2; got {plugin.zero_stage}: configs/accelerate/fsdp.yaml shares weights"
        )
    plugin.deepspeed_config |= {
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,
        "gradient_clipping": max_grad_norm,
        "zero_allow_untested_optimizer": True,
    }


def prepare_zero(
    accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer, *, dtype: torch.dtype
) -> tuple[nn.Module, ZeroOptimizer]:
    """A network whose backward pass and steps are DeepSpeed's.

    Args:
        accelerator: Set up by `tell_zero`.
        module: On any device.
        optimizer: Of its trained weights.
        dtype: Of products in the forward pass.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    prepare_under(torch.autocast(accelerator.device.type, dtype, enabled=dtype != torch.float32), module)
    engine, _ = accelerator.prepare(module, optimizer)
    return engine, ZeroOptimizer(engine, weights, sizes)


class ZeroGradients:
    """The backward pass and the clipping of DeepSpeed's network; its step is part of the latter.

    Args:
        engine: DeepSpeed's.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def follow(self, accelerator: Accelerator, loss: Tensor) -> None:
        """As of `Gradients`."""
        self.engine.set_gradient_accumulation_boundary(accelerator.sync_gradients)
        self.engine.backward(loss)

    def clip(self, accelerator: Accelerator, weights: Collection[nn.Parameter], max_norm: float) -> float:
        """As of `Gradients`; a step whose gradient is no number is skipped by DeepSpeed itself."""
        self.engine.step()
        return float(self.engine.get_global_grad_norm())


class GradientsBesideZero:
    """Those of a network beside DeepSpeed's, which accelerate would hand to DeepSpeed too."""

    def follow(self, accelerator: Accelerator, loss: Tensor) -> None:
        """As of `Gradients`."""
        (loss / accelerator.gradient_accumulation_steps).backward()

    def clip(self, accelerator: Accelerator, weights: Collection[nn.Parameter], max_norm: float) -> float:
        """As of `Gradients`."""
        return float(nn.utils.clip_grad_norm_(weights, max_norm))


class ZeroOptimizer:
    """DeepSpeed's optimiser as a checkpoint sees it: torch's form, every moment whole.

    Args:
        engine: DeepSpeed's, which has stepped before anybody asks this to.
        weights: What it steps, in the order of its groups.
        group_sizes: How many of them are in each group.
    """

    def __init__(self, engine: Any, weights: list[nn.Parameter], group_sizes: list[int]) -> None:
        self.zero = engine.optimizer
        self.weights = weights
        self.group_sizes = group_sizes

    def step(self) -> None:
        """Done by the engine."""

    def zero_grad(self) -> None:
        """Done by the engine."""

    def state_dict(self) -> dict[str, Any]:
        """All processes together."""
        from deepspeed.utils import safe_get_full_optimizer_state as whole_moment

        self._link_moments()
        inner = self.zero.optimizer
        step = next(iter(inner.state.values()))["step"]
        state = {
            number: {"step": step} | {name: whole_moment(weight, name) for name in MOMENTS}
            for number, weight in enumerate(self.weights)
        }
        groups, first = [], 0
        for group, size in zip(inner.param_groups, self.group_sizes, strict=True):
            plain = {name: value for name, value in group.items() if name != "params"}
            groups.append(plain | {"params": list(range(first, first + size))})
            first += size
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave, or another launcher's; the weights must be in the network already.

        Args:
            state: In torch's form.
        """
        from deepspeed.utils import safe_set_full_optimizer_state as share_moment

        inner = self.zero.optimizer
        self.zero.refresh_fp32_params()
        for flat in self.zero.single_partition_of_fp32_groups:
            zeros = {name: torch.zeros_like(flat) for name in MOMENTS}
            inner.state[flat] = {"step": torch.as_tensor(state["state"][0]["step"]).clone()} | zeros
        self._link_moments()
        for number, weight in enumerate(self.weights):
            for name in MOMENTS:
                share_moment(weight, state["state"][number][name].to(weight.device), name)
        for group, stored in zip(inner.param_groups, state["param_groups"], strict=True):
            group |= {name: value for name, value in stored.items() if name != "params"}

    def _link_moments(self) -> None:
        """DeepSpeed tells weights of their moments after the first group's first step, when other groups have none."""
        self.zero._hp_optimizer_states_linked = False
        self.zero._lazy_init_hp_params_optimizer_state()
