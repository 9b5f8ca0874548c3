"""Adapters for other programs: the names that kohya's and ComfyUI's loaders know, and a base with the adapter in it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save
from torch import Tensor, nn

from bokehdiff.errors import InputError
from bokehdiff.images import make_folder, write_atomically
from bokehdiff.models.adapter_files import LORA_FILE, VAE_FILE, AdapterFiles
from bokehdiff.models.sdxl import SdxlNetworks
from bokehdiff.weights import find_weights

KOHYA_FILE = "bokehdiff_kohya.safetensors"
KOHYA_VAE_FILE = "bokehdiff_vae.safetensors"
NETWORKS = ("unet", "vae")  # what is written anew of a base; the rest of it is copied
WITHOUT_NETWORKS = ("*.json", "scheduler/*", "text_encoder*/*", "tokenizer*/*")
CHOOSE_A_FOLDER = "pass a folder of the base in the diffusers layout"

# A residual block's layers in the original code of latent diffusion, whose names kohya's scripts and ComfyUI keep.
LDM_RESIDUAL = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
RESNET = re.compile(r"^(?P<side>down|up)_blocks\.(?P<block>\d+)\.resnets\.(?P<place>\d+)\.(?P<layer>\w+)$")
ATTENTION = re.compile(r"^(?P<side>down|up)_blocks\.(?P<block>\d+)\.attentions\.(?P<place>\d+)\.(?P<layer>.+)$")
SAMPLER = re.compile(r"^(?P<side>down|up)_blocks\.(?P<block>\d+)\.(?:down|up)samplers\.0\.conv$")
MIDDLE = re.compile(r"^mid_block\.(?P<kind>resnets|attentions)\.(?P<place>\d+)\.(?P<layer>.+)$")


def kohya_tensors(files: AdapterFiles) -> dict[str, Tensor]:
    """A LoRA under kohya's names, with alpha beside each layer, since a reader takes a missing one for the rank.

    Concretely, down_blocks.1.attentions.0.proj_in.lora_A.weight becomes lora_unet_input_blocks_4_1_proj_in
    .lora_down.weight, lora_B its .lora_up.weight.

    Args:
        files: From `read_adapter`, of a UNet built as SDXL's.
    """
    names = dict(_ldm_names(files.layers))
    tensors: dict[str, Tensor] = {}
    for layer in files.layers:
        plain = f"lora_unet_{names[layer].replace('.', '_')}"
        tensors[f"{plain}.lora_down.weight"] = files.lora[f"{layer}.lora_A.weight"].contiguous()
        tensors[f"{plain}.lora_up.weight"] = files.lora[f"{layer}.lora_B.weight"].contiguous()
        tensors[f"{plain}.alpha"] = torch.tensor(float(files.alpha))
    return tensors


def write_kohya(files: AdapterFiles, folder: str | Path, vae: nn.Module | None = None) -> tuple[Path, ...]:
    """Write a LoRA as kohya's scripts, ComfyUI and their like read it, and the autoencoder it was trained with.

    Args:
        files: From `read_adapter`.
        folder: Made if it is not there.
        vae: The base's autoencoder with the adapter's part in it, written whole; None writes the LoRA alone.
    """
    folder = make_folder(folder)
    about = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(files.rank),
        "ss_network_alpha": f"{files.alpha:g}",
        "bokehdiff": json.dumps(files.metadata),
    }
    written = [_write(folder / KOHYA_FILE, kohya_tensors(files), about)]
    if vae is not None:
        written.append(_write(folder / KOHYA_VAE_FILE, vae.state_dict(), {}))
    return tuple(written)


def write_diffusers(files: AdapterFiles, folder: str | Path) -> tuple[Path, ...]:
    """Write an adapter as `save_adapter` does, whatever it was read from; stock diffusers then knows its alpha.

    Args:
        files: From `read_adapter`.
        folder: Made if it is not there.
    """
    folder = make_folder(folder)
    config = LoraConfig(r=files.rank, lora_alpha=files.alpha, target_modules=list(files.layers)).to_dict()
    plain = {f"unet.{key}": sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    about = {"bokehdiff": json.dumps(files.metadata), "lora_adapter_metadata": json.dumps(plain, sort_keys=True)}
    lora = {f"unet.{name}": tensor for name, tensor in files.lora.items()}
    written = [_write(folder / LORA_FILE, lora, about)]
    if files.vae:
        written.append(_write(folder / VAE_FILE, files.vae, {}))
    return tuple(written)


@torch.no_grad()
def merge_adapter(files: AdapterFiles, networks: SdxlNetworks) -> None:
    """Add a LoRA to the weights it stands beside, and put the adapter's part into the autoencoder; both in place.

    Concretely, W += alpha / rank * B A, in float32, for a convolution W[o, i] += alpha / rank * sum_r B[o, r] A[r, i].

    Args:
        files: From `read_adapter`.
        networks: A base without a LoRA.

    Raises:
        InputError: If the adapter is of another UNet.
    """
    modules = dict(networks.unet.named_modules())
    for layer in files.layers:
        down, up = (files.lora[f"{layer}.lora_{side}.weight"].float() for side in "AB")
        change = torch.einsum("or,r...->o...", up.flatten(1), down) * (files.alpha / files.rank)
        weight = modules[layer].weight if layer in modules else None
        if weight is None or weight.shape != change.shape:
            raise InputError(
                f"{files.paths[0]} is for another UNet: this one has no layer {layer} of {list(change.shape)}"
            )
        weight.copy_((weight.float() + change).to(weight.dtype))
    networks.vae.load_state_dict(dict(files.vae), strict=False)


def write_merged(networks: SdxlNetworks, folder: str | Path) -> Path:
    """Write a base with an adapter merged into it: a folder in the diffusers layout that needs no adapter.

    Args:
        networks: After `merge_adapter`; what is not of UNet and autoencoder is copied from their base.
        folder: Where to; must not be there.
    """
    target = Path(folder)
    if target.exists():
        raise InputError(f"{target} is there already: choose another folder, or remove it")
    base = find_weights(
        networks.base, needed=[("scheduler/scheduler_config.json",)], fetch=WITHOUT_NETWORKS, instead=CHOOSE_A_FOLDER
    )
    shutil.copytree(base, target, ignore=lambda place, names: NETWORKS if Path(place) == base else ())
    networks.unet.save_pretrained(target / "unet")
    networks.vae.save_pretrained(target / "vae")
    return target


def _ldm_names(layers: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Names of layers in the original code of latent diffusion, which counts through all blocks of a side."""
    per_block = 1 + max(int(found["place"]) for layer in layers if (found := _of_down(layer)))
    attentive = {found["block"] for layer in layers if (found := ATTENTION.match(layer)) and found["side"] == "up"}
    for layer in layers:
        yield layer, _ldm_name(layer, per_block, attentive)


