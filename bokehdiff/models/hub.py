"""Where pretrained files are: a local folder, or a copy of a hub repository; an unreachable hub fails in seconds."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors

from bokehdiff.errors import InputError, MissingWeightsError

logger = logging.getLogger(__name__)

REACH_TIMEOUT_S = 5.0  # for the one question whether the hub answers; its clients retry for half a minute
HUB_ID_PARTS = 2  # owner/name


def local_copy(name: str | Path, *, patterns: list[str], revision: str | None = None) -> Path:
    """The folder that holds a model: `name` itself if it is a folder, else the files of a hub repository, fetched.

    What is in the cache serves when the hub cannot be reached. Nothing beside `patterns` is downloaded.

    Args:
        name: A folder, or a hub id "owner/name".
        patterns: Files that are needed, such as "unet/*.json".
        revision: Branch, tag or commit of a hub id; None for its main branch.

    Raises:
        MissingWeightsError: Naming the folder or the repository, the cache, and what to pass instead.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise InputError(f"revision {revision!r} is for hub ids; {folder} is a local folder: leave it out")
        return folder
    _refuse_unless_hub_id(name)
    try:
        return Path(
            huggingface_hub.snapshot_download(
                str(name),
                revision=revision,
                allow_patterns=patterns,
                local_files_only=not _is_reachable(str(name), revision),
            )
        )
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise MissingWeightsError(
            f"{name} is neither a folder here ({folder.absolute()}) nor in the cache ({constants.HF_HUB_CACHE}), "
            f"and the hub is {'switched off (HF_HUB_OFFLINE)' if constants.is_offline_mode() else 'out of reach'}: "
            "pass a folder with the weights"
        ) from None


def _refuse_unless_hub_id(name: str | Path) -> None:
    parts = str(name).split("/")
    if isinstance(name, Path) or len(parts) != HUB_ID_PARTS or not all(parts) or parts[0][0] in ".~":
        raise MissingWeightsError(
            f"{name} is neither a folder here nor a hub id: pass an existing folder, or an id such as owner/name"
        )


def _is_reachable(repository: str, revision: str | None) -> bool:
    if constants.is_offline_mode():
        return False
    try:
        huggingface_hub.HfApi().repo_info(repository, revision=revision, timeout=REACH_TIMEOUT_S)
    except errors.GatedRepoError:
        raise MissingWeightsError(
            f"{repository} is gated: accept its licence on the hub and log in, or pass a folder with the weights"
        ) from None
    except errors.RevisionNotFoundError:
        raise MissingWeightsError(f"{repository} has no revision {revision!r} on the hub") from None
    except errors.RepositoryNotFoundError:
        raise MissingWeightsError(
            f"{repository} is neither a folder here nor a repository on the hub that you may read: "
            "check the spelling, or pass a folder with the weights"
        ) from None
    except Exception as error:
        # Whatever the network's layers raise, the cache may still serve.
        logger.warning("The hub did not answer for %s (%s): looking into the cache only", repository, error)
        return False
    return True


def weight_files(part: str, variant: str | None, *, stem: str = "diffusion_pytorch_model") -> tuple[str, ...]:
    """Patterns of the weight files of a part: safetensors, in one piece or in shards with their table.

    Args:
        part: Folder of the part, such as "unet".
        variant: Variant of the files, such as "fp16"; None for the plain ones.
        stem: How their names begin: "model" for text encoders.
    """
    dotted = f".{variant}" if variant else ""
    return (
        f"{part}/{stem}{dotted}.safetensors",
        f"{part}/{stem}{dotted}-*-of-*.safetensors",
        f"{part}/{stem}.safetensors.index{dotted}.json",
    )


def require_files(folder: Path, needed: list[tuple[str, ...]], *, instead: str) -> None:
    """Refuse a model folder in which something needed is not there, naming the files that are.

    Args:
        folder: A model on disk.
        needed: Patterns relative to the folder; of each tuple, one must match a file.
        instead: What to pass instead, for the message.

    Raises:
        MissingWeightsError: Naming what is missing, where, and what is there.
    """
    present = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    for patterns in needed:
        if any(fnmatch.fnmatchcase(name, pattern) for name in present for pattern in patterns):
            continue
        beside = [name for name in present if Path(name).parent == Path(patterns[0]).parent]
        raise MissingWeightsError(
            f"{folder / patterns[0]} is missing; beside it: {', '.join(beside) or 'nothing'}: {instead}"
        )


@contextmanager
def quiet_progress() -> Iterator[None]:
    """Within this block, transformers draws no progress bars: its parts here are read in a moment."""
    from transformers.utils import logging as transformers_logging

    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()
