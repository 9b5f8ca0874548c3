"""From one photograph to its files: a picture, or a sweep of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

import bokehdiff
from bokehdiff.cli.render.intermediates import write_intermediates
from bokehdiff.cli.render.lenses import lens_of, within_radius
from bokehdiff.cli.render.options import RenderOptions, wants_intermediates
from bokehdiff.cli.render.places import Task, intermediates_of, result_of
from bokehdiff.cli.render.scene import View, load_view
from bokehdiff.cli.sweep_pictures import sweep_lenses, write_sweep
from bokehdiff.devices import pick_device
from bokehdiff.errors import InputError, at_fault
from bokehdiff.images import linear_to_srgb, make_folder, save_image, save_light, srgb_to_linear
from bokehdiff.optics import Lens
from bokehdiff.renderers import Sheet, compress_highlights, recover_highlights, render_photo

LIGHT_SUFFIX = ".exr"
Watch = Callable[[list[Sheet]], None]


def render_task(task: Task, options: RenderOptions) -> Iterator[Path]:
    """Render one photograph, at one lens or at many; gives each file once it is written.

    Args:
        task: The photograph.
        options: The command line.
    """
    target = result_of(task, options)
    with at_fault("--output-dir" if options.output is None else "--output"):
        if target.exists() and target.samefile(task.photograph):
            raise InputError(f"the result would replace the photograph {task.photograph}: choose another place")
        make_folder(target.parent)
    view = load_view(task, options)
    lens = lens_of(task, view, options)
    with at_fault("--device"):
        device = pick_device(options.picture.device)
    exposure = _Exposure(task, view, options, device, holds_light=_suffix(target, options) == LIGHT_SUFFIX)
    if options.sweep.is_asked:
        lenses = list(sweep_lenses(lens, view.disparity, options.sweep))
        yield from write_sweep(
            target, lenses, map(exposure.picture, lenses), options.sweep, note=exposure.note, save=exposure.saved,
            format=options.result.format, flag="--output" if options.output else "--sweep-format",
        )  # fmt: skip
        return
    seen: list[list[Sheet]] = []
    picture = exposure.picture(lens, watch=seen.append if wants_intermediates(options) else None)
    yield exposure.saved(target, picture, lens)
    if seen:
        with at_fault("--verbose" if options.result.verbose else "--save-intermediates"):
            yield from write_intermediates(
                intermediates_of(task, options),
                view,
                exposure.disparity(lens),
                lens,
                [_on_cpu(sheet) for sheet in seen[len(seen) // 2]],  # green's, where colours have their own
                exposure.shown(picture) if exposure.holds_light else picture,
                transfer=options.picture.transfer,
            )


@dataclasses.dataclass(frozen=True)
class _Exposure:
    """One photograph through any lens.

    Args:
        task: The photograph.
        view: What is known of it.
        options: The command line.
        device: Where pictures are computed.
        holds_light: Whether what is written takes light instead of display values.
    """

    task: Task
    view: View
    options: RenderOptions
    device: torch.device
    holds_light: bool

    def disparity(self, lens: Lens) -> Float[Tensor, "1 h w"]:
        return within_radius(self.view.disparity, lens, self.options.lens.largest_radius)

    def picture(self, lens: Lens, *, watch: Watch | None = None) -> Float[Tensor, "1 3 h w"]:
        """Display values, or light where that is written."""
        chosen, photo = self.options.picture, self.view.photo
        with at_fault("--transfer"):
            curve = "gamma22" if photo.is_linear else chosen.transfer
            image_linear = srgb_to_linear(photo.image_srgb, transfer=curve).to(self.device)
        with at_fault("--highlights"):
            image_linear = recover_highlights(image_linear, chosen.highlights)
        with at_fault("--method"):
            blurred = render_photo(
                image_linear,
                self.disparity(lens).to(self.device),
                lens,
                matte=None if self.view.matte is None else self.view.matte.to(self.device),
                method=chosen.method,
                inpainting=chosen.inpainting,
                progress=self.task.alone,
                watch=watch,
            )
        blurred = compress_highlights(blurred, chosen.highlights).cpu()
        return blurred if self.holds_light else self.shown(blurred)

    def shown(self, image_linear: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 3 h w"]:
        """Display values of light."""
        return linear_to_srgb(image_linear, transfer=self.options.picture.transfer).clamp(0.0, 1.0)

    def saved(self, target: Path, picture: Float[Tensor, "1 3 h w"], lens: Lens) -> Path:
        if self.holds_light:
            with at_fault("--output" if self.options.output else "--format"):
                save_light(target, picture, text=self.note(lens))
            return target
        with at_fault("--bit-depth"):
            save_image(
                target,
                picture,
                bit_depth=self.options.result.bit_depth,
                exif=self.view.photo.exif,
                text=self.note(lens),
            )
        return target

    def note(self, lens: Lens) -> str:
        """How the picture was made, as YAML: what was computed, and the options that were given, without folders."""
        made = {
            "made_by": f"bokehdiff {bokehdiff.__version__} render",
            "focus_disparity": round(float(lens.focus_disparity), 6),
            "strength_px": round(float(lens.strength_px), 6),
        }
        return yaml.safe_dump({**made, **_given(self.options)}, sort_keys=False, allow_unicode=True)


def _suffix(target: Path, options: RenderOptions) -> str:
    """Of the files that are written: a sweep's target may be the folder of its pictures."""
    if options.output or not options.sweep.is_asked:
        return target.suffix.lower()
    sweep = options.sweep.sweep_format
    return f".{options.result.format if sweep == 'pictures' else sweep}"


def _on_cpu(sheet: Sheet) -> Sheet:
    """The surface where pictures are written from."""
    return Sheet(sheet.light.cpu(), sheet.weight.cpu(), sheet.coc_px.cpu())


def _given(options: RenderOptions) -> dict[str, object]:
    """The options that differ from their defaults and change the picture; files by their names."""
    said: dict[str, object] = {}
    for section in (options, options.maps, options.focus, options.lens, options.aperture, options.picture):
        for field in dataclasses.fields(section):
            value = getattr(section, field.name)
            if value != field.default and not dataclasses.is_dataclass(value) and not field.name.startswith("output"):
                said[field.name] = Path(value).name if isinstance(value, str) and Path(value).exists() else value
    return said
