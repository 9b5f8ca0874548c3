"""Networks for rendering: from a base and an adapter, or from what a pipeline has saved."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from bokehdiff import models
from bokehdiff.attention import PISA_LAYERS, Convention, install_pisa, remove_pisa
from bokehdiff.errors import InputError, MissingWeightsError, at_fault
from bokehdiff.images import make_folder
from bokehdiff.models import (
    OneStepGenerator,
    PromptEmbedding,
    load_adapter,
    load_sdxl,
    load_single_file,
    prompt_embedding,
)
from bokehdiff.weights import read_json_object

PIPELINE_FILE = "bokehdiff_pipeline.json"
PROMPT_FILE = "prompt.safetensors"
TIMESTEP = 499


@dataclass(frozen=True)
class Loaded:
    """What a pipeline is made of.

    Args:
        generator: The networks, the adapter in them.
        prompt: The one prompt's embedding.
        convention: How occlusion between tokens is computed.
    """

    generator: OneStepGenerator
    prompt: PromptEmbedding
    convention: Convention


def load(
    base: str | Path,
    *,
    adapter: str | Path | None,
    adapter_variant: str | None,
    revision: str | None,
    variant: str | None,
    timestep: int | None,
    visibility: Convention | None,
    dtype: torch.dtype,
    xformers_on: torch.device | None,
    fuse: bool,
    prompt_from: str | Path | None,
) -> Loaded:
    """Read everything; arguments as of `BokehDiffPipeline.from_pretrained`.

    Args:
        base: See there.
        adapter: See there.
        adapter_variant: See there.
        revision: See there.
        variant: See there.
        timestep: See there.
        visibility: See there.
        dtype: See there.
        xformers_on: The device whose xFormers is used; None for none.
        fuse: See there.
        prompt_from: See there.
    """
    saved = _saved(base)
    with at_fault("--pretrained-model-name-or-path"):
        if Path(base).expanduser().is_file():
            networks = load_single_file(base, dtype=dtype)
        else:
            networks = load_sdxl(base, revision=revision, variant=variant, dtype=dtype)
        prompt = _prompt(base if prompt_from is None else prompt_from, revision, variant)
    trained_with, layers = saved.get("visibility"), saved.get("pisa_layers", PISA_LAYERS)
    trained_at = saved.get("timestep", TIMESTEP)
    if adapter is not None:
        if saved:
            raise InputError(f"{base} has its adapter in its weights already: leave --resume-from-checkpoint out")
        with at_fault("--resume-from-checkpoint"):
            report = load_adapter(adapter, networks.unet, networks.vae, variant=adapter_variant)
        _refuse_ablation(adapter, report.metadata.get("ablation", "nothing"))
        trained_with = report.metadata.get("visibility", "released")
        layers = report.metadata.get("pisa_layers", PISA_LAYERS)
        trained_at = _whole(report.metadata.get("train_T", TIMESTEP), adapter)
        if fuse:
            networks.unet.fuse_lora()
            networks.unet.unload_lora()
    if xformers_on is not None:
        models.use_xformers(networks.unet, xformers_on)
    generator = OneStepGenerator(networks, timestep=trained_at if timestep is None else timestep, pisa_layers=layers)
    return Loaded(generator, prompt, visibility or _convention(trained_with))


def save(folder: str | Path, loaded: Loaded) -> Path:
    """Write what `load` reads without an adapter and without text encoders: the diffusers layout and two files more.

    Args:
        folder: Must not be there; appears complete or not at all.
        loaded: Of a pipeline whose LoRA is in its weights.
    """
    target, generator = Path(folder), loaded.generator
    if target.exists():
        raise InputError(f"{target} is there already: choose another folder, or remove it")
    if any(".lora_" in name for name, _ in generator.unet.named_parameters()):
        raise InputError("the LoRA is beside the weights, not in them: load with fuse=True to save the pipeline")
    partial = make_folder(target.with_name(f".{target.name}.partial"))
    layers = generator.pisa_layers
    try:
        if layers is not None:
            remove_pisa(generator.unet)
        generator.unet.save_pretrained(partial / "unet")
        generator.vae.save_pretrained(partial / "vae")
        make_folder(partial / "scheduler")
        _write_json(partial / "scheduler" / "scheduler_config.json", _schedule(generator))
        save_file(
            {"tokens": _plain(loaded.prompt.tokens), "pooled": _plain(loaded.prompt.pooled)}, partial / PROMPT_FILE
        )
        about = {"visibility": loaded.convention, "pisa_layers": layers, "timestep": generator.timestep}
        _write_json(partial / PIPELINE_FILE, about)
        partial.rename(target)
    finally:
        if layers is not None:
            install_pisa(generator.unet, layers)
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _saved(base: str | Path) -> dict[str, Any]:
    """What `save` wrote of a pipeline; empty for any other base."""
    file = Path(base).expanduser() / PIPELINE_FILE
    return read_json_object(file, instead="save the pipeline again") if file.is_file() else {}


def _prompt(base: str | Path, revision: str | None, variant: str | None) -> PromptEmbedding:
    stored = Path(base).expanduser() / PROMPT_FILE
    if stored.is_file():
        tensors = load_file(stored)
        return PromptEmbedding(tensors["tokens"].clone(), tensors["pooled"].clone())
    if Path(base).expanduser().is_file():
        raise MissingWeightsError(
            f"{base} is a single file, whose text encoders are not read: name a base of the same family that encodes "
            "the prompt, once",
            flag="--prompt-from",
        )
    return prompt_embedding(base, revision=revision, variant=variant)


def _schedule(generator: OneStepGenerator) -> dict[str, Any]:
    """A schedule with the same share of signal at every step."""
    alphas: Float[Tensor, " t"] = generator.alphas_cumprod.double()
    before = torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": len(alphas),
        "trained_betas": (1.0 - alphas / before).tolist(),
        "prediction_type": generator.prediction_type,
    }


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _refuse_ablation(adapter: str | Path, left_out: str) -> None:
    if left_out != "nothing":
        raise InputError(
            f"{adapter} was trained with --ablation {left_out}, to be measured, not to render with: train without it",
            flag="--resume-from-checkpoint",
        )


def _whole(timestep: str | int, adapter: str | Path) -> int:
    if not str(timestep).isdigit():
        raise InputError(
            f"{adapter} says that it was trained at timestep {timestep!r}, which is no whole number: name it",
            flag="--train-T",
        )
    return int(timestep)


def _convention(name: str | None) -> Convention:
    if name in (None, "thin_lens"):
        return "thin_lens"
    if name == "released":
        return "released"
    raise InputError(f"the adapter was trained with visibility {name!r}; known are thin_lens and released")
