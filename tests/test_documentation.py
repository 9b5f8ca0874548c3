"""Every command that README.md and docs/*.md tell a reader to type is one: its program, flags and files are there.

The slow tier runs those that need neither weights, nor a GPU, nor hours, in a copy of the repository, page by page in
their order; `tests/documentation.py` says of each of the others why it is not run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from PIL import Image

from bokehdiff.cli.main import COMMANDS
from bokehdiff.cli.options import NO_ALIASES, HelpRequested, parse_options
from tests.documentation import NOT_RUN, PAGES, Command, commands, commands_of
from tests.helpers import REPOSITORY

ALL = commands()
DOORS = {"train_lora_otf.py": "train", "inference_hf.py": "infer", "prepare_data.py": "prepare"}
PROJECT = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
ELSEWHERE = frozenset(
    {"hf", "playwright", "apt", "."}
)  # other people's programs; docs/troubleshooting.md's have a test
NUMBER = "N"  # stands for a number of the reader's
# Folders whose files are the repository's; what a command writes lies elsewhere.
OURS = ("assets", "benchmarks", "bokehdiff", "configs", "docs", "integrations", "test_data", "tests")
LONGEST_S = 900
# What a reader has: a photograph, its map, and the map as `bokehdiff prepare` writes it.
HAS = dict.fromkeys(("depth/a.npy", "depth/a_pred.npy"), "depth/leaves_pred.npy") | {"input/a.jpg": "input/leaves.jpg"}


class Parsed(Exception):  # noqa: N818  not a failure: the parser is through
    """Raised where a script would begin its work."""


def parse_ours(words: list[str]) -> None:
    """`bokehdiff ...`, by the parser that runs it."""
    name = next(name for name in COMMANDS if words[: len(name.split())] == name.split())
    if words == name.split():
        return  # a mention
    command = importlib.import_module(f"bokehdiff.cli.{COMMANDS[name][0]}")
    with contextlib.suppress(HelpRequested):
        parse_options(
            command.OPTIONS, words[len(name.split()) :], program=f"bokehdiff {name}",
            positional=command.POSITIONAL, aliases=getattr(command, "ALIASES", NO_ALIASES),
        )  # fmt: skip


def parse_script(script: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`python SCRIPT ...`, by its own parser, which it is not let past; without one it takes no words."""
    if script in DOORS:
        parse_ours([DOORS[script], *words])
        return
    path = REPOSITORY / script
    if "ArgumentParser(" not in path.read_text(encoding="utf-8"):
        assert not words, f"{script} takes no words"
        return
    parse = argparse.ArgumentParser.parse_args

    def only_parse(parser, *given):
        parse(parser, *given)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    monkeypatch.setattr(sys, "argv", [script, *words])
    monkeypatch.syspath_prepend(path.parent)
    with pytest.raises(Parsed):
        runpy.run_path(str(path), run_name="__main__")


def check_pytest(words: list[str]) -> None:
    """Markers are declared, files are there, and what -k looks for is in them."""
    asked = argparse.ArgumentParser()
    asked.add_argument("files", nargs="*")
    asked.add_argument("-m")
    asked.add_argument("-k")
    asked.add_argument("-s", action="store_true")
    options = asked.parse_args(words)
    for marker in re.findall(r"\w+", options.m or ""):
        assert marker in ("or", "not") or f'"{marker}: ' in PROJECT, f"no marker {marker}"
    paths = [REPOSITORY / file for file in options.files]
    tests = [test for path in paths for test in ([path] if path.is_file() else path.rglob("test_*.py"))]
    assert tests or not options.files
    if options.k:
        names = re.findall(r"def (test_\w+)", "".join(test.read_text(encoding="utf-8") for test in tests))
        pages = [page.stem for page in PAGES]  # name the cases of this file's tests
        assert any(options.k in name for name in (*names, *pages)), f"no test is called {options.k}"


def check_python(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] != "-m":
        parse_script(words[0], words[1:], monkeypatch)
    elif words[1] == "pytest":
        check_pytest(words[2:])
    elif words[1] == "bokehdiff":
        parse_ours(words[2:])
    else:
        assert importlib.util.find_spec(words[1]), f"no module {words[1]}"


