"""Models of transformers, read from a folder of weights; whatever keeps one from being read is told in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bokehdiff.errors import InputError, MissingWeightsError, first_line
from bokehdiff.weights import find_weights, quiet_progress, weight_files

CONFIG = "config.json"
WEIGHTS = weight_files("model")
PICKLES = ("pytorch_model.bin", "pytorch_model-*-of-*.bin")  # of a folder they are read too; none is downloaded
BESIDE = ("preprocessor_config.json", "processor_config.json", "*.py")


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
            with quiet_progress():
                return read()
        except OSError as error:
            raise MissingWeightsError(f"{self.name} is not complete: {first_line(error)}") from error
        except Exception as error:  # transformers and safetensors raise many types for a folder that does not fit
            raise InputError(f"{self.name} cannot be loaded: {first_line(error)}") from error


def find_checkpoint(path_or_id: str | Path, *, revision: str | None, instead: str) -> Checkpoint:
    """Find a model of transformers as `weights.find_weights` does.

    Args:
        path_or_id: Local folder, or hub id such as "depth-anything/Depth-Anything-V2-Small-hf".
        revision: Branch, tag or commit of a hub id; None for its default branch.
        instead: What the user can do without these weights; ends the message.
    """
    folder = find_weights(
        path_or_id,
        needed=[(CONFIG,), (*WEIGHTS, *PICKLES)],
        fetch=[CONFIG, *WEIGHTS, *BESIDE],
        revision=revision,
        instead=instead,
    )
    return Checkpoint(folder, str(path_or_id))
