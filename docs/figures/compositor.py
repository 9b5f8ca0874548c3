"""Draw docs/figures/compositor_*.jpg and cutouts.jpg: samples of both distributions, and what decontaminating does.

    python docs/figures/compositor.py

Samples are at 1:1, of a procedural set that is written for it. The cut-out is procedural hair, whose colour and
coverage are known, photographed before a bright sky and laid over a dark wall.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from bokehdiff.cli.main import main
from bokehdiff.data import synthetic_foreground, write_training_set
from bokehdiff.images import linear_to_srgb, load_photo, save_image, srgb_to_linear
from bokehdiff.pictures import contact_sheet
from bokehdiff.preparation import unmix

FOLDER = Path(__file__).parent
HAIR, SUBJECT_PX, SHOWN = 3, 480, slice(100, 340)  # number of the subject, its side, and the part that is shown [px]
SKY_SRGB, WALL_SRGB = (0.8, 0.9, 1.0), (0.12, 0.1, 0.09)
SAMPLES = {"published": 4, "bokehdiff": 5}
SEEDS = {"published": 10, "bokehdiff": 5}  # the focus lies on different things


def draw_samples() -> None:
    """A contact sheet of each distribution."""
    with tempfile.TemporaryDirectory() as root:
        write_training_set(Path(root), n_foregrounds=16, n_backgrounds=12, size_px=768, seed=3)
        for name, n in SAMPLES.items():
            sheet = Path(root) / f"{name}.png"
            words = ["--n", n, "--resolution", 256, "--seed", SEEDS[name], "--composition", name, "--output", sheet]
            if main(["data", "preview", root, *map(str, words)]) != 0:
                raise SystemExit(f"no samples of {name}")
            save_image(FOLDER / f"compositor_{name}.jpg", load_photo(sheet).image_srgb, quality=85)


def draw_cutouts() -> None:
    """Hair photographed before a bright sky, and before a dark wall: as cut out, decontaminated, and in truth."""
    subject = synthetic_foreground(1, HAIR, size_px=SUBJECT_PX)[..., SHOWN, SHOWN]
    alpha, own = subject[:, 3], srgb_to_linear(subject[:, :3])
    sky, wall = (srgb_to_linear(torch.tensor(colour))[None, :, None, None] for colour in (SKY_SRGB, WALL_SRGB))
    light = alpha[:, None] * own + (1 - alpha[:, None]) * sky

    def before_wall(near: torch.Tensor) -> torch.Tensor:
        return linear_to_srgb(alpha[:, None] * near + (1 - alpha[:, None]) * wall)

    columns = {
        "photograph": linear_to_srgb(light),
        "cut out as it is": before_wall(light),
        "decontaminated": before_wall(unmix(light, alpha).near),
        "the truth": before_wall(own),
    }
    save_image(FOLDER / "cutouts.jpg", contact_sheet(columns))


if __name__ == "__main__":
    draw_cutouts()
    draw_samples()
