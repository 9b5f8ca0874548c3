"""The tiny SDXL: same classes, block names and files as the real one, small enough for a laptop, weights random."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from bokehdiff.errors import InputError
from bokehdiff.images import make_folder
from bokehdiff.weights import quiet_progress, read_json_object

MARKER_FILE = "bokehdiff.json"  # says what the weights of a base are, where a base says so at all
RECIPE = 2  # to be raised with every change of what is written, so that an older folder is not taken for this one
PROMPT = "an excellent photo with a large aperture"

START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"
MAX_TOKENS = 77  # as CLIP

LATENT_CHANNELS = 16
LOG_VARIANCE = -8.0  # of latents at first: they begin almost free of noise, and learn how much of it they bear
TEXT_WIDTH = 32  # stands for CLIP-L's 768
TEXT_2_WIDTH = 48  # stands for CLIP-G's 1280
POOLED_WIDTH = 40
TIME_ID_WIDTH = 8  # of each of the six time ids

# Measured, not guessed: with random weights the latents of photographs have this standard deviation over all channels
# and pixels (tests/models/test_tiny.py measures it again), so that scaled latents have about unit variance.
LATENT_STD = 0.36

PASSING = ("conv_in", "conv_shortcut", "quant_conv")  # the autoencoder's convolutions outside its residual branches

RANDOM_CARD = """---
license: apache-2.0
tags: [bokehdiff, random-weights]
---
# A tiny SDXL with random weights

Written by `bokehdiff.models.write_tiny_sdxl(seed={seed})`. Same classes, block names and files as Stable Diffusion XL,
{n_unet:,} parameters in the UNet. **The weights are random: nothing here has seen an image.** It is for trying out
programs and for tests; pictures made with it show what the adapter alone has learned.
"""


def write_tiny_sdxl(folder: str | Path, *, seed: int = 0) -> Path:
    """Write a tiny SDXL with random weights that `load_sdxl` and diffusers read like the real one.

    The folder appears complete or not at all; one that is already there, of the same seed, is left as it is.

    Args:
        folder: Where it is put; its parents are made.
        seed: The weights are a function of it.

    Raises:
        InputError: If the folder holds something else.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet, vae = tiny_unet(), tiny_autoencoder()
        card = RANDOM_CARD.format(seed=seed, n_unet=n_weights(unet))
        return _write(Path(folder), unet, vae, mark={"weights": "random", "seed": seed, "recipe": RECIPE}, card=card)


def write_taught_sdxl(
    folder: str | Path, unet: UNet2DConditionModel, vae: AutoencoderKL, *, origin: Mapping[str, Any], card: str
) -> Path:
    """Write a tiny SDXL with networks that were taught, in half precision; its text encoders are those of seed 0.

    Args:
        folder: Where it is put; its parents are made.
        unet: The prior.
        vae: The autoencoder, whose config tells the latents' mean and deviation.
        origin: What `weights_origin` will say of it.
        card: The model card, Markdown.

    Raises:
        InputError: If the folder holds something else.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _write(Path(folder), unet.half(), vae.half(), mark=dict(origin), card=card)


def n_weights(network: nn.Module) -> int:
    """How many numbers a network has learned.

    Args:
        network: Any.
    """
    return sum(weight.numel() for weight in network.parameters())


def _write(folder: Path, unet: UNet2DConditionModel, vae: AutoencoderKL, *, mark: dict[str, Any], card: str) -> Path:
    if _is_written(folder, mark):
        return folder
    make_folder(folder.parent)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _write_parts(partial, unet, vae)
        (partial / "README.md").write_text(card, encoding="utf-8")
        (partial / MARKER_FILE).write_text(json.dumps(mark, indent=2) + "\n", encoding="utf-8")
        _share_like_others(partial)
        _put_in_place(partial, folder, mark)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def weights_origin(folder: str | Path) -> dict[str, Any]:
    """What a base says of its own weights, such as {"weights": "random", "seed": 0}; empty where it says nothing.

    Args:
        folder: A base on disk.
    """
    marker = Path(folder) / MARKER_FILE
    return read_json_object(marker, instead="write or download the folder again") if marker.is_file() else {}


def _is_written(folder: Path, mark: dict[str, Any]) -> bool:
    if not folder.exists():
        return False
    if folder.is_dir() and not any(folder.iterdir()):
        return False
    if folder.is_dir() and weights_origin(folder) == mark:
        return True
    raise InputError(
        f"{folder} already holds something other than the tiny SDXL of seed {mark['seed']}: "
        "remove it, or choose another folder"
    )


def _share_like_others(partial: Path) -> None:
    """Temporary folders and safetensors files are made for one user's eyes; ours are like any other."""
    shutil.copymode(partial / "unet", partial)
    for file in partial.rglob("*.safetensors"):
        shutil.copymode(partial / MARKER_FILE, file)


def _put_in_place(partial: Path, folder: Path, mark: dict[str, Any]) -> None:
    try:
        partial.replace(folder)
    except OSError:
        # Another process was faster: what it wrote is as good, if it is the same.
        if not _is_written(folder, mark):
            raise


