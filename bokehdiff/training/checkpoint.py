"""Checkpoints: written whole or not at all, verified when read, so that N + N steps equal 2N.

A checkpoint is a folder `checkpoint-00001000` with the adapter in the diffusers format, every optimiser's tensors as
safetensors, and `state.json`: counters, scalars, the run's configuration, and the SHA-256 of every file. Nothing random
is stored, because every sample, crop and dropout mask is a function of (seed, n).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.training.endings import disk_error

logger = logging.getLogger(__name__)

STATE_FILE = "state.json"
TENSORS_FILE = "training_state.safetensors"
PREFIX = "checkpoint-"


@dataclass(frozen=True)
class Progress:
    """How far a run has come; counted so that it means the same for any batch size and number of processes.

    Args:
        n_steps: Optimiser steps done.
        n_samples_seen: Training samples consumed, over all processes.
    """

    n_steps: int = 0
    n_samples_seen: int = 0

    def after_step(self, n_samples: int) -> Progress:
        """One optimiser step further.

        Args:
            n_samples: Samples of the step, over all processes.
        """
        return Progress(self.n_steps + 1, self.n_samples_seen + n_samples)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds.

    Args:
        folder: Where it is.
        progress: How far the run had come.
        states: State dicts by name.
        config: The run's configuration as nested mappings.
    """

    folder: Path
    progress: Progress
    states: dict[str, Any]
    config: dict[str, Any]


def split_state(state: Any, path: str = "") -> tuple[dict[str, Tensor], Any]:
    """Take the tensors out of a state dict: a flat mapping of them, and the rest as plain JSON values.

    Args:
        state: Nested dicts and lists of tensors, numbers, strings, None.
        path: Name of the place, the prefix of its tensors' names.
    """
    if isinstance(state, Tensor):
        # A copy: some optimisers share one tensor between weights, which safetensors refuses to write.
        return {path: state.detach().to("cpu", copy=True).contiguous()}, {"tensor": path}
    if isinstance(state, Mapping):
        tensors: dict[str, Tensor] = {}
        pairs = []
        for key, value in state.items():
            inner, rest = split_state(value, f"{path}/{key}")
            tensors |= inner
            pairs.append([key, rest])
        return tensors, {"dict": pairs}
    if isinstance(state, list | tuple):
        inner_states = [split_state(value, f"{path}/{index}") for index, value in enumerate(state)]
        merged = {name: tensor for inner, _ in inner_states for name, tensor in inner.items()}
        return merged, {"list": [rest for _, rest in inner_states]}
    return {}, {"value": state}


def join_state(rest: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `split_state`; tuples come back as lists.

    Args:
        rest: The plain part.
        tensors: The tensors by name.
    """
    ((kind, content),) = rest.items()
    if kind == "tensor":
        return tensors[content].clone()  # out of the file's buffer, into memory aligned as any other tensor's
    if kind == "dict":
        return {key: join_state(value, tensors) for key, value in content}
    if kind == "list":
        return [join_state(value, tensors) for value in content]
    return content


def save_checkpoint(
    run_dir: Path,
    progress: Progress,
    *,
    states: Mapping[str, Any],
    config: Mapping[str, Any],
    write_adapter: Callable[[Path], object],
    keep: int | None,
) -> Path:
    """Write one checkpoint into a hidden folder, have it all on the disk, then rename it into place.

    Args:
        run_dir: The run's folder.
        progress: Counters, stored and part of the name.
        states: State dicts by name: optimisers, schedules, the discriminator.
        config: The run's configuration as nested mappings.
        write_adapter: Called with the folder, writes the adapter's files there.
        keep: How many checkpoints stay; None for all.

    Raises:
        InputError: If the disk does not take it; older checkpoints stay, nothing half-written does.
    """
    folder = run_dir / f"{PREFIX}{progress.n_steps:08d}"
    with whole_or_not_at_all(folder) as partial:
        write_adapter(partial)
        tensors, rest = split_state(dict(states))
        save_file(tensors, partial / TENSORS_FILE)
        digests = {file.name: _digest(file) for file in sorted(partial.iterdir())}
        state = {"progress": asdict(progress), "states": rest, "config": dict(config), "sha256": digests}
        (partial / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
    if keep is not None:
        for old in list_checkpoints(run_dir)[:-keep]:
            shutil.rmtree(old)
    return folder


@contextmanager
def whole_or_not_at_all(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `folder` to write files into; after the block it takes its place by a rename.

    Args:
        folder: A folder that appears complete or not at all; an older one of the name is replaced.

    Raises:
        InputError: If the disk does not take it.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        for file in partial.iterdir():
            _flush(file)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
        _flush(folder.parent)
    except (OSError, SafetensorError) as error:
        raise disk_error(folder.parent, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint after verifying every byte of it.

    Args:
        folder: A checkpoint folder.

    Raises:
        InputError: Naming the file that is missing or damaged.
    """
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        digests, progress = state["sha256"], Progress(**state["progress"])
        rest, config = state["states"], state["config"]
    except FileNotFoundError:
        raise InputError(f"{folder} is not a whole checkpoint: {STATE_FILE} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise InputError(f"{folder / STATE_FILE} is damaged: remove {folder.name} to use the one before it") from None
    for name, digest in digests.items():
        file = folder / name
        if not file.is_file() or _digest(file) != digest:
            raise InputError(f"{file} is damaged or missing: remove {folder.name} to use the one before it")
    return Checkpoint(folder, progress, join_state(rest, load_file(folder / TENSORS_FILE)), config)


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first.

    Args:
        run_dir: The run's folder.
    """
    return sorted(path for path in run_dir.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit())


def find_checkpoint(run_dir: Path, wanted: str | None) -> Checkpoint | None:
    """The checkpoint to go on from; None to start anew.

    Args:
        run_dir: The run's folder.
        wanted: "latest" for the newest whole one of the run, a folder, or None.

    Raises:
        InputError: If a folder was named that is not a whole checkpoint.
    """
    if wanted is None:
        return None
    if wanted != "latest":
        return load_checkpoint(Path(wanted))
    for folder in reversed(list_checkpoints(run_dir)):
        try:
            return load_checkpoint(folder)
        except InputError as error:
            logger.warning("Not resuming from %s: %s", folder.name, error)
    return None


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """Ask the disk to hold what was written, so that a rename never precedes its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
