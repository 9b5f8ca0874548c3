"""Draw how data flows through the rooms, and which rooms may know which: python docs/figures/architecture.py"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
COLUMN_PX, ROW_PX = 184, 92
BOX_PX = (150, 56)
MARGIN_PX = 24
STRATUM_PX = 46
FILLS = {"room": "#dbe7f6", "handed": "#fdf3d8", "file": "#e8e8e8"}
LEGEND = {"room": "room of the package", "handed": "frozen dataclass", "file": "files"}


@dataclass(frozen=True)
class Box:
    """Something that data passes.

    Args:
        column: From the left.
        row: From the top.
        kind: Key of `FILLS`.
        title: Its name.
        below: What it does or holds.
    """

    column: int
    row: int
    kind: str
    title: str
    below: str

    @property
    def left(self) -> float:
        """Its left edge [px]."""
        return MARGIN_PX + self.column * COLUMN_PX

    @property
    def top(self) -> float:
        """Its upper edge [px]."""
        return MARGIN_PX + self.row * ROW_PX

    @property
    def middle(self) -> float:
        """Height of its middle [px]."""
        return self.top + BOX_PX[1] / 2

    def svg(self) -> str:
        """The box."""
        centre = self.left + BOX_PX[0] / 2
        return (
            f'<rect x="{self.left}" y="{self.top}" width="{BOX_PX[0]}" height="{BOX_PX[1]}" '
            f'rx="{3 if self.kind == "file" else 10}" fill="{FILLS[self.kind]}" stroke="#445"/>'
            + text(centre, self.top + 24, self.title, bold=True)
            + text(centre, self.top + 43, self.below, size=11)
        )


FLOW = {
    "render_photo": Box(4, 0, "room", "renderers", "render_photo: physics"),
    "photographs": Box(0, 1, "file", "photographs", "in any format"),
    "preparation": Box(1, 1, "room", "preparation", "disparity and masks"),
    "folder": Box(2, 1, "file", "input/ depth/ mask/", "one NAME in each"),
    "scene": Box(3, 1, "handed", "Scene and Lens", "what is there, how seen"),
    "inference": Box(4, 1, "room", "inference", "models, attention"),
    "picture": Box(5, 1, "file", "picture", "EXIF, settings inside"),
    "evaluation": Box(6, 1, "room", "evaluation", "records, tables, plots"),
    "adapter": Box(4, 2, "file", "adapter", "LoRA, VAE encoder"),
    "foregrounds": Box(0, 3, "file", "fg/ bg/", "subjects, scenes behind"),
    "data": Box(1, 3, "room", "data", "compositor: (seed, n)"),
    "stack": Box(2, 3, "handed", "LayerStack", "layers, Lens"),
    "render_layers": Box(3, 3, "room", "renderers", "render_layers: rays"),
    "sample": Box(4, 3, "handed", "TrainSample", "sharp, blurred, circles"),
    "training": Box(5, 3, "room", "training", "loop: models, losses"),
}
ARROWS = (
    *(("photographs", "preparation"), ("preparation", "folder"), ("folder", "scene"), ("scene", "inference")),
    *(("scene", "render_photo"), ("inference", "picture"), ("render_photo", "picture"), ("picture", "evaluation")),
    *(("foregrounds", "data"), ("data", "stack"), ("stack", "render_layers"), ("render_layers", "sample")),
    *(("sample", "training"), ("training", "adapter"), ("adapter", "inference")),
)


def text(x: float, y: float, words: str, *, bold: bool = False, size: int = 13, anchor: str = "middle") -> str:
    """Words.

    Args:
        x: Where they are [px].
        y: Height of their base line [px].
        words: The words.
        bold: Stronger.
        size: Of the letters [px].
        anchor: Which part of them is at x.
    """
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'


def arrow(one: Box, other: Box) -> str:
    """From one box to another: along a row, along a column, or around a corner.

    Args:
        one: Where it begins.
        other: Where it ends.
    """
    right, centre = one.left + BOX_PX[0], one.left + BOX_PX[0] / 2
    if one.row == other.row:
        path = f"M{right} {one.middle} H{other.left - 3}"
    elif one.column == other.column:
        path = f"M{centre} {one.top} V{other.top + BOX_PX[1] + 3}"
    elif one.column > other.column:
        path = f"M{centre} {one.top} V{other.middle} H{other.left + BOX_PX[0] + 3}"
    else:
        start, end = one.middle - 14 * (other.row < one.row), other.middle - 14 * (other.row > one.row)
        half = (right + other.left) / 2
        path = f"M{right} {start} H{half} V{end} H{other.left - 3}"
    return f'<path d="{path}" fill="none" stroke="#445" stroke-width="1.6" marker-end="url(#tip)"/>'


def drawing(width: float, height: float, parts: list[str], title: str) -> str:
    """A whole SVG.

    Args:
        width: Its width [px].
        height: Its height [px].
        parts: What is on it.
        title: For those who cannot see it.
    """
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#445"/></marker></defs>'
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="Helvetica, Arial, DejaVu Sans, sans-serif" fill="#112" role="img" aria-label="{title}">',
            f'{tip}<rect width="{width}" height="{height}" fill="#fff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def flow() -> str:
    """How data flows."""
    columns, rows = (1 + max(getattr(box, side) for box in FLOW.values()) for side in ("column", "row"))
    width = 2 * MARGIN_PX + (columns - 1) * COLUMN_PX + BOX_PX[0]
    base = MARGIN_PX + rows * ROW_PX
    parts = [arrow(FLOW[one], FLOW[other]) for one, other in ARROWS] + [box.svg() for box in FLOW.values()]
    for i, (kind, words) in enumerate(LEGEND.items()):
        left = MARGIN_PX + i * COLUMN_PX
        parts.append(f'<rect x="{left}" y="{base}" width="14" height="14" fill="{FILLS[kind]}" stroke="#445"/>')
        parts.append(text(left + 22, base + 12, words, size=12, anchor="start"))
    return drawing(width, base + 14 + MARGIN_PX, parts, "How data flows through the rooms of bokehdiff")


def strata_of_contract() -> list[list[str]]:
    """The rooms of each stratum, the highest first, as the contract in pyproject.toml has them."""
    contract = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    (layers,) = re.findall(r"^layers = (\[.*?^\])", contract, flags=re.DOTALL | re.MULTILINE)
    return [[room.strip() for room in layer.split("|")] for layer in ast.literal_eval(layers)]


def strata() -> str:
    """Which rooms may know which."""
    layers = strata_of_contract()
    most = max(len(layer) for layer in layers)
    width = 2 * MARGIN_PX + most * (BOX_PX[0] + 12) + 120
    parts = []
    for i, layer in enumerate(layers):
        top = MARGIN_PX + i * STRATUM_PX
        for j, room in enumerate(layer):
            left = MARGIN_PX + 120 + j * (BOX_PX[0] + 12)
            parts.append(
                f'<rect x="{left}" y="{top}" width="{BOX_PX[0]}" height="32" rx="8" '
                f'fill="{FILLS["room"]}" stroke="#445"/>' + text(left + BOX_PX[0] / 2, top + 21, room, bold=True)
            )
    height = MARGIN_PX + len(layers) * STRATUM_PX
    x = MARGIN_PX + 60
    parts.append(
        f'<path d="M{x} {MARGIN_PX + 26} V{height - 18}" stroke="#445" stroke-width="1.6" marker-end="url(#tip)"/>'
    )
    parts.append(text(x, MARGIN_PX + 12, "may import", size=12))
    return drawing(width, height + 8, parts, "Strata: each room may import from those below it")


DRAWINGS = {"architecture_flow.svg": flow, "architecture_strata.svg": strata}


def main() -> None:
    """Write both beside this file."""
    for name, draw in DRAWINGS.items():
        Path(__file__).with_name(name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
