"""`bokehdiff prepare`, `python prepare_data.py`: disparity and subject masks for a folder of photographs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bokehdiff.errors import InputError, MissingWeightsError, at_fault

logger = logging.getLogger(__name__)

HEURISTIC, NO_MASKS = "heuristic", "none"


@dataclass(frozen=True)
class PrepareOptions:
    """Make photographs ready for rendering: predict or take in their disparity, find their subjects.

    Each ROOT/input/NAME.jpg gets ROOT/depth/NAME_pred.npy (0 farthest, 1 nearest; NAME_pred.png shows it) and
    ROOT/mask/NAME.png (white on the subject, for focusing). A map that is there already, ROOT/depth/NAME.npy, .npz,
    .exr, .tif, .png or .jpg, is taken in and no network is needed. What is done is skipped, files of your own are never
    changed, and a photograph that fails stops no other.

    Args:
        root: Folder that holds the others.
        depth_dirname: Folder of disparity maps, in the root.
        image_dirname: Folder of photographs, in the root.
        mask_dirname: Folder of subject masks, in the root.
        model_size: Which Depth-Anything-V2 predicts disparity. Small is free to use (Apache-2.0); Base and Large are
            not for commercial use (CC-BY-NC-4.0).
        disparity_model: Another depth model instead: a local folder or a hub id that transformers loads; none for
            the one of --model-size.
        disparity_revision: Branch, tag or commit of its hub id.
        from_depth: The maps to take in hold depth, in any unit, not disparity.
        invert_disparity: The maps to take in are dark where near.
        fill_holes: Fill what is unmeasured (NaN, infinite) in maps to take in, from the background beside it; else it
            is an error.
        mask_model: What finds subjects: heuristic (no network: near and central), none, or a segmentation model (local
            folder or hub id).
        mask_revision: Branch, tag or commit of its hub id; a full commit with --trust-remote-code.
        trust_remote_code: Consent to run code that comes with the mask model, as BiRefNet has it: read that code first.
        overwrite: Make NAME_pred.npy anew, and masks that this command made; other masks stay.
        device: Where networks run: auto, cpu, cuda, cuda:1, mps.
    """

    root: str = "test_data"
    depth_dirname: str = "depth"
    image_dirname: str = "input"
    mask_dirname: str = "mask"
    model_size: Literal["Small", "Base", "Large"] = "Small"
    disparity_model: str | None = None
    disparity_revision: str | None = None
    from_depth: bool = False
    invert_disparity: bool = False
    fill_holes: bool = False
    mask_model: str = HEURISTIC
    mask_revision: str | None = None
    trust_remote_code: bool = False
    overwrite: bool = False
    device: str = "auto"


OPTIONS = PrepareOptions
POSITIONAL = ()


def run(options: PrepareOptions) -> int:
    """Prepare the folder and print the report.

    Args:
        options: The command line.

    Returns:
        0 if every photograph is ready, else 1.
    """
    from bokehdiff.devices import pick_device
    from bokehdiff.preparation import photographs_to_predict, prepare_folder

    if options.from_depth and options.invert_disparity:
        raise InputError("maps hold depth (--from-depth) or inverted disparity, not both", flag="--invert-disparity")
    with at_fault("--device"):
        device = pick_device(options.device)
    with at_fault("--root"):
        to_predict = photographs_to_predict(
            options.root,
            image_dirname=options.image_dirname,
            depth_dirname=options.depth_dirname,
            overwrite=options.overwrite,
        )
    report = prepare_folder(
        options.root,
        image_dirname=options.image_dirname,
        depth_dirname=options.depth_dirname,
        mask_dirname=options.mask_dirname,
        disparity_model=_disparity_model(options, to_predict, device),
        matting=_matting(options, device),
        from_depth=options.from_depth,
        invert_disparity=options.invert_disparity,
        fill_holes=options.fill_holes,
        overwrite=options.overwrite,
    )
    print("\n".join(report.lines()))
    return 1 if report.failures else 0


def _disparity_model(options: PrepareOptions, to_predict: list[Path], device: Any) -> Any:
    """What predicts disparity; None if nothing needs it, or if weights are missing and maps serve some photographs."""
    from bokehdiff.images import find_images
    from bokehdiff.preparation import DEPTH_ANYTHING_V2, TransformersDisparity

    if not to_predict:
        return None
    logger.info("photographs without a map, whose disparity is predicted: %d", len(to_predict))
    try:
        with at_fault("--disparity-model" if options.disparity_model else "--model-size"):
            return TransformersDisparity.from_pretrained(
                options.disparity_model or DEPTH_ANYTHING_V2[options.model_size].hub_id,
                revision=options.disparity_revision,
                device=device,
            )
    except MissingWeightsError as error:
        if len(to_predict) == len(find_images(Path(options.root) / options.image_dirname)):
            raise
        logger.error("%s; only the photographs that have maps are prepared", error)
        return None


def _matting(options: PrepareOptions, device: Any) -> Any:
    """What finds subjects, by the name given to --mask-model; None for no masks."""
    from bokehdiff.preparation import DisparitySubject, load_matting

    if options.mask_model == NO_MASKS:
        return None
    if options.mask_model == HEURISTIC:
        logger.info("masks that are missing are guessed from disparity and position (--mask-model for a network)")
        return DisparitySubject()
    with at_fault("--mask-model"):
        return load_matting(
            options.mask_model,
            revision=options.mask_revision,
            trust_remote_code=options.trust_remote_code,
            device=device,
        )