def check_launch(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[0] == "launch"
    if not words[1:]:
        return
    asked = launch_command_parser().parse_args([word if word != NUMBER else "1" for word in words[1:]])
    check_python([*(["-m"] if asked.module else []), asked.training_script, *asked.training_script_args], monkeypatch)


def check_install(words: list[str]) -> None:
    """`pip install` of our extras."""
    assert words[0] == "install"
    for extra in re.findall(r"bokehdiff\[(.*?)\]", " ".join(words)):
        for one in extra.split(","):
            assert re.search(rf"^{one} = \[", PROJECT, flags=re.MULTILINE), f"no extra {one}"


def check(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *words = command.words
    if program == "bokehdiff":
        parse_ours(words)
    elif program in ("python", "python3", ".venv/bin/python"):
        check_python(words, monkeypatch)
    elif program == "pytest":
        check_pytest(words)
    elif program == "make":
        assert all(re.search(rf"^{target}:", MAKEFILE, flags=re.MULTILINE) for target in words)
    elif program == "accelerate":
        check_launch(words, monkeypatch)
    elif program == "pip":
        check_install(words)
    else:
        assert program in ELSEWHERE, f"{program} is no program that the documentation may rely on"


@pytest.mark.parametrize("command", ALL, ids=str)
def test_every_command_parses(command, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    check(command, monkeypatch)


@pytest.mark.parametrize("command", ALL, ids=str)
def test_every_file_of_ours_that_a_command_names_is_there(command):
    for word in command.words[1:]:
        for path in re.split(r"[,=:]", word):
            if path.split("/")[0] in OURS and "/" in path:
                assert any(REPOSITORY.glob(path.rstrip("/"))), f"{path} is not there"


def test_every_page_is_looked_through_and_every_reason_is_one_of_a_command():
    assert len(ALL) > 100
    texts = [command.text for command in ALL]
    assert [pattern for pattern in NOT_RUN if not any(re.search(pattern, text) for text in texts)] == []


@pytest.mark.parametrize("name", ["architecture_flow.svg", "architecture_strata.svg"])
def test_the_architecture_is_drawn_as_the_contract_has_it(name):
    drawn = runpy.run_path(str(REPOSITORY / "docs" / "figures" / "architecture.py"))["DRAWINGS"][name]()
    assert (REPOSITORY / "docs" / "figures" / name).read_text(encoding="utf-8") == drawn


def test_the_architecture_tells_of_every_room():
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    layers = runpy.run_path(str(REPOSITORY / "docs" / "figures" / "architecture.py"))["strata_of_contract"]()
    assert [room for layer in layers for room in layer if f"`{room}`" not in page] == []


def run_pages() -> list[Path]:
    return [page for page in PAGES if any(command.why_not_run is None for command in commands_of(page))]


@pytest.fixture
def copy(tmp_path) -> Path:
    """The repository as it is committed and changed, and what a reader is told to have.

    That is photographs with depth maps, a subject with transparency, and a background.
    """
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, tmp_path / name)
    for place in ("photos", "ROOT", "DATA"):
        for called, source in HAS.items():
            (tmp_path / place / called).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / "test_data" / source, tmp_path / place / called)
    with Image.open(REPOSITORY / "test_data/input/leaves.jpg") as leaves:
        with Image.open(REPOSITORY / "test_data/mask/leaves.png") as mask:
            leaves.putalpha(mask.convert("L"))
        (tmp_path / "DATA/fg").mkdir()
        leaves.save(tmp_path / "DATA/fg/leaves.png")
    (tmp_path / "DATA/bg").mkdir()
    shutil.copyfile(REPOSITORY / "test_data/input/motorcycle.jpg", tmp_path / "DATA/bg/motorcycle.jpg")
    return tmp_path


def as_run(words: list[str]) -> list[str]:
    """With this Python, whatever is called so on the reader's machine."""
    if words[0] == "bokehdiff":
        return [sys.executable, "-m", "bokehdiff", *words[1:]]
    return [sys.executable, *words[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("page", run_pages(), ids=lambda page: page.name)
def test_commands_run_one_after_the_other(page, copy):
    environment = os.environ | {"PYTHONPATH": str(copy), "TQDM_DISABLE": "1", "MPLBACKEND": "Agg"}
    for command in commands_of(page):
        if command.why_not_run is not None:
            continue
        print(command, flush=True)
        done = subprocess.run(
            as_run(command.words), cwd=copy, env=environment, capture_output=True, text=True, check=False,
            timeout=LONGEST_S,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
