"""What `bokehdiff infer` can be asked for, and what contradicts itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from bokehdiff.cli.options import Alias
from bokehdiff.cli.sweeps import SweepOptions, sweep_problems
from bokehdiff.errors import InputError

PUBLISHED_BASE = "SG161222/RealVisXL_V5.0"
PUBLISHED_ADAPTER = "zcx65535/bokehdiff"
DEFAULT_K = 20.0
DEEP_FORMATS = ("png", "tif")
BASELINES = ("pynet", "double-vnet")


@dataclass(frozen=True)
class LensOptions:
    """How wide the blur is, and where it is sharp.

    Args:
        K: Blur strength: radius of the circle of confusion at one unit of disparity from the focus [px]; none for 20.
        strength: In place of --K a share of the width such as 2%, an opening such as f/1.8, or camera for the opening
            that EXIF tells. Openings need the distances.
        focus: sweep for the released tool's three pictures (subject, nearer, farther); subject; a disparity in [0, 1];
            a point X,Y or a box LEFT,TOP,RIGHT,BOTTOM [px]; a distance such as 2.5m, or camera for the one in EXIF.
        nearest_m: Distance that disparity 1 stands for [m]; for openings and distances.
        farthest_m: Distance that disparity 0 stands for [m]; none for infinity.
    """

    K: float | None = None
    strength: str | None = None
    focus: str = "sweep"
    nearest_m: float | None = None
    farthest_m: float | None = None


@dataclass(frozen=True)
class ModelOptions:
    """The networks.

    Args:
        pretrained_model_name_or_path: SDXL base: folder, hub id, or single file; or what a pipeline has saved.
        revision: Git revision of the base.
        base_variant: File variant of the base, such as fp16.
        prompt_from: Base whose text encoders encode the one prompt, once; none for the base itself. A single file needs
            one.
        resume_from_checkpoint: Adapter: a run's adapter or checkpoint folder, or a hub id; none for the published one.
        variant: Folder of the adapter on the hub.
        train_T: The one timestep, 0-based; none for that of the adapter, else 499 [steps of 1000].
        visibility: How occlusion is computed; none for what the adapter was trained with.
        seed: Seed of the released occlusion's jitter; nothing else is random.
        baseline_weights: Of --renderer pynet or double-vnet: a folder that bokehdiff train-baseline wrote, or an .npz
            of TensorFlow's arrays.
    """

    pretrained_model_name_or_path: str = PUBLISHED_BASE
    revision: str | None = None
    base_variant: str | None = None
    prompt_from: str | None = None
    resume_from_checkpoint: str | None = None
    variant: str | None = "small"
    train_T: int | None = None  # noqa: N815  the seed's spelling
    visibility: Literal["thin_lens", "released"] | None = None
    seed: int = 0
    baseline_weights: str | None = None


@dataclass(frozen=True)
class PictureOptions:
    """How pictures are made.

    Args:
        renderer: neural is the network; physical needs no weights at all; hybrid is physics, but the network where
            physics guesses what comes into view and the network is better at it; pynet and double-vnet are baselines,
            which know no lens unless trained with --guide coc.
        preserve_focus: Lay the photograph over the result where it is in focus.
        match_colour: Give neighbourhoods the photograph's light, which the network does not quite keep.
        upsample: Work at twice the size, for finer detail; results keep the photograph's size.
        tile_px: Denoise in tiles of this side [px]; 0 for the whole image at once; none for the whole where it fits in
            memory, and with released occlusion for what the released tool does.
    """

    renderer: Literal["neural", "physical", "hybrid", "pynet", "double-vnet"] = "neural"
    preserve_focus: bool = True
    match_colour: bool = True
    upsample: bool = False
    tile_px: int | None = None


@dataclass(frozen=True)
class SpeedOptions:
    """Where and how fast; none of these changes the result beyond rounding.

    Args:
        device: Where to compute: auto, cpu, cuda, cuda:1, mps.
        mixed_precision: Precision of the UNet.
        allow_tf32: Allow TF32 matrix products on NVIDIA cards: faster, slightly less exact.
        enable_xformers_memory_efficient_attention: Use xFormers outside PISA layers if it works here; else say so once.
        torch_compile: Compile the networks when they first run: minutes of waiting, then faster pictures of that size.
        offload: Keep on the GPU only the network that is at work.
        vae_tiling: Encode and decode strip by strip also where memory would do: half the memory on a CPU, next to none
            on a GPU; the picture stays the same.
    """

    device: str = "auto"
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    allow_tf32: bool = False
    enable_xformers_memory_efficient_attention: bool = False
    torch_compile: bool = False
    offload: bool = False
    vae_tiling: bool = False


@dataclass(frozen=True)
class FileOptions:
    """How files are laid out and written.

    Args:
        organization: How files are laid out: folder (depth/NAME_pred.npy), pngdepth (depth/NAME.png) or EBB.
        depth_dirname: Folder of the disparity maps.
        mask_dirname: Folder of the masks.
        invert_disparity: The maps are 0 at the nearest point, as the released tool wrote them.
        format: File format of the results.
        bit_depth: Bits per channel of the results: 8, or 16 for png and tif.
        skip_existing: Leave results alone that are there; else they are replaced.
    """

    organization: Literal["folder", "pngdepth", "EBB"] = "folder"
    depth_dirname: str = "depth"
    mask_dirname: str = "mask"
    invert_disparity: bool = False
    format: Literal["jpg", "png", "webp", "tif"] = "jpg"
    bit_depth: int = 8
    skip_existing: bool = False


@dataclass(frozen=True)
class InferOptions:
    """Render photographs with lens blur in one diffusion step.

    Each photograph DIR/input/NAME.jpg needs its disparity DIR/depth/NAME_pred.npy; a mask DIR/mask/NAME.png is used if
    it is there. `bokehdiff prepare` makes both. Results: OUTPUT_DIR/DATA_ID/NAME_K_focus.jpg, with EXIF and, in their
    comment, the settings. Without weights: the same command with --renderer physical.

    Args:
        test_data_dir: Photographs: a glob, a folder or a file.
        output_dir: Where results go.
        data_id: Folder inside the output folder.
        lens: How wide the blur is, and where it is sharp.
        model: The networks.
        picture: How pictures are made.
        sweep: Many pictures.
        speed: Where and how fast.
        files: How files are laid out and written.
    """

    test_data_dir: str = "test_data/input/*"
    output_dir: str = "bokehdiff_test"
    data_id: str = "demo"
    lens: LensOptions = field(default_factory=LensOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    picture: PictureOptions = field(default_factory=PictureOptions)
    sweep: SweepOptions = field(default_factory=SweepOptions)
    speed: SpeedOptions = field(default_factory=SpeedOptions)
    files: FileOptions = field(default_factory=FileOptions)


POSITIONAL = ()
ALIASES: Mapping[str, Alias] = {"f_number": Alias("strength", lambda text: f"f/{text}")}


def check_options(options: InferOptions) -> None:
    """Refuse what contradicts itself before anything is read.

    Args:
        options: The command line.
    """
    for problem in (
        *_lens_problems(options.lens),
        *sweep_problems(options.sweep),
        *_file_problems(options),
        *_baseline_problems(options),
    ):
        raise problem


def _lens_problems(lens: LensOptions) -> Iterator[InputError]:
    if lens.K is not None and lens.strength is not None:
        yield InputError("pass either --K or --strength, not both", flag="--strength")
    if lens.K is not None and not 0 <= lens.K < math.inf:
        yield InputError(f"must be 0 px or more; got {lens.K:g}", flag="--K")
    if lens.farthest_m is not None and lens.nearest_m is None:
        yield InputError("needs --nearest-m too", flag="--farthest-m")


def _file_problems(options: InferOptions) -> Iterator[InputError]:
    files = options.files
    if files.bit_depth not in (8, 16):
        yield InputError(f"must be 8 or 16; got {files.bit_depth}", flag="--bit-depth")
    if files.bit_depth == 16 and files.format not in DEEP_FORMATS:
        yield InputError(f"{files.format} holds 8 bits: pass --format {' or '.join(DEEP_FORMATS)}", flag="--bit-depth")
    if options.picture.renderer == "physical" and options.picture.upsample:
        yield InputError("is for networks: physics gains nothing by it", flag="--upsample")


def _baseline_problems(options: InferOptions) -> Iterator[InputError]:
    is_baseline, weights = options.picture.renderer in BASELINES, options.model.baseline_weights
    if is_baseline and weights is None:
        yield InputError(
            f"--renderer {options.picture.renderer} needs it: train some with bokehdiff train-baseline, or name an "
            ".npz of TensorFlow's arrays",
            flag="--baseline-weights",
        )
    if not is_baseline and weights is not None:
        yield InputError(f"is for --renderer {' or '.join(BASELINES)}", flag="--baseline-weights")
    if is_baseline and options.picture.upsample:
        yield InputError("is for the one-step network", flag="--upsample")


def lensless_problems(options: InferOptions) -> Iterator[InputError]:
    """What cannot be asked of a network that knows no lens.

    Args:
        options: The command line.
    """
    asked = {
        "--K": options.lens.K is not None,
        "--strength": options.lens.strength is not None,
        "--focus": options.lens.focus != LensOptions.focus,
        "--focus-sweep": options.sweep.focus_sweep,
        "--aperture-sweep": options.sweep.aperture_sweep,
    }
    for flag in (flag for flag, is_asked in asked.items() if is_asked):
        yield InputError(
            "this network knows no lens: its blur is that of the pairs it was trained with (PyNET learns the lens with "
            "train-baseline --guide coc)",
            flag=flag,
        )
