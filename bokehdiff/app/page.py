"""What the page does when it is touched, in gradio's terms. What that means for a photograph is in `session`."""

from __future__ import annotations

import functools
import html
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from bokehdiff.app.controls import Camera, Controls
from bokehdiff.app.jobs import UNFORESEEN, Cancelled, Job
from bokehdiff.app.layout import (
    COMPARE,
    DEPTH,
    FIRST_F_NUMBER,
    OPENED,
    PICTURE,
    SHARP,
    STRONGEST_SHARE,
    Parts,
    lay_out,
    said,
)
from bokehdiff.app.results import Pull, Result
from bokehdiff.app.samples import Sample, find_samples
from bokehdiff.app.session import NOTHING_OPEN, Session
from bokehdiff.app.studio import Studio
from bokehdiff.errors import BokehDiffError, InputError

logger = logging.getLogger(__name__)

Handler = TypeVar("Handler", bound=Callable[..., Any])
POLL_S = 0.25  # between two looks at a job
CLEAN_EVERY_S, CLEAN_AFTER_S = 600, 3600  # gradio's copies of uploads and pictures
LIVE = "preview"  # previews of all controls wait in one queue, renderings in another
SLOW = "render"
LIVE_AT_ONCE = 2
FPS = 12
# Before an event is sent its last input, `screen`, becomes what the browser has for the picture, and the size of the
# picture that it shows: "WIDTHxHEIGHT WIDTHxHEIGHT" [px].
WITH_SCREEN = "(...given) => [...given.slice(0, -1), window.placeOfPicture?.() ?? '']"
GUESSED = (
    "A guess, from where things are and what colour they have, for want of a depth model on this machine: near and far "
    "and their edges will often be wrong. Bring a depth map, or see docs/app.md for a model."
)
FOCAL_TOLD = {True: "From the photo's EXIF.", False: "A guess: the photo does not tell."}


def bar(job: Job[Result], what: str) -> str:
    """How far a job is, as a bar and in words."""
    words = f"{what}: {job.share:.0%}, {job.seconds:.0f} s"
    return (
        f'<p class="note">{html.escape(words)}</p>'
        f'<progress max="1" value="{job.share:.3f}" aria-label="{html.escape(what)}"></progress>'
    )


def in_sentences(handler: Handler) -> Handler:
    """A handler whose failures reach the user as a sentence and never as a traceback."""

    @functools.wraps(handler)
    def guarded(*args: Any) -> Any:
        try:
            return handler(*args)
        except BokehDiffError as error:
            raise _told(error.message) from None
        except gr.Error:
            raise
        except Exception:
            logger.exception("the page failed at %s", handler.__name__)
            raise _told(UNFORESEEN) from None

    return guarded  # type: ignore[return-value]


def _told(message: str) -> gr.Error:
    return gr.Error(html.escape(message), title="That did not work", duration=None, print_exception=False)


def controls_of(focus: float, strength: float, blades: int, cat_eye: float, highlights: float) -> Controls:
    """The lens that the page's controls say."""
    return Controls(
        focus_disparity=min(max(float(focus), 0.0), 1.0), strength_px=float(strength or 0.0), blades=int(blades or 0),
        cat_eye=float(cat_eye or 0.0), highlights=float(highlights or 1.0),
    )  # fmt: skip


def build_page(studio: Studio) -> gr.Blocks:
    """The page for a studio, ready to be served.

    Args:
        studio: What all users share.
    """
    samples = find_samples()
    with gr.Blocks(
        title="bokehdiff", analytics_enabled=False, fill_width=True, delete_cache=(CLEAN_EVERY_S, CLEAN_AFTER_S)
    ) as page:
        _Events(studio, lay_out(studio, samples), samples).connect()
    return page


