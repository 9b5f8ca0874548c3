"""Weights in shares: what fully sharded training (FSDP2) asks for beyond what accelerate does.

The frozen base is what fills memory, so the generator is sharded, block by block, frozen and trained weights alike. The
discriminator is small and stays whole on each process. Checkpoints and adapters hold whole tensors whichever way a run
is sharded: any number of processes, sharded or not, goes on from them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only

from bokehdiff.errors import InputError

logger = logging.getLogger(__name__)

MEGATRON = "ACCELERATE_USE_MEGATRON_LM"
ASKED_FOR = "ACCELERATE_USE_FSDP"  # what `accelerate launch` tells the processes it starts


def refuse_other_launchers() -> None:
    """Before accelerate is set up: Megatron-LM, which it knows too, is for networks of another kind.

    Raises:
        InputError: If the launcher asked for it.
    """
    if os.environ.get(MEGATRON, "").lower() == "true":
        raise InputError(
            "accelerate is configured for Megatron-LM, which is for language models: take a file of configs/accelerate"
        )


def turn_sharding_on(accelerator: Accelerator) -> None:
    """Where the launcher asked for FSDP: on CPUs too, and in the precision that the networks choose themselves.

    Args:
        accelerator: Changed in place.

    Raises:
        InputError: If it is asked for in a form that cannot be had.
    """
    state = accelerator.state
    if accelerator.distributed_type == DistributedType.MULTI_CPU and os.environ.get(ASKED_FOR, "").lower() == "true":
        # accelerate shards on accelerators only and would go on without a word; torch shards over gloo as well.
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
        state.distributed_type = PartialState().distributed_type = DistributedType.FSDP  # each copies the other
    if accelerator.distributed_type != DistributedType.FSDP:
        return
    if not accelerator.is_fsdp2:
        raise InputError("accelerate is configured for FSDP 1, which keeps no frozen weights: set fsdp_version: 2")
    if accelerator.mixed_precision == "fp16":
        raise InputError("fp16's loss scaling does not go with FSDP: train with bf16 or no", flag="--mixed-precision")
    # Autocast instead of casting every weight: trained weights and the autoencoder stay float32.
    state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()


def prepare_sharded(accelerator: Accelerator, module: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
    """A network in shares, in place, under autocast as accelerate's other ways have it.

    Args:
        accelerator: With sharding on.
        module: Its forward pass must be called as `module(...)`, by all processes together.
        optimizer: Of its trained weights.
    """
    prepare_under(accelerator.autocast(), module)
    n_numbers = sum(weight.numel() for weight in module.parameters())
    sharded, prepared = accelerator.prepare(module, optimizer)
    n_mine = sum(weight.to_local().numel() for weight in sharded.parameters() if isinstance(weight, DTensor))
    logger.info("Process %d holds %d of %d weights", accelerator.process_index, n_mine, n_numbers)
    return sharded, prepared


def prepare_whole(
    accelerator: Accelerator, module: nn.Module, optimizer: Any, *, dtype: torch.dtype
) -> tuple[nn.Module, Any]:
    """A small network beside a shared one: the same on all processes, its gradients averaged.

    Args:
        accelerator: With sharding on, or DeepSpeed's.
        module: Wrapped, and moved to this process's device.
        optimizer: Of its trained weights.
        dtype: Of products in the forward pass.
    """
    prepare_under(torch.autocast(accelerator.device.type, dtype, enabled=dtype != torch.float32), module)
    wrapped = DistributedDataParallel(module.to(accelerator.device))
    return wrapped, AcceleratedOptimizer(optimizer)


def prepare_under(autocast: AbstractContextManager[None], module: nn.Module) -> None:
    """Have a network compute under autocast, and give float32, as accelerate's plain way has it.

    Args:
        autocast: Also a decorator.
        module: Its forward pass is replaced.
    """
    module.forward = convert_outputs_to_fp32(autocast(module.forward))  # type: ignore[operator]


def is_sharded(weight: Tensor) -> bool:
    """Whether this process holds a share of a tensor only.

    Args:
        weight: Any tensor.
    """
    return isinstance(weight, DTensor)


def reshard(module: nn.Module) -> None:
    """Give up the whole weights that a forward pass without a backward pass has left; nothing where there are none.

    Until then what is written to the shares is not what the next forward pass sees.

    Args:
        module: Any network.
    """
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def whole(state: Any) -> Any:
    """The same with every tensor whole; all processes must call it together.

    Args:
        state: A tensor, or nested dicts and lists of them.
    """
    return tree_map_only(DTensor, lambda shared: shared.full_tensor(), state)


def shared_as(value: Tensor, weight: Tensor) -> Tensor:
    """A whole tensor in the shares of a weight; as it is where the weight is not sharded, or has another shape.

    Args:
        value: The same on all processes.
        weight: What it belongs to.
    """
    if not isinstance(weight, DTensor) or value.shape != weight.shape:
        return value
    placed = value.to(weight.device)
    return distribute_tensor(placed, weight.device_mesh, weight.placements, src_data_rank=None)


def share_optimizer_state(state: dict[str, Any], weights: Sequence[Tensor]) -> dict[str, Any]:
    """An optimiser's whole state in the shares of its weights.

    Args:
        state: What `whole` gave of its state dict.
        weights: What it steps, in the order of its groups.
    """
    shared = {
        number: {
            name: shared_as(value, weights[number]) if isinstance(value, Tensor) else value
            for name, value in moments.items()
        }
        for number, moments in state["state"].items()
    }
    return state | {"state": shared}
