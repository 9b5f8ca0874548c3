"""How much GPU memory a run takes, found without a GPU: the whole step is done on tensors that have sizes only.

Every tensor that a forward or backward pass makes is counted from when it appears until nothing holds it. Autocast is
imitated as CUDA has it, and attention as the memory-saving kernels do it. Not counted: what the CUDA context (some 0.5
GiB) and the allocator's rounding take, work space of convolutions, and physics-inspired attention, which is small.
"""

from __future__ import annotations

import logging
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint

from bokehdiff.data import TrainBatch
from bokehdiff.losses import PerceptualLoss, discriminator_adversarial_loss
from bokehdiff.models import (
    OneStepGenerator,
    PromptEmbedding,
    VisionAidedDiscriminator,
    add_lora,
    sketch_sdxl,
    trainable_groups,
)
from bokehdiff.training.network import trained_weights
from bokehdiff.training.steps import Objective, generator_losses

GIB = 2**30
FLOAT_BYTES = 4
PROMPT_TOKENS = 77  # CLIP's
N_TIME_IDS = 6
LOWER = {F.linear, F.conv2d}  # what autocast does in half precision ...
HIGHER = {F.layer_norm, F.group_norm}  # ... and what in float32
MOMENT_BYTES = {False: 8, True: 2}  # two moments of a weight, in float32 or in 8 bits


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by what they are for.

    Args:
        held: What stays from the first step to the last, by name.
        passing: Activations and gradients where a generator's step needs most.
        passing_critic: The same of a discriminator's step; 0 without one.
    """

    held: dict[str, int]
    passing: int
    passing_critic: int

    @property
    def peak(self) -> int:
        """All together where the need is greatest [bytes]."""
        return sum(self.held.values()) + max(self.passing, self.passing_critic)

    def as_text(self) -> str:
        """A table, GiB to a tenth."""
        rows = {**self.held, "activations and gradients, generator's step": self.passing}
        if self.passing_critic:
            rows["activations and gradients, discriminator's step"] = self.passing_critic
        width = max(map(len, rows)) + 2
        lines = [f"{name:<{width}}{n_bytes / GIB:6.2f} GiB" for name, n_bytes in rows.items()]
        return "\n".join([*lines, f"{'peak':<{width}}{self.peak / GIB:6.2f} GiB"])


class StorageCounter(TorchDispatchMode):
    """Counts the bytes of tensors made while it is on, from their first appearance until nothing holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def ignore(self, network: nn.Module) -> None:
        """Do not count a network's own weights where operations give them back."""
        for tensor in (*network.parameters(), *network.buffers()):
            self._alive.add(tensor.untyped_storage()._cdata)

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, n_bytes = storage._cdata, storage.nbytes()
        if place in self._alive:
            return
        self._alive.add(place)
        self.now += n_bytes
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, place, n_bytes)

    def _forget(self, place: int, n_bytes: int) -> None:
        self._alive.discard(place)
        self.now -= n_bytes


class ImitatedAutocast(TorchFunctionMode):
    """Does on tensors without content what CUDA's autocast and its attention kernels do.

    Args:
        network: What runs under autocast: operations with its weights are done in its precision.
        dtype: Half precision that products are done in; float32 for none.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.weights = {id(weight) for weight in network.parameters()} if dtype != torch.float32 else set()
        self.dtype = dtype

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            return _attention(*args[:3])
        precision = self.dtype if function in LOWER else torch.float32 if function in HIGHER else None
        if precision and any(id(argument) in self.weights for argument in (*args, *kwargs.values())):
            args, kwargs = tree_map(lambda leaf: _cast(leaf, precision), (args, kwargs))
        return function(*args, **kwargs)

    def checkpointed(self, module: nn.Module, *args: Any) -> Any:
        """As `torch.utils.checkpoint`; what is computed anew in the backward pass is computed as the first time."""

        def inside(*inputs: Any) -> Any:
            with self:
                return module(*inputs)

        return checkpoint(inside, *args, use_reentrant=False)


def _cast(leaf: Any, dtype: torch.dtype) -> Any:
    return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Keeps inputs, output and one number per query, never a table of all pairs."""
    operation = torch.ops.aten._scaled_dot_product_efficient_attention
    result: Tensor = operation(query, key, value, None, compute_log_sumexp=True)[0]
    return result


def peak_bytes(step: Callable[[], Tensor], networks: list[nn.Module], autocast: ImitatedAutocast) -> int:
    """Bytes that a step holds at most beside the networks' weights: its activations, its gradients.

    Args:
        step: Gives a loss, on the meta device.
        networks: All that take part in it; gradients they hold before are dropped.
        autocast: What runs in half precision.
    """
    for network in networks:
        network.zero_grad()
    counter = StorageCounter()
    for network in networks:
        counter.ignore(network)
    with counter, autocast:
        step().backward()
    return counter.peak


