"""Every command of docs/troubleshooting.md is one: ours parse, and the others are what the doctor itself prints."""

from __future__ import annotations

import importlib
import re
import shlex

import pytest

from bokehdiff.cli.infer.options import PUBLISHED_ADAPTER, PUBLISHED_BASE
from bokehdiff.cli.main import COMMANDS
from bokehdiff.cli.options import parse_options
from bokehdiff.machine import installed_extras, stored_weights
from tests.helpers import REPOSITORY

PAGE = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]
OURS = [line for line in LINES if "bokehdiff " in line and not line.startswith("hf ")]
OTHERS = [line for line in LINES if line not in OURS]


@pytest.mark.parametrize("line", OURS)
def test_our_commands_parse(line, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(line, comments=True)
    words = words[words.index("bokehdiff") + 1 :]
    name = next(name for name in COMMANDS if words[: len(name.split())] == name.split())
    command = importlib.import_module(f"bokehdiff.cli.{COMMANDS[name][0]}")
    rest = words[len(name.split()) :]
    parse_options(command.OPTIONS, rest, program=f"bokehdiff {name}", positional=command.POSITIONAL)


def test_the_others_are_those_that_the_doctor_prints():
    stored = stored_weights(
        tiny_base="none",
        tiny_adapter="none",
        base=PUBLISHED_BASE,
        adapter=PUBLISHED_ADAPTER,
        adapter_variant="small",
        backbone="convnext",
    )
    printed = [weights.otherwise for weights in stored] + [extra.install for extra in installed_extras()]
    there = {weights.name for weights in stored if weights.place}
    lines = [line.partition("#")[0].strip() for line in OTHERS]
    assert lines
    assert [line for line in lines if line not in printed and not any(name in line for name in there)] == []
