"""Weights of the authors' TensorFlow code, as named arrays in an .npz, put into our networks.

Both codes name their variables by the order in which they were made, so the mapping is that order:

- PyNET-Bokeh names all `generator/Variable`, `generator/Variable_1`, ... (tf.train.list_variables of a checkpoint).
  Each convolution makes kernel, bias and, where it is normalised, shift and scale, in this order; each transposed one
  its kernel. Modules follow as our `PyNet` lists its own: encoder, levels 7 to 3 (banks, two ups, head), 2, 1.
- The Double V-Net is made of Keras layers: `conv2d/kernel`, `conv2d_1/kernel`, ..., `conv2d_transpose/kernel` and
  `/bias`, `dense/kernel`, ... ({v.name: v.numpy() for v in model.weights}); see `DOUBLE_VNET_CONVOLUTIONS`.

Kernels change their axes: [y, x, in, out] of a convolution to [out, in, y, x]; [y, x, out, in] of a transposed one to
[in, out, y, x], which PyTorch applies in the same sense; [in, out] of a dense layer to [out, in].
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bokehdiff.errors import InputError
from bokehdiff.models.baselines import Baseline, BaselineName, BaselineSpec, Guide, build_baseline

NOT_WEIGHTS = re.compile(r"/Adam(_1)?$|beta\d_power|global_step|^save_counter|optimizer|_CHECKPOINTABLE")
PYNET_FIRST_CHANNELS, DOUBLE_VNET_FIRST_CHANNELS = 32, 16

# Names of our convolutions in the order in which the authors' code makes its own.
_RESIDUAL, _WIDENED = ("first", "second"), ("first", "shortcut", "second")
DOUBLE_VNET_CONVOLUTIONS = (
    *(f"first.down.{i}.conv" for i in range(4)),
    *(f"first.blocks.{i}.{name}" for i in range(9) for name in _RESIDUAL),
    "first.last",
    *(f"second.c{i}.conv" for i in (1, 2, 3, 4)),
    *(f"second.places.{i}.conv" for i in range(3)),
    *(f"second.r1.{name}" for name in _RESIDUAL),
    *(f"second.r2.{name}" for name in _WIDENED),
    *(f"second.r3.{name}" for name in _RESIDUAL),
    "second.r4.conv",
    "second.u4.conv",
    *(f"second.u{i}.{name}" for i in (3, 2, 1) for name in _WIDENED),
    "second.c5.conv",
    "second.last",
)
DOUBLE_VNET_TRANSPOSED = (*(f"first.up.{i}.conv" for i in range(3)), *(f"second.v{i}.conv" for i in (4, 3, 2)))
DOUBLE_VNET_DENSE = tuple(f"second.channels.{i}.{name}" for i in range(3) for name in ("squeeze", "excite"))


def read_arrays(file: Path, *, model: BaselineName | None) -> tuple[BaselineSpec, dict[str, Tensor]]:
    """The weights of an .npz, in the names and axes of our networks, and what they are of.

    Args:
        file: Arrays by their TensorFlow names.
        model: Which network; None is refused, since arrays do not say.
    """
    if model is None:
        raise InputError(f"{file} does not say which network it is of: pynet or double-vnet?")
    try:
        with np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile):
        raise InputError(f"{file} cannot be read as an .npz of arrays by name") from None
    arrays = {name.removesuffix(":0"): array for name, array in arrays.items() if not NOT_WEIGHTS.search(name)}
    convert = _pynet if model == "pynet" else _double_vnet
    return convert(arrays, file)


def _pynet(arrays: Mapping[str, np.ndarray], file: Path) -> tuple[BaselineSpec, dict[str, Tensor]]:
    ordered = [arrays[name] for name in sorted(arrays, key=_place)]
    if not ordered or ordered[0].ndim != 4 or ordered[0].shape[2] not in (12, 16):
        shape = list(ordered[0].shape) if ordered else "nothing"
        raise InputError(
            f"{file}: PyNET's first array must be a kernel [3, 3, 16 or 12, n] of four pixels' channels; got {shape}"
        )
    guide: Guide = "disparity" if ordered[0].shape[2] == 16 else "none"
    width = ordered[0].shape[3] / PYNET_FIRST_CHANNELS
    for norm_fine in (False, True):
        spec = BaselineSpec("pynet", width=width, guide=guide, norm_fine=norm_fine)
        places = list(_pynet_places(build_baseline(spec)))
        if len(places) == len(ordered):
            pairs = zip(ordered, places, strict=True)
            return spec, {name: _checked(array, name, axes, file) for array, (name, axes) in pairs}
    raise InputError(f"{file} has {len(ordered)} arrays; PyNET has {len(places)}, or fewer without norm in level 3")


def _pynet_places(network: Baseline) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and axes of each of PyNET's weights, in the order in which TensorFlow's code makes them."""
    for name, module in network.named_modules():
        if isinstance(module, nn.ConvTranspose2d):
            yield f"{name}.weight", (3, 2, 0, 1)
        elif isinstance(module, nn.Conv2d):
            yield from ((f"{name}.weight", (3, 2, 0, 1)), (f"{name}.bias", (0,)))
        elif isinstance(module, nn.InstanceNorm2d):
            yield from ((f"{name}.bias", (0,)), (f"{name}.weight", (0,)))


def _double_vnet(arrays: Mapping[str, np.ndarray], file: Path) -> tuple[BaselineSpec, dict[str, Tensor]]:
    kinds = {
        "conv2d": (DOUBLE_VNET_CONVOLUTIONS, (3, 2, 0, 1)),
        "conv2d_transpose": (DOUBLE_VNET_TRANSPOSED, (3, 2, 0, 1)),
        "dense": (DOUBLE_VNET_DENSE, (1, 0)),
    }
    weights = {}
    for kind, (names, axes) in kinds.items():
        kernels = _numbered(arrays, kind, "kernel")
        biases = _numbered(arrays, kind, "bias")
        if len(kernels) != len(names) or len(biases) not in (0, len(names)):
            raise InputError(f"{file} has {len(kernels)} layers called {kind}; the Double V-Net has {len(names)}")
        for name, kernel in zip(names, kernels, strict=True):
            weights[f"{name}.weight"] = _checked(kernel, name, axes, file)
        for name, bias in zip(names, biases, strict=False):
            weights[f"{name}.bias"] = _checked(bias, name, (0,), file)
    width = weights["first.down.0.conv.weight"].shape[0] / DOUBLE_VNET_FIRST_CHANNELS
    # What is published was trained with the authors' own normalisation.
    return BaselineSpec("double-vnet", width=width, guide="none", norm="sum_variance"), weights


def _numbered(arrays: Mapping[str, np.ndarray], kind: str, part: str) -> list[np.ndarray]:
    """The arrays KIND/PART, KIND_1/PART, ... in order; Keras counts on where a program made several networks."""
    pattern = re.compile(rf"(?:^|/){kind}(?:_(\d+))?/{part}$")
    found = {int(match.group(1) or 0): array for name, array in arrays.items() if (match := pattern.search(name))}
    return [found[number] for number in sorted(found)]


def _place(name: str) -> int:
    number = re.search(r"_(\d+)$", name)
    return int(number.group(1)) if number else 0


def _checked(array: np.ndarray, name: str, axes: tuple[int, ...], file: Path) -> Tensor:
    if array.ndim != len(axes):
        raise InputError(f"{file}: the array for {name} must have {len(axes)} axes; got {list(array.shape)}")
    return torch.from_numpy(np.ascontiguousarray(array.transpose(axes))).float()
