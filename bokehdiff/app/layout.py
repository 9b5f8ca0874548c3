"""What stands on the page and where: gradio's components. What they do is in `page`."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from bokehdiff.app.controls import F_NUMBERS
from bokehdiff.app.results import PULL_FRAMES, RENDERERS
from bokehdiff.app.samples import Sample, thumbnail
from bokehdiff.app.studio import Studio

PICTURE, SHARP, DEPTH, COMPARE = "Blurred", "Sharp", "Depth", "Compare"
BLADES = [("round", 0), ("5", 5), ("6", 6), ("7", 7), ("8", 8), ("9", 9)]
FIRST_F_NUMBER = 1.8
STRONGEST_SHARE = 0.08  # of the longer side: the largest K of the slider
FRAMES = 24
ACCEPTED = [".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".bmp", ".exr"]
MAPS = [".png", ".jpg", ".tif", ".tiff", ".npy", ".npz", ".exr", ".pfm", ".webp"]
# What opening a photograph sets, by the names of `Parts`.
OPENED = (
    *("key", "welcome", "stage", "compare", "view", "status", "strength", "focus", "blades", "cat_eye", "highlights"),
    *("focal", "nearest", "depth_told", "depth_button", "depth_saved", "render", "pull", "progress", "download"),
    *("pull_download", "pull_film", "pull_gif"),
)
WELCOME = (
    '<div class="welcome"><p class="big">Drop a photo here, paste one, or open it</p>'
    "<p>Everything should be sharp in it. It stays on the computer that runs this page.</p></div>"
)


def said(text: str, *, kind: str = "note") -> str:
    """A line that screen readers speak when it changes."""
    sign = {"warning": "⚠ ", "done": "✓ "}.get(kind, "")
    return f'<p class="{kind}" role="status" aria-live="polite">{sign}{html.escape(text)}</p>'


@dataclass
class Parts:
    """The components that events read and write."""

    key: Any
    screen: Any
    fit: Any
    upload: Any
    welcome: Any
    stage: Any
    compare: Any
    view: Any
    status: Any
    samples: Any
    f_number: Any
    strength: Any
    focus: Any
    blades: Any
    cat_eye: Any
    highlights: Any
    focal: Any
    nearest: Any
    depth_told: Any
    depth_upload: Any
    near_is_dark: Any
    depth_button: Any
    depth_saved: Any
    renderer: Any
    file_format: Any
    render: Any
    cancel: Any
    progress: Any
    download: Any
    pull_from: Any
    pull_to: Any
    pull_frames: Any
    pull_format: Any
    pull: Any
    pull_download: Any
    pull_film: Any
    pull_gif: Any

    @property
    def lens(self) -> list[Any]:
        """What `controls_of` takes."""
        return [self.focus, self.strength, self.blades, self.cat_eye, self.highlights]

    @property
    def looking(self) -> list[Any]:
        """Where the picture is shown."""
        return [self.stage, self.compare]

    @property
    def opened(self) -> list[Any]:
        """What opening a photograph sets."""
        return [getattr(self, name) for name in OPENED]


def lay_out(studio: Studio, samples: list[Sample]) -> Parts:
    """The components, within a page.

    Args:
        studio: What all users share.
        samples: Photographs to try.
    """
    made: dict[str, Any] = {"key": gr.State(None, delete_callback=studio.close)}
    made["screen"] = gr.Textbox(visible=False)  # the browser's word for what it has for the picture
    made["fit"] = gr.Button("Fit the picture", visible="hidden", elem_id="fit")  # which it clicks when that has changed
    with gr.Row(elem_id="top", equal_height=True):
        gr.HTML("<h1>bokehdiff</h1><p>Click where it shall be sharp.</p>", elem_id="title")
        made["upload"] = gr.UploadButton(
            "Open a photo", file_types=ACCEPTED, elem_id="open", variant="primary", scale=0, min_width=160
        )
    with gr.Row(elem_id="table"):
        with gr.Column(scale=3, min_width=320, elem_id="left"):
            _lay_out_stage(made, samples, studio.equipment.places.passing)
        with gr.Column(scale=1, min_width=300, elem_id="right"):
            _lay_out_lens(made)
            _lay_out_depth(made)
            _lay_out_render(made, studio)
            _lay_out_pull(made)
    return Parts(**made)


def _lay_out_stage(made: dict[str, Any], samples: list[Sample], folder: Path) -> None:
    made["welcome"] = gr.HTML(WELCOME, elem_id="welcome")
    with gr.Group(elem_id="stage-group"):
        made["stage"] = gr.Image(
            type="filepath", interactive=False, show_label=False, label="The photograph; click it to focus there",
            visible=False, elem_id="stage", buttons=["fullscreen"], container=False,
            alt_text="The photograph through the lens; click it to focus there, or use the slider Focus",
        )  # fmt: skip
        made["compare"] = gr.ImageSlider(
            type="filepath", interactive=False, show_label=False, visible=False, elem_id="compare",
            label="Left the photograph, right through the lens", buttons=["fullscreen"], container=False,
        )  # fmt: skip
    made["view"] = gr.Radio(
        [PICTURE, SHARP, DEPTH, COMPARE], value=PICTURE, show_label=False, label="What is shown", visible=False,
        elem_id="view", container=False,
    )  # fmt: skip
    made["status"] = gr.HTML(said("No photo is open yet. Or try one of these:"), elem_id="status")
    made["samples"] = gr.Gallery(
        [(str(thumbnail(sample.photograph, folder)), sample.title) for sample in samples], show_label=False,
        label="Samples", columns=7, height=160, allow_preview=False, interactive=False, object_fit="cover",
        elem_id="samples", buttons=[],
    )  # fmt: skip


def _lay_out_lens(made: dict[str, Any]) -> None:
    with gr.Group(elem_id="lens"):
        made["f_number"] = gr.Slider(
            *F_NUMBERS, value=FIRST_F_NUMBER, step=0.05, label="Aperture (f-number)", buttons=[], elem_id="f-number",
            info="Small numbers blur more.",
        )  # fmt: skip
        made["strength"] = gr.Slider(
            0, 100, value=20, step=0.1, label="The same as strength K (px)", buttons=[], elem_id="strength"
        )
        made["focus"] = gr.Slider(
            0, 1, value=0.5, step=0.002, label="Focus (0 far, 1 near)", buttons=[], elem_id="focus",
            info="Or click the picture.",
        )  # fmt: skip
    with gr.Accordion("Character of the blur", open=False, elem_id="character"):
        made["blades"] = gr.Radio(BLADES, value=0, label="Aperture blades", elem_id="blades")
        made["cat_eye"] = gr.Slider(
            0, 1, value=0, step=0.05, label="Cat's eyes in the corners", buttons=[], elem_id="cat-eye",
            info="The preview is coarser with them; what is rendered is not.",
        )  # fmt: skip
        made["highlights"] = gr.Slider(
            1, 20, value=1, step=0.5, label="Highlights (times as bright)", buttons=[], elem_id="highlights"
        )
    with gr.Accordion("What the f-number means", open=False):
        made["focal"] = gr.Number(50, label="Focal length (mm, full frame)", minimum=4, maximum=2000, elem_id="focal")
        made["nearest"] = gr.Number(
            1.0, label="Nearest point (m away)", minimum=0.05, maximum=1000, step=0.1, elem_id="nearest"
        )


def _lay_out_depth(made: dict[str, Any]) -> None:
    with gr.Accordion("Depth", open=False, elem_id="depth"):
        made["depth_told"] = gr.HTML(said("Each photo needs its depth: brought, predicted or guessed."))
        made["depth_upload"] = gr.UploadButton("Bring a depth map", file_types=MAPS, size="sm", elem_id="open-depth")
        made["near_is_dark"] = gr.Checkbox(False, label="In this map near is dark (it holds depth, not disparity)")
        made["depth_button"] = gr.Button("Save the depth map", size="sm", interactive=False)
        made["depth_saved"] = gr.DownloadButton("Download the depth map", size="sm", visible=False)


def _lay_out_render(made: dict[str, Any], studio: Studio) -> None:
    with gr.Group(elem_id="finish"):
        names = RENDERERS if studio.equipment.networks else RENDERERS[:1]
        made["renderer"] = gr.Radio(
            [(name.capitalize(), name) for name in names], value=names[0], label="Quality",
            info=None if studio.equipment.networks else "Neural and hybrid need networks: see docs/app.md.",
            elem_id="renderer",
        )  # fmt: skip
        made["file_format"] = gr.Radio(
            [("JPEG", "jpg"), ("PNG, 16 bit", "png"), ("TIFF, 16 bit", "tif")], value="jpg", label="File",
            elem_id="format",
        )  # fmt: skip
    with gr.Row():
        made["render"] = gr.Button("Render", variant="primary", interactive=False, elem_id="render", min_width=100)
        made["cancel"] = gr.Button("Cancel", variant="stop", interactive=False, elem_id="cancel", min_width=100)
    made["progress"] = gr.HTML("", elem_id="progress")
    made["download"] = gr.DownloadButton("Download", interactive=False, elem_id="download")


def _lay_out_pull(made: dict[str, Any]) -> None:
    with gr.Accordion("Focus pull", open=False, elem_id="pull"):
        made["pull_from"] = gr.Slider(0, 1, value=0, step=0.01, label="From (0 far, 1 near)", buttons=[])
        made["pull_to"] = gr.Slider(0, 1, value=1, step=0.01, label="To", buttons=[])
        made["pull_frames"] = gr.Slider(*PULL_FRAMES, value=FRAMES, step=1, label="Pictures", buttons=[])
        made["pull_format"] = gr.Radio([("GIF", "gif"), ("MP4", "mp4")], value="mp4", label="Film")
        made["pull"] = gr.Button("Make the focus pull", interactive=False, elem_id="make-pull")
        made["pull_download"] = gr.DownloadButton("Download the film", interactive=False, elem_id="download-pull")
        made["pull_film"] = gr.Video(visible=False, label="Focus pull", loop=True, autoplay=True, buttons=[])
        made["pull_gif"] = gr.Image(visible=False, label="Focus pull", type="filepath", interactive=False, buttons=[])
