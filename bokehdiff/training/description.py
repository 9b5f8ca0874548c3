"""What a run says of itself: in its folder for whoever finds it, beside the weights for whoever uses them."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from bokehdiff.images import write_atomically

VERSIONS_OF = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "opencv-python-headless")
NOT_FOR_STRANGERS = ("data_dir", "output_dir", "_weights", "mix_in")  # places on this machine


def describe(config: Mapping[str, Any], facts: Mapping[str, str]) -> dict[str, str]:
    """What is written beside trained weights.

    Args:
        config: The run's configuration as nested mappings.
        facts: What a reader wants to know first, by name.
    """
    return {
        **facts,
        "seed": str(config["run"]["seed"]),
        "config": json.dumps(_for_strangers(config)),
        "versions": " ".join(f"{name}={metadata.version(name)}" for name in VERSIONS_OF),
    }


def write_description(folder: Path, config: Mapping[str, Any]) -> None:
    """The resolved configuration, the command, the versions and, in a clone, the commit.

    Args:
        folder: The run's.
        config: As of `describe`.
    """
    with write_atomically(folder / "config.yaml") as partial:
        partial.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    versions = [f"python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in VERSIONS_OF)]
    command = shlex.join([Path(sys.executable).name, *sys.argv])
    with write_atomically(folder / "command.txt") as partial:
        partial.write_text("\n".join([command, *versions, *_commit()]) + "\n", encoding="utf-8")


def _for_strangers(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the places of files on this machine."""
    return {
        name: _for_strangers(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if not name.endswith(NOT_FOR_STRANGERS)
    }


def _commit() -> list[str]:
    """The commit of the clone that runs; nothing where it is none, or there is no git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError:
        return []
    return [f"commit {done.stdout.strip()}"] if done.returncode == 0 else []
