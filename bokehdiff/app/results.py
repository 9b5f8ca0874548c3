"""What stays: finished pictures, films and maps in the folder of results, with the settings that made them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from torch import Tensor

import bokehdiff
from bokehdiff.app.controls import Controls
from bokehdiff.app.equipment import Equipment
from bokehdiff.app.opened import VIEW_QUALITY, Opened
from bokehdiff.app.physics import through_lens
from bokehdiff.app.sizes import PULL_PIXELS, within
from bokehdiff.errors import InputError
from bokehdiff.images import load_disparity, load_photo, resize, save_animation, save_disparity, save_image
from bokehdiff.renderers import Step

RENDERERS = ("physical", "hybrid", "neural")
FILE_FORMATS = ("jpg", "png", "tif")
SIXTEEN_BITS = frozenset({"png", "tif"})
PULL_FRAMES = (2, 120)


@dataclass(frozen=True)
class Result:
    """A finished file.

    Args:
        path: Where it is.
        view: A smaller picture of it to look at; the file itself for an animation.
    """

    path: Path
    view: Path


@dataclass(frozen=True, kw_only=True)
class Pull:
    """A focus pull: the focus goes from one depth to another and back, slowly at both ends.

    Args:
        focuses: Disparity in focus at the beginning and at the end.
        n_frames: Pictures on the way there.
        fps: Pictures per second.
        file_format: "gif" or "mp4".
    """

    focuses: tuple[float, float]
    n_frames: int
    fps: float
    file_format: str

    def __post_init__(self) -> None:
        least, most = PULL_FRAMES
        if not least <= self.n_frames <= most:
            raise InputError(f"a focus pull takes {least} to {most} pictures; got {self.n_frames}")


def render_file(
    opened: Opened, controls: Controls, *, renderer: str, file_format: str, equipment: Equipment, step: Step
) -> Result:
    """The photograph itself through the lens, as a file with its EXIF and the settings.

    Args:
        opened: The photograph.
        controls: The lens.
        renderer: "physical" for rays, "neural" for the network, "hybrid" for rays and, where it guesses better, the
            network.
        file_format: Suffix; png and tif hold 16 bits.
        equipment: Where to write, and what renders.
        step: Told how far it is; what it raises ends the rendering, and nothing is written.
    """
    if renderer not in RENDERERS:
        raise InputError(f"the renderer must be one of {', '.join(RENDERERS)}; got {renderer!r}")
    if file_format not in FILE_FORMATS:
        raise InputError(f"the file must be one of {', '.join(FILE_FORMATS)}; got {file_format!r}")
    step(0, 1)
    rendered = _rendered(opened, controls, renderer, equipment, step)
    step(1, 1)
    name = f"{opened.stem}_K{controls.strength_px:.3g}_{controls.focus_disparity:.3f}_{renderer}"
    path = equipment.places.new_result(name, f".{file_format}")
    bit_depth = 16 if file_format in SIXTEEN_BITS else 8
    text = note(opened, controls, renderer, equipment)
    _written(path, lambda: save_image(path, rendered, bit_depth=bit_depth, exif=opened.exif, text=text))
    view = opened.file.with_name(f"rendered-{secrets.token_hex(4)}.jpg")
    save_image(view, resize(rendered, opened.view_hw), quality=VIEW_QUALITY)
    return Result(path, view)


def _rendered(opened: Opened, controls: Controls, renderer: str, equipment: Equipment, step: Step) -> Tensor:
    image_srgb = load_photo(opened.file, max_pixels=equipment.limits.most_pixels).image_srgb
    disparity = load_disparity(opened.disparity_file)
    if renderer == "physical":
        return through_lens(
            image_srgb, disparity, controls, scale=1.0, method="auto", device=equipment.device, step=step
        )
    if equipment.networks is None:
        raise InputError(
            f"{renderer} needs networks: start the app with --pretrained-model-name-or-path, or render physically"
        )
    return equipment.networks.render(
        image_srgb.clamp(0.0, 1.0), disparity, controls.lens(), renderer=renderer, step=step
    )


def pull_file(opened: Opened, controls: Controls, pull: Pull, *, equipment: Equipment, step: Step) -> Result:
    """A focus pull as a file.

    Args:
        opened: The photograph.
        controls: The lens; its focus does not count.
        pull: From where to where, and how.
        equipment: Where to write.
        step: Told how many pictures are done; what it raises ends the work.
    """
    size_hw = within(opened.view_hw, PULL_PIXELS)
    image_srgb = resize(opened.small_srgb, size_hw)
    disparity = resize(opened.small_disparity[None], size_hw)[0]
    lenses = [controls.focused_at(focus) for focus in eased(pull.focuses, pull.n_frames)]
    scale = size_hw[1] / opened.size_hw[1]

    def pictures() -> Iterator[Tensor]:
        for i, one in enumerate(lenses):
            step(i, len(lenses))
            yield through_lens(image_srgb, disparity, one, scale=scale, method="auto", device=equipment.device)

    path = equipment.places.new_result(f"{opened.stem}_pull", f".{pull.file_format}")
    ends = yaml.safe_dump({"focus_pull": [round(end, 4) for end in pull.focuses]})
    text = note(opened, controls, "physical", equipment) + ends
    _written(
        path,
        lambda: save_animation(path, pictures(), fps=pull.fps, back_and_forth=True, n_frames=len(lenses), text=text),
    )
    return Result(path, path)


def depth_file(opened: Opened, *, equipment: Equipment) -> Path:
    """A photograph's disparity as a PNG of 16 bits, which `bokehdiff render` takes.

    Args:
        opened: The photograph.
        equipment: Where to write.
    """
    path = equipment.places.new_result(f"{opened.stem}_disparity", ".png")
    _written(path, lambda: save_disparity(path, load_disparity(opened.disparity_file)))
    return path


def note(opened: Opened, controls: Controls, renderer: str, equipment: Equipment) -> str:
    """How a picture was made, as YAML.

    Args:
        opened: The photograph.
        controls: The lens.
        renderer: What rendered it.
        equipment: The networks, if they did.
    """
    lens = {key: round(value, 6) for key, value in asdict(controls).items()}
    made = {
        "made_by": f"bokehdiff {bokehdiff.__version__} app",
        "renderer": renderer,
        **lens,
        "disparity": f"{opened.origin}: {opened.source}",
    }
    if renderer != "physical" and equipment.networks is not None:
        made["networks"] = equipment.networks.name
    return yaml.safe_dump(made, sort_keys=False, allow_unicode=True)


def eased(ends: Sequence[float], n: int) -> list[float]:
    """Values from one end to the other, slow at both: first + (last - first) (3 t^2 - 2 t^3).

    Args:
        ends: First and last.
        n: How many, 2 or more.
    """
    first, last = ends
    shares = [i / (n - 1) for i in range(n)]
    return [first + (last - first) * share * share * (3 - 2 * share) for share in shares]


def _written(path: Path, write: Callable[[], None]) -> None:
    """Write a file whose name is taken already; the name is free again if that fails."""
    try:
        write()
    except BaseException:
        path.unlink(missing_ok=True)
        raise
