"""What is trained of a base, and the files it is kept in: LoRA on the UNet, three parts of the autoencoder's encoder.

The list stands here once; the optimiser, the mode and the files all ask `trainable_parts`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bokehdiff.errors import InputError
from bokehdiff.images import make_folder, write_atomically
from bokehdiff.models.adapter_files import LORA_FILE, VAE_FILE, AdapterFiles, read_adapter, some_names

logger = logging.getLogger(__name__)

# As the released training of BokehDiff lists them.
LORA_TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
)
VAE_TRAINABLE = ("encoder.conv_in", "encoder.mid_block", "encoder.conv_out")
ADAPTER_NAME = "default"
_VAE_PREFIXES = tuple(f"{name}." for name in VAE_TRAINABLE)


@dataclass(frozen=True)
class TrainableParts:
    """The trained parameters by name; their order is the networks' own, the same in every run.

    Args:
        lora: Of the UNet.
        vae: Of the autoencoder, under its own state dict's names.
    """

    lora: dict[str, nn.Parameter]
    vae: dict[str, nn.Parameter]


@dataclass(frozen=True)
class AdapterTensors:
    """The trained parts as they go into files: whole, on the CPU, under the files' names.

    Args:
        lora: Of the UNet.
        vae: Of the autoencoder.
        lora_metadata: PEFT's config in diffusers' file format.
    """

    lora: Mapping[str, Tensor]
    vae: Mapping[str, Tensor]
    lora_metadata: str


@dataclass(frozen=True)
class AdapterReport:
    """What `load_adapter` put where.

    Args:
        n_lora_tensors: Tensors of the UNet's LoRA, all that the file holds.
        n_vae_tensors: Tensors of the autoencoder; 0 if the adapter has none.
        rank: Of the LoRA.
        alpha: LoRA's alpha; the scale of a layer is alpha / rank.
        files: The files read.
        metadata: What the adapter says of itself; empty for the released files.
    """

    n_lora_tensors: int
    n_vae_tensors: int
    rank: int
    alpha: float
    files: tuple[Path, ...]
    metadata: dict[str, Any]


def add_lora(unet: UNet2DConditionModel, *, rank: int = 8, alpha: float = 8.0) -> None:
    """Freeze the UNet and put a LoRA beside each layer of `LORA_TARGETS`; its output does not change yet.

    Concretely, layer(x) becomes W x + alpha / rank * B A x, A gaussian, B zero (Hu et al., "LoRA", 2021).

    Args:
        unet: Changed in place.
        rank: Rows of A [1].
        alpha: Scale times rank [1].
    """
    if rank < 1 or not alpha > 0:
        raise InputError(f"rank must be at least 1 and alpha above 0; got rank {rank}, alpha {alpha:g}")
    _refuse_second_adapter(unet)
    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(LORA_TARGETS)),
        adapter_name=ADAPTER_NAME,
    )
    _keep_exact(unet)


def trainable_groups(
    unet: UNet2DConditionModel, vae: AutoencoderKL, *, train_vae: bool = True
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Freeze all that is not trained; give what is to the optimiser: the LoRA, and the autoencoder's parts.

    Args:
        unet: With a LoRA.
        vae: The autoencoder.
        train_vae: Whether the parts of `VAE_TRAINABLE` are trained; the second list is empty if not.
    """
    parts = trainable_parts(unet, vae)
    groups = list(parts.lora.values()), list(parts.vae.values()) if train_vae else []
    unet.requires_grad_(False)
    vae.requires_grad_(False)
    for parameter in (*groups[0], *groups[1]):
        parameter.requires_grad_(True)
    return groups


def trainable_parts(unet: UNet2DConditionModel, vae: AutoencoderKL) -> TrainableParts:
    """All that is trained or stored of the two networks: the one list.

    Args:
        unet: With a LoRA, or without; then that part is empty.
        vae: Any autoencoder of SDXL's class.
    """
    return TrainableParts(
        lora={name: weight for name, weight in unet.named_parameters() if ".lora_A." in name or ".lora_B." in name},
        vae={name: weight for name, weight in vae.named_parameters() if name.startswith(_VAE_PREFIXES)},
    )