class _Events:
    """What happens when the page is touched."""

    def __init__(self, studio: Studio, parts: Parts, samples: list[Sample]) -> None:
        self.studio = studio
        self.parts = parts
        self.samples = samples

    def connect(self) -> None:
        """Tie the handlers to the components."""
        p = self.parts
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        live: dict[str, Any] = {**quiet, "concurrency_id": LIVE, "concurrency_limit": LIVE_AT_ONCE}
        opening: dict[str, Any] = {**live, "show_progress": "minimal", "show_progress_on": [p.status]}
        newest: dict[str, Any] = {**live, "trigger_mode": "always_last", "js": WITH_SCREEN}
        style = [p.key, p.view, *p.lens]
        p.upload.upload(
            in_sentences(self.open), [p.key, p.upload, p.f_number, p.screen], p.opened, js=WITH_SCREEN, **opening
        )
        p.samples.select(
            in_sentences(self.open_sample), [p.key, p.f_number, p.screen], p.opened, js=WITH_SCREEN, **opening
        )
        p.stage.select(in_sentences(self.focus_at), [*style, p.screen], [p.focus, *p.looking, p.status], **newest)
        p.fit.click(in_sentences(self.fit), [*style, p.screen], [*p.looking, p.status], **newest)
        p.view.input(in_sentences(self.look), [*style, p.screen], p.looking, **newest)
        for control in (p.focus, p.blades, p.cat_eye, p.highlights):
            control.input(in_sentences(self.look), [*style, p.screen], p.looking, **newest)
        camera = [p.f_number, p.focal, p.nearest]
        for control in camera:
            control.input(
                in_sentences(self.open_wider), [*style, *camera, p.screen], [p.strength, *p.looking], **newest
            )
        p.strength.input(in_sentences(self.strengthen), [*style, *camera, p.screen], [p.f_number, *p.looking], **newest)
        p.depth_upload.upload(
            in_sentences(self.take_depth), [p.depth_upload, p.near_is_dark, *style],
            [p.focus, *p.looking, p.depth_told, p.status], **opening,
        )  # fmt: skip
        p.depth_button.click(in_sentences(self.save_depth), [p.key], [p.depth_saved], **live)
        busy = [p.render, p.cancel, p.pull, p.progress]
        slow: dict[str, Any] = {**quiet, "concurrency_id": SLOW, "concurrency_limit": 1}
        p.render.click(
            in_sentences(self.start_rendering), [p.key, p.renderer, p.file_format, *p.lens], busy, **quiet
        ).success(self.follow, [p.key, p.view], [*busy, p.download, *p.looking], **slow)
        p.pull.click(
            in_sentences(self.start_pull),
            [p.key, p.pull_from, p.pull_to, p.pull_frames, p.pull_format, *p.lens], busy, **quiet,
        ).success(self.follow_pull, [p.key], [*busy, p.pull_download, p.pull_film, p.pull_gif], **slow)  # fmt: skip
        p.cancel.click(in_sentences(self.cancel), [p.key], None, queue=False, **quiet)

    def open(self, key: str | None, upload: str, f_number: float, screen: str) -> list[Any]:
        """A photograph from the user's machine."""
        path = Path(upload)
        try:
            return self._opened(key, Sample(path.name, path, None, ""), f_number, screen)
        finally:
            path.unlink(missing_ok=True)

    def open_sample(self, chosen: gr.SelectData, key: str | None, f_number: float, screen: str) -> list[Any]:
        """A photograph that is here already."""
        return self._opened(key, self.samples[int(chosen.index)], f_number, screen)

    def _opened(self, key: str | None, photo: Sample, f_number: float, screen: str) -> list[Any]:
        key, session = self._seat(key)
        session.open(photo.photograph, disparity=photo.disparity, screen_hw=screen_of(screen))
        focus, strength_px = round(session.first_focus(), 3), round(session.camera.strength_px(f_number), 1)
        controls = Controls(focus_disparity=focus, strength_px=strength_px)
        height, width = session.size_hw
        values = {
            "key": key,
            "welcome": gr.update(visible=False),
            "stage": gr.update(value=str(session.blurred_view(controls)), visible=True),
            "compare": gr.update(visible=False),
            "view": gr.update(value=PICTURE, visible=True),
            "status": said(f"{opened_told(session, photo.credit)} Click what shall be sharp."),
            "strength": gr.update(value=strength_px, maximum=round(STRONGEST_SHARE * max(height, width), 1)),
            "focus": focus,
            "blades": 0,
            "cat_eye": 0.0,
            "highlights": 1.0,
            "focal": gr.update(value=session.camera.focal_length_mm, info=FOCAL_TOLD[session.camera.is_told]),
            "nearest": session.camera.nearest_m,
            "depth_told": depth_told(session),
            "depth_button": gr.update(interactive=True),
            "depth_saved": gr.update(visible=False),
            "render": gr.update(interactive=True),
            "pull": gr.update(interactive=True),
            "progress": "",
            "download": gr.update(interactive=False),
            "pull_download": gr.update(interactive=False),
            "pull_film": gr.update(visible=False),
            "pull_gif": gr.update(visible=False),
        }
        return [values[name] for name in OPENED]

    def _seat(self, key: str | None) -> tuple[str, Session]:
        """The user's table, or a new one."""
        if key is not None:
            try:
                return key, self.studio.session(key)
            except BokehDiffError:
                logger.info("a photo that was put away makes room for a new one")
        key = self.studio.new_session()
        return key, self.studio.session(key)

    def _at(self, key: str | None) -> Session:
        if key is None:
            raise InputError(NOTHING_OPEN)
        return self.studio.session(key)

    def look(self, key: str | None, view: str, *rest: Any) -> list[Any]:
        """The picture, after a control was touched."""
        if key is None:
            return [gr.skip(), gr.skip()]
        *lens, screen = rest
        session = self._at(key)
        session.fit(screen_of(screen))
        return self._look(session, view, controls_of(*lens))

    def fit(self, key: str | None, view: str, *rest: Any) -> list[Any]:
        """The window has become another: so does the picture, if that is worth it."""
        *lens, screen = rest
        if key is None or not self._at(key).fit(screen_of(screen)):
            return [gr.skip()] * 3
        session = self._at(key)
        return [*self._look(session, view, controls_of(*lens)), said(opened_told(session, ""))]

    def _look(self, session: Session, view: str, controls: Controls) -> list[Any]:
        if view == COMPARE:
            pair = (str(session.sharp_view()), str(session.blurred_view(controls)))
            return [gr.update(visible=False), gr.update(value=pair, visible=True)]
        if view == SHARP:
            path = session.sharp_view()
        elif view == DEPTH:
            path = session.depth_view(controls.focus_disparity)
        else:
            path = session.blurred_view(controls)
        return [gr.update(value=str(path), visible=True), gr.update(visible=False)]

    def focus_at(self, clicked: gr.SelectData, key: str | None, view: str, *rest: Any) -> list[Any]:
        """The picture was clicked: what is there becomes sharp."""
        *lens, screen = rest
        session = self._at(key)
        height, width = shown_of(screen) or session.view_hw
        focus = round(session.focus_at(clicked.index[0] / width, clicked.index[1] / height), 3)
        session.fit(screen_of(screen))
        controls = controls_of(focus, *lens[1:])
        return [focus, *self._look(session, view, controls), said(f"In focus: depth {focus:.2f} (0 far, 1 near).")]

    def open_wider(self, key: str | None, view: str, *rest: Any) -> list[Any]:
        """The opening or what it means has changed: K follows."""
        if key is None:
            return [gr.skip()] * 3
        *lens, f_number, focal_mm, nearest_m, screen = rest
        session = self._at(key)
        session.fit(screen_of(screen))
        controls = controls_of(*lens)
        strength_px = camera_of(session, focal_mm, nearest_m).strength_px(float(f_number or FIRST_F_NUMBER))
        return [
            round(strength_px, 1),
            *self._look(session, view, replace(controls, strength_px=round(strength_px, 1))),
        ]

    def strengthen(self, key: str | None, view: str, *rest: Any) -> list[Any]:
        """K has changed: the f-number follows."""
        if key is None:
            return [gr.skip()] * 3
        *lens, _, focal_mm, nearest_m, screen = rest
        session = self._at(key)
        session.fit(screen_of(screen))
        controls = controls_of(*lens)
        f_number = camera_of(session, focal_mm, nearest_m).f_number(controls.strength_px)
        return [round(f_number, 2), *self._look(session, view, controls)]

    def take_depth(self, upload: str, near_is_dark: bool, key: str | None, view: str, *lens: Any) -> list[Any]:
        """A depth map from the user's machine."""
        path = Path(upload)
        try:
            session = self._at(key)
            session.take_disparity(path, near_is_dark=near_is_dark)
        finally:
            path.unlink(missing_ok=True)
        focus = round(session.first_focus(), 3)
        controls = controls_of(focus, *lens[1:])
        told = f"Depth from {session.source}. Click what shall be sharp."
        return [focus, *self._look(session, view, controls), depth_told(session), said(told, kind="done")]

    def save_depth(self, key: str | None) -> Any:
        """The map as a file."""
        return gr.update(value=str(self._at(key).depth_file()), visible=True)

    def start_rendering(self, key: str | None, renderer: Any, file_format: str, *lens: Any) -> list[Any]:
        """Put the rendering in the queue."""
        session, controls = self._at(key), controls_of(*lens)
        session.job = Job(
            lambda job: session.render(controls, renderer=renderer, file_format=file_format, step=job.step)
        )
        return _busy("Waiting for its turn")

    def start_pull(
        self, key: str | None, first: float, last: float, n_frames: float, file_format: str, *lens: Any
    ) -> list[Any]:
        """Put the focus pull in the queue."""
        session, controls = self._at(key), controls_of(*lens)
        pull = Pull(focuses=(float(first), float(last)), n_frames=int(n_frames), fps=FPS, file_format=file_format)
        session.job = Job(lambda job: session.pull(controls, pull, step=job.step))
        return _busy("Waiting for its turn")

    def follow(self, key: str, view: str) -> Iterator[list[Any]]:
        """The bar while it is rendered, then the picture."""
        session = self.studio.session(key)
        rest = [gr.skip()] * 3
        for state in _followed(session, "Rendering"):
            if isinstance(state, Result):
                shown = [gr.update(value=str(state.view), visible=True), gr.update(visible=False)]
                if view == COMPARE:
                    pair = (str(session.sharp_view()), str(state.view))
                    shown = [gr.update(visible=False), gr.update(value=pair, visible=True)]
                told = said(f"Rendered, and saved as {state.path.name} in {state.path.parent.name}.", kind="done")
                yield [*_idle(told), gr.update(value=str(state.path), interactive=True), *shown]
            else:
                yield [*state, *rest]

    def follow_pull(self, key: str) -> Iterator[list[Any]]:
        """The bar while a focus pull is made, then the film."""
        for state in _followed(self.studio.session(key), "Making the film"):
            if isinstance(state, Result):
                told = said(f"Made, and saved as {state.path.name} in {state.path.parent.name}.", kind="done")
                film = gr.update(value=str(state.path), visible=True)
                is_film = state.path.suffix == ".mp4"
                shown = (film, gr.update(visible=False)) if is_film else (gr.update(visible=False), film)
                yield [*_idle(told), gr.update(value=str(state.path), interactive=True), *shown]
            else:
                yield [*state, *[gr.skip()] * 3]

    def cancel(self, key: str | None) -> None:
        """Have the rendering end."""
        job = self._at(key).job
        if job is not None:
            job.cancel()


