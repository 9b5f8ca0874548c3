"""Files of the baselines: safetensors that say what they are, or TensorFlow's arrays as the authors' code has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.models.baselines import Baseline, BaselineName, BaselineSpec, build_baseline
from bokehdiff.models.tensorflow_arrays import read_arrays

WEIGHTS_FILE = "baseline.safetensors"
HEADER = "bokehdiff"


@dataclass(frozen=True)
class LoadedBaseline:
    """A network with its weights.

    Args:
        network: In evaluation mode, on the CPU.
        spec: What it was built from.
        about: What the file says of its making.
    """

    network: Baseline
    spec: BaselineSpec
    about: dict[str, str]


def write_baseline(folder: Path, weights: Mapping[str, Tensor], spec: BaselineSpec, about: Mapping[str, str]) -> Path:
    """Write a network's weights with what it is.

    Args:
        folder: Where to; it is there.
        weights: All of them, by name.
        spec: What it is built from.
        about: How it was made.
    """
    file = folder / WEIGHTS_FILE
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    save_file(tensors, file, metadata={HEADER: json.dumps({"spec": asdict(spec), "about": dict(about)})})
    return file


def load_baseline(source: str | Path, *, model: BaselineName | None = None) -> LoadedBaseline:
    """Read a network: a folder or file that training wrote, or an .npz of TensorFlow's arrays.

    Args:
        source: Folder with `baseline.safetensors`, such a file, or NAME.npz; see `tensorflow_arrays`.
        model: Which network is expected; None for any that says what it is. An .npz does not say, and needs it.
    """
    file = Path(source)
    file = file / WEIGHTS_FILE if file.is_dir() else file
    if not file.is_file():
        raise MissingWeightsError(
            f"no weights {file}: train some with `bokehdiff train-baseline`, or name an .npz of TensorFlow's arrays"
        )
    if file.suffix == ".npz":
        spec, weights = read_arrays(file, model=model)
        about = {"converted_from": file.name}
    else:
        spec, weights, about = _read(file)
    if model is not None and spec.model != model:
        raise InputError(f"{file} holds a {spec.model}; expected a {model}")
    network = build_baseline(spec)
    _refuse_other_weights(network, weights, file)
    network.load_state_dict(dict(weights))
    return LoadedBaseline(network.eval().requires_grad_(False), spec, about)


def _read(file: Path) -> tuple[BaselineSpec, dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, "pt") as stream:
            header = json.loads((stream.metadata() or {})[HEADER])
            weights = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  it is no mapping
        return BaselineSpec(**header["spec"]), weights, header["about"]
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError):
        raise InputError(
            f"{file} is damaged or no baseline of ours: expected what `bokehdiff train-baseline` wrote"
        ) from None


def _refuse_other_weights(network: Baseline, weights: Mapping[str, Tensor], file: Path) -> None:
    expected = network.state_dict()
    wrong = [name for name in expected if name not in weights or weights[name].shape != expected[name].shape]
    if wrong or set(weights) - set(expected):
        example = (wrong or sorted(set(weights) - set(expected)))[0]
        raise InputError(
            f"{file} does not fit the network that it says it is: {example} is missing or of another shape"
        )