def _of_down(layer: str) -> re.Match[str] | None:
    found = RESNET.match(layer)
    return found if found and found["side"] == "down" else None


def _ldm_name(layer: str, per_block: int, attentive: set[str]) -> str:
    if found := MIDDLE.match(layer):
        if found["kind"] == "attentions":
            return f"middle_block.1.{found['layer']}"
        return f"middle_block.{2 * int(found['place'])}.{LDM_RESIDUAL[found['layer']]}"
    if found := RESNET.match(layer):
        return f"{_side(found, int(found['place']), per_block)}.0.{LDM_RESIDUAL[found['layer']]}"
    if found := ATTENTION.match(layer):
        return f"{_side(found, int(found['place']), per_block)}.1.{found['layer']}"
    if found := SAMPLER.match(layer):
        if found["side"] == "down":
            return f"{_side(found, per_block, per_block)}.0.op"
        # Going up, a block has one residual layer more than going down, and its sampler follows the last of them.
        return f"{_side(found, per_block, per_block)}.{2 if found['block'] in attentive else 1}.conv"
    raise InputError(f"kohya's names know no layer {layer}: export this adapter merged instead")


def _side(found: Mapping[str, str] | re.Match[str], place: int, per_block: int) -> str:
    """A layer's block: going down the first is the UNet's own first convolution, which no LoRA sits on."""
    number = int(found["block"]) * (per_block + 1) + place
    return f"input_blocks.{number + 1}" if found["side"] == "down" else f"output_blocks.{number}"


def _write(file: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> Path:
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with write_atomically(file) as partial:
        partial.write_bytes(save(contiguous, metadata={"format": "pt", **about}))
    return file
