"""`bokehdiff defocus`: disparity from a sharp photograph and defocused ones of the same view."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bokehdiff.errors import InputError, at_fault

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DefocusOptions:
    """Find disparity by how much things are blurred in photographs of other focus, through a renderer with gradients.

    Takes one photograph that is sharp everywhere (a closed aperture) and one or more defocused ones from the same
    place; small shifts, turns, changes of scale and of exposure between them are taken out. A disc looks the same
    before and behind the focus: one defocused photograph, or several of unknown focus, need --first-focus. Results:
    OUTPUT_DIR/NAME_pred.npy and NAME_pred.png (16 bit), as `bokehdiff render` and `infer` read them, and NAME_sheet.png
    to look at.

    Args:
        sharp: The photograph that is sharp everywhere.
        blurred: Defocused ones, in the order of --K and --focus: a file, a folder, a glob, or several with commas.
        output_dir: Where results go.
        K: Radius of the circle of confusion at one unit of disparity from the focus, one number for all or one for
            each with commas [px]; none if unknown but the same in all.
        focus: Disparity in focus, one number for each with commas; none if unknown.
        first_focus: For one: it is focused on the nearest or the farthest point of the scene, or beyond. For several:
            the first is focused nearer, or farther, than the others. None where --focus tells.
        largest_coc: Largest radius to look for [px]; none for what --K and --focus say, or 8 % of the longer side.
        max_side: Larger photographs are worked on at this longer side, and K with them [px].
        n_steps: Steps of descent at the end; 0 for the focal sweep alone.
        align: Lay the defocused photographs over the sharp one first, and make them as bright.
        transfer: How display values become light: gamma22 or the piecewise srgb curve.
    """

    sharp: str
    blurred: str
    output_dir: str = "bokehdiff_defocus"
    K: str | None = None
    focus: str | None = None
    first_focus: Literal["nearest", "farthest"] | None = None
    largest_coc: float | None = None
    max_side: int = 640
    n_steps: int = 8
    align: bool = True
    transfer: Literal["gamma22", "srgb"] = "gamma22"


OPTIONS = DefocusOptions
POSITIONAL = ("sharp", "blurred")


def run(options: DefocusOptions) -> int:
    """Find the disparity, write it and print how well it explains the defocused photographs.

    Args:
        options: The command line.

    Returns:
        0.
    """
    import torch

    from bokehdiff.images import find_images
    from bokehdiff.preparation import depth_from_defocus

    with at_fault("--blurred"):
        paths = [path for where in options.blurred.split(",") for path in find_images(where)]
    strength = _numbers(options.K, len(paths), flag="--K")
    focus = _numbers(options.focus, len(paths), flag="--focus")
    if options.max_side < 1:
        raise InputError(f"must be 1 px or more; got {options.max_side}", flag="--max-side")
    sharp = _loaded(Path(options.sharp), options, flag="--sharp")
    scale = min(1.0, options.max_side / max(sharp.shape[2:]))
    blurred = [_of_size(path, sharp, options) for path in paths]
    if scale < 1.0:
        logger.info("worked on at %g of the size, K with it", scale)
    with at_fault("--first-focus" if focus is None else "--focus"):
        found = depth_from_defocus(
            _scaled(sharp, scale, options),
            torch.cat([_scaled(image, scale, options) for image in blurred]),
            strength_px=None if strength is None else [scale * value for value in strength],
            focus_disparity=focus,
            first_focus=options.first_focus,
            largest_coc_px=None if options.largest_coc is None else scale * options.largest_coc,
            transfer=options.transfer,
            n_steps=options.n_steps,
            align=options.align,
            progress=True,
        )
    _write(found, sharp, blurred, scale, options)
    for path, *numbers in zip(
        paths,
        found.focus_disparity,
        found.strength_px,
        found.residual_before_db,
        found.residual_swept_db,
        found.residual_after_db,
        strict=True,
    ):
        focus_disparity, strength_px, before, swept, after = numbers
        print(
            f"{path.name}: focus {focus_disparity:.3f}, K {strength_px / scale:.2f} px; residual PSNR {before:.2f} dB "
            f"(one disparity), {swept:.2f} dB (focal sweep), {after:.2f} dB (found)"
        )
    print(f"all together: {found.gain_db:.2f} dB above the best single disparity")
    return 0


def _numbers(text: str | None, n_images: int, *, flag: str) -> list[float] | None:
    """Numbers with commas between them, one per image; one strength serves for all."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"expected numbers with commas between them; got {text!r}", flag=flag) from None
    if flag == "--K" and len(numbers) == 1:
        return numbers * n_images
    if len(numbers) != n_images:
        raise InputError(f"expected {n_images}, one per defocused photograph; got {len(numbers)}", flag=flag)
    return numbers