def adapter_tensors(unet: UNet2DConditionModel, vae: AutoencoderKL) -> AdapterTensors:
    """Copy the trained parts and nothing else; where weights are in shares, all processes must ask together.

    Args:
        unet: With a LoRA.
        vae: The autoencoder.

    Raises:
        InputError: If the UNet has no LoRA.
    """
    parts = trainable_parts(unet, vae)
    if not parts.lora:
        raise InputError("the UNet has no LoRA to save: call add_lora or load_adapter first")
    return AdapterTensors(
        lora={f"unet.{name}": _stored(value) for name, value in get_peft_model_state_dict(unet).items()},
        vae={name: _stored(value) for name, value in parts.vae.items()},
        lora_metadata=_lora_metadata(unet),
    )


def write_adapter(folder: str | Path, tensors: AdapterTensors, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write what `adapter_tensors` copied, so that diffusers' `load_lora_weights` reads the LoRA as it is.

    Each file is replaced whole. The two carry a common mark, so that a LoRA is never used with another save's encoder.

    Args:
        folder: Made if it is not there.
        tensors: The trained parts.
        metadata: What the adapter should say of itself, as JSON values.

    Raises:
        InputError: If the folder cannot be made.
    """
    mark = _mark({**tensors.lora, **tensors.vae})
    header = {"format": "pt", "pair": mark, "bokehdiff": json.dumps(dict(metadata or {}))}
    folder = make_folder(folder)
    # Bytes rather than safetensors' own file writing, whose files nobody else may read.
    with write_atomically(folder / VAE_FILE) as partial:
        partial.write_bytes(save(dict(tensors.vae), metadata=header))
    with write_atomically(folder / LORA_FILE) as partial:
        partial.write_bytes(
            save(dict(tensors.lora), metadata=header | {"lora_adapter_metadata": tensors.lora_metadata})
        )
    return folder


def save_adapter(
    folder: str | Path, unet: UNet2DConditionModel, vae: AutoencoderKL, *, metadata: Mapping[str, Any] | None = None
) -> Path:
    """`write_adapter` of what `adapter_tensors` gives.

    Args:
        folder: As of `write_adapter`.
        unet: With a LoRA.
        vae: The autoencoder.
        metadata: As of `write_adapter`.

    Raises:
        InputError: If the UNet has no LoRA, or the folder cannot be made.
    """
    return write_adapter(folder, adapter_tensors(unet, vae), metadata=metadata)


def load_adapter(
    source: str | Path,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    *,
    variant: str | None = None,
    revision: str | None = None,
) -> AdapterReport:
    """Put an adapter on a base: ours, or the released files. Every tensor finds its place, or nothing is changed.

    A UNet without a LoRA gets one of the file's layers, ranks and alpha; one with a LoRA must have the same.

    Args:
        source: Folder, LoRA file, or hub id "owner/name".
        unet: Changed in place.
        vae: Changed in place, if the adapter has a part for it.
        variant: Folder inside the source, such as "small" of the released weights.
        revision: Branch, tag or commit of a hub id.

    Raises:
        MissingWeightsError: If there is no adapter.
        InputError: Naming tensors without a place, of another shape, or missing.
    """
    files = read_adapter(source, variant=variant, revision=revision)
    _refuse_misfits(files, unet)
    _refuse_vae_misfits(files, vae)
    if trainable_parts(unet, vae).lora:
        _refuse_other_lora(files, unet)
    else:
        unet.requires_grad_(False)
        unet.add_adapter(_lora_config(files), adapter_name=ADAPTER_NAME)
        _keep_exact(unet)
    result = set_peft_model_state_dict(unet, dict(files.lora), adapter_name=ADAPTER_NAME)
    assert not result.unexpected_keys  # noqa: S101  every name and shape was compared before
    vae.load_state_dict(dict(files.vae), strict=False)
    report = AdapterReport(
        n_lora_tensors=len(files.lora),
        n_vae_tensors=len(files.vae),
        rank=files.rank,
        alpha=files.alpha,
        files=files.paths,
        metadata=files.metadata,
    )
    logger.info(
        "Adapter from %s: %d LoRA tensors, %d of the autoencoder", source, report.n_lora_tensors, report.n_vae_tensors
    )
    return report


def _keep_exact(unet: UNet2DConditionModel) -> None:
    """LoRA weights are float32 whatever the base: steps of 5e-5 vanish in half precision."""
    for name, parameter in unet.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            parameter.data = parameter.data.float()


def _stored(value: Tensor) -> Tensor:
    value = value.detach()
    # A copy: the weights may go on, or give way to what they were before they were averaged.
    return (value.full_tensor() if isinstance(value, DTensor) else value).to("cpu", copy=True).contiguous()


def _mark(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _lora_metadata(unet: UNet2DConditionModel) -> str:
    """PEFT's config in diffusers' file format: without it a reader takes alpha for the rank."""
    config = unet.peft_config[ADAPTER_NAME].to_dict()
    plain = {f"unet.{key}": sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    return json.dumps(plain, indent=2, sort_keys=True)


def _refuse_second_adapter(unet: UNet2DConditionModel) -> None:
    if getattr(unet, "peft_config", None):
        raise InputError("the UNet has a LoRA already: load the base anew to add another")


def _lora_config(files: AdapterFiles) -> LoraConfig:
    """PEFT's config for just the layers of the file."""
    return LoraConfig(r=files.rank, lora_alpha=files.alpha, target_modules=list(files.layers))


def _refuse_misfits(files: AdapterFiles, unet: UNet2DConditionModel) -> None:
    """Each half must fit the layer of its name: A takes what the layer takes, B gives what it gives."""
    where = files.paths[0]
    layers = {name: _bare(module) for name, module in unet.named_modules() if name in files.layers}
    unknown = set(files.layers) - layers.keys()
    if unknown:
        raise InputError(f"{where} is for another UNet: this one has no layer {some_names(unknown)}")
    for layer, module in layers.items():
        n_out, *takes = module.weight.shape
        expected = {"A": [files.rank, *takes], "B": [n_out, files.rank, *[1] * (len(takes) - 1)]}
        for side, shape in expected.items():
            name = f"{layer}.lora_{side}.weight"
            if list(files.lora[name].shape) != shape:
                raise InputError(
                    f"{where} is for another UNet: {name} must be {shape} here; got {list(files.lora[name].shape)}"
                )


def _bare(module: Any) -> Any:
    """The layer itself, where PEFT has wrapped it."""
    return getattr(module, "base_layer", module)


def _refuse_vae_misfits(files: AdapterFiles, vae: AutoencoderKL) -> None:
    if not files.vae:
        logger.warning("%s has no part for the autoencoder beside it: the base's own is used", files.paths[0])
        return
    where = files.paths[1]
    here = {name: weight for name, weight in vae.named_parameters() if name.startswith(_VAE_PREFIXES)}
    if files.vae.keys() - here.keys():
        raise InputError(
            f"{where} holds tensors that are not trained here: {some_names(files.vae.keys() - here.keys())}; "
            f"expected those of {', '.join(VAE_TRAINABLE)}"
        )
    if here.keys() - files.vae.keys():
        raise InputError(f"{where} lacks tensors: {some_names(here.keys() - files.vae.keys())}")
    for name, tensor in files.vae.items():
        if tensor.shape != here[name].shape:
            raise InputError(
                f"{where} is for another autoencoder: {name} must be {list(here[name].shape)} here; "
                f"got {list(tensor.shape)}"
            )


def _refuse_other_lora(files: AdapterFiles, unet: UNet2DConditionModel) -> None:
    """A LoRA that is there already must be the file's: the same layers, ranks and alpha."""
    config = unet.peft_config[ADAPTER_NAME]
    here = {name: list(tensor.shape) for name, tensor in get_peft_model_state_dict(unet).items()}
    got = {name: list(tensor.shape) for name, tensor in files.lora.items()}
    different = {name for name in here.keys() | got.keys() if here.get(name) != got.get(name)}
    if different:
        raise InputError(f"{files.paths[0]} and the UNet's LoRA differ in layers or rank: {some_names(different)}")
    if files.alpha != config.lora_alpha:
        raise InputError(
            f"{files.paths[0]}: alpha must be {config.lora_alpha:g}, as of the UNet's LoRA; got {files.alpha:g}"
        )
