"""Baselines at any size, on disk, and from TensorFlow's arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.models import (
    BaselineSpec,
    build_baseline,
    defocus_guide,
    load_baseline,
    network_picture,
    shrunk,
    size_multiple,
    whole_picture,
    write_baseline,
)
from bokehdiff.models.tensorflow_arrays import (
    DOUBLE_VNET_CONVOLUTIONS,
    DOUBLE_VNET_DENSE,
    DOUBLE_VNET_TRANSPOSED,
    _pynet_places,
)
from tests.helpers import assert_close

PYNET = BaselineSpec("pynet", width=1 / 16)
DOUBLE = BaselineSpec("double-vnet", width=1 / 8, guide="none")


def eager(spec):
    """With weights large enough to be seen."""
    torch.manual_seed(1)
    network = build_baseline(spec).eval().requires_grad_(False)
    for weight in network.parameters():
        weight.mul_(3.0)
    return network


@pytest.mark.parametrize("spec", [PYNET, replace(PYNET, level=3), replace(PYNET, guide="none"), DOUBLE], ids=str)
@pytest.mark.parametrize("size_hw", [(1, 1), (37, 61), (64, 64), (70, 129)])
def test_photographs_of_any_size_come_back_in_their_size(spec, size_hw):
    image, guide = torch.rand(2, 3, *size_hw), torch.rand(2, *size_hw)
    picture = whole_picture(eager(spec), spec, image, guide if spec.needs_disparity else None)
    assert picture.shape == image.shape
    assert 0.0 <= float(picture.min()) <= float(picture.max()) <= 1.0
    assert torch.isfinite(picture).all()


@pytest.mark.parametrize("spec", [PYNET, DOUBLE], ids=str)
def test_a_size_that_fits_is_not_padded(spec):
    side = 2 * size_multiple(spec)
    image, guide = torch.rand(1, 3, side, side), torch.rand(1, side, side)
    told, network = (guide if spec.needs_disparity else None), eager(spec)
    expected = network_picture(network, spec, image, told).clamp(0, 1)
    assert torch.equal(whole_picture(network, spec, image, told), expected)


def test_pynet_sees_half_and_gives_the_whole():
    image, guide = torch.rand(1, 3, 64, 128), torch.rand(1, 64, 128)
    network = eager(PYNET)
    expected = network(shrunk(image, 2), shrunk(guide[:, None], 2)[:, 0])
    assert_close(network_picture(network, PYNET, image, guide), expected)


def test_the_guide_is_a_half_in_focus_and_grows_towards_the_camera():
    coc = torch.tensor([[[-1e6, -8.0, 0.0, 8.0, 1e6]]])
    assert_close(defocus_guide(coc), torch.tensor([[[0.0, 0.25, 0.5, 0.75, 1.0]]]))


def test_weights_come_back_with_what_they_are_of(tmp_path):
    network = eager(PYNET)
    write_baseline(tmp_path, network.state_dict(), PYNET, {"n_steps": "7"})
    loaded = load_baseline(tmp_path)
    assert (loaded.spec, loaded.about["n_steps"], loaded.network.training) == (PYNET, "7", False)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.network.state_dict().items())
    assert load_baseline(tmp_path / "baseline.safetensors", model="pynet").spec == PYNET


def test_files_that_are_no_baseline_are_refused_by_name(tmp_path):
    with pytest.raises(MissingWeightsError, match=r"no weights .*nowhere: train some with `bokehdiff train-baseline`"):
        load_baseline(tmp_path / "nowhere")
    write_baseline(tmp_path, build_baseline(DOUBLE).state_dict(), DOUBLE, {})
    with pytest.raises(InputError, match="holds a double-vnet; expected a pynet"):
        load_baseline(tmp_path, model="pynet")
    write_baseline(tmp_path, build_baseline(DOUBLE).state_dict(), replace(DOUBLE, width=0.25), {})
    with pytest.raises(InputError, match=r"does not fit the network .*: first\.down\.0\.conv\.weight is missing"):
        load_baseline(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors is damaged or no baseline of ours"):
        load_baseline(tmp_path / "other.safetensors")
    (tmp_path / "bad.npz").write_bytes(b"PK no zip")
    with pytest.raises(InputError, match=r"bad\.npz cannot be read as an \.npz"):
        load_baseline(tmp_path / "bad.npz", model="pynet")
    with pytest.raises(InputError, match=r"bad\.npz does not say which network it is of"):
        load_baseline(tmp_path / "bad.npz")
    with pytest.raises(InputError, match="level must be 7, the coarsest, to 1, the finest; got 8"):
        build_baseline(BaselineSpec("pynet", level=8))


def pynet_arrays(network):
    """As TensorFlow's Saver lists them: one name for all, numbered in the order in which they are made."""
    state = network.state_dict()
    arrays = {}
    for number, (name, axes) in enumerate(_pynet_places(network)):
        inverse = np.argsort(axes)
        key = "generator/Variable" + (f"_{number}" if number else "")
        arrays[key] = state[name].numpy().transpose(inverse)
    return arrays


@pytest.mark.parametrize("spec", [PYNET, replace(PYNET, guide="none"), replace(PYNET, norm_fine=True)], ids=str)
def test_pynets_arrays_come_back(tmp_path, spec):
    network = eager(spec)
    arrays = pynet_arrays(network)
    assert [array.shape for array in list(arrays.values())[:2]] == [(3, 3, 4 * (3 + spec.needs_disparity), 2), (2,)]
    other = {f"{name}/Adam": array for name, array in arrays.items()} | {"beta1_power": np.zeros(())}
    np.savez(tmp_path / "tf.npz", **dict(reversed(arrays.items())), **other)
    loaded = load_baseline(tmp_path / "tf.npz", model="pynet")
    assert loaded.spec == spec
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.network.state_dict().items())