def _followed(session: Session, what: str) -> Iterator[list[Any] | Result]:
    """States of the buttons and the bar while the session's job goes on; its result last, if there is one."""
    job = session.job
    assert job is not None  # noqa: S101  started by the event before
    job.begin()
    try:
        while not job.wait(POLL_S):
            yield _busy(bar(job, what))
        yield job.result()
    except Cancelled:
        yield _idle(said("Cancelled; nothing was written."))
    except BokehDiffError as error:
        yield _idle(said(f"Not done: {error.message}.", kind="warning"))
    finally:
        job.cancel()


def _busy(progress: str) -> list[Any]:
    """Render, cancel, pull and progress while something is rendered."""
    off = gr.update(interactive=False)
    return [off, gr.update(interactive=True), off, progress]


def _idle(progress: str) -> list[Any]:
    on = gr.update(interactive=True)
    return [on, gr.update(interactive=False), on, progress]


def camera_of(session: Session, focal_mm: float | None, nearest_m: float | None) -> Camera:
    """The photograph's camera with what the user says of it."""
    camera = session.camera
    return replace(
        camera,
        focal_length_mm=float(focal_mm or camera.focal_length_mm),
        nearest_m=float(nearest_m or camera.nearest_m),
    )


def screen_of(told: str) -> tuple[float, float] | None:
    """Height and width that the browser has for the picture [px]; None if it does not tell.

    Args:
        told: As `WITH_SCREEN` makes it, by a stranger.
    """
    return _sides(told, 0)


def shown_of(told: str) -> tuple[float, float] | None:
    """Height and width of the picture that the browser shows [px]; None if it does not tell.

    Args:
        told: As `WITH_SCREEN` makes it, by a stranger.
    """
    return _sides(told, 1)


def _sides(told: str, i: int) -> tuple[float, float] | None:
    sizes = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", (told or "").partition(" ")[2 * i])
    return (float(sizes[2]), float(sizes[1])) if sizes else None


def opened_told(session: Session, credit: str) -> str:
    """What is open, and how large it is looked at."""
    (height, width), (view_height, view_width) = session.size_hw, session.view_hw
    told = f"{session.name}, {width} × {height} px"
    if (view_height, view_width) != (height, width):
        told += f", looked at as {view_width} × {view_height} px (Render makes all of it)"
    return f"{told}. {credit}." if credit else f"{told}."


def depth_told(session: Session) -> str:
    """Where the depth is from, and whether to believe it."""
    if session.origin == "guess":
        return said(GUESSED, kind="warning")
    return said(f"Predicted by {session.source}." if session.origin == "model" else f"From {session.source}.")
