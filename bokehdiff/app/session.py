"""One user's photograph: opened, given depth, focused, looked at, rendered. Knows nothing of web pages."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections import deque
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from bokehdiff.app.controls import Camera, Controls
from bokehdiff.app.depth import depth_picture
from bokehdiff.app.equipment import Equipment
from bokehdiff.app.jobs import Job
from bokehdiff.app.opened import VIEW_QUALITY, Opened, brought, for_screen, open_photo, with_depth
from bokehdiff.app.physics import through_lens
from bokehdiff.app.results import Pull, Result, depth_file, note, pull_file, render_file
from bokehdiff.app.sizes import is_another_size, preview_size, view_size
from bokehdiff.errors import InputError
from bokehdiff.images import resize, save_image
from bokehdiff.optics import focus_from_centre, focus_from_pixel
from bokehdiff.renderers import Step

VIEWS_KEPT = 6  # pictures that a browser may still be loading
NOTHING_OPEN = "open a photo first, or choose one of the samples"


class Session:
    """A photograph on one user's table.

    Args:
        equipment: What all tables share.
    """

    def __init__(self, equipment: Equipment) -> None:
        self._equipment = equipment
        self._folder = equipment.places.passing / secrets.token_hex(8)
        self._folder.mkdir()
        self._open: Opened | None = None
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
    def view_hw(self) -> tuple[int, int]:
        """Height and width of everything that is looked at [px]; a preview may be coarser, see `preview_hw`."""
        return self._opened.view_hw

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
    def _opened(self) -> Opened:
        if self._open is None:
            raise InputError(NOTHING_OPEN)
        return self._open

    def open(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        disparity: Path | None = None,
        screen_hw: tuple[float, float] | None = None,
    ) -> None:
        """Put a photograph on the table, in place of the one before; that one stays if the new one cannot be read.

        Args:
            path: File; it is copied.
            name: What it is called; None for the file's name.
            disparity: Its map; None for the model's, or a guess.
            screen_hw: What the screen has for it, in its own pixels; None if that is unknown.
        """
        path = Path(path)
        opened = open_photo(
            path, name or path.name, disparity=disparity, folder=self._folder, equipment=self._equipment,
            screen_hw=screen_hw,
        )  # fmt: skip
        before, self._open, self._rendered = self._open, opened, None
        if before is not None:
            shutil.rmtree(before.file.parent, ignore_errors=True)

    def take_disparity(self, path: str | Path, *, name: str | None = None, near_is_dark: bool = False) -> None:
        """Use a map that the user brings.

        Args:
            path: File: a grey image, .npy or .npz.
            name: What messages call it; None for the file's name.
            near_is_dark: It holds small values where things are near, as depth does.
        """
        path = Path(path)
        opened, limits = self._opened, self._equipment.limits
        depth = brought(path, name or path.name, opened.size_hw, near_is_dark=near_is_dark, limits=limits)
        self._open, self._rendered = with_depth(opened, depth), None

    def fit(self, screen_hw: tuple[float, float] | None) -> bool:
        """Have what is looked at follow the screen's size; gives whether it has become another.

        Args:
            screen_hw: What the screen has for it, in its own pixels; None if that is unknown.
        """
        opened = self._opened
        view_hw = view_size(opened.size_hw, screen_hw)
        if screen_hw is None or not is_another_size(view_hw, opened.view_hw):
            return False
        fitting = for_screen(opened, view_hw, self._equipment.limits)
        if self._open is opened:  # and not another, opened or given depth meanwhile
            self._open = fitting
        return self._open is fitting

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
        """A picture of its disparity, as large as it is looked at.

        Args:
            focus_disparity: Outlined.
        """
        return depth_picture(self._opened.small_disparity, focus_disparity, self.view_hw)

    def preview_hw(self, controls: Controls) -> tuple[int, int]:
        """Height and width that a preview is rendered at [px].

        Args:
            controls: The lens.
        """
        return preview_size(self.view_hw, controls.cat_eye)

    def preview(self, controls: Controls) -> Float[Tensor, "1 3 h w"]:
        """What the lens gives, at once: the renderer that spreads light without asking what lies hidden.

        Args:
            controls: The lens.
        """
        opened = self._opened
        size_hw = self.preview_hw(controls)
        blurred = through_lens(
            resize(opened.small_srgb, size_hw), resize(opened.small_disparity[None], size_hw)[0], controls,
            scale=size_hw[1] / opened.size_hw[1], method="scatter", device=self._equipment.device,
        )  # fmt: skip
        return resize(blurred, opened.view_hw).clamp(0.0, 1.0)

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
            renderer: "physical" for rays, "neural" for the network, "hybrid" for rays and, where it guesses better, the
            network.
            file_format: Suffix; png and tif hold 16 bits.
            step: Told how far it is; what it raises ends the rendering, and nothing is written.
        """
        opened = self._opened
        result = render_file(
            opened, controls, renderer=renderer, file_format=file_format, equipment=self._equipment, step=step
        )
        if self._open is not None and self._open.is_same(opened):  # and not another, opened meanwhile
            self._rendered = (controls, result.view)
        return result

    def pull(self, controls: Controls, pull: Pull, *, step: Step) -> Result:
        """An animation in which the focus goes from one depth to another and back, slowly at both ends.

        Args:
            controls: The lens; its focus does not count.
            pull: From where to where, and how.
            step: Told how many pictures are done; what it raises ends the work.
        """
        return pull_file(self._opened, controls, pull, equipment=self._equipment, step=step)

    def depth_file(self) -> Path:
        """Its disparity as a PNG of 16 bits, which `bokehdiff render` takes."""
        return depth_file(self._opened, equipment=self._equipment)

    def note(self, controls: Controls, renderer: str) -> str:
        """How a picture was made, as YAML.

        Args:
            controls: The lens.
            renderer: What rendered it.
        """
        return note(self._opened, controls, renderer, self._equipment)

    def close(self) -> None:
        """Remove everything that was kept of it, and end what is being rendered; results stay."""
        if self.job is not None:
            self.job.cancel()
        self._open = None
        shutil.rmtree(self._folder, ignore_errors=True)
