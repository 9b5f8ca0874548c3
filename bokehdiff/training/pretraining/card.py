"""The model card of a taught tiny SDXL: what it saw, how long, how good it is, as its logs have it."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from bokehdiff.training.pretraining.config import PretrainConfig
from bokehdiff.training.records import read_records

CARD = """---
license: apache-2.0
library_name: diffusers
tags: [bokehdiff, stable-diffusion-xl, lens-blur]
---
# A tiny SDXL, taught from nothing

Same classes, block names and files as Stable Diffusion XL, {size}; half precision. It is what `make demo`
fine-tunes: an autoencoder that keeps photographs, and a UNet that tells noise from images. The text encoders are
random: there is one prompt, and nothing to say with it.

**Data.** {n_pictures} pictures of {picture_px} px, drawn by procedure (dead leaves, facades, clouds, lights, lettering,
subjects with transparency before them), a third of them crops of photographs in the public domain or under CC0 that
come with scikit-image. `bokehdiff/data/procedural/crops.py` draws them; no other image was seen.

**Teaching.** {hardware}. Autoencoder: {autoencoder_steps} steps of {autoencoder_batch} crops of {autoencoder_crop} px.
UNet: {prior_steps} steps of {prior_batch} crops of {prior_crop} px, noise predicted at all 1000 timesteps.
The command: `bokehdiff pretrain-tiny --config configs/pretrain_tiny.yaml`.

**Measured** on {n_held_out} held-out pictures of the same kinds, 256 px:

- autoencoder: {psnr:.2f} dB;
- UNet, squared error of the noise it tells, by timestep, where a guess that looks at nothing has 1; and that error over
  the one of the best guess that looks at the latents and knows no images, sqrt(1 - abar) times what is seen (below 1
  is better; above timestep 900 little but noise is seen, and that guess is nearly perfect):

| timestep | error | over that guess |
|---|---|---|
{bands}

**Licence.** Apache-2.0, weights and code.
"""


def model_card(config: PretrainConfig, folder: Path, *, size: str, n_held_out: int) -> str:
    """The card, in Markdown.

    Args:
        config: What was run.
        folder: Of the run, with the logs of both stages.
        size: How many weights there are, in words.
        n_held_out: Pictures that the quality was measured on.
    """
    stages = {name: getattr(config, f"{name}_stage") for name in ("autoencoder", "prior")}
    last = {name: read_records(folder / name)[-1] for name in stages}
    bands = [
        f"| {key.removeprefix('error_t')} | {value:.4f} | {last['prior'][key.replace('error', 'over_guess')]:.2f} |"
        for key, value in last["prior"].items()
        if key.startswith("error_t")
    ]
    told: dict[str, int] = {}
    for name, stage in stages.items():
        told |= {f"{name}_steps": int(last[name]["n_steps"]), f"{name}_batch": stage.batch_size}
        told[f"{name}_crop"] = stage.crop_px
    return CARD.format(
        size=size,
        n_pictures=config.pictures.n_pictures,
        picture_px=config.pictures.picture_px,
        hardware=_hardware(),
        n_held_out=n_held_out,
        psnr=last["autoencoder"]["psnr"],
        bands="\n".join(bands),
        **told,
    )


def _hardware() -> str:
    if torch.cuda.is_available():
        return f"One {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads()} threads of a {platform.machine()} processor"
