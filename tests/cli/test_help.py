"""The committed help texts are what the commands say. After a change: python -m tests.cli.test_help."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from bokehdiff.cli.help import WIDTH, help_text
from bokehdiff.cli.main import COMMANDS
from tests.helpers import REPOSITORY

FOLDER = REPOSITORY / "docs" / "help"


def text_of(name: str) -> str:
    command = importlib.import_module(f"bokehdiff.cli.{COMMANDS[name][0]}")
    return help_text(command.OPTIONS, program=f"bokehdiff {name}", positional=command.POSITIONAL) + "\n"


def file_of(name: str) -> Path:
    return FOLDER / f"{name.replace(' ', '_')}.txt"


@pytest.mark.parametrize("name", COMMANDS)
def test_committed_help_is_what_the_command_says(name):
    assert file_of(name).read_text(encoding="utf-8") == text_of(name), "run: python -m tests.cli.test_help"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described(name):
    text = text_of(name)
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    flags = [line for line in text.splitlines() if line.startswith("  --")]
    assert len(flags) > len({"--config", "--print-config", "--help"})
    for line, following in zip(text.splitlines(), text.splitlines()[1:], strict=False):
        if line.startswith("  --"):
            described = "  " in line.strip() or following.startswith("      ")
            assert described, f"{line.strip()} has no description"


if __name__ == "__main__":
    for command in COMMANDS:
        file_of(command).write_text(text_of(command), encoding="utf-8")
