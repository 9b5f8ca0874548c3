"""SDXL checkpoints in one file, as they are traded: the original code's names, UNet and autoencoder in one table."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.models.adapter_files import some_names
from bokehdiff.models.sdxl import SDXL_SCHEDULE, SDXL_UNET, SDXL_VAE, SdxlNetworks

logger = logging.getLogger(__name__)

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
VELOCITY_MARK = "v_pred"  # an empty tensor of this name says that the UNet predicts the velocity


def load_single_file(
    file: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    vae_dtype: torch.dtype = torch.float32,
    unet_config: Mapping[str, Any] = SDXL_UNET,
    vae_config: Mapping[str, Any] = SDXL_VAE,
) -> SdxlNetworks:
    """Read UNet and autoencoder; the text encoders in the file are left alone.

    Args:
        file: A safetensors file of SDXL or what is fine-tuned from it.
        dtype: Of the UNet's weights.
        vae_dtype: Of the autoencoder's.
        unet_config: Sizes of the UNet.
        vae_config: Sizes of the autoencoder.

    Raises:
        InputError: If it is another kind of file, or its tensors do not all find their place.
    """
    path = Path(file).expanduser()
    tensors, names = _read(path)
    unet = _filled(UNet2DConditionModel, unet_config, convert_ldm_unet_checkpoint, tensors, path, dtype)
    vae = _filled(AutoencoderKL, vae_config, convert_ldm_vae_checkpoint, tensors, path, vae_dtype)
    velocity = VELOCITY_MARK in names
    logger.info("%s: predicts the %s, on SDXL's schedule", path.name, "velocity" if velocity else "noise")
    return SdxlNetworks(
        unet=unet,
        vae=vae,
        alphas_cumprod=DDPMScheduler(**SDXL_SCHEDULE).alphas_cumprod.float(),
        prediction_type="v_prediction" if velocity else "epsilon",
        base=str(file),
        weights="pretrained",
    )


def _read(path: Path) -> tuple[dict[str, Tensor], set[str]]:
    """The tensors of UNet and autoencoder, and the names of all."""
    try:
        with safe_open(path, "pt") as stream:
            names = set(stream.keys())
            wanted = [name for name in names if name.startswith((UNET_PREFIX, VAE_PREFIX))]
            tensors = {name: stream.get_tensor(name) for name in wanted}
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file ({error}): copy or download it again") from None
    for prefix, what in ((UNET_PREFIX, "UNet"), (VAE_PREFIX, "autoencoder")):
        if not any(name.startswith(prefix) for name in tensors):
            raise InputError(
                f"{path} holds no {what} ({prefix}*): expected an SDXL checkpoint in one file; got "
                f"{some_names(names) if names else 'no tensors'}"
            )
    return tensors, names


def _filled(
    model_class: Any,
    config: Mapping[str, Any],
    convert: Any,
    tensors: Mapping[str, Tensor],
    path: Path,
    dtype: torch.dtype,
) -> Any:
    with torch.device("meta"):
        model = model_class.from_config(dict(config))
    try:
        named = convert(dict(tensors), dict(model.config))
    except (KeyError, IndexError) as error:
        raise InputError(f"{path} is not SDXL: its UNet or autoencoder lacks {error}") from None
    expected = model.state_dict()
    strange = (named.keys() ^ expected.keys()) | {
        name for name in named.keys() & expected.keys() if named[name].shape != expected[name].shape
    }
    if strange:
        raise InputError(f"{path} is not SDXL: {len(strange)} tensors do not fit, such as {some_names(strange)}")
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in named.items()}, assign=True)
    return model.requires_grad_(False).eval()
