"""The commands that README.md and docs/*.md tell readers to type: where, what, and which of them cannot be run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
# What a line may begin with to be a command at all; others than these are text, drawings or Python.
PROGRAMS = (
    "bokehdiff",
    "python",
    "python3",
    ".venv/bin/python",
    "make",
    "pytest",
    "accelerate",
    "pip",
    "hf",
    "playwright",
    "apt",
)
ENVIRONMENT = re.compile(r"[A-Z_]+=\S*")
ELLIPSES = frozenset({"...", "…"})

# Why a command that is right is not run by `pytest -m slow tests/test_documentation.py`: the first that is found in it.
NOT_RUN = {
    r"^(pip|apt|playwright|hf) |^make ": "installs or downloads: `make` begins by setting up .venv",
    r"^\. | -m venv ": "changes the shell that it is typed in, or begins an environment",
    r"^bokehdiff (?!doctor)[a-z-]+$|^python \w+\.py$": "is a mention of a program, not a command",
    r"^accelerate launch": "starts several processes, or has SDXL's weights to train; tests/training does both small",
    r"\bpytest\b": "is a test, which its own tier runs; here its files and the names of -k must be there",
    r"^bokehdiff app( |$)": "serves until it is interrupted; tests/app/test_browser.py starts it and uses it",
    r"benchmarks/": "measures for minutes to hours, or needs a GPU or data that are not ours to ship",
    r"bokehdiff_sdxl": "needs SDXL's weights",
    r"--adapter-variant|--disparity-model|--mask-model|--model-size|lpips": "needs weights",
    r"--enable_xformers|--offload|--resume-from-checkpoint (logs_bokehdiff|ADAPTER)": "needs SDXL's weights",
    r"infer --test-data-dir \S+( --tile-px \d+)?$": "needs SDXL's weights",
    r"\b(ebb-val294|ebb|lens-ground-truth|BASE|RELEASED|EBB|AIM)\b": "needs data or weights that are not ours to ship",
    r"logs_(pynet|double_vnet|bokehdiff)": "needs the weights of a training of days",
    r"configs/(baselines|pretrain_tiny|tiny_full)|outputs/(baselines|tiny_full)": "trains for up to an hour",
    r"^bokehdiff (train|export) ": "needs SDXL's weights",
    r"(SHARP|NEAR)\.png|a/records": "stands for files of the reader's",
    r"photo_metric": "needs a depth model's distances in metres",
}


@dataclass(frozen=True)
class Command:
    """A command on a page.

    Args:
        page: File.
        line: Of the file, where it begins, counted from 1.
        text: All of it in one line, without comment, and without what is set before it.
    """

    page: Path
    line: int
    text: str

    @property
    def words(self) -> list[str]:
        """As a shell splits it."""
        return [word for word in shlex.split(self.text) if word not in ELLIPSES]

    @property
    def why_not_run(self) -> str | None:
        """The reason why it is only parsed; None if it is run."""
        return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, self.text)), None)

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}: {self.text}"


def commands() -> list[Command]:
    """All commands of all pages, in their order."""
    return [command for page in PAGES for command in commands_of(page)]


def commands_of(page: Path) -> Iterator[Command]:
    """Those of a page: in fenced blocks of `sh`, in indented blocks, and within the text.

    Args:
        page: Markdown.
    """
    fence: str | None = None
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        if line.lstrip().startswith("```"):
            fence = line.strip()[3:] if fence is None else None
        elif fence is None and not line.startswith("    "):
            for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", line):
                if begins_with_program(code) and len(code.split()) > 1:
                    yield Command(page, number, code)
        elif fence in (None, "sh"):
            text = line
            while text.rstrip().endswith("\\"):
                text = text.rstrip()[:-1] + next(lines)[1]
            text = " ".join(shlex.join(shlex.split(text, comments=True)).split()) if fence else uncommented(text)
            while ENVIRONMENT.match(text):
                text = text.partition(" ")[2]
            if text and (fence == "sh" or begins_with_program(text)):
                yield Command(page, number, text)


def uncommented(text: str) -> str:
    """A line without what follows two spaces and a #, in which quotes need not match.

    Args:
        text: The line.
    """
    return " ".join(re.split(r"\s{2,}#|\s# ", text)[0].split())


def begins_with_program(text: str) -> bool:
    """Whether it is a command.

    Args:
        text: A line of a page.
    """
    return text.split()[0] in PROGRAMS if text.split() else False
