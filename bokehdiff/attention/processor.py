"""Put physics-inspired attention into a diffusers UNet, and take it out again.

The processors hold no state: what they need comes with every call, cross_attention_kwargs={"pisa": PisaInputs(...)}, so
that a forward pass which gradient checkpointing repeats sees the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bokehdiff.attention.blocks import LOGIT_RANGE
from bokehdiff.attention.dispatch import pisa_attention, prepare
from bokehdiff.attention.reference import NormalisedOver
from bokehdiff.attention.tokens import TokenOptics
from bokehdiff.errors import InputError

PISA_LAYERS = "down_blocks.1.attentions.0"  # where BokehDiff puts it: in SDXL, two layers of tokens of 16 px
SELF_ATTENTION = "attn1"


@dataclass(frozen=True, eq=False)
class PisaInputs:
    """What PISA layers are told at a call of the UNet, as its cross_attention_kwargs["pisa"].

    Args:
        optics: What attention needs to know of the scenes of the batch.
        hardness: h of the soft disc: `training_hardness` or `INFERENCE_HARDNESS`.
        dropout: Share of the attention weights that is dropped, in [0, 1); 0 at inference.
        seed: What is dropped is a function of this and of the layer; any whole number.
        logit_range: As in `pisa_attention`.
        backend: As in `pisa_attention`.
        normalised_over: As in `pisa_attention`.
        seed_in_tensor: `seed`, for graphs that are compiled once for every seed.
    """

    optics: TokenOptics
    hardness: float
    dropout: float = 0.0
    seed: int = 0
    logit_range: float = LOGIT_RANGE
    backend: str = "auto"
    normalised_over: NormalisedOver = "receivers"
    seed_in_tensor: Int[Tensor, ""] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        backend = self.backend if self.normalised_over == "receivers" else "reference"
        prepare(self.optics, hardness=self.hardness, logit_range=self.logit_range, backend=backend)
        object.__setattr__(self, "seed_in_tensor", torch.tensor(self.seed))
        object.__setattr__(self, "optics", self.optics.with_own_memory())  # so that the preparation stays


class PisaProcessor:
    """Attention processor that computes physics-inspired self-attention.

    Args:
        replaced: The processor that stood here, for `remove_pisa`.
        layer: Number of this layer among the PISA layers: each drops other weights.
    """

    def __init__(self, replaced: Any, layer: int) -> None:
        self.replaced = replaced
        self.layer = layer

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        pisa: PisaInputs | None = None,
    ) -> Tensor:
        """As diffusers' processors are called; see `PisaInputs` for what `pisa` holds."""
        if pisa is None:
            raise InputError(
                'a layer with physics-inspired attention got no PisaInputs: pass cross_attention_kwargs={"pisa": ...} '
                "to the UNet, or remove_pisa first"
            )
        if encoder_hidden_states is not None or attention_mask is not None:
            raise InputError("physics-inspired attention is self-attention without a mask; got other tokens or a mask")
        residual = hidden_states
        tokens = _as_tokens(attn, hidden_states, temb)
        query, key, value = (_as_heads(project(tokens), attn.heads) for project in (attn.to_q, attn.to_k, attn.to_v))
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        received = pisa_attention(
            query,
            key,
            value,
            pisa.optics,
            hardness=pisa.hardness,
            dropout=pisa.dropout,
            dropout_seed=pisa.seed_in_tensor + self.layer if pisa.dropout else 0,
            logit_range=pisa.logit_range,
            backend=pisa.backend,
            normalised_over=pisa.normalised_over,
        )
        projected = attn.to_out[1](attn.to_out[0](received.transpose(1, 2).flatten(2)))
        if residual.ndim > tokens.ndim:
            projected = projected.transpose(1, 2).reshape(residual.shape)
        if attn.residual_connection:
            projected = projected + residual
        return projected / attn.rescale_output_factor


def _as_tokens(attn: Any, hidden_states: Tensor, temb: Tensor | None) -> Tensor:
    """The normalised tokens [b n c] of a layer's input, which may be an image [b c h w]."""
    if attn.spatial_norm is not None:
        hidden_states = attn.spatial_norm(hidden_states, temb)
    tokens = hidden_states.flatten(2).transpose(1, 2) if hidden_states.ndim > 3 else hidden_states
    return tokens if attn.group_norm is None else attn.group_norm(tokens.transpose(1, 2)).transpose(1, 2)


def _as_heads(tokens: Tensor, n_heads: int) -> Tensor:
    return tokens.unflatten(-1, (n_heads, -1)).transpose(1, 2)


class OrdinaryProcessor:
    """Attention processor that lets the one it replaced do its work, and takes `pisa` without a warning.

    Args:
        replaced: The processor that stood here.
    """

    def __init__(self, replaced: Any) -> None:
        self.replaced = replaced

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        pisa: PisaInputs | None = None,
    ) -> Tensor:
        """As diffusers' processors are called; `pisa` is meant for other layers."""
        return self.replaced(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


def install_pisa(unet: nn.Module, layers: str | Sequence[str] = PISA_LAYERS) -> None:
    """Make chosen self-attention layers of a UNet physics-inspired; the others go on as they are.

    Call it after anything that sets processors itself (xFormers, slicing, fused projections). From then on the UNet
    must be called with cross_attention_kwargs={"pisa": PisaInputs(...)}.

    Args:
        unet: A diffusers UNet, also with LoRA layers.
        layers: Modules of the UNet by name; every self-attention in them is chosen.
    """
    attentions = dict(_attentions(unet))
    if any(_is_ours(attention.processor) for attention in attentions.values()):
        raise InputError("physics-inspired attention is installed already: remove_pisa first")
    chosen = _choose([layers] if isinstance(layers, str) else layers, attentions)
    for name, attention in attentions.items():
        if isinstance(attention.processor, nn.Module):
            raise InputError(
                f"the attention processor of {name} has weights of its own ({type(attention.processor).__name__}), "
                "which physics-inspired attention would hide: unload it first"
            )
    for name, attention in attentions.items():
        replaced = attention.processor
        processor = PisaProcessor(replaced, chosen.index(name)) if name in chosen else OrdinaryProcessor(replaced)
        attention.set_processor(processor)


def remove_pisa(unet: nn.Module) -> None:
    """Put back the processors that stood before `install_pisa`, the very objects.

    Args:
        unet: The UNet that `install_pisa` was called with.
    """
    ours = [attention for _, attention in _attentions(unet) if _is_ours(attention.processor)]
    if not ours:
        raise InputError("physics-inspired attention is not installed in this UNet: nothing to remove")
    for attention in ours:
        attention.set_processor(attention.processor.replaced)


def _attentions(unet: nn.Module) -> Iterator[tuple[str, Any]]:
    from diffusers.models.attention_processor import Attention

    return ((name, module) for name, module in unet.named_modules() if isinstance(module, Attention))


def _is_ours(processor: Any) -> bool:
    return isinstance(processor, PisaProcessor | OrdinaryProcessor)


def _choose(layers: Sequence[str], names: Sequence[str] | dict[str, Any]) -> list[str]:
    """The self-attention layers in the named modules, in the UNet's order."""
    own = [name for name in names if name.rpartition(".")[2] == SELF_ATTENTION]
    for layer in layers:
        if not any(_within(name, layer) for name in own):
            possible = sorted({name.partition(".transformer_blocks.")[0] for name in own})
            raise InputError(f"no self-attention in a layer called {layer!r}; this UNet has {', '.join(possible)}")
    return [name for name in own if any(_within(name, layer) for layer in layers)]


def _within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")
