"""From one photograph to its files: one picture, the released tool's three, or a sweep."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import yaml
from torch import Tensor

import bokehdiff
from bokehdiff.cli.infer.options import BASELINES, DEFAULT_K, PUBLISHED_ADAPTER, InferOptions, LensOptions
from bokehdiff.cli.sweep_pictures import sweep_lenses, write_sweep
from bokehdiff.cli.sweeps import sweep_target
from bokehdiff.data import Scene, ScenePaths, load_scene
from bokehdiff.devices import pick_device
from bokehdiff.errors import at_fault
from bokehdiff.images import linear_to_srgb, load_photo, make_folder, save_image, srgb_to_linear
from bokehdiff.inference import (
    BaselineRenderer,
    BokehDiffPipeline,
    Focus,
    MetricRange,
    RenderSettings,
    Strength,
    focus_sweep,
    parse_focus,
    parse_strength,
    resolve_lens,
)
from bokehdiff.optics import Lens
from bokehdiff.renderers import render_photo

logger = logging.getLogger(__name__)

UPSAMPLING = 2
THREE_PICTURES = "sweep"  # what the released tool makes of each photograph
PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Renderer: TypeAlias = Callable[[Scene, Sequence[Lens]], Iterator[Tensor]]


@dataclass(frozen=True)
class LensWords:
    """What the command line says of the lens, read.

    Args:
        focus: Where it is sharp; None for the released tool's three pictures.
        strength: How wide the blur is.
        distances: What disparity stands for; None if it was not said.
    """

    focus: Focus | None
    strength: Strength
    distances: MetricRange | None


def lens_words(options: LensOptions) -> LensWords:
    """Read what can be read without a photograph.

    Args:
        options: The command line's section.
    """
    with at_fault("--focus"):
        focus = None if options.focus == THREE_PICTURES else parse_focus(options.focus)
    with at_fault("--strength"):
        strength = parse_strength(options.strength) if options.strength is not None else None
    if strength is None:
        strength = DEFAULT_K if options.K is None else options.K
    with at_fault("--nearest-m"):
        farthest_m = math.inf if options.farthest_m is None else options.farthest_m
        distances = None if options.nearest_m is None else MetricRange(options.nearest_m, farthest_m)
    return LensWords(focus, strength, distances)


def load_baseline_renderer(options: InferOptions) -> BaselineRenderer:
    """PyNET or the Double V-Net.

    Args:
        options: The command line, with weights.
    """
    with at_fault("--device"):
        device = pick_device(options.speed.device)
    model: Any = options.picture.renderer
    with at_fault("--baseline-weights"):
        return BaselineRenderer.from_weights(options.model.baseline_weights or "", model=model, device=device)


def load_renderer(options: InferOptions, baseline: BaselineRenderer | None = None) -> Renderer:
    """What turns a scene and lenses into pictures: networks, or physics that needs no weights.

    Args:
        options: The command line.
        baseline: One that knows the lens; None for the others.
    """
    if baseline is not None:
        return _baseline(baseline)
    with at_fault("--device"):
        device = pick_device(options.speed.device)
    if options.picture.renderer == "physical":
        return _physics(device)
    return _networks(options, device)


def _physics(device: torch.device) -> Renderer:
    def render(scene: Scene, lenses: Sequence[Lens]) -> Iterator[Tensor]:
        image_linear, disparity = srgb_to_linear(scene.image_srgb.to(device)), scene.disparity.to(device)
        for lens in lenses:
            yield linear_to_srgb(render_photo(image_linear, disparity, lens)).clamp(0.0, 1.0)

    return render


def _baseline(baseline: BaselineRenderer) -> Renderer:
    def render(scene: Scene, lenses: Sequence[Lens]) -> Iterator[Tensor]:
        for lens in lenses:
            yield baseline(scene.image_srgb, disparity=scene.disparity, lens=lens)

    return render


def _networks(options: InferOptions, device: torch.device) -> Renderer:
    pipeline, picture = _load_pipeline(options, device), options.picture
    settings = RenderSettings(
        tile_px=picture.tile_px,
        upsample=UPSAMPLING if picture.upsample else 1,
        renderer="hybrid" if picture.renderer == "hybrid" else "neural",
        preserve_focus=picture.preserve_focus,
        match_colour=picture.match_colour,
    )

    def render(scene: Scene, lenses: Sequence[Lens]) -> Iterator[Tensor]:
        with at_fault("--tile-px"):
            for result in pipeline.render_lenses(scene.image_srgb, scene.disparity, lenses, settings):
                yield result.images_srgb

    return render


def _load_pipeline(options: InferOptions, device: torch.device) -> BokehDiffPipeline:
    model, speed = options.model, options.speed
    torch.backends.cuda.matmul.allow_tf32 = speed.allow_tf32
    torch.backends.cudnn.allow_tf32 = speed.allow_tf32
    saved = (Path(model.pretrained_model_name_or_path) / "bokehdiff_pipeline.json").is_file()
    adapter = model.resume_from_checkpoint or (None if saved else PUBLISHED_ADAPTER)
    pipeline = BokehDiffPipeline.from_pretrained(
        model.pretrained_model_name_or_path,
        adapter=adapter,
        adapter_variant=None if adapter and Path(adapter).exists() else model.variant,
        revision=model.revision,
        variant=model.base_variant,
        timestep=model.train_T,
        visibility=model.visibility,
        use_xformers=speed.enable_xformers_memory_efficient_attention,
        prompt_from=model.prompt_from,
        seed=model.seed,
        device="cpu" if speed.offload else device,
        dtype=PRECISIONS[speed.mixed_precision],
    )
    if speed.offload:
        pipeline.enable_model_cpu_offload(device)
    if speed.vae_tiling:
        pipeline.enable_vae_tiling()
    if speed.torch_compile:
        pipeline.compile()
    return pipeline


def render_scene(renderer: Renderer, paths: ScenePaths, words: LensWords, options: InferOptions) -> Iterator[Path]:
    """All pictures of one photograph; each file appears whole or not at all.

    Args:
        renderer: From `load_renderer`.
        paths: Where the parts of the scene lie.
        words: From `lens_words`.
        options: The command line.

    Returns:
        Each file once it is written.
    """
    with at_fault("--test-data-dir"):
        scene = load_scene(paths, invert_disparity=options.files.invert_disparity)
    lenses = list(_lenses(scene, words, options))
    with at_fault("--output-dir"):
        folder = make_folder(Path(options.output_dir) / options.data_id)
    output = _Output(scene, options)
    if options.sweep.is_asked:
        target = sweep_target(folder, scene.name, options.sweep)
        pictures = renderer(scene, lenses)
        yield from write_sweep(
            target, lenses, pictures, options.sweep, note=output.note, save=output.save, format=options.files.format
        )
        return
    targets = [(lens, folder / output.name(lens)) for lens in lenses]
    if options.files.skip_existing:
        targets = [(lens, path) for lens, path in targets if not path.exists()]
        if len(targets) < len(lenses):
            logger.info("%s: %d of its pictures are there and left alone", scene.name, len(lenses) - len(targets))
    if targets:
        for (lens, path), picture in zip(targets, renderer(scene, [lens for lens, _ in targets]), strict=True):
            yield output.save(path, picture, lens)


def _lenses(scene: Scene, words: LensWords, options: InferOptions) -> Iterator[Lens]:
    focus: Focus = "subject" if words.focus is None else words.focus
    camera = load_photo(scene.path).camera if scene.exif else None
    with at_fault("--focus"):
        subject = resolve_lens(
            scene.disparity, focus=focus, strength=0.0, mask=scene.mask, camera=camera, distances=words.distances
        ).focus_disparity
    with at_fault("--strength"):
        lens = resolve_lens(
            scene.disparity, focus=float(subject), strength=words.strength, camera=camera, distances=words.distances
        )
    lens = Lens(float(subject), float(lens.strength_px))
    if options.sweep.is_asked:
        yield from sweep_lenses(lens, scene.disparity, options.sweep)
    elif words.focus is None:
        yield from (dataclasses.replace(lens, focus_disparity=one) for one in focus_sweep(float(subject)))
    else:
        yield lens


@dataclass(frozen=True)
class _Output:
    """What is written of one scene."""

    scene: Scene
    options: InferOptions

    def name(self, lens: Lens) -> str:
        """As the released tool has it."""
        files = self.options.files
        return f"{self.scene.name}_{lens.strength_px:g}_{lens.focus_disparity:.3f}.{files.format}"

    def save(self, path: Path, picture: Tensor, lens: Lens) -> Path:
        files = self.options.files
        save_image(path, picture, bit_depth=files.bit_depth, exif=self.scene.exif, text=self.note(lens))
        return path

    def note(self, lens: Lens) -> str:
        """How the picture was made, as YAML; places on this machine by their last name."""
        model, picture = self.options.model, self.options.picture
        networks = {
            "base": Path(model.pretrained_model_name_or_path).name,
            "adapter": Path(model.resume_from_checkpoint or PUBLISHED_ADAPTER).name,
        }
        if picture.renderer in ("physical", *BASELINES):
            networks = {} if model.baseline_weights is None else {"weights": Path(model.baseline_weights).name}
        made = {
            "made_by": f"bokehdiff {bokehdiff.__version__} infer",
            "focus_disparity": round(float(lens.focus_disparity), 6),
            "strength_px": round(float(lens.strength_px), 6),
            **networks,
            **dataclasses.asdict(picture),
        }
        return yaml.safe_dump(made, sort_keys=False, allow_unicode=True)
