"""Driving the page in a browser: what the browser tests do more than once."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from tests.helpers import REPOSITORY

PATIENCE_MS = 180_000  # on a machine with a dozen busy programs; a quiet one needs a second
DESKTOP, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}


@contextmanager
def serving(folder: Path, words: list[str]) -> Iterator[tuple[str, Path]]:
    """`bokehdiff app` with more words, as users start it: the page's address and the folder of its results."""
    pytest.importorskip("gradio")
    words = ["app", "--port", "0", "--disparity-model", "none", "--output-dir", str(folder / "results"), *words]
    passing = folder / "passing"
    passing.mkdir()
    program = subprocess.Popen(
        [sys.executable, "-m", "bokehdiff", *words], stdout=subprocess.PIPE, text=True,
        cwd=REPOSITORY, env={**os.environ, "TMPDIR": str(passing), "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch")},
    )  # fmt: skip
    try:
        found = re.search(r"http://\S+", program.stdout.readline())
        yield found[0], folder / "results"
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == 0
        assert not list(passing.iterdir())
    finally:
        program.kill()
        program.wait()
        program.stdout.close()


def visit(context, address: str, requested: list[str] | None = None):
    """The page in a browser's new tab; addresses that it asks for are put on a list."""
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    if requested is not None:
        page.on("request", lambda request: requested.append(request.url))
    page.goto(address)
    page.wait_for_selector("#samples img")
    return page


def open_sample(page, title: str) -> None:
    page.locator("#samples button").filter(has_text=title).click()
    page.wait_for_selector("#stage img")


def rendered(page) -> str:
    """What the page says once it has rendered."""
    page.wait_for_function("() => document.querySelector('#progress')?.innerText.includes('Rendered')")
    return page.inner_text("#progress")


def bring_depth(page, disparity: Path) -> None:
    before = source_of(page)
    page.click("#depth > button")
    page.set_input_files("#depth input[type=file]", disparity)
    page.locator("#depth").get_by_text(f"From {disparity.name}.").wait_for(state="attached")
    changed(page, before)


def source_of(page) -> str:
    return page.get_attribute("#stage img", "src")


def changed(page, before: str) -> str:
    """The address of the picture once it is another."""
    page.wait_for_function("before => document.querySelector('#stage img')?.src !== before", arg=before)
    return source_of(page)


def shown(page) -> torch.Tensor:
    """The picture that the page shows, as it came over the wire."""
    with Image.open(io.BytesIO(page.request.get(source_of(page)).body())) as picture:
        return _as_tensor(np.array(picture.convert("RGB")))


def click_at(page, x_share: float, y_share: float = 0.5) -> None:
    """Click the picture and wait for the one that comes of it."""
    before = source_of(page)
    picture = page.locator("#stage img")
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    page.mouse.click(box["x"] + x_share * box["width"], box["y"] + y_share * box["height"])
    changed(page, before)


def set_slider(page, name: str, value: float) -> None:
    field = page.locator(f"#{name} input[type=number]")
    field.fill(str(value))
    field.press("Enter")
    field.press("Tab")


def number_of(page, name: str) -> float:
    return float(page.input_value(f"#{name} input[type=number]"))


def pictures_of(film: Path) -> list[torch.Tensor]:
    """The pictures of a GIF or an MP4, in their order."""
    if film.suffix == ".gif":
        with Image.open(film) as file:
            return [_as_tensor(np.array(one.convert("RGB"))) for one in ImageSequence.Iterator(file)]
    video, frames = cv2.VideoCapture(str(film)), []
    while (read := video.read())[0]:
        frames.append(_as_tensor(read[1][..., ::-1].copy()))
    video.release()
    return frames


def _as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255.0
