"""Reading adapters: our files and the released ones, under whatever names their writers gave the tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.weights import find_weights, read_state_dict

LORA_FILE = "pytorch_lora_weights.safetensors"
VAE_FILE = "vae_encoder.safetensors"
RELEASED_VAE_FILE = "vae.ckpt"
NAMES_SHOWN = 3  # of tensors, in a message
MATRIX_NDIMS = (2, 4)  # of a linear layer's LoRA, of a convolution's

# What other writers put where PEFT writes `layer.lora_A.weight`. Applied in this order.
SPELLINGS = (
    (re.compile(r"^(unet\.)?(base_model\.model\.)?"), ""),
    (re.compile(r"\.processor\.to_(q|k|v)_lora\.(down|up)\.weight$"), r".to_\1.lora.\2.weight"),
    (re.compile(r"\.processor\.to_out_lora\.(down|up)\.weight$"), r".to_out.0.lora.\1.weight"),
    (re.compile(r"\.(lora_linear_layer|lora)\.down\.weight$"), ".lora_A.weight"),
    (re.compile(r"\.(lora_linear_layer|lora)\.up\.weight$"), ".lora_B.weight"),
    (re.compile(r"\.lora_([AB])\.default\.weight$"), r".lora_\1.weight"),
)
LAYER_NAME = re.compile(r"^(?P<layer>.+)\.lora_(?P<side>[AB])\.weight$")


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter as its files tell it, names as PEFT and the autoencoder write them.

    Args:
        lora: LoRA tensors, `layer.lora_A.weight` and `layer.lora_B.weight`.
        vae: Tensors of the autoencoder; empty if there is no file for it.
        layers: Names of the layers.
        rank: Of all layers.
        alpha: Of all layers; the rank, where the files don't tell.
        metadata: What the adapter says of itself.
        paths: The files.
    """

    lora: Mapping[str, Tensor]
    vae: Mapping[str, Tensor]
    layers: tuple[str, ...]
    rank: int
    alpha: float
    metadata: dict[str, Any]
    paths: tuple[Path, ...]


def read_adapter(source: str | Path, *, variant: str | None, revision: str | None) -> AdapterFiles:
    """Read an adapter's files into memory; nothing is put into a network yet.

    Args:
        source: Folder, LoRA file, or hub id.
        variant: Folder inside the source; None for the source itself.
        revision: Branch, tag or commit of a hub id.

    Raises:
        MissingWeightsError: If there is no LoRA file.
        InputError: If a file is damaged, of another kind, or of another save than the other.
    """
    lora_file = find_adapter(source, variant=variant, revision=revision)
    named, header = _read_safetensors(lora_file)
    alphas = {name: tensor for name, tensor in named.items() if name.endswith(".alpha")}
    lora = _spelled_alike({name: tensor for name, tensor in named.items() if name not in alphas}, lora_file)
    vae_file = next((file for file in _vae_candidates(lora_file) if file.is_file()), None)
    vae, vae_header = _read_vae(vae_file) if vae_file else ({}, {})
    if vae_file and header.get("pair") != vae_header.get("pair"):
        raise InputError(f"{lora_file} and {vae_file.name} beside it are of two saves: take both from one")
    rank = _rank(lora, lora_file)
    return AdapterFiles(
        lora=lora,
        vae=vae,
        layers=_layers(lora, lora_file),
        rank=rank,
        alpha=_alpha(header, alphas, rank, lora_file),
        metadata=_told(header, "bokehdiff", lora_file),
        paths=(lora_file, vae_file) if vae_file else (lora_file,),
    )


def some_names(names: set[str]) -> str:
    """A few names and how many more, for a message.

    Args:
        names: Names of tensors, at least one.
    """
    shown = ", ".join(sorted(names)[:NAMES_SHOWN])
    return f"{shown} and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown


def find_adapter(source: str | Path, *, variant: str | None = None, revision: str | None = None) -> Path:
    """The LoRA file of an adapter.

    Args:
        source: As in `read_adapter`.
        variant: As in `read_adapter`.
        revision: As in `read_adapter`.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    inside = f"{variant}/" if variant else ""
    folder = find_weights(
        source,
        needed=[(f"{inside}{LORA_FILE}",)],
        fetch=[f"{inside}{name}" for name in (LORA_FILE, VAE_FILE, RELEASED_VAE_FILE)],
        revision=revision,
        instead=f"pass the folder that holds {LORA_FILE}",
    )
    return folder / inside / LORA_FILE


def _vae_candidates(lora_file: Path) -> tuple[Path, Path]:
    return lora_file.with_name(VAE_FILE), lora_file.with_name(RELEASED_VAE_FILE)


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, "pt") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}, stream.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{file} is not a whole safetensors file ({error}): copy or download it again") from None


def _read_vae(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if file.name == VAE_FILE:
        return _read_safetensors(file)
    return read_state_dict(file, instead="download it again"), {}


def _spelled_alike(named: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    lora: dict[str, Tensor] = {}
    for name, tensor in named.items():
        plain = name
        for pattern, replacement in SPELLINGS:
            plain = pattern.sub(replacement, plain)
        if plain in lora:
            raise InputError(f"{file} holds {plain} twice, under two spellings: one of the two must go")
        lora[plain] = tensor
    leftovers = {name for name in lora if not LAYER_NAME.match(name)}
    if leftovers:
        raise InputError(f"{file} holds tensors that are no LoRA of a UNet: {some_names(leftovers)}")
    if not lora:
        raise InputError(f"{file} holds no LoRA tensors: is it an adapter?")
    return lora


def _layers(lora: Mapping[str, Tensor], file: Path) -> tuple[str, ...]:
    layers = {LAYER_NAME.sub(r"\g<layer>", name) for name in lora}
    halves = {f"{layer}.lora_{side}.weight" for layer in layers for side in "AB"}
    if halves - lora.keys():
        raise InputError(f"{file} lacks the other half of its LoRA: {some_names(halves - lora.keys())}")
    return tuple(sorted(layers))


def _rank(lora: Mapping[str, Tensor], file: Path) -> int:
    """The rank: rows of every A, columns of every B."""
    flat = {name for name, tensor in lora.items() if tensor.ndim not in MATRIX_NDIMS}
    if flat:
        raise InputError(f"{file} holds tensors that are no matrices or kernels: {some_names(flat)}")
    ranks = {tensor.shape[0 if ".lora_A." in name else 1] for name, tensor in lora.items()}
    if len(ranks) > 1:
        raise InputError(f"{file} must have one rank for all layers; got ranks {', '.join(map(str, sorted(ranks)))}")
    return ranks.pop()


def _told(header: Mapping[str, str], key: str, file: Path) -> dict[str, Any]:
    """An entry of a file's header, which holds JSON; empty where there is none."""
    try:
        entry = json.loads(header.get(key, "{}"))
    except json.JSONDecodeError:
        entry = None
    if not isinstance(entry, dict):
        raise InputError(f"{file}: {key} in its header must be a JSON object; got {header[key][:40]!r}")
    return entry


def _alpha(header: Mapping[str, str], alphas: Mapping[str, Tensor], rank: int, file: Path) -> float:
    told = {float(tensor) for tensor in alphas.values()}
    for key, value in _told(header, "lora_adapter_metadata", file).items():
        if key.endswith("lora_alpha"):
            told.add(float(value))
        if key.endswith("alpha_pattern"):
            told |= {float(alpha) for alpha in value.values()}
    if len(told) > 1:
        raise InputError(f"{file} must have one alpha for all layers; got {', '.join(f'{a:g}' for a in sorted(told))}")
    return told.pop() if told else float(rank)
