"""`bokehdiff prepare`, `python prepare_data.py`: disparity and subject masks for a folder of photographs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bokehdiff.cli.launched import Launched, launched
from bokehdiff.errors import InputError, MissingWeightsError, at_fault

logger = logging.getLogger(__name__)

HEURISTIC, GUIDED, NONE = "heuristic", "guided", "none"
MOST_SIDES = 4  # of a photograph


@dataclass(frozen=True)
class PrepareOptions:
    """Make photographs ready for rendering: predict or take in their disparity, find their subjects.

    Each ROOT/input/NAME.jpg gets ROOT/depth/NAME_pred.npy (0 farthest, 1 nearest; NAME_pred.png shows it) and
    ROOT/mask/NAME.png (white on the subject, for focusing). A map that is there already, ROOT/depth/NAME.npy, .npz,
    .exr, .tif, .png or .jpg, is taken in and no network is needed. Folders in ROOT/input are mirrored in the others.
    What is done is skipped, files of your own are never changed, and a photograph that fails stops no other.

    With --foregrounds, each subject is cut out, freed of the colours behind it, and goes to ROOT/fg/NAME.png. With
    backgrounds in ROOT/bg, ROOT then is a training set: bokehdiff data preview ROOT.

    Args:
        root: Folder that holds the others.
        depth_dirname: Folder of disparity maps, in the root.
        image_dirname: Folder of photographs, in the root.
        mask_dirname: Folder of subject masks, in the root.
        model_size: Which Depth-Anything-V2 predicts disparity. Small is free to use (Apache-2.0); Base and Large are
            not for commercial use (CC-BY-NC-4.0).
        disparity_model: Another depth model instead: a local folder or a hub id that transformers loads; nothing for
            the one of --model-size. The word none does without disparity where there is no map.
        disparity_revision: Branch, tag or commit of its hub id.
        predicts: What that model gives: disparity (near is large), depth, or auto for what is known of its kind.
        from_depth: The maps to take in hold depth, in any unit, not disparity.
        invert_disparity: The maps to take in are dark where near.
        fill_holes: Fill what is unmeasured (NaN, infinite) in maps to take in, from the background beside it; else it
            is an error.
        refine_disparity: Fit maps to the photograph's edges, which networks blur.
        mask_model: What finds subjects: heuristic (no network: near, central, of other colours than the border), none,
            or a segmentation model (local folder or hub id), Segment Anything 2 or 3 among them.
        mask_revision: Branch, tag or commit of its hub id; a full commit with --trust-remote-code.
        trust_remote_code: Consent to run code that comes with the mask model, as BiRefNet has it: read that code first.
        mask_point: Where the subject lies, for Segment Anything: X,Y as shares of width and height, such as 0.5,0.6.
            Without it the heuristic's subject is pointed at.
        mask_refine: Edges of masks that are made: none, guided (no network: fitted to the photograph's edges), or a
            ViTMatte model (local folder or hub id).
        mask_refine_revision: Branch, tag or commit of its hub id.
        foregrounds: Cut subjects out of the photographs as foregrounds for training. A subject that is too small, or
            cut off by the photograph, is named and left out.
        foreground_dirname: Folder of these, in the root; its name must end in fg.
        foreground_max_side: Larger ones are shrunk to this longer side [px].
        cut_sides: A subject may be cut off on so many sides of the photograph, 0 to 4: training shows a straight edge
            there.
        overwrite: Make NAME_pred.npy anew, and masks and foregrounds that this command made; others stay.
        device: Where networks run: auto, cpu, cuda, cuda:1, mps.
    """

    root: str = "test_data"
    depth_dirname: str = "depth"
    image_dirname: str = "input"
    mask_dirname: str = "mask"
    model_size: Literal["Small", "Base", "Large"] = "Small"
    disparity_model: str | None = None
    disparity_revision: str | None = None
    predicts: Literal["auto", "disparity", "depth"] = "auto"
    from_depth: bool = False
    invert_disparity: bool = False
    fill_holes: bool = False
    refine_disparity: bool = False
    mask_model: str = HEURISTIC
    mask_revision: str | None = None
    trust_remote_code: bool = False
    mask_point: str | None = None
    mask_refine: str = NONE
    mask_refine_revision: str | None = None
    foregrounds: bool = False
    foreground_dirname: str = "fg"
    foreground_max_side: int = 2048
    cut_sides: int = 1
    overwrite: bool = False
    device: str = "auto"


OPTIONS = PrepareOptions
POSITIONAL = ()


def run(options: PrepareOptions) -> int:
    """Prepare the folder and print the report; under `accelerate launch`, this process's share of it.

    Args:
        options: The command line.

    Returns:
        0 if every photograph is ready, else 1; 1 too if foregrounds were wanted and there is none.
    """
    if options.from_depth and options.invert_disparity:
        raise InputError("maps hold depth (--from-depth) or inverted disparity, not both", flag="--invert-disparity")
    with launched() as group:
        first, *others = group.gathered(_prepared(options, group))
    report = first.joined(others)
    if group.rank == 0:
        print("\n".join(report.lines()))
    is_short = report.foregrounds is not None and not report.n_foregrounds
    if report.foregrounds is not None and group.rank == 0:
        print(f"{report.n_foregrounds} foregrounds in {report.foregrounds}; with backgrounds in")
        print(f"{Path(options.root) / 'bg'}, look at samples: bokehdiff data preview {options.root}")
    return 1 if report.failures or is_short else 0


def _prepared(options: PrepareOptions, group: Launched) -> Any:
    """What became of the photographs of this process."""
    from bokehdiff.devices import pick_device
    from bokehdiff.preparation import MapConvention, photographs_to_predict, prepare_folder

    cutouts, dirnames = _cutouts(options), _dirnames(options)
    with at_fault("--device"):
        device = pick_device(options.device)
        if device.type == "cuda" and device.index is None and group.world_size > 1:
            device = pick_device(f"cuda:{group.local_rank}")
    with at_fault("--root"):
        to_predict = photographs_to_predict(options.root, dirnames=dirnames, overwrite=options.overwrite)
    return prepare_folder(
        options.root,
        dirnames=dirnames,
        disparity_model=_disparity_model(options, dirnames, to_predict, device),
        matting=_matting(options, device),
        convention=MapConvention(options.from_depth, options.invert_disparity, options.fill_holes),
        cutouts=cutouts,
        needs_disparity=options.disparity_model != NONE,
        refine_disparity=options.refine_disparity,
        overwrite=options.overwrite,
        progress=group.rank == 0,
        rank=group.rank,
        world_size=group.world_size,
    )


def _dirnames(options: PrepareOptions) -> Any:
    from bokehdiff.preparation import Dirnames

    with at_fault("--foreground-dirname"):
        return Dirnames(
            images=options.image_dirname,
            depth=options.depth_dirname,
            mask=options.mask_dirname,
            foregrounds=options.foreground_dirname,
        )


def _cutouts(options: PrepareOptions) -> Any:
    """Which subjects become foregrounds; None for none."""
    from bokehdiff.preparation import CutoutLimits

    if not options.foregrounds:
        return None
    if not 0 <= options.cut_sides <= MOST_SIDES:
        raise InputError(f"must be 0 to {MOST_SIDES}; got {options.cut_sides}", flag="--cut-sides")
    if options.foreground_max_side < CutoutLimits.smallest_px:
        least = CutoutLimits.smallest_px
        raise InputError(f"must be at least {least}; got {options.foreground_max_side}", flag="--foreground-max-side")
    if options.mask_model == NONE:
        logger.info("foregrounds are cut out where ROOT/%s has a mask", options.mask_dirname)
    return CutoutLimits(most_cut_sides=options.cut_sides, longest_px=options.foreground_max_side)


def _disparity_model(options: PrepareOptions, dirnames: Any, to_predict: list[Path], device: Any) -> Any:
    """What predicts disparity; None if nothing needs it, or if weights are missing and maps serve some photographs."""
    from bokehdiff.preparation import DEPTH_ANYTHING_V2, TransformersDisparity
    from bokehdiff.preparation.places import Places

    if not to_predict or options.disparity_model == NONE:
        return None
    logger.info("photographs without a map, whose disparity is predicted: %d", len(to_predict))
    try:
        with at_fault("--disparity-model" if options.disparity_model else "--model-size"):
            return TransformersDisparity.from_pretrained(
                options.disparity_model or DEPTH_ANYTHING_V2[options.model_size].hub_id,
                revision=options.disparity_revision,
                quantity=None if options.predicts == "auto" else options.predicts,
                device=device,
            )
    except MissingWeightsError as error:
        if len(to_predict) == len(Places.under(Path(options.root), dirnames).photographs()):
            raise
        logger.error("%s; only the photographs that have maps are prepared", error)
        return None


def _matting(options: PrepareOptions, device: Any) -> Any:
    """What finds subjects, by the name given to --mask-model, and mends their edges; None for no masks."""
    from bokehdiff.preparation import FittedMatting, RefinedMatting

    matting = _finder(options, device)
    if matting is None or options.mask_refine == NONE:
        return matting
    if options.mask_refine == GUIDED:
        return FittedMatting(matting)
    with at_fault("--mask-refine"):
        return RefinedMatting.from_pretrained(
            options.mask_refine, matting=matting, revision=options.mask_refine_revision, device=device
        )


def _finder(options: PrepareOptions, device: Any) -> Any:
    from bokehdiff.preparation import DisparitySubject, load_matting

    point_xy = _point(options.mask_point)
    if options.mask_model in (NONE, HEURISTIC) and point_xy is not None:
        raise InputError("a point is for Segment Anything: name it by --mask-model", flag="--mask-point")
    if options.mask_model == NONE:
        return None
    if options.mask_model == HEURISTIC:
        logger.info(
            "masks that are missing are guessed from disparity, position and colour (--mask-model for a network)"
        )
        return DisparitySubject()
    with at_fault("--mask-model"):
        return load_matting(
            options.mask_model,
            revision=options.mask_revision,
            trust_remote_code=options.trust_remote_code,
            point_xy=point_xy,
            device=device,
        )


def _point(text: str | None) -> tuple[float, float] | None:
    """Two shares with a comma between them."""
    if text is None:
        return None
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        x = y = -1.0
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise InputError(f"must be X,Y, each from 0 to 1; got {text!r}", flag="--mask-point")
    return x, y
