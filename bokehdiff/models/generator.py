"""One step of diffusion, from an all-in-focus photograph to the picture a lens would have taken."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bokehdiff.attention import PISA_LAYERS, PisaInputs, install_pisa
from bokehdiff.errors import InputError
from bokehdiff.models.prompt import PromptEmbedding
from bokehdiff.models.sdxl import SdxlNetworks
from bokehdiff.models.strips import decode_in_strips, encode_in_strips

TIMESTEP = 499  # BokehDiff's ablation: halfway through the schedule does best


@dataclass(frozen=True)
class TimeIds:
    """What SDXL is told of the picture's size (Podell et al., "SDXL", 2023, section 2.2). All (height, width) [px].

    Args:
        original_hw: Size of the picture that this one was cut from.
        crop_top_left: Where it was cut.
        target_hw: Size of this picture.
    """

    original_hw: tuple[int, int]
    crop_top_left: tuple[int, int]
    target_hw: tuple[int, int]

    def as_tensor(self, n_images: int) -> Float[Tensor, "b 6"]:
        """The six numbers in diffusers' order, the same for each of `n_images`."""
        numbers = (*self.original_hw, *self.crop_top_left, *self.target_hw)
        return torch.tensor([numbers], dtype=torch.float32).expand(n_images, -1)


