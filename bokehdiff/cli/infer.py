"""`bokehdiff infer`, `python inference_hf.py`: photographs with disparity, rendered by one diffusion step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bokehdiff.cli.photographs import render_each
from bokehdiff.errors import at_fault

PUBLISHED_BASE = "SG161222/RealVisXL_V5.0"
PUBLISHED_ADAPTER = "zcx65535/bokehdiff"
UPSAMPLING = 2


@dataclass(frozen=True)
class InferOptions:
    """Render photographs with lens blur in one diffusion step.

    Each photograph DIR/input/NAME.jpg needs its disparity DIR/depth/NAME_pred.npy; a mask DIR/mask/NAME.png is used if
    it is there. `bokehdiff prepare` makes both. Results: OUTPUT_DIR/DATA_ID/NAME_K_focus.jpg.

    Args:
        test_data_dir: Photographs: a glob, a folder or a file.
        output_dir: Where results go.
        data_id: Folder inside the output folder.
        K: Blur strength: radius of the circle of confusion at one unit of disparity from the focus [px].
        focus: sweep for the released tool's three pictures (subject, nearer, farther); subject; a disparity in [0, 1];
            a point X,Y or a box LEFT,TOP,RIGHT,BOTTOM [px].
        pretrained_model_name_or_path: SDXL base: folder or hub id.
        revision: Git revision of the base.
        base_variant: File variant of the base, such as fp16.
        resume_from_checkpoint: Adapter: a run's adapter or checkpoint folder, or a hub id; none for the published one.
        variant: Folder of the adapter on the hub.
        train_T: The one timestep, 0-based; as in training [steps of 1000].
        visibility: How occlusion is computed; none for what the adapter was trained with.
        seed: Seed of the released occlusion's jitter; nothing else is random.
        upsample: Work at twice the size, for finer detail; results keep the photograph's size.
        tile_px: Denoise in tiles of this side [px]; 0 for the whole image at once; none decides by size.
        mixed_precision: Precision of the UNet.
        allow_tf32: Allow TF32 matrix products on NVIDIA cards: faster, slightly less exact.
        enable_xformers_memory_efficient_attention: Use xFormers outside PISA layers if it works here; else say so once.
        organization: How files are laid out: folder (depth/NAME_pred.npy), pngdepth (depth/NAME.png) or EBB.
        depth_dirname: Folder of the disparity maps.
        mask_dirname: Folder of the masks.
        invert_disparity: The maps are 0 at the nearest point, as the released tool wrote them.
        format: File format of the results.
        device: Where to compute: auto, cpu, cuda, cuda:1, mps.
    """

    test_data_dir: str = "test_data/input/*"
    output_dir: str = "bokehdiff_test"
    data_id: str = "demo"
    K: float = 20.0
    focus: str = "sweep"
    pretrained_model_name_or_path: str = PUBLISHED_BASE
    revision: str | None = None
    base_variant: str | None = None
    resume_from_checkpoint: str | None = None
    variant: str | None = "small"
    train_T: int = 499  # noqa: N815  the seed's spelling
    visibility: Literal["thin_lens", "released"] | None = None
    seed: int = 0
    upsample: bool = False
    tile_px: int | None = None
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    allow_tf32: bool = False
    enable_xformers_memory_efficient_attention: bool = False
    organization: Literal["folder", "pngdepth", "EBB"] = "folder"
    depth_dirname: str = "depth"
    mask_dirname: str = "mask"
    invert_disparity: bool = False
    format: Literal["jpg", "png", "webp"] = "jpg"
    device: str = "auto"


OPTIONS = InferOptions
POSITIONAL = ()


def run(options: InferOptions) -> int:
    """Render every photograph; one that cannot be rendered stops none of the others.

    Args:
        options: The command line.

    Returns:
        0 if all were rendered, else 1.
    """
    from bokehdiff.data import find_scenes
    from bokehdiff.inference import parse_focus

    with at_fault("--focus"):
        focus = None if options.focus == "sweep" else parse_focus(options.focus)
    with at_fault("--test-data-dir"):
        scenes = find_scenes(
            options.test_data_dir,
            depth_dirname=options.depth_dirname,
            mask_dirname=options.mask_dirname,
            organization=options.organization,
        )
    pipeline = _load_pipeline(options)
    return render_each(scenes, lambda paths: _render_scene(pipeline, paths, focus, options))


def _load_pipeline(options: InferOptions) -> Any:
    import torch

    from bokehdiff.devices import pick_device
    from bokehdiff.inference import BokehDiffPipeline

    torch.backends.cuda.matmul.allow_tf32 = options.allow_tf32
    dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[options.mixed_precision]
    with at_fault("--device"):
        device = pick_device(options.device)
    local_adapter = options.resume_from_checkpoint
    return BokehDiffPipeline.from_pretrained(
        options.pretrained_model_name_or_path,
        adapter=local_adapter or PUBLISHED_ADAPTER,
        adapter_variant=None if local_adapter and Path(local_adapter).exists() else options.variant,
        revision=options.revision,
        variant=options.base_variant,
        timestep=options.train_T,
        visibility=options.visibility,
        use_xformers=options.enable_xformers_memory_efficient_attention,
        seed=options.seed,
        device=device,
        dtype=dtype,
    )


def _render_scene(pipeline: Any, paths: Any, focus: Any, options: InferOptions) -> list[Path]:
    """All pictures of one photograph; each file appears whole or not at all."""
    from bokehdiff.data import load_scene
    from bokehdiff.images import make_folder, save_image
    from bokehdiff.inference import focus_sweep, resolve_focus

    with at_fault("--test-data-dir"):
        scene = load_scene(paths, invert_disparity=options.invert_disparity)
    subject = resolve_focus(scene.disparity, "subject", scene.mask)
    with at_fault("--focus"):
        settings = (
            focus_sweep(float(subject)) if focus is None else (resolve_focus(scene.disparity, focus, scene.mask),)
        )
    with at_fault("--output-dir"):
        folder = make_folder(Path(options.output_dir) / options.data_id)
    written = []
    for setting in settings:
        focus_disparity = float(setting)
        result = pipeline(
            scene.image_srgb,
            scene.disparity,
            focus=focus_disparity,
            strength=options.K,
            tile_px=options.tile_px,
            upsample=UPSAMPLING if options.upsample else 1,
        )
        name = f"{scene.name}_{options.K:g}_{focus_disparity:.3f}.{options.format}"
        path = folder / name
        save_image(path, result.images_srgb, exif=scene.exif)
        written.append(path)
    return written
