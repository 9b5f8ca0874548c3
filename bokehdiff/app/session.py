"""One user's photograph: opened, given depth, focused, looked at, rendered. Knows nothing of web pages."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import yaml
from jaxtyping import Float
from torch import Tensor

import bokehdiff
from bokehdiff.app.controls import Camera, Controls
from bokehdiff.app.depth import Depth, depth_from_file, depth_of, depth_picture
from bokehdiff.app.equipment import Equipment
from bokehdiff.app.jobs import Job
from bokehdiff.app.places import safe_stem
from bokehdiff.errors import BokehDiffError, InputError
from bokehdiff.images import (
    Photo,
    linear_to_srgb,
    load_disparity,
    load_photo,
    resize,
    save_animation,
    save_disparity,
    save_image,
    srgb_to_linear,
)
from bokehdiff.optics import focus_from_centre, focus_from_pixel
from bokehdiff.renderers import Step, compress_highlights, recover_highlights, render_photo

PREVIEW_PIXELS = 2**20  # of what is looked at: scatter renders it within a second on two cores
PULL_PIXELS = 2**19  # of the pictures of a focus pull, of which there are dozens
PULL_FRAMES = (2, 120)
VIEWS_KEPT = 6  # pictures that a browser may still be loading
VIEW_QUALITY = 90
MEBI = 2**20
RENDERERS = ("physical", "hybrid", "neural")
FILE_FORMATS = ("jpg", "png", "tif")
SIXTEEN_BITS = frozenset({"png", "tif"})
Read = TypeVar("Read")
NOTHING_OPEN = "open a photo first, or choose one of the samples"


@dataclass(frozen=True)
class Result:
    """A finished file.

    Args:
        path: Where it is.
        view: A smaller picture of it to look at; the file itself for an animation.
    """

    path: Path
    view: Path


@dataclass(frozen=True, eq=False)
class _Open:
    """What is kept of a photograph in memory: it at the size of previews. The rest is in files, read when needed."""

    file: Path
    name: str
    size_hw: tuple[int, int]
    exif: bytes
    camera: Camera
    small_srgb: Float[Tensor, "1 3 h w"]
    sharp_view: Path
    disparity_file: Path
    small_disparity: Float[Tensor, "1 h w"]
    origin: str
    source: str


class Session:
    """A photograph on one user's table.

    Args:
        equipment: What all tables share.
    """

    def __init__(self, equipment: Equipment) -> None:
        self._equipment = equipment
        self._folder = equipment.places.passing / secrets.token_hex(8)
        self._folder.mkdir()
        self._open: _Open | None = None
        self._rendered: tuple[Controls, Path] | None = None
        self.job: Job[Result] | None = None
        self._views: deque[Path] = deque()
        self._viewing = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether there is a photograph."""
        return self._open is not None

    @property
    def name(self) -> str:
        """What the photograph is called."""
        return self._opened.name

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the photograph [px]."""
        return self._opened.size_hw

    @property
    def camera(self) -> Camera:
        """What f-numbers mean for it."""
        return self._opened.camera

    @property
    def origin(self) -> str:
        """Where its disparity is from: "file", "model" or "guess"."""
        return self._opened.origin

    @property
    def source(self) -> str:
        """The same in words."""
        return self._opened.source

    @property
    def _opened(self) -> _Open:
        if self._open is None:
            raise InputError(NOTHING_OPEN)
        return self._open

    def open(self, path: str | Path, *, name: str | None = None, disparity: Path | None = None) -> None:
        """Put a photograph on the table, in place of the one before; that one stays if the new one cannot be read.

        Args:
            path: File; it is copied.
            name: What it is called; None for the file's name.
            disparity: Its map; None for the model's, or a guess.
        """
        path = Path(path)
        name = name or path.name
        folder = self._folder / secrets.token_hex(4)
        folder.mkdir()
        try:
            file = folder / f"{safe_stem(Path(name).stem)}{path.suffix.lower()}"
            self._refuse_large(path)
            shutil.copyfile(path, file)
            photo = _named(file, name, lambda: load_photo(file, max_pixels=self._equipment.limits.most_pixels))
            if disparity is None:
                depth = depth_of(photo.image_srgb.clamp(0.0, 1.0), self._equipment.model)
            else:
                depth = self._depth_from(disparity, disparity.name, photo.size_hw, near_is_dark=False)
            before, self._open = self._open, self._kept(folder, file, name, photo, depth)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if before is not None:
            shutil.rmtree(before.file.parent, ignore_errors=True)

    def _kept(self, folder: Path, file: Path, name: str, photo: Photo, depth: Depth) -> _Open:
        map_file = folder / "disparity.npy"
        save_disparity(map_file, depth.disparity)
        small_hw = _within(photo.size_hw, PREVIEW_PIXELS)
        small_srgb = resize(photo.image_srgb.clamp(0.0, 1.0), small_hw)
        sharp_view = folder / "sharp.jpg"
        save_image(sharp_view, small_srgb, quality=VIEW_QUALITY)
        self._rendered = None
        return _Open(
            file=file,
            name=name,
            size_hw=photo.size_hw,
            exif=photo.exif,
            camera=Camera.of(photo.camera, photo.sensor_width_px),
            small_srgb=small_srgb,
            sharp_view=sharp_view,
            disparity_file=map_file,
            small_disparity=resize(depth.disparity[None], small_hw)[0],
            origin=depth.origin,
            source=depth.source,
        )

    def take_disparity(self, path: str | Path, *, name: str | None = None, near_is_dark: bool = False) -> None:
        """Use a map that the user brings.

        Args:
            path: File: a grey image, .npy or .npz.
            name: What messages call it; None for the file's name.
            near_is_dark: It holds small values where things are near, as depth does.
        """
        opened = self._opened
        self._refuse_large(Path(path))
        depth = self._depth_from(Path(path), name or Path(path).name, opened.size_hw, near_is_dark=near_is_dark)
        photo = load_photo(opened.file, max_pixels=self._equipment.limits.most_pixels)
        self._open = self._kept(opened.file.parent, opened.file, opened.name, photo, depth)

    def _depth_from(self, path: Path, name: str, size_hw: tuple[int, int], *, near_is_dark: bool) -> Depth:
        most = self._equipment.limits.most_pixels
        return _named(
            path, name, lambda: depth_from_file(path, name, size_hw, near_is_dark=near_is_dark, max_pixels=most)
        )

    def _refuse_large(self, path: Path) -> None:
        size, most = path.stat().st_size, self._equipment.limits.most_bytes
        if size > most:
            raise InputError(f"the file has {size / MEBI:.0f} MB; up to {most / MEBI:.0f} MB are taken")

    def first_focus(self) -> float:
        """Disparity in the middle of the picture, where a subject is likely."""
        return float(focus_from_centre(self._opened.small_disparity))

    def focus_at(self, x_share: float, y_share: float) -> float:
        """Disparity of a point, to focus there.

        Args:
            x_share: To the right, as a share of the width, in [0, 1].
            y_share: Down, as a share of the height.
        """
        disparity = self._opened.small_disparity
        height, width = disparity.shape[1:]
        x, y = (min(max(share, 0.0), 1.0) for share in (x_share, y_share))
        found = focus_from_pixel(disparity, min(x * width, width - 1), min(y * height, height - 1))
        return float(found.clamp(0.0, 1.0))

    @property
    def view_hw(self) -> tuple[int, int]:
        """Height and width of everything that is looked at [px]."""
        small = self._opened.small_srgb
        return small.shape[2], small.shape[3]

    def sharp_view(self) -> Path:
        """The photograph itself, sharp all over, as a file for a browser."""
        return self._opened.sharp_view

    def depth_view(self, focus_disparity: float) -> Path:
        """A picture of its disparity as a file for a browser.

        Args:
            focus_disparity: Outlined.
        """
        return self._view(self.depth(focus_disparity))

    def blurred_view(self, controls: Controls) -> Path:
        """What the lens gives, as a file for a browser: rendered, if just that was rendered, else a preview.

        Args:
            controls: The lens.
        """
        if self._rendered is not None and self._rendered[0] == controls:
            return self._rendered[1]
        return self._view(self.preview(controls))

    def depth(self, focus_disparity: float) -> Float[Tensor, "1 3 h w"]:
        """A picture of its disparity at the size of previews.

        Args:
            focus_disparity: Outlined.
        """
        small = self._opened.small_disparity
        return depth_picture(small, focus_disparity, (small.shape[1], small.shape[2]))

    def preview(self, controls: Controls) -> Float[Tensor, "1 3 h w"]:
        """What the lens gives, at once: the renderer that spreads light without asking what lies hidden.

        Args:
            controls: The lens.
        """
        opened = self._opened
        scale = opened.small_srgb.shape[3] / opened.size_hw[1]
        return self._physics(opened.small_srgb, opened.small_disparity, controls, scale, method="scatter")

    def _view(self, image_srgb: Float[Tensor, "1 3 h w"]) -> Path:
        """A picture as a file for a browser; it stays until a few more were made."""
        path = self._folder / f"view-{secrets.token_hex(6)}.jpg"
        save_image(path, image_srgb, quality=VIEW_QUALITY)
        with self._viewing:
            self._views.append(path)
            while len(self._views) > VIEWS_KEPT:
                self._views.popleft().unlink(missing_ok=True)
        return path

    def render(self, controls: Controls, *, renderer: str, file_format: str = "jpg", step: Step) -> Result:
        """The photograph itself through the lens, as a file with its EXIF and the settings.

        Args:
            controls: The lens.
            renderer: "physical" for rays, "neural" for the network, "hybrid" for the network at depth's edges.
            file_format: Suffix; png and tif hold 16 bits.
            step: Told how far it is; what it raises ends the rendering, and nothing is written.
        """
        if renderer not in RENDERERS:
            raise InputError(f"the renderer must be one of {', '.join(RENDERERS)}; got {renderer!r}")
        if file_format not in FILE_FORMATS:
            raise InputError(f"the file must be one of {', '.join(FILE_FORMATS)}; got {file_format!r}")
        opened = self._opened
        step(0, 1)
        image_srgb = load_photo(opened.file, max_pixels=self._equipment.limits.most_pixels).image_srgb
        disparity = load_disparity(opened.disparity_file)
        if renderer == "physical":
            rendered = self._physics(image_srgb, disparity, controls, 1.0, method="auto", step=step)
        else:
            if self._equipment.networks is None:
                raise InputError(
                    f"{renderer} needs networks: start the app with --pretrained-model-name-or-path, "
                    "or render physically"
                )
            rendered = self._equipment.networks.render(
                image_srgb.clamp(0.0, 1.0), disparity, controls.lens(), renderer=renderer, step=step
            )
        step(1, 1)
        name = f"{Path(opened.name).stem}_K{controls.strength_px:.3g}_{controls.focus_disparity:.3f}_{renderer}"
        path = self._equipment.places.new_result(name, f".{file_format}")
        bit_depth = 16 if file_format in SIXTEEN_BITS else 8
        text = self.note(controls, renderer)
        _written(path, lambda: save_image(path, rendered, bit_depth=bit_depth, exif=opened.exif, text=text))
        view = opened.file.with_name(f"rendered-{secrets.token_hex(4)}.jpg")
        save_image(view, resize(rendered, self.view_hw), quality=VIEW_QUALITY)
        self._rendered = (controls, view)
        return Result(path, view)

    def pull(
        self,
        controls: Controls,
        *,
        focuses: tuple[float, float],
        n_frames: int,
        fps: float,
        file_format: str,
        step: Step,
    ) -> Result:
        """An animation in which the focus goes from one depth to another and back, slowly at both ends.

        Args:
            controls: The lens; its focus does not count.
            focuses: Disparity in focus at the beginning and at the end.
            n_frames: Pictures on the way there.
            fps: Pictures per second.
            file_format: "gif" or "mp4".
            step: Told how many pictures are done; what it raises ends the work.
        """
        opened = self._opened
        least, most = PULL_FRAMES
        if not least <= n_frames <= most:
            raise InputError(f"a focus pull takes {least} to {most} pictures; got {n_frames}")
        size_hw = _within(opened.size_hw, PULL_PIXELS)
        image_srgb = resize(opened.small_srgb, size_hw)
        disparity = resize(opened.small_disparity[None], size_hw)[0]
        lenses = [controls.focused_at(focus) for focus in eased(focuses, n_frames)]
        scale = size_hw[1] / opened.size_hw[1]

        def pictures() -> Iterator[Tensor]:
            for i, one in enumerate(lenses):
                step(i, len(lenses))
                yield self._physics(image_srgb, disparity, one, scale, method="auto")

        path = self._equipment.places.new_result(f"{Path(opened.name).stem}_pull", f".{file_format}")
        text = self.note(controls, "physical") + yaml.safe_dump({"focus_pull": [round(end, 4) for end in focuses]})
        _written(
            path,
            lambda: save_animation(path, pictures(), fps=fps, back_and_forth=True, n_frames=len(lenses), text=text),
        )
        return Result(path, path)

    def depth_file(self) -> Path:
        """Its disparity as a PNG of 16 bits, which `bokehdiff render` takes."""
        opened = self._opened
        path = self._equipment.places.new_result(f"{Path(opened.name).stem}_disparity", ".png")
        _written(path, lambda: save_disparity(path, load_disparity(opened.disparity_file)))
        return path

    def _physics(
        self,
        image_srgb: Tensor,
        disparity: Tensor,
        controls: Controls,
        scale: float,
        *,
        method: str,
        step: Step | None = None,
    ) -> Float[Tensor, "1 3 h w"]:
        light = recover_highlights(srgb_to_linear(image_srgb.to(self._equipment.device)), controls.highlights)
        blurred = render_photo(
            light, disparity.to(self._equipment.device), controls.lens(scale), method=method, step=step
        )
        return linear_to_srgb(compress_highlights(blurred, controls.highlights)).clamp(0.0, 1.0).cpu()

    def note(self, controls: Controls, renderer: str) -> str:
        """How a picture was made, as YAML.

        Args:
            controls: The lens.
            renderer: What rendered it.
        """
        opened = self._opened
        lens = {key: round(value, 6) for key, value in asdict(controls).items()}
        made = {
            "made_by": f"bokehdiff {bokehdiff.__version__} app",
            "renderer": renderer,
            **lens,
            "disparity": f"{opened.origin}: {opened.source}",
        }
        if renderer != "physical" and self._equipment.networks is not None:
            made["networks"] = self._equipment.networks.name
        return yaml.safe_dump(made, sort_keys=False, allow_unicode=True)

    def close(self) -> None:
        """Remove everything that was kept of it, and end what is being rendered; results stay."""
        if self.job is not None:
            self.job.cancel()
        self._open = None
        shutil.rmtree(self._folder, ignore_errors=True)


def eased(ends: Sequence[float], n: int) -> list[float]:
    """Values from one end to the other, slow at both: first + (last - first) (3 t^2 - 2 t^3).

    Args:
        ends: First and last.
        n: How many, 2 or more.
    """
    first, last = ends
    shares = [i / (n - 1) for i in range(n)]
    return [first + (last - first) * share * share * (3 - 2 * share) for share in shares]


def _named(path: Path, name: str, read: Callable[[], Read]) -> Read:
    """What `read` gives; its errors call the file what the user calls it."""
    try:
        return read()
    except BokehDiffError as error:
        raise InputError(error.message.replace(str(path), name)) from error


def _written(path: Path, write: Callable[[], None]) -> None:
    """Write a file whose name is taken already; the name is free again if that fails."""
    try:
        write()
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _within(size_hw: tuple[int, int], most_pixels: int) -> tuple[int, int]:
    """The same aspect with no more pixels than allowed; never larger."""
    scale = min(1.0, (most_pixels / (size_hw[0] * size_hw[1])) ** 0.5)
    return max(1, int(size_hw[0] * scale)), max(1, int(size_hw[1] * scale))