class OneStepGenerator(nn.Module):
    """The UNet and the autoencoder as one network, so that parallel training sees them as one.

    Concretely, y = decode(z0), z0 = (z - sqrt(1 - abar) eps) / sqrt(abar), eps = UNet(z, t), z = encode(x): the mode of
    the latent distribution, no noise (BokehDiff, arXiv 2507.18060).

    Args:
        networks: A base from `load_sdxl`; the UNet gets the physics-inspired attention in place.
        timestep: The one timestep t, 0-based.
        pisa_layers: Module of the UNet whose self-attention is physics-inspired; None for none.
    """

    def __init__(
        self, networks: SdxlNetworks, *, timestep: int = TIMESTEP, pisa_layers: str | None = PISA_LAYERS
    ) -> None:
        super().__init__()
        n_steps = len(networks.alphas_cumprod)
        if not 0 <= timestep < n_steps:
            raise InputError(f"timestep must be in [0, {n_steps}); got {timestep}")
        self.unet = networks.unet
        self.vae = networks.vae
        self.timestep = timestep
        self.pisa_layers = pisa_layers
        self.alphas_cumprod = networks.alphas_cumprod
        self.prediction_type = networks.prediction_type
        signal = float(networks.alphas_cumprod[timestep])
        if not signal > 0:
            raise InputError(f"the schedule leaves no signal at timestep {timestep}: choose an earlier one")
        self._signal_scale = math.sqrt(signal)
        self._noise_scale = math.sqrt(1.0 - signal)
        if pisa_layers is not None:
            self._halvings_before(pisa_layers)
            install_pisa(self.unet, pisa_layers)

    @property
    def vae_factor(self) -> int:
        """Side of a latent [px]."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def size_multiple(self) -> int:
        """Sides of images must be multiples of this [px]: the UNet halves the latents at each of its downsamplers."""
        return int(self.vae_factor * 2 ** self._n_halvings("down_blocks", len(self.unet.down_blocks)))

    def token_grid(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tokens in the PISA layer.

        Args:
            size_hw: Size of the image [px], a multiple of `size_multiple`.
        """
        self._refuse_other_sizes(size_hw)
        token_px = self.vae_factor * 2 ** self._halvings_before(self.pisa_layers or PISA_LAYERS)
        return size_hw[0] // token_px, size_hw[1] // token_px

    def _halvings_before(self, layer: str) -> int:
        """How often the latents were halved where a layer works; its block tells."""
        everything = self._n_halvings("down_blocks", len(self.unet.down_blocks))
        match layer.split("."):
            case ["mid_block", *_]:
                return everything
            case ["down_blocks", number, *_] if number.isdigit():
                return self._n_halvings("down_blocks", int(number))
            case ["up_blocks", number, *_] if number.isdigit():
                return everything - self._n_halvings("up_blocks", int(number))
        raise InputError(f"PISA layers must lie in one block of the UNet, such as {PISA_LAYERS}; got {layer!r}")

    def _n_halvings(self, blocks: str, n_blocks: int) -> int:
        """How many of the first `n_blocks` blocks change the size on their way out."""
        sampler = {"down_blocks": "downsamplers", "up_blocks": "upsamplers"}[blocks]
        return sum(getattr(block, sampler) is not None for block in getattr(self.unet, blocks)[:n_blocks])

    def _refuse_other_sizes(self, size_hw: tuple[int, int]) -> None:
        height, width = size_hw
        multiple = self.size_multiple
        if height % multiple or width % multiple or not (height and width):
            raise InputError(
                f"height and width must be multiples of {multiple} px; got {height} x {width}: "
                f"pad with bokehdiff.tiling.pad_to_multiple(image, {multiple}) and crop the result"
            )

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile UNet, encoder and decoder in place, each when it first runs; names of weights stay as they are.

        Args:
            args: As of `torch.compile`.
            options: As of `torch.compile`.
        """
        for part in (self.unet, self.vae.encoder, self.vae.decoder):
            part.compile(*args, **options)

    def enable_gradient_checkpointing(self) -> None:
        """Compute activations anew in the backward pass: changes memory and time, not the result."""
        self.unet.enable_gradient_checkpointing()
        self.vae.enable_gradient_checkpointing()

    def forward(
        self,
        image_srgb: Float[Tensor, "b 3 h w"],
        pisa: PisaInputs | None,
        prompt: PromptEmbedding,
        *,
        time_ids: TimeIds | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Render lens blur: display image in, display image out, not clamped to [0, 1].

        Args:
            image_srgb: All-in-focus images.
            pisa: What the attention needs to know of the scenes; None if there is no PISA layer.
            prompt: From `prompt_embedding`.
            time_ids: What SDXL is told of the size; None for an uncut picture of the size given.
        """
        latents = self.encode(image_srgb)
        return self.decode(self.denoise(latents, pisa, prompt, time_ids=time_ids))

    def encode(self, image_srgb: Float[Tensor, "b 3 h w"], *, in_strips: bool = False) -> Float[Tensor, "b c lh lw"]:
        """Images to scaled latents: the mode of the distribution, so that nothing is random.

        Args:
            image_srgb: Display images, sides multiples of `size_multiple`.
            in_strips: Work strip by strip: changes memory and time, not the result beyond rounding. No gradients.
        """
        height, width = image_srgb.shape[-2:]
        self._refuse_other_sizes((height, width))
        image = (2.0 * image_srgb - 1.0).to(self.vae.dtype)
        with self._in_its_own_precision(image):
            if in_strips:
                mode = encode_in_strips(self.vae, image)
            else:
                mode = self.vae.encode(image, return_dict=False)[0].mode()
        offset, scale = self._latent_scaling(mode)
        return (mode - offset) * scale

    def denoise(
        self,
        latents: Float[Tensor, "b c lh lw"],
        pisa: PisaInputs | None,
        prompt: PromptEmbedding,
        *,
        time_ids: TimeIds | None = None,
    ) -> Float[Tensor, "b c lh lw"]:
        """The one step: scaled latents of the photograph to scaled latents of the picture.

        The UNet works in its own dtype, the step in that of `latents`.

        Args:
            latents: From `encode`, or a tile of them.
            pisa: As in `forward`, for these latents.
            prompt: As in `forward`.
            time_ids: As in `forward`.
        """
        if (pisa is None) != (self.pisa_layers is None):
            told, there = ("no PisaInputs", "a PISA layer") if pisa is None else ("PisaInputs", "no PISA layer")
            raise InputError(f"got {told} for a generator with {there}: pass them, or make one with pisa_layers=None")
        n_images, _, height, width = latents.shape
        if time_ids is None:
            size_hw = (height * self.vae_factor, width * self.vae_factor)
            time_ids = TimeIds(size_hw, (0, 0), size_hw)
        dtype = self.unet.conv_in.weight.dtype  # never under a LoRA, whose weights are float32
        output = self.unet(
            latents.to(dtype),
            self.timestep,
            encoder_hidden_states=prompt.tokens.to(latents.device, dtype).expand(n_images, -1, -1),
            added_cond_kwargs={
                "text_embeds": prompt.pooled.to(latents.device, dtype).expand(n_images, -1),
                "time_ids": time_ids.as_tensor(n_images).to(latents.device),
            },
            cross_attention_kwargs=None if pisa is None else {"pisa": pisa},
            return_dict=False,
        )[0].to(latents.dtype)
        if self.prediction_type == "v_prediction":
            return self._signal_scale * latents - self._noise_scale * output
        return (latents - self._noise_scale * output) / self._signal_scale

    def decode(self, latents: Float[Tensor, "b c lh lw"], *, in_strips: bool = False) -> Float[Tensor, "b 3 h w"]:
        """Scaled latents to display images, not clamped.

        Args:
            latents: From `denoise`.
            in_strips: As in `encode`.
        """
        offset, scale = self._latent_scaling(latents)
        unscaled = (latents / scale + offset).to(self.vae.dtype)
        with self._in_its_own_precision(unscaled):
            image = (
                decode_in_strips(self.vae, unscaled) if in_strips else self.vae.decode(unscaled, return_dict=False)[0]
            )
        return 0.5 * image.float() + 0.5

    def _in_its_own_precision(self, like: Tensor) -> AbstractContextManager[Any]:
        """Autocast off: it would run a float32 autoencoder in half precision, where SDXL's overflows."""
        return nullcontext() if like.is_meta else torch.autocast(like.device.type, enabled=False)

    def _latent_scaling(self, like: Tensor) -> tuple[float | Tensor, float | Tensor]:
        """Offset and scale between the autoencoder's latents and the UNet's: scaled = (latents - offset) * scale."""
        config = self.vae.config
        scale: float | Tensor = config.scaling_factor
        offset: float | Tensor = config.get("shift_factor") or 0.0
        if config.get("latents_std") is not None:
            scale = scale / like.new_tensor(config.latents_std)[None, :, None, None]
        if config.get("latents_mean") is not None:
            offset = like.new_tensor(config.latents_mean)[None, :, None, None]
        return offset, scale
