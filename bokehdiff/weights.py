"""Where pretrained weights are: a local folder, the hub's cache, or the hub. If nowhere, it is told within seconds."""

from __future__ import annotations

import fnmatch
import json
import logging
import pickle
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bokehdiff.errors import InputError, MissingWeightsError, first_line

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

HUB_TIMEOUT_S = 5.0  # a hub that can be reached answers within a second; its own client retries for half a minute
_hub_may_be_asked = ContextVar("_hub_may_be_asked", default=True)
SHARD = re.compile(r"-(?P<number>\d+)-of-(?P<total>\d+)(?=\.)")


def find_weights(
    name: str | Path,
    *,
    needed: Sequence[tuple[str, ...]],
    instead: str,
    fetch: Sequence[str] | None = None,
    revision: str | None = None,
) -> Path:
    """The folder that holds a model, with everything needed in it, found within seconds or not at all.

    A local folder is taken as it is. Of a hub repository, what the hub's cache holds whole serves without a network; a
    newer state of a branch is fetched by naming its commit. Else the hub is asked once, with a short timeout, before
    anything is downloaded.

    Args:
        name: A folder, or a hub id "owner/name".
        needed: Patterns of files relative to the folder; of each tuple, one must match: a file, or all of its shards.
        instead: What the user can do without these weights; ends the message.
        fetch: Patterns that are downloaded; None for all of `needed`.
        revision: Branch, tag or commit of a hub id; None for its main branch.

    Raises:
        MissingWeightsError: Naming the file or the repository, where it was looked for, and what to do instead.
        InputError: If a revision is asked of a folder.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _from_hub(_hub_id(name, instead), needed, fetch or list(chain(*needed)), revision, instead)
    elif revision is not None:
        raise InputError(f"revision {revision!r} is for hub ids; {folder} is a local folder: leave it out")
    lacking = _first_missing(folder, needed)
    if lacking is not None:
        beside = next(parent for parent in (folder / lacking).parents if parent.is_dir())
        there = ", ".join(sorted(entry.name for entry in beside.iterdir())) or "nothing"
        raise MissingWeightsError(f"{folder / lacking} is missing; {beside} holds {there}: {instead}")
    return folder


def weight_files(stem: str, variant: str | None = None) -> tuple[str, ...]:
    """Patterns of the weight files of a part: safetensors, in one piece or in shards with their table.

    Args:
        stem: How their names begin, folder included, such as "unet/diffusion_pytorch_model".
        variant: Variant of the files, such as "fp16"; None for the plain ones.
    """
    dotted = f".{variant}" if variant else ""
    return (
        f"{stem}{dotted}.safetensors",
        f"{stem}{dotted}-*-of-*.safetensors",
        f"{stem}.safetensors.index{dotted}.json",
    )


def read_state_dict(file: Path, *, instead: str) -> dict[str, Tensor]:
    """Tensors by name from a file that `torch.save` wrote; nothing in it is run.

    Args:
        file: A file on disk.
        instead: What to do about a damaged one; ends the message.
    """
    import torch

    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(f"{file} is not a state dict, or it is damaged ({first_line(error)}): {instead}") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{file} must hold tensors by name; got {type(state).__name__}: {instead}")
    return state


def read_json_object(file: Path, *, instead: str) -> dict[str, Any]:
    """What a JSON file beside weights says.

    Args:
        file: A file on disk.
        instead: What to do about a damaged one; ends the message.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{file} must hold one JSON object; it is damaged: {instead}")
    return content


@contextmanager
def hub_left_alone() -> Iterator[None]:
    """Within this block, what is neither a folder nor in the cache counts as missing: no hub is asked for it."""
    before = _hub_may_be_asked.set(False)
    try:
        yield
    finally:
        _hub_may_be_asked.reset(before)


@contextmanager
def quiet_progress() -> Iterator[None]:
    """Within this block, transformers draws no progress bars: what is read here is read in a moment."""
    from transformers.utils import logging as transformers_logging

    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()


def _hub_id(name: str | Path, instead: str) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(str(name))
        is_id = isinstance(name, str) and "/" in name and not Path(name).is_file()
    except HFValidationError:
        is_id = False
    if not is_id:
        raise MissingWeightsError(f"{name} is neither a folder here nor a hub id such as owner/name: {instead}")
    return str(name)


def _from_hub(
    repository: str, needed: Sequence[tuple[str, ...]], fetch: Sequence[str], revision: str | None, instead: str
) -> Path:
    import huggingface_hub
    from huggingface_hub import constants, errors

    snapshot = partial(huggingface_hub.snapshot_download, repository, revision=revision, allow_patterns=list(fetch))
    try:
        cached = Path(snapshot(local_files_only=True))
        # The hub's own check for half a download needs a record that older caches lack.
        if _first_missing(cached, needed) is None:
            return cached
    except errors.LocalEntryNotFoundError:
        logger.debug("%s is not in the hub's cache, or not all of it", repository)
    try:
        if not _hub_may_be_asked.get():
            raise errors.OfflineModeIsEnabled
        huggingface_hub.HfApi().model_info(repository, revision=revision, timeout=HUB_TIMEOUT_S)
        logger.info("downloading the weights of %s", repository)
        return Path(snapshot())
    except Exception as error:  # the network's layers raise many types, and change them between versions
        raise MissingWeightsError(
            f"{repository} is no folder here, its files are not all in the cache ({constants.HF_HUB_CACHE}), and "
            f"{_hub_problem(error, revision)}: {instead}"
        ) from error


def _hub_problem(error: Exception, revision: str | None) -> str:
    from huggingface_hub import errors

    told = {
        errors.OfflineModeIsEnabled: "the hub is switched off (HF_HUB_OFFLINE)",
        errors.RevisionNotFoundError: f"the hub has no revision {revision!r} of it",
        errors.GatedRepoError: "the hub keeps it behind a licence (accept it there and log in)",
        errors.RepositoryNotFoundError: "the hub has no such model that you may read (check the spelling)",
    }
    for kind, problem in told.items():
        if isinstance(error, kind):
            return problem
    return f"the hub did not give them ({first_line(error)})"


def _first_missing(folder: Path, needed: Sequence[tuple[str, ...]]) -> str | None:
    """The first file that a folder lacks, relative to it; None if it has all."""
    present = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    return next((lacking for patterns in needed if (lacking := _lacking(present, patterns))), None)


def _lacking(present: Collection[str], patterns: tuple[str, ...]) -> str | None:
    """What is not there of one part; a table of shards alone is nothing, and of shards all must be there."""
    found = [
        name
        for name in sorted(present)
        if ".index." not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]
    if any(not SHARD.search(name) for name in found):
        return None
    for name in found:
        for sibling in _shards(name):
            if sibling not in present:
                return sibling
    return None if found else patterns[0]


def _shards(name: str) -> list[str]:
    """The names of all shards of the set that one is of."""
    shard = SHARD.search(name)
    assert shard is not None  # noqa: S101  asked of shards only
    digits, total = len(shard["number"]), shard["total"]
    return [SHARD.sub(f"-{number:0{digits}d}-of-{total}", name) for number in range(1, int(total) + 1)]
