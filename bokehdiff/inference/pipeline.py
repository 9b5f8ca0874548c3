"""One diffusion step from a sharp photograph to one with lens blur."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.attention import INFERENCE_HARDNESS, Convention, PisaInputs, TokenOptics
from bokehdiff.errors import InputError
from bokehdiff.images import linear_to_srgb, resize, srgb_to_linear
from bokehdiff.inference.detail import keep_focus, match_colour, mix_where_guessed
from bokehdiff.inference.focus import Focus
from bokehdiff.inference.inputs import Maps, Photographs, as_images, as_planes
from bokehdiff.inference.lenses import FNumber, MetricRange, Strength, resolve_lens
from bokehdiff.inference.loading import Loaded, load, save
from bokehdiff.inference.memory import MemoryPlan, free_bytes_of, plan_memory
from bokehdiff.models import OneStepGenerator, PromptEmbedding
from bokehdiff.optics import CameraSettings, Lens
from bokehdiff.renderers import Step, made_up_share, render_photo
from bokehdiff.tiling import Padded, Window, map_windows, pad_to_multiple

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

TILE_LATENTS = 64  # side of a tile of the released tool: what SDXL attends to at 512 px
WHOLE_LATENTS = 2 * TILE_LATENTS**2  # up to this many it denoises the image in one piece
OVERLAP_SHARE = 0.25  # of a tile
LEAST_OVERLAP_LATENTS = 16  # of tiles smaller than those: a UNet draws a rim of some four latents where it is cut off
RELEASED_JITTERED = 3  # the released tool averages its occlusion over three or four shifted copies
DEFAULT_STRENGTH_PX = 20.0


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


@dataclass(frozen=True)
class RenderSettings:
    """How pictures are made, whatever the lens.

    Args:
        tile_px: Denoise in tiles of this side [px]; 0 for the whole image; None for the whole image where it fits in
            memory, and with the released convention for what the released tool does.
        upsample: Work at this multiple of the size, for finer detail.
        renderer: "neural", or "hybrid": physics, but the network where physics guesses and the network guesses better.
        preserve_focus: Lay the photograph over the result where it is in focus.
        match_colour: Give neighbourhoods the photograph's light, which an autoencoder does not quite keep.
    """

    tile_px: int | None = None
    upsample: int = 1
    renderer: Literal["neural", "hybrid"] = "neural"
    preserve_focus: bool = True
    match_colour: bool = True


AS_USUAL = RenderSettings()


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
        self._offloaded_to: torch.device | None = None
        self._unet_hook: Any = None
        self._in_strips = False

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path,
        *,
        adapter: str | Path | None = None,
        adapter_variant: str | None = None,
        revision: str | None = None,
        variant: str | None = None,
        timestep: int | None = None,
        visibility: Convention | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        use_xformers: bool = False,
        fuse: bool = True,
        prompt_from: str | Path | None = None,
        seed: int = 0,
    ) -> BokehDiffPipeline:
        """Load an SDXL base and an adapter, ours or the published one; or what `save_pretrained` wrote.

        Args:
            base: Folder in the diffusers layout, hub id, single file of an SDXL checkpoint, or a saved pipeline.
            adapter: Folder, file or hub id; None renders with the base as it is.
            adapter_variant: Folder of the adapter inside its repository.
            revision: Git revision of the base.
            variant: File variant of the base.
            timestep: The one timestep, 0-based; None for that of the adapter or the saved pipeline, else 499.
            visibility: How occlusion is computed; None for what the adapter says that it was trained with, and for
                "released" where it says nothing.
            device: Where to compute.
            dtype: Of the UNet; the autoencoder is float32 until `to` says otherwise.
            use_xformers: Use xFormers outside PISA layers if it works on the device; else say so once.
            fuse: Add the LoRA to the weights beside it: as fast as the base alone, the same result up to rounding.
            prompt_from: Base whose text encoders encode the prompt, once; None for `base`. A single file needs one.
            seed: Of the released convention's jitter.
        """
        loaded = load(
            base,
            adapter=adapter,
            adapter_variant=adapter_variant,
            revision=revision,
            variant=variant,
            timestep=timestep,
            visibility=visibility,
            dtype=dtype,
            xformers_on=torch.device(device) if use_xformers else None,
            fuse=fuse,
            prompt_from=prompt_from,
        )
        return cls(loaded.generator, loaded.prompt, convention=loaded.convention, seed=seed).to(device)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write everything that rendering needs, the adapter in the weights; `from_pretrained(folder)` reads it.

        Args:
            folder: Where to; must not be there.
        """
        return save(folder, Loaded(self.generator, self.prompt, self.convention))

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None, *,
        vae_dtype: torch.dtype | None = None,
    ) -> BokehDiffPipeline:  # fmt: skip
        """Move the networks to a device, change their precision; returns the pipeline.

        Args:
            device: None leaves them where they are.
            dtype: Of the UNet; None for what it is.
            vae_dtype: Of the autoencoder; None for what it is. In half precision SDXL's shows steps, or overflows.
        """
        if device is not None:
            if self._offloaded_to is not None:
                raise InputError("the networks are moved as they are needed (enable_model_cpu_offload): leave it out")
            self.generator.to(device)
            self.prompt = self.prompt.to(device)
        for part, its_dtype in ((self.generator.unet, dtype), (self.generator.vae, vae_dtype)):
            if its_dtype is not None:
                torch.nn.Module.to(part, its_dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Where pictures are computed."""
        return self._offloaded_to or next(self.generator.parameters()).device

    def compile(self) -> None:
        """Compile the networks when they first run: minutes of waiting, then faster pictures of that size."""
        self.generator.compile()

    def enable_vae_tiling(self) -> None:
        """Encode and decode every picture strip by strip: half the memory on a CPU, next to none on a GPU.

        Named as diffusers names it; unlike its tiles, strips give the picture that the whole gives, up to rounding.
        """
        self._in_strips = True

    def enable_model_cpu_offload(self, device: torch.device | str = "cuda") -> None:
        """Keep on a device only the network that is at work: changes memory and time, not the result.

        Args:
            device: Where to compute.
        """
        from accelerate import cpu_offload_with_hook

        self.generator.to("cpu")
        self._offloaded_to = torch.device(device)
        _, vae_hook = cpu_offload_with_hook(self.generator.vae, self._offloaded_to)
        _, self._unet_hook = cpu_offload_with_hook(self.generator.unet, self._offloaded_to, prev_module_hook=vae_hook)

    def __call__(
        self,
        image: Photographs,
        disparity: Maps,
        *,
        focus: Focus | str = "subject",
        strength: Strength | str = DEFAULT_STRENGTH_PX,
        aperture: float | None = None,
        mask: Maps | None = None,
        camera: CameraSettings | None = None,
        distances: MetricRange | None = None,
        tile_px: int | None = None,
        upsample: int = 1,
        renderer: Literal["neural", "hybrid"] = "neural",
        preserve_focus: bool = True,
        match_colour: bool = True,
    ) -> BokehResult:
        """Render photographs.

        Args:
            image: Sharp display images: a tensor [b 3 h w] in [0, 1], or Pillow images; any size.
            disparity: In [0, 1], 1 nearest; [b h w] or [h w], of the images' size.
            focus: "subject", a disparity, a point (x, y) or a box (left, top, right, bottom) [px], a distance such as
                "2.5m"; or "camera" for the distance in EXIF.
            strength: K: radius of the circle of confusion at one unit of disparity from the focus [px]; or "2%" of the
                width, "f/1.8", "camera" for the f-number in EXIF.
            aperture: F-number, in place of a strength.
            mask: The subject that `focus="subject"` means; None for the image's centre.
            camera: What EXIF tells, such as `Photo.camera`.
            distances: Which distances disparity 1 and 0 stand for; metres and f-numbers need them.
            tile_px: As in `RenderSettings`.
            upsample: As in `RenderSettings`.
            renderer: As in `RenderSettings`.
            preserve_focus: As in `RenderSettings`.
            match_colour: As in `RenderSettings`.

        Returns:
            Images of the input's size.
        """
        images = as_images(image).to(self.device)
        planes = as_planes(disparity, images, what="disparity").to(self.device)
        lens = resolve_lens(
            planes,
            focus=focus,
            strength=strength if aperture is None else FNumber(aperture),
            mask=None if mask is None else as_planes(mask, images, what="mask").to(self.device),
            camera=camera,
            distances=distances,
        )
        settings = RenderSettings(tile_px, upsample, renderer, preserve_focus, match_colour)
        return next(iter(self.render_lenses(images, planes, [lens], settings)))

    @torch.no_grad()
    def render_lenses(
        self,
        image_srgb: Float[Tensor, "b 3 h w"],
        disparity: Float[Tensor, "b h w"],
        lenses: Iterable[Lens],
        settings: RenderSettings = AS_USUAL,
        *,
        image_linear: Float[Tensor, "b 3 h w"] | None = None,
        step: Step | None = None,
    ) -> Iterator[BokehResult]:
        """The same photographs through many lenses; they are encoded once.

        Args:
            image_srgb: Sharp display images in [0, 1].
            disparity: In [0, 1], 1 nearest.
            lenses: Focus and strength at the size of the images.
            settings: How.
            image_linear: The light itself, HDR above 1 allowed, for the physics of "hybrid"; None for that of the
                display images, in which lights are no brighter than white.
            step: Of the physics of "hybrid": `render_photo`'s.

        Returns:
            Each picture as soon as it is made; with `enable_model_cpu_offload` all are denoised first.
        """
        image_srgb, disparity = image_srgb.to(self.device), disparity.to(self.device)
        size_hw = (image_srgb.shape[2], image_srgb.shape[3])
        work_hw = (size_hw[0] * settings.upsample, size_hw[1] * settings.upsample)
        multiple = self.generator.size_multiple
        padded = pad_to_multiple(resize(image_srgb, work_hw), multiple)
        depth = pad_to_multiple(resize(disparity[:, None], work_hw), multiple).image[:, 0]
        plan = self._plan(padded, settings)
        latents = self.generator.encode(padded.image, in_strips=plan.in_strips)
        denoised: Iterator[tuple[Lens, Tensor]] = (
            (lens, self._denoise(latents, depth, lens.resized(settings.upsample), plan)) for lens in lenses
        )
        if self._unet_hook is not None:
            denoised = iter(list(denoised))
            self._unet_hook.offload()
        for lens, one in denoised:
            decoded = self.generator.decode(one, in_strips=plan.in_strips).float()
            rendered = resize(padded.crop(decoded), size_hw).clamp(0.0, 1.0)
            coc_px = lens.coc_px(disparity)
            finished = self._finished(rendered, image_srgb, coc_px, settings)
            if settings.renderer == "hybrid":
                light = srgb_to_linear(image_srgb) if image_linear is None else image_linear.to(self.device)
                physical = linear_to_srgb(render_photo(light, disparity, lens, step=step).clamp(0.0, 1.0))
                made_up = made_up_share(light, disparity, lens)
                finished = mix_where_guessed(finished, physical, image_srgb, made_up, coc_px)
            yield BokehResult(finished, coc_px, lens)

    def _plan(self, padded: Padded, settings: RenderSettings) -> MemoryPlan:
        size_hw = (padded.image.shape[2], padded.image.shape[3])
        unet, vae = self.generator.unet, self.generator.vae
        plan = plan_memory(
            size_hw, n_images=len(padded.image), free_bytes=free_bytes_of(self.device),
            unet_dtype=unet.conv_in.weight.dtype, vae_dtype=vae.dtype, multiple=self.generator.size_multiple,
        )  # fmt: skip
        tile_px = settings.tile_px
        if tile_px is None:
            n_latents = size_hw[0] * size_hw[1] // self.generator.vae_factor**2
            as_released = self.convention == "released" and n_latents > WHOLE_LATENTS
            tile_px = TILE_LATENTS * self.generator.vae_factor if as_released else plan.tile_px
        multiple = self.generator.size_multiple
        if tile_px % multiple or tile_px < 0:
            raise InputError(f"tile_px must be a multiple of {multiple} for this backbone; got {tile_px}")
        return MemoryPlan(tile_px, self._in_strips or plan.in_strips)

    def _denoise(self, latents: Tensor, depth: Tensor, lens: Lens, plan: MemoryPlan) -> Float[Tensor, "b c lh lw"]:
        factor = self.generator.vae_factor

        def denoise(tile: Tensor, window: Window) -> Tensor:
            return self._denoise_tile(tile, window.scaled(factor).cut(depth), lens)

        side = plan.tile_px // factor or max(latents.shape[-2:])
        overlap = max(int(side * OVERLAP_SHARE), min(LEAST_OVERLAP_LATENTS, side // 2))
        return map_windows(denoise, latents, tile_px=side, overlap_px=overlap)

    def _denoise_tile(self, latents: Tensor, disparity: Tensor, lens: Lens) -> Float[Tensor, "b c lh lw"]:
        size_hw = (disparity.shape[1], disparity.shape[2])
        optics = TokenOptics.from_maps(
            disparity,
            lens.coc_px(disparity),
            self.generator.token_grid(size_hw),
            focus_disparity=lens.focus_disparity,
            convention=self.convention,
            n_jittered=RELEASED_JITTERED if self.convention == "released" else 0,
            jitter_seed=self.seed,
        )
        return self.generator.denoise(latents, PisaInputs(optics, hardness=INFERENCE_HARDNESS), self.prompt)

    @staticmethod
    def _finished(
        rendered: Tensor, image_srgb: Tensor, coc_px: Tensor, settings: RenderSettings
    ) -> Float[Tensor, "b 3 h w"]:
        """What the photograph knows better than the network."""
        if settings.match_colour:
            rendered = match_colour(rendered, image_srgb, coc_px)
        return keep_focus(rendered, image_srgb, coc_px) if settings.preserve_focus else rendered