@dataclass(frozen=True)
class Recipe:
    """What decides how much memory a run takes.

    Args:
        base: Folder of the base, for its sizes; what is no folder here is taken for SDXL.
        dtype: Precision of the frozen weights and of products.
        rank: Of the LoRA.
        train_vae: Whether parts of the autoencoder are trained.
        checkpointing: Whether activations are computed anew in the backward pass.
        resolution_px: Side of a sample [px].
        batch_size: Samples per batch and process.
        objective: Weights of the losses; its perceptual loss is not looked at.
        lpips: Whether there is a perceptual loss.
        cv_type: Backbone of the discriminator; None without one.
        averaged: Whether a running mean of the weights is kept.
        in_8_bits: Whether the optimiser's moments are.
    """

    base: str
    dtype: torch.dtype
    rank: int
    train_vae: bool
    checkpointing: bool
    resolution_px: int
    batch_size: int
    objective: Objective
    lpips: bool
    cv_type: str | None
    averaged: bool
    in_8_bits: bool


def estimate_memory(recipe: Recipe) -> MemoryEstimate:
    """Do one step of each network without content, and add up.

    Args:
        recipe: What is trained, and how.
    """
    networks = sketch_sdxl(recipe.base, dtype=recipe.dtype)
    add_lora(networks.unet, rank=recipe.rank, alpha=float(recipe.rank))
    generator = OneStepGenerator(networks, pisa_layers=None).train()
    trainable_groups(generator.unet, generator.vae, train_vae=recipe.train_vae)
    autocast = ImitatedAutocast(generator.unet, recipe.dtype)
    if recipe.checkpointing:
        for part in (generator.unet, generator.vae):
            part.enable_gradient_checkpointing(autocast.checkpointed)
    with sketching():
        # Some constants are made the old way, which asks for no device.
        perceptual = PerceptualLoss(random_trunk=True).to("meta") if recipe.lpips else None
        critic = None
        if recipe.cv_type is not None:
            critic = VisionAidedDiscriminator(recipe.cv_type, random_backbone=True, backbone_dtype=recipe.dtype)
        batch, prompt = _batch(recipe), _prompt(generator)
    objective = replace(recipe.objective, perceptual=perceptual)
    trained = [trained_weights(generator), trained_weights(critic) if critic else {}]
    others: list[nn.Module] = [network for network in (perceptual, critic) if network is not None]

    def generators_loss() -> Tensor:
        return generator_losses(generator(batch.image_srgb, None, prompt), batch, objective, discriminator=critic).total

    def critics_loss() -> Tensor:
        assert critic is not None  # noqa: S101  called with one only
        both = critic(torch.cat([batch.target_srgb, batch.image_srgb]))
        halves = [level.chunk(2) for level in both]
        return discriminator_adversarial_loss([real for real, _ in halves], [fake for _, fake in halves])

    _hold_still(trained[1], True)
    passing = peak_bytes(generators_loss, [generator, *others], autocast)
    _hold_still(trained[1], False)
    passing_critic = peak_bytes(critics_loss, [critic], autocast) if critic else 0
    return MemoryEstimate(_held(generator, others, trained, recipe), passing, passing_critic)


def _hold_still(weights: dict[str, nn.Parameter], still: bool) -> None:
    for weight in weights.values():
        weight.requires_grad_(not still)


def _held(
    generator: OneStepGenerator, others: list[nn.Module], trained: list[dict[str, nn.Parameter]], recipe: Recipe
) -> dict[str, int]:
    moments = MOMENT_BYTES[recipe.in_8_bits]
    n_trained = sum(weight.numel() for weights in trained for weight in weights.values())
    held = {
        "UNet, frozen": _frozen_bytes(generator.unet),
        "autoencoder, frozen": _frozen_bytes(generator.vae),
        "perceptual loss and discriminator, frozen": sum(_frozen_bytes(network) for network in others),
        "trained weights": FLOAT_BYTES * n_trained,
        "optimisers' moments": moments * n_trained,
    }
    if recipe.averaged:
        held["running mean"] = FLOAT_BYTES * sum(weight.numel() for weight in trained[0].values())
    return {name: n_bytes for name, n_bytes in held.items() if n_bytes}


def _frozen_bytes(network: nn.Module) -> int:
    return sum(weight.nbytes for weight in network.parameters() if not weight.requires_grad)


def _batch(recipe: Recipe) -> TrainBatch:
    images = torch.empty(recipe.batch_size, 3, recipe.resolution_px, recipe.resolution_px)
    nothing = {f"known_{name}": None for name in ("disparity", "coc_px", "focus_disparity", "strength_px")}
    n = tuple(range(recipe.batch_size))
    return TrainBatch(image_srgb=images, target_srgb=images.clone(), **nothing, f_number=None, n=n)


def _prompt(generator: OneStepGenerator) -> PromptEmbedding:
    """Of the width that the UNet takes; its length and content do not matter here."""
    config = generator.unet.config
    pooled = config.projection_class_embeddings_input_dim - N_TIME_IDS * config.addition_time_embed_dim
    return PromptEmbedding(torch.empty(1, PROMPT_TOKENS, config.cross_attention_dim), torch.empty(1, pooled))


@contextmanager
def sketching() -> Iterator[None]:
    """Within this block networks are built without content, and nobody is told that their weights are random."""
    loggers = [logging.getLogger(name) for name in ("bokehdiff.losses", "bokehdiff.models.discriminator")]
    levels = [logger.level for logger in loggers]
    with ExitStack() as stack:
        stack.enter_context(torch.device("meta"))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter.*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