def _write_parts(folder: Path, unet: UNet2DConditionModel, vae: AutoencoderKL) -> None:
    """Every part of a base; what is random besides the two networks comes from torch's generator as it stands."""
    vocabulary, merges = _vocabulary()
    parts: dict[str, Any] = {
        "unet": unet,
        "vae": vae,
        "text_encoder": _text_encoder(CLIPTextModel, TEXT_WIDTH, vocabulary, "quick_gelu"),
        "text_encoder_2": _text_encoder(CLIPTextModelWithProjection, TEXT_2_WIDTH, vocabulary, "gelu"),
        "scheduler": _scheduler(),
        "tokenizer": _tokenizer(vocabulary, merges, pad_token=END_TOKEN),
        "tokenizer_2": _tokenizer(vocabulary, merges, pad_token="!"),
    }
    with quiet_progress():
        for name, part in parts.items():
            part.save_pretrained(folder / name)
    _write_index(folder, parts)


def _write_index(folder: Path, parts: dict[str, Any]) -> None:
    """`model_index.json`: what lets `StableDiffusionXLPipeline.from_pretrained` find the parts."""
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "image_encoder": [None, None],
        "feature_extractor": [None, None],
    }
    for name, part in parts.items():
        index[name] = [type(part).__module__.split(".")[0], type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def tiny_unet() -> UNet2DConditionModel:
    """SDXL's UNet, narrow: the same blocks, two transformer blocks where the physics-inspired attention goes."""
    return UNet2DConditionModel(
        sample_size=128,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 96),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 2),
        attention_head_dim=(1, 2, 3),  # the number of heads, as in SDXL's own config
        cross_attention_dim=TEXT_WIDTH + TEXT_2_WIDTH,
        norm_num_groups=16,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * TIME_ID_WIDTH,
    )


def tiny_autoencoder() -> AutoencoderKL:
    """SDXL's autoencoder, narrow: latents of 4 x 4 px instead of 8 x 8, since so few weights keep no more apart.

    Without attention in its middle, which would look at every latent of a photograph from every other.
    """
    n_levels = 3
    vae = AutoencoderKL(
        sample_size=512,
        latent_channels=LATENT_CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * n_levels,
        up_block_types=("UpDecoderBlock2D",) * n_levels,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        scaling_factor=1.0 / LATENT_STD,
        force_upcast=True,
        mid_block_add_attention=False,
    )
    _begin_linear(vae)
    return vae


@torch.no_grad()
def _begin_linear(vae: AutoencoderKL) -> None:
    """Let an untaught autoencoder pass what it can: a chain of rotations, to which every residual block adds nothing.

    torch's own initialisation lets each convolution shrink the signal by sqrt(3) and add a constant that soon hides it;
    from these weights the same teaching is 3.8 dB ahead after 750 steps (docs/tiny.md).
    """
    for name, module in vae.named_modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
        elif isinstance(module, nn.Conv2d) and ("sampler" in name or name.endswith(PASSING)):
            nn.init.zeros_(cast(Tensor, module.bias))
            _rotate(module.weight, four_taps="downsampler" in name)
    nn.init.zeros_(vae.quant_conv.weight[LATENT_CHANNELS:])
    nn.init.constant_(vae.quant_conv.bias[LATENT_CHANNELS:], LOG_VARIANCE)


def _rotate(weight: Tensor, *, four_taps: bool) -> None:
    """Fill weights [out, in, side, side]: orthonormal at the centre, or over the 2 x 2 px that are merged."""
    n_out, n_in, side, _ = weight.shape
    rotation = nn.init.orthogonal_(weight.new_empty(n_out, n_in, 2, 2) if four_taps else weight.new_empty(n_out, n_in))
    if four_taps:
        weight.zero_()[:, :, :2, :2] = rotation
    else:
        weight.mul_(0.1 if side > 1 else 0.0)[:, :, side // 2, side // 2].add_(rotation)


def _text_encoder(
    model_class: Any, width: int, vocabulary: dict[str, int], activation: str
) -> CLIPTextModel | CLIPTextModelWithProjection:
    return model_class(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=3,
            num_attention_heads=2,
            hidden_act=activation,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=POOLED_WIDTH,
            bos_token_id=vocabulary[START_TOKEN],
            eos_token_id=vocabulary[END_TOKEN],
            pad_token_id=vocabulary[END_TOKEN],
        )
    )


def _scheduler() -> DDPMScheduler:
    """The schedule of SDXL's training."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


def _tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]], *, pad_token: str) -> CLIPTokenizer:
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad_token, model_max_length=MAX_TOKENS)


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's kind of vocabulary: printable ASCII, inside and at the end of a word, and the words of the prompt."""
    characters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    entries = characters + [f"{character}</w>" for character in characters]
    merges: list[tuple[str, str]] = []
    for word in PROMPT.split():
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            # From the end of the word, so that what is merged for one word comes apart in no other.
            left, right = pieces[-2:]
            if (left, right) not in merges:
                merges.append((left, right))
                entries.append(left + right)
            pieces[-2:] = [left + right]
    entries += [START_TOKEN, END_TOKEN]
    return {entry: number for number, entry in enumerate(entries)}, merges