def test_the_order_of_pynets_variables_is_that_of_the_authors_code():
    """Kernel, bias, shift, scale of a convolution; two kernels of the ways up before the head; counts per level."""
    names = [name for name, _ in _pynet_places(build_baseline(PYNET))]
    assert names[:2] == ["encoder.0.branches.0.0.weight", "encoder.0.branches.0.0.bias"]
    second = [name for name in names if name.startswith("encoder.1")]
    assert [name.rpartition(".")[0].rpartition(".")[2] for name in second] == ["0", "0", "1", "1", "3", "3", "4", "4"]
    assert [name.rpartition(".")[2] for name in second[:4]] == ["weight", "bias", "bias", "weight"]
    level7 = [name for name in names if name.startswith("level7")]
    assert level7[-4:] == [
        "level7.ups.0.conv.weight", "level7.ups.1.conv.weight", "level7.head.conv.weight", "level7.head.conv.bias",
    ]  # fmt: skip
    assert names[-6:] == [
        "up2.conv.weight", "head2.conv.weight", "head2.conv.bias",
        "up1.conv.weight", "head1.conv.weight", "head1.conv.bias",
    ]  # fmt: skip


def keras_arrays(network):
    """As Keras names them: layers counted by kind."""
    state, arrays = network.state_dict(), {}
    kinds = (
        ("conv2d", DOUBLE_VNET_CONVOLUTIONS, (2, 3, 1, 0)),
        ("conv2d_transpose", DOUBLE_VNET_TRANSPOSED, (2, 3, 1, 0)),
        ("dense", DOUBLE_VNET_DENSE, (1, 0)),
    )
    for kind, names, axes in kinds:
        for number, name in enumerate(names):
            layer = kind + (f"_{number}" if number else "")
            arrays[f"{layer}/kernel:0"] = state[f"{name}.weight"].numpy().transpose(axes)
            if f"{name}.bias" in state:
                arrays[f"{layer}/bias:0"] = state[f"{name}.bias"].numpy()
    return arrays


def test_the_double_v_nets_arrays_come_back_and_none_is_left_out(tmp_path):
    network = eager(DOUBLE)
    arrays = keras_arrays(network)
    assert len(arrays) == len(network.state_dict())
    np.savez(tmp_path / "keras.npz", **arrays)
    loaded = load_baseline(tmp_path / "keras.npz", model="double-vnet")
    assert loaded.spec == replace(DOUBLE, norm="sum_variance"), "as the released weights were trained"
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.network.state_dict().items())


def test_the_order_of_keras_layers_is_that_of_the_authors_code():
    """Attention over places is made before the residual blocks; a shortcut between its block's two convolutions."""
    at = DOUBLE_VNET_CONVOLUTIONS.index
    assert len(DOUBLE_VNET_CONVOLUTIONS) == 50
    assert at("first.last") == 22
    assert (at("second.c4.conv"), at("second.places.0.conv"), at("second.r1.first")) == (26, 27, 30)
    assert [at(f"second.r2.{name}") for name in ("first", "shortcut", "second")] == [32, 33, 34]
    assert at("second.last") == 49


def test_arrays_of_another_network_are_refused(tmp_path):
    arrays = keras_arrays(build_baseline(DOUBLE))
    del arrays["conv2d_7/kernel:0"]
    np.savez(tmp_path / "less.npz", **arrays)
    with pytest.raises(InputError, match="49 layers called conv2d; the Double V-Net has 50"):
        load_baseline(tmp_path / "less.npz", model="double-vnet")
    with pytest.raises(InputError, match=r"PyNET's first array must be a kernel \[3, 3, 16 or 12, n\]"):
        load_baseline(tmp_path / "less.npz", model="pynet")
    arrays = pynet_arrays(build_baseline(PYNET))
    np.savez(tmp_path / "few.npz", **dict(list(arrays.items())[:-1]))
    with pytest.raises(InputError, match=r"few\.npz has \d+ arrays; PyNET has \d+, or fewer"):
        load_baseline(tmp_path / "few.npz", model="pynet")
    arrays["generator/Variable_1"] = np.zeros((2, 2))
    np.savez(tmp_path / "axes.npz", **arrays)
    with pytest.raises(InputError, match=r"the array for encoder\.0\.branches\.0\.0\.bias must have 1 axes"):
        load_baseline(tmp_path / "axes.npz", model="pynet")


def slow_transposed(image, kernel, stride, before):
    """TensorFlow's conv2d_transpose by its definition, kernel [y, x, out, in]: each input pixel adds a kernel."""
    height, width, _ = image.shape
    side, n_out = kernel.shape[0], kernel.shape[2]
    spread = np.zeros((height * stride + side, width * stride + side, n_out))
    for y in range(height):
        for x in range(width):
            spread[y * stride : y * stride + side, x * stride : x * stride + side] += kernel @ image[y, x]
    return spread[before : before + height * stride, before : before + width * stride]


@pytest.mark.parametrize(("side", "stride", "before"), [(3, 2, 0), (4, 2, 1), (4, 1, 1)])
def test_converted_kernels_do_what_tensorflows_do(side, stride, before):
    """Padding "SAME": what comes before is half of what is too much, rounded down."""
    rng = np.random.default_rng(0)
    image, kernel = rng.normal(size=(4, 5, 2)), rng.normal(size=(side, side, 3, 2))
    ours = nn.functional.conv_transpose2d(
        torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(kernel.transpose(3, 2, 0, 1)), stride=stride
    )
    ours = F.pad(ours, (0, 1, 0, 1))[..., before : before + 4 * stride, before : before + 5 * stride]
    assert_close(ours[0].permute(1, 2, 0), torch.from_numpy(slow_transposed(image, kernel, stride, before)))
