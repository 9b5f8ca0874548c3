"""The CUDA kernel without a GPU: its numbers by a C++ compiler, its code by NVRTC; and on one, where one is at hand."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from bokehdiff.errors import InputError, MissingDependencyError
from bokehdiff.optics import Aperture, Lens
from bokehdiff.renderers import LayerStack, render_layers
from bokehdiff.renderers.raytraced import render as dispatch
from bokehdiff.renderers.raytraced.cuda_source import CUDA_SOURCE, kernel_name
from bokehdiff.renderers.raytraced.on_cupy import BLOCK, cupy_is_there, gathered_by, kernel_arguments
from tests.helpers import assert_close, psnr
from tests.renderers.test_raytraced_lens import LENSES

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_120")
LEAST_PARITY_DB = 80
DOUBLE_PRECISION = re.compile(r"\b(?:DADD|DMUL|DFMA|DSETP|DMNMX)\b|\.F64\b|\bMUFU\.\w*64H?\b")

# What CUDA gives a kernel, for a C++ compiler that runs its threads one after another.
HOST_CUDA = r"""
#include <cmath>
#include <cstddef>
#define __device__
#define __global__
#define __forceinline__ inline
struct float4 { float x, y, z, w; };
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
template <class T> static T __ldg(const T *place) { return *place; }
struct Place { int x, y, z; };
static Place blockIdx, blockDim, threadIdx;
"""
RUN_ON_HOST = r"""
extern "C" void run(const float4 *a, const float4 *b, const Ray *c, const float4 *d, float4 *e, float *f, int images,
                    int layers, int height, int width, int rays, float cat_eye, float spacing) {
    auto kernel = layers == 1 ? trace_layers_1 : layers == 2 ? trace_layers_2 : trace_layers_n;
    blockDim = {1, 1, 1};
    threadIdx = {0, 0, 0};
    for (blockIdx.z = 0; blockIdx.z < images; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < height; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < width; ++blockIdx.x)
                kernel(a, b, c, d, e, f, images, layers, height, width, rays, cat_eye, spacing);
}
"""
C_TYPES = {np.uintp: ctypes.c_void_p, np.int32: ctypes.c_int, np.float32: ctypes.c_float}


@pytest.fixture(scope="module")
def host_kernel(tmp_path_factory):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "kernel.cpp").write_text(HOST_CUDA + CUDA_SOURCE + RUN_ON_HOST)
    command = [
        compiler,
        "-O2",
        "-Wall",
        "-Wno-unknown-pragmas",
        "-Werror",
        "-shared",
        "-fPIC",
        "-std=c++14",
        "kernel.cpp",
        "-o",
        "kernel.so",
    ]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "kernel.so")).run


@pytest.fixture
def on_host(host_kernel, monkeypatch):
    """Backend "cupy" with CuPy's part, the launch, taken by the host."""

    def trace(stack, rays):
        arguments = kernel_arguments(stack, rays)
        values = [C_TYPES[type(value)](value.item()) for value in arguments.in_order()]
        host_kernel(*values)
        return gathered_by(arguments)

    monkeypatch.setitem(dispatch.BACKENDS, "cupy", trace)
    monkeypatch.setitem(dispatch.DEVICE_OF, "cupy", "cpu")
    monkeypatch.setattr(dispatch, "cupy_is_there", lambda: True)


def random_stack(n_layers, size_hw, *, device="cpu"):
    rgba = torch.rand(2, n_layers, 4, *size_hw) * 0.8
    planes = torch.cat([torch.rand(2, n_layers, 1), torch.rand(2, n_layers, 2) * 0.04 - 0.02], dim=-1)
    planes[:, -1] = planes[:, 0]  # a tie, which the list's order settles
    return LayerStack(rgba.to(device), planes.to(device))


@pytest.mark.parametrize("lens", LENSES.values(), ids=list(LENSES))
@pytest.mark.parametrize(("n_layers", "size_hw"), [(1, (1, 1)), (2, (19, 26)), (5, (8, 33))])
def test_the_kernel_computes_what_torch_does(on_host, lens, n_layers, size_hw):
    stack = random_stack(n_layers, size_hw)
    got, expected = (render_layers(stack, lens, n_samples=40, backend=backend) for backend in ("cupy", "torch"))
    assert psnr(got, expected) > LEAST_PARITY_DB


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_the_kernel_skips_what_is_empty_or_hidden_and_nothing_else(on_host, n_layers):
    """Patches in the middle and at the border of empty layers, an empty layer, and an opaque one before light."""
    rgba = torch.zeros(2, n_layers, 4, 30, 50)
    rgba[0, 0, :, 9:12, 20:24] = 0.7
    rgba[1, 0, :, 25:, 40:] = 1.0
    rgba[1, 1:] = torch.tensor([90.0, 0.5, 0.2, 1.0])[:, None, None]
    planes = torch.tensor([[0.9, 0.001, 0.002], [0.3, -0.002, 0.001], [0.1, 0.0, 0.0]])[:n_layers].expand(2, -1, -1)
    stack = LayerStack(rgba, planes.clone())
    got, expected = (render_layers(stack, Lens(0.5, 35.0), n_samples=40, backend=name) for name in ("cupy", "torch"))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert float(got[0, 3].max()) > 0.01


def test_the_kernel_is_exact_in_focus_and_passes_hdr(on_host):
    rgba = torch.cat([torch.rand(1, 2, 3, 9, 7) * 1e4, torch.rand(1, 2, 1, 9, 7).round()], dim=2)
    stack = LayerStack(rgba, torch.rand(1, 2, 3) * 0.01)
    got = render_layers(stack, Lens(0.5, 0.0), backend="cupy")
    torch.testing.assert_close(got, stack.composite(), rtol=1e-6, atol=1e-6)