def _loaded(path: Path, options: DefocusOptions, *, flag: str) -> Any:
    from bokehdiff.images import load_photo

    with at_fault(flag):
        photo = load_photo(path)
    if photo.alpha is not None:
        logger.warning("%s: its transparency is not used", path.name)
    return photo.image_srgb


def _of_size(path: Path, sharp: Any, options: DefocusOptions) -> Any:
    """A defocused photograph, of the size of the sharp one."""
    image = _loaded(path, options, flag="--blurred")
    if image.shape != sharp.shape:
        sizes = " and ".join(f"{shape[3]} x {shape[2]}" for shape in (image.shape, sharp.shape))
        raise InputError(f"{path} and the sharp photograph must have one size; got {sizes} px", flag="--blurred")
    return image


def _scaled(image_srgb: Any, scale: float, options: DefocusOptions) -> Any:
    """Resized in light."""
    from bokehdiff.images import linear_to_srgb, resize, srgb_to_linear

    if scale == 1.0:
        return image_srgb
    size_hw = tuple(max(1, round(scale * side)) for side in image_srgb.shape[2:])
    light = resize(srgb_to_linear(image_srgb, transfer=options.transfer), size_hw)
    return linear_to_srgb(light, transfer=options.transfer).clamp(0.0, 1.0)


def _write(found: Any, sharp: Any, blurred: list[Any], scale: float, options: DefocusOptions) -> None:
    """The disparity at the size of the photograph, and the sheet at the size that was worked on."""
    from bokehdiff.images import make_folder, resize, save_disparity, save_image
    from bokehdiff.pictures import colour_disparity, contact_sheet

    folder = Path(options.output_dir)
    disparity = resize(found.disparity[:, None], tuple(sharp.shape[2:]))[:, 0]
    stem = Path(options.sharp).stem
    columns = {"sharp": _scaled(sharp, scale, options)}
    for i, (image, picture) in enumerate(
        zip(blurred, _rendered(found, columns["sharp"], options), strict=True), start=1
    ):
        columns |= {f"defocused {i}": _scaled(image, scale, options), f"rendered {i}": picture}
    columns |= {
        "disparity": colour_disparity(found.disparity),
        "confidence": found.confidence[:, None].expand(-1, 3, -1, -1),
    }
    with at_fault("--output-dir"):
        make_folder(folder)
        for suffix in (".npy", ".png"):
            save_disparity(folder / f"{stem}_pred{suffix}", disparity)
        save_image(folder / f"{stem}_sheet.png", contact_sheet(columns))
    logger.info("wrote %s, %s and %s", *(folder / f"{stem}_{end}" for end in ("pred.npy", "pred.png", "sheet.png")))


def _rendered(found: Any, sharp_srgb: Any, options: DefocusOptions) -> list[Any]:
    """The sharp photograph through each lens, with the disparity found."""
    from bokehdiff.images import linear_to_srgb, srgb_to_linear
    from bokehdiff.renderers import render_photo

    sharp_linear = srgb_to_linear(sharp_srgb, transfer=options.transfer)
    pictures = [render_photo(sharp_linear, found.disparity, lens, method="occlusion_aware") for lens in found.lenses]
    return [linear_to_srgb(picture, transfer=options.transfer).clamp(0.0, 1.0) for picture in pictures]
