"""Stable Diffusion XL, as far as one step needs it: UNet, autoencoder, and the noise schedule's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from bokehdiff.errors import InputError, MissingWeightsError, first_line
from bokehdiff.models.tiny import MARKER_FILE, weights_origin
from bokehdiff.weights import find_weights, read_json_object, weight_files

PredictionType = Literal["epsilon", "v_prediction"]
PREDICTION_TYPES: tuple[PredictionType, ...] = ("epsilon", "v_prediction")
# Stable Diffusion XL 1.0 and what is fine-tuned from it, RealVisXL among them.
SDXL_UNET = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SDXL_VAE = {
    "sample_size": 1024,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}
SDXL_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")


@dataclass(frozen=True)
class SdxlNetworks:
    """The parts of a base model that stay loaded.

    Args:
        unet: Predicts the noise, or the velocity.
        vae: Images to latents and back.
        alphas_cumprod: Share of signal left after each step of the schedule, [1000] for SDXL.
        prediction_type: What the UNet was trained to predict.
        base: Folder or hub id that it was read from.
        weights: "random" if the base says that its weights are, else "pretrained".
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    alphas_cumprod: Float[Tensor, " t"]
    prediction_type: PredictionType
    base: str
    weights: str


def load_sdxl(
    base: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    vae_dtype: torch.dtype = torch.float32,
) -> SdxlNetworks:
    """Read UNet, autoencoder and noise schedule of a base model; the text encoders are `prompt_embedding`'s matter.

    Args:
        base: Folder in the diffusers layout, or hub id "owner/name".
        revision: Branch, tag or commit of a hub id; None for its main branch.
        variant: Variant of the weight files, such as "fp16"; None for the plain ones.
        dtype: Of the UNet's weights.
        vae_dtype: Of the autoencoder's. SDXL's overflows in float16, and in bfloat16 its images show steps.

    Raises:
        MissingWeightsError: If a file is missing, or the hub cannot be reached and the cache does not hold it.
        InputError: If the schedule or the prediction type is of a kind that one step cannot use.
    """
    folder = find_sdxl(base, revision=revision, variant=variant)
    schedule = read_json_object(folder / "scheduler" / "scheduler_config.json", instead="download it again")
    prediction_type = _prediction_type(schedule, folder)
    alphas_cumprod = alphas_from_config(schedule, folder)
    unet = _load(UNet2DConditionModel, folder, "unet", variant=variant, dtype=dtype)
    return SdxlNetworks(
        unet=unet,
        vae=_load(AutoencoderKL, folder, "vae", variant=variant, dtype=vae_dtype),
        alphas_cumprod=alphas_cumprod,
        prediction_type=prediction_type,
        base=str(base),
        weights=weights_origin(folder).get("weights", "pretrained"),
    )


def find_sdxl(base: str | Path, *, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder that holds all that `load_sdxl` reads.

    Args:
        base: As in `load_sdxl`.
        revision: As in `load_sdxl`.
        variant: As in `load_sdxl`.
    """
    needed = [
        ("unet/config.json",),
        weight_files("unet/diffusion_pytorch_model", variant),
        ("vae/config.json",),
        weight_files("vae/diffusion_pytorch_model", variant),
        ("scheduler/scheduler_config.json",),
    ]
    return find_weights(
        base,
        needed=needed,
        fetch=[*chain(*needed), MARKER_FILE],
        revision=revision,
        instead=_instead(variant),
    )


def sketch_sdxl(
    base: str | Path | None = None, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "meta"
) -> SdxlNetworks:
    """Networks of a base's sizes that have learned nothing: for counting, and for measuring speed and memory.

    Args:
        base: Folder with the configs of UNet and autoencoder; None, or what is no folder here, for SDXL's own sizes.
        dtype: Of the UNet's weights; the autoencoder is float32.
        device: "meta" takes no memory; elsewhere weights are random.
    """
    folder = Path(base).expanduser() if base is not None else None
    configs: list[dict[str, Any]] = [SDXL_UNET, SDXL_VAE]
    if folder is not None and (folder / "unet" / "config.json").is_file():
        parts = (folder / part / "config.json" for part in ("unet", "vae"))
        configs = [read_json_object(part, instead="download it again") for part in parts]
    with torch.device(device):
        unet, vae = UNet2DConditionModel.from_config(configs[0]), AutoencoderKL.from_config(configs[1])
    return SdxlNetworks(
        unet=nn.Module.to(unet, dtype).requires_grad_(False),  # diffusers' own warns of layers that are not there
        vae=vae.requires_grad_(False),
        alphas_cumprod=DDPMScheduler(**SDXL_SCHEDULE).alphas_cumprod.float(),
        prediction_type="epsilon",
        base=str(base),
        weights="random",
    )


def alphas_from_config(schedule: dict[str, Any], folder: Path) -> Float[Tensor, " t"]:
    """Share of signal left at each step of a schedule, whatever the class of its sampler.

    Concretely, abar[t] = prod over s <= t of (1 - beta[s]).

    Args:
        schedule: A scheduler's config: DDPM, Euler, DPM++ and their like agree on these keys.
        folder: For the message.
    """
    betas = {key: schedule[key] for key in SCHEDULE_KEYS if schedule.get(key) is not None}
    if "trained_betas" not in betas and not {"beta_start", "beta_end", "beta_schedule"} <= betas.keys():
        raise InputError(
            f"{folder}/scheduler/scheduler_config.json must tell beta_start, beta_end, beta_schedule: one step needs "
            f"a diffusion schedule; got {schedule.get('_class_name')} with {', '.join(betas) or 'none of them'}"
        )
    rescale = bool(schedule.get("rescale_betas_zero_snr", False))
    return DDPMScheduler(**betas, rescale_betas_zero_snr=rescale).alphas_cumprod.float()


def _prediction_type(schedule: dict[str, Any], folder: Path) -> PredictionType:
    got = schedule.get("prediction_type", "epsilon")  # diffusers' own default
    for known in PREDICTION_TYPES:
        if got == known:
            return known
    raise InputError(
        f"{folder}/scheduler/scheduler_config.json: prediction_type must be {' or '.join(PREDICTION_TYPES)}; "
        f"got {got!r}"
    )


def _load(model_class: Any, folder: Path, part: str, *, variant: str | None, dtype: torch.dtype) -> Any:
    try:
        model = model_class.from_pretrained(
            folder, subfolder=part, variant=variant, torch_dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise MissingWeightsError(f"{folder / part} cannot be read: {first_line(error)}") from error
    return model.requires_grad_(False).eval()


def _instead(variant: str | None) -> str:
    other = "leave the variant out, or" if variant else "if they have a variant, such as fp16, name it; or"
    return f"{other} pass a base in the diffusers layout with safetensors weights"