def _writable(n_bytes):
    """Bytes that NVRTC may write into. Python shares those of length 0 and 1 with everybody: an empty log, one zero
    byte, written into them turned 32 into 0 in all that read byte by byte afterwards, such as pickles."""
    return bytes(max(n_bytes, 2))


def disassembled(source, architecture, folder):
    """Machine code of the source, as text."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    triton = pytest.importorskip("triton")
    disassembler = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    if not disassembler.exists():
        pytest.skip("no nvdisasm")
    _, program = nvrtc.nvrtcCreateProgram(source.encode(), b"trace_layers.cu", 0, [], [])
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++14"]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    log = _writable(nvrtc.nvrtcGetProgramLogSize(program)[1])
    nvrtc.nvrtcGetProgramLog(program, log)
    assert result == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode()
    code = _writable(nvrtc.nvrtcGetCUBINSize(program)[1])
    nvrtc.nvrtcGetCUBIN(program, code)
    (folder / "kernel.cubin").write_bytes(code)
    command = [str(disassembler), "kernel.cubin"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_compiles_it_without_double_precision(architecture, tmp_path):
    listing = disassembled(CUDA_SOURCE, architecture, tmp_path)
    for n_layers in (1, 2, 3):
        assert f".text.{kernel_name(n_layers)}" in listing
    assert not DOUBLE_PRECISION.findall(listing)


def test_a_literal_without_its_f_would_be_found(tmp_path):
    slow = CUDA_SOURCE.replace("0.5f + (1.0f - distance) / softness", "0.5 + (1.0 - distance) / softness")
    assert slow != CUDA_SOURCE
    assert DOUBLE_PRECISION.findall(disassembled(slow, "sm_80", tmp_path))


def test_the_launch_covers_every_pixel_once():
    lens = Lens(0.4, 9.0, Aperture(cat_eye=0.5))
    calls = []
    stack = random_stack(2, (9, 65))

    def trace(stack, rays):
        calls.append(kernel_arguments(stack, rays))
        return dispatch.trace_torch(stack, rays)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dispatch.BACKENDS, "torch", trace)
        render_layers(stack, lens, n_samples=6, backend="torch")
    (arguments,) = calls
    assert arguments.grid == (3, 2, 2)
    assert arguments.grid[0] * BLOCK[0] >= 65 > (arguments.grid[0] - 1) * BLOCK[0]
    assert [int(value) for value in arguments.in_order()[6:11]] == [2, 2, 9, 65, 6]
    assert_close(arguments.points[:, :2], lens.aperture.sample(6))


def test_without_cupy_the_extra_is_named():
    if cupy_is_there():
        pytest.skip("CuPy is installed")
    with pytest.raises(
        MissingDependencyError, match=r"CuPy is needed for backend 'cupy': pip install bokehdiff\[gpu\]"
    ):
        render_layers(random_stack(1, (3, 3)), Lens(0.5, 1.0), backend="cupy")


def test_cupy_takes_cuda_only(monkeypatch):
    monkeypatch.setattr(dispatch, "cupy_is_there", lambda: True)
    with pytest.raises(InputError, match=r"'cupy' takes float32 on cuda without gradients; got torch.float32 on cpu"):
        render_layers(random_stack(1, (3, 3)), Lens(0.5, 1.0), backend="cupy")


@pytest.mark.gpu
@pytest.mark.parametrize("lens", LENSES.values(), ids=list(LENSES))
@pytest.mark.parametrize(("n_layers", "size_hw"), [(1, (1, 1)), (2, (119, 260)), (5, (33, 70))])
def test_on_a_gpu_cupy_agrees_with_torch_there_and_on_the_cpu(lens, n_layers, size_hw):
    stack = random_stack(n_layers, size_hw, device="cuda")
    got = render_layers(stack, lens, n_samples=40, backend="cupy")
    assert psnr(got, render_layers(stack, lens, n_samples=40, backend="torch")) > LEAST_PARITY_DB
    there = LayerStack(stack.rgba_linear.cpu(), stack.planes.cpu())
    assert psnr(got.cpu(), render_layers(there, lens, n_samples=40, backend="torch")) > LEAST_PARITY_DB


def test_auto_takes_cupy_where_it_can(on_host, monkeypatch, caplog):
    """On a GPU; here that of the host, with the CPU's own backend out of the way."""
    monkeypatch.delitem(dispatch.DEVICE_OF, "cpu")
    with caplog.at_level("INFO", logger="bokehdiff.renderers"):
        render_layers(random_stack(1, (3, 3)), Lens(0.5, 1.0), n_samples=2)
        monkeypatch.setattr(dispatch, "cupy_is_there", lambda: False)
        render_layers(random_stack(1, (3, 3)), Lens(0.5, 1.0), n_samples=2)
    assert [record.getMessage().split()[-1] for record in caplog.records] == ["cupy", "torch"]


@pytest.mark.gpu
def test_on_a_gpu_the_kernel_waits_for_torchs_stream():
    stack = random_stack(2, (64, 80), device="cuda")
    expected = render_layers(stack, Lens(0.4, 9.0), n_samples=16, backend="cupy")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(10**8)
        twice = LayerStack(stack.rgba_linear * 0.5, stack.planes)
        twice = LayerStack(twice.rgba_linear * 2.0, stack.planes)
        got = render_layers(twice, Lens(0.4, 9.0), n_samples=16, backend="cupy")
    side.synchronize()
    assert_close(got, expected)
