"""Where pretrained weights come from: a local folder, the hub's cache, the hub; and one line when they are nowhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bokehdiff.errors import InputError, MissingWeightsError

logger = logging.getLogger(__name__)

FILES = ("*.json", "*.txt", "*.py", "*.safetensors")  # no pickles
HUB_TIMEOUT_S = 5.0  # a reachable hub answers within a second; its own client would retry for half a minute


@dataclass(frozen=True)
class Checkpoint:
    """A folder of weights on this machine.

    It is always a folder, the hub's cache included: given a hub id, transformers asks the hub for optional files even
    when told to use local ones only, and retries for half a minute.

    Args:
        folder: Where the files are.
        name: What the user called it: the folder, or the hub id.
    """

    folder: Path
    name: str

    def load(self, auto_class: Any, **keywords: Any) -> Any:
        """`auto_class.from_pretrained` of this checkpoint, its failures as one line.

        Args:
            auto_class: One of transformers' Auto classes, or a model class.
            keywords: Passed on to its `from_pretrained`.
        """
        return self._read(lambda: auto_class.from_pretrained(str(self.folder), local_files_only=True, **keywords))

    def load_complete(self, auto_class: Any, **keywords: Any) -> Any:
        """`load`, refusing a checkpoint that would leave some weights of the model as random numbers.

        Args:
            auto_class: One of transformers' Auto classes, or a model class.
            keywords: Passed on to its `from_pretrained`.
        """
        model, report = self.load(auto_class, output_loading_info=True, **keywords)
        missing = sorted(report["missing_keys"])
        if missing:
            raise InputError(f"{self.name} lacks {len(missing)} weights of its model, such as {missing[0]}")
        return model

    def config(self) -> dict[str, Any]:
        """The checkpoint's config.json, read without running anything of it."""
        from transformers import PreTrainedConfig

        return self._read(lambda: PreTrainedConfig.get_config_dict(str(self.folder), local_files_only=True)[0])

    def _read(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except OSError as error:
            raise MissingWeightsError(f"{self.name} is not complete: {_first_line(error)}") from error
        except Exception as error:  # transformers and safetensors raise many types for a folder that does not fit
            raise InputError(f"{self.name} cannot be loaded: {_first_line(error)}") from error


def find_checkpoint(path_or_id: str | Path, *, revision: str | None, instead: str) -> Checkpoint:
    """Find a checkpoint within seconds, network or not: local folder first, then the hub's cache, then the hub.

    Args:
        path_or_id: Local folder, or hub id such as "depth-anything/Depth-Anything-V2-Small-hf".
        revision: Branch, tag or commit of a hub id; None for its default branch.
        instead: What the user can do without these weights; ends the message.
    """
    folder = Path(path_or_id).expanduser()
    name = str(path_or_id)
    if folder.is_dir():
        return Checkpoint(folder, name)
    if folder.is_file() or not _is_hub_id(name):
        raise MissingWeightsError(f"{name} is neither a folder of weights nor a hub id; {instead}")
    cached = _cached(name, revision)
    if cached is not None:
        return Checkpoint(cached, name)
    problem = _hub_problem(name, revision)
    if problem:
        from huggingface_hub.constants import HF_HUB_CACHE

        raise MissingWeightsError(f"the weights of {name} are not in {HF_HUB_CACHE}, and {problem}; {instead}")
    return Checkpoint(_downloaded(name, revision, instead), name)


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith(("/", ".", "~")) and not name.endswith("/")


def _cached(name: str, revision: str | None) -> Path | None:
    """The folder in the hub's cache, if it holds a configuration and weights; half a download does not count."""
    import huggingface_hub

    def path_of(filename: str) -> str | None:
        path = huggingface_hub.try_to_load_from_cache(name, filename, revision=revision)
        return path if isinstance(path, str) else None

    config = path_of("config.json")
    has_weights = any(path_of(filename) for filename in ("model.safetensors", "model.safetensors.index.json"))
    return Path(config).parent if config and has_weights else None


def _downloaded(name: str, revision: str | None, instead: str) -> Path:
    import huggingface_hub

    logger.info("downloading the weights of %s", name)
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # the network's many ways to break off
        raise MissingWeightsError(f"downloading {name} failed ({_first_line(error)}); {instead}") from error


def _hub_problem(name: str, revision: str | None) -> str | None:
    """Why the hub cannot give these weights, None if it can; asked once, with a short timeout."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

    try:
        HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT_S)
    except OfflineModeIsEnabled:
        return "HF_HUB_OFFLINE forbids to download them"
    except RevisionNotFoundError:
        return f"the hub has no revision {revision!r} of it"
    except RepositoryNotFoundError:
        return "the hub has no such model, or it needs an account that may see it"
    except Exception as error:  # the hub's HTTP library has changed name between versions; any failure means the same
        return f"the hub does not answer ({_first_line(error)})"
    return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
