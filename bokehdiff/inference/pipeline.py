"""One diffusion step from a sharp photograph to one with lens blur."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff import models
from bokehdiff.attention import INFERENCE_HARDNESS, PISA_LAYERS, Convention, PisaInputs, TokenOptics
from bokehdiff.errors import InputError, at_fault
from bokehdiff.images import resize
from bokehdiff.inference.focus import Focus, resolve_focus
from bokehdiff.models import OneStepGenerator, PromptEmbedding, load_adapter, load_sdxl, prompt_embedding
from bokehdiff.optics import Lens
from bokehdiff.tiling import Window, map_windows, pad_to_multiple

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

TILE_LATENTS = 64  # side of a tile of the released tool: what SDXL attends to at 512 px
WHOLE_LATENTS = 2 * TILE_LATENTS**2  # up to this many it denoises the image in one piece
OVERLAP_SHARE = 0.25  # of a tile
RELEASED_JITTERED = 3  # the released tool averages its occlusion over three or four shifted copies


@dataclass(frozen=True)
class BokehResult:
    """A batch of rendered photographs, and the lens they were rendered with.

    Args:
        images_srgb: Display images in [0, 1], of the size of the input.
        coc_px: Signed circle of confusion that was asked for [px].
        lens: Focus and strength.
    """

    images_srgb: Float[Tensor, "b 3 h w"]
    coc_px: Float[Tensor, "b h w"]
    lens: Lens

    @property
    def images(self) -> list[Image.Image]:
        """The photographs as 8-bit Pillow images."""
        from torchvision.transforms.functional import to_pil_image

        return [to_pil_image(image.cpu()) for image in self.images_srgb]


class BokehDiffPipeline:
    """BokehDiff's one-step renderer: `pipe(image, disparity, focus=..., strength=...).images`.

    Args:
        generator: The networks, the adapter in them.
        prompt: The one prompt's embedding.
        convention: How occlusion between tokens is computed.
        seed: Of the released convention's jitter.
    """

    def __init__(
        self, generator: OneStepGenerator, prompt: PromptEmbedding, *, convention: Convention, seed: int = 0
    ) -> None:
        self.generator = generator.eval().requires_grad_(False)
        self.prompt = prompt
        self.convention = convention
        self.seed = seed

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path,
        *,
        adapter: str | Path | None = None,
        adapter_variant: str | None = None,
        revision: str | None = None,
        variant: str | None = None,
        timestep: int = 499,
        visibility: Convention | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        use_xformers: bool = False,
        seed: int = 0,
    ) -> BokehDiffPipeline:
        """Load an SDXL base and an adapter: ours or the published one.

        Args:
            base: Folder in the diffusers layout, or hub id.
            adapter: Folder, file or hub id; None renders with the base as it is.
            adapter_variant: Folder of the adapter inside its repository.
            revision: Git revision of the base.
            variant: File variant of the base.
            timestep: The one timestep, 0-based.
            visibility: How occlusion is computed; None for what the adapter says that it was trained with, and for
                "released" where it says nothing.
            device: Where to compute.
            dtype: Of the UNet.
            use_xformers: Use xFormers outside PISA layers if it works on the device; else say so once.
            seed: Of the released convention's jitter.
        """
        with at_fault("--pretrained-model-name-or-path"):
            networks = load_sdxl(base, revision=revision, variant=variant, dtype=dtype)
            prompt = prompt_embedding(base, revision=revision, variant=variant)
        trained_with, layers = None, PISA_LAYERS
        if adapter is not None:
            with at_fault("--resume-from-checkpoint"):
                report = load_adapter(adapter, networks.unet, networks.vae, variant=adapter_variant)
            trained_with = report.metadata.get("visibility", "released")
            layers = report.metadata.get("pisa_layers", PISA_LAYERS)
        if use_xformers:
            models.use_xformers(networks.unet, torch.device(device))
        generator = OneStepGenerator(networks, timestep=timestep, pisa_layers=layers)
        convention = visibility or _convention(trained_with)
        return cls(generator, prompt, convention=convention, seed=seed).to(device)

    def to(self, device: torch.device | str) -> BokehDiffPipeline:
        """Move the networks to a device; returns the pipeline."""
        self.generator.to(device)
        self.prompt = self.prompt.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.generator.parameters()).device

    @torch.no_grad()
    def __call__(
        self,
        image_srgb: Float[Tensor, "b 3 h w"],
        disparity: Float[Tensor, "b dh dw"],
        *,
        focus: Focus = "subject",
        strength: float = 20.0,
        mask: Float[Tensor, "b mh mw"] | None = None,
        tile_px: int | None = None,
        upsample: int = 1,
    ) -> BokehResult:
        """Render photographs.

        Args:
            image_srgb: Sharp display images in [0, 1]; any size.
            disparity: In [0, 1], 1 nearest; of the images' size.
            focus: "subject", a disparity, a point (x, y) or a box (left, top, right, bottom) [px].
            strength: K: radius of the circle of confusion at one unit of disparity from the focus [px].
            mask: The subject that `focus="subject"` means; None for the image's centre.
            tile_px: Denoise in tiles of this side [px]; 0 for the whole image; None tiles above 2 x 64 x 64 latents.
            upsample: Work at this multiple of the size, for finer detail.

        Returns:
            Images of the input's size.
        """
        if disparity.shape[-2:] != image_srgb.shape[-2:]:
            raise InputError(
                f"disparity must have the size of the image, {list(image_srgb.shape[-2:])}; "
                f"got {list(disparity.shape[-2:])}"
            )
        image_srgb, disparity = image_srgb.to(self.device), disparity.to(self.device)
        lens = Lens(resolve_focus(disparity, focus, mask.to(self.device) if mask is not None else None), strength)
        size_hw = (image_srgb.shape[2], image_srgb.shape[3])
        work_hw = (size_hw[0] * upsample, size_hw[1] * upsample)
        rendered = self._render(
            resize(image_srgb, work_hw), resize(disparity[:, None], work_hw)[:, 0], lens.resized(upsample), tile_px
        )
        result = resize(rendered, size_hw).clamp(0.0, 1.0)
        return BokehResult(images_srgb=result, coc_px=lens.coc_px(disparity), lens=lens)

    def _render(
        self, image_srgb: Tensor, disparity: Tensor, lens: Lens, tile_px: int | None
    ) -> Float[Tensor, "b 3 h w"]:
        """Pad, encode, denoise, decode, crop."""
        padded = pad_to_multiple(image_srgb, self.generator.size_multiple)
        depth = pad_to_multiple(disparity[:, None], self.generator.size_multiple).image[:, 0]
        latents = self.generator.encode(padded.image)
        pixels_per_latent = padded.image.shape[-1] // latents.shape[-1]

        def denoise(tile: Tensor, window: Window) -> Tensor:
            pixels = window.scaled(pixels_per_latent)
            return self._denoise(tile, pixels.cut(depth), lens)

        tile_latents = self._tile_latents(latents, tile_px, pixels_per_latent)
        overlap = int(tile_latents * OVERLAP_SHARE)
        denoised = map_windows(denoise, latents, tile_px=tile_latents, overlap_px=overlap)
        return padded.crop(self.generator.decode(denoised).float())

    def _denoise(self, latents: Tensor, disparity: Tensor, lens: Lens) -> Tensor:
        size_hw = (disparity.shape[1], disparity.shape[2])
        optics = TokenOptics.from_maps(
            disparity,
            lens.coc_px(disparity),
            self.generator.token_grid(size_hw),
            focus_disparity=torch.as_tensor(lens.focus_disparity),
            convention=self.convention,
            n_jittered=RELEASED_JITTERED if self.convention == "released" else 0,
            jitter_seed=self.seed,
        )
        return self.generator.denoise(latents, PisaInputs(optics, hardness=INFERENCE_HARDNESS), self.prompt)

    def _tile_latents(self, latents: Tensor, tile_px: int | None, pixels_per_latent: int) -> int:
        """Side of a tile in latents, a multiple of what the UNet halves; the image's longer side for one piece."""
        height, width = latents.shape[-2:]
        whole = max(height, width)
        if tile_px == 0 or (tile_px is None and height * width <= WHOLE_LATENTS):
            return whole
        if tile_px is None:
            return TILE_LATENTS
        multiple = self.generator.size_multiple
        if tile_px % multiple or tile_px < 0:
            raise InputError(f"tile_px must be a multiple of {multiple} for this backbone; got {tile_px}")
        return tile_px // pixels_per_latent


def _convention(name: str | None) -> Convention:
    if name in (None, "thin_lens"):
        return "thin_lens"
    if name == "released":
        return "released"
    raise InputError(f"the adapter was trained with visibility {name!r}; known are thin_lens and released")
