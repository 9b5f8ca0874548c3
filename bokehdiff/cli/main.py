"""`bokehdiff COMMAND ...`: finds the command, parses its options, prints errors as one line each."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence

from bokehdiff import __version__
from bokehdiff.errors import BokehDiffError

# Command, the module of bokehdiff.cli that runs it, one line of help.
COMMANDS = {
    "prepare": ("prepare", "predict or take in disparity and subject masks for a folder of photographs"),
    "train": ("train", "fine-tune SDXL with LoRA on lens-blur pairs made on the fly"),
    "train-baseline": ("train_baseline", "train PyNET or the Double V-Net, which the field compares with"),
    "export": ("export", "write an adapter as kohya's scripts, ComfyUI and diffusers read it, or merged into its base"),
    "pretrain-tiny": ("pretrain_tiny", "teach the tiny SDXL that ships with the project, from nothing"),
    "infer": ("infer", "render photographs with one diffusion step"),
    "render": ("render", "render photographs with a physical lens, without any network"),
    "app": ("app", "the same in the browser: open a photo, click what shall be sharp, render, download"),
    "evaluate": ("evaluate", "measure pictures against references, or methods against what a lens saw"),
    "defocus": ("defocus", "find disparity by the blur of defocused photographs of the same view"),
    "data synthesize": ("data_synthesize", "write a procedural training set of foregrounds and backgrounds"),
    "data preview": ("data_preview", "draw a contact sheet of training samples"),
    "data check": ("data_check", "tell whether a training folder is fit for training: counts, sizes, problems"),
    "doctor": ("doctor", "what works on this machine: devices, back ends, weights, packages"),
    "demo": ("demo", "the whole way through on a small example: train, prepare, render, compare"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 2 asked wrongly, 130 interrupted.

    Args:
        argv: Words after the program's name; None for those of this process.
    """
    # Threads of torch that wait for each other in a loop stand in their own way on a busy machine: with both cores
    # taken, a training step of the demo took 9.1 s so, and 1.8 s with threads that sleep. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in {"-h", "--help", "help"}:
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)
    if name is None:
        print(f"bokehdiff: no command {words[0]!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return _run(name, words[len(name.split()) :])


def _run(name: str, words: list[str]) -> int:
    from bokehdiff.cli.options import NO_ALIASES, HelpRequested, parse_options

    command = importlib.import_module(f"bokehdiff.cli.{COMMANDS[name][0]}")
    try:
        options = parse_options(
            command.OPTIONS,
            words,
            program=f"bokehdiff {name}",
            positional=command.POSITIONAL,
            aliases=getattr(command, "ALIASES", NO_ALIASES),
        )
        return command.run(options)
    except HelpRequested as request:
        print(request.text)
        return 0
    except BokehDiffError as error:
        print(f"bokehdiff {name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"bokehdiff {name}: interrupted", file=sys.stderr)
        return 130


def _overview() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: bokehdiff COMMAND [OPTIONS]",
            "",
            "Real lens blur for photographs: by diffusion or by physics.",
            "",
            *lines,
            "",
            "bokehdiff COMMAND --help tells about one of them.",
        ]
    )
