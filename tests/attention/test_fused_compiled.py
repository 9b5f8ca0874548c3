"""The kernels compiled for GPUs that need not be there: what instructions they use, what they need of the card."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass

import pytest
import torch

from bokehdiff.attention import INFERENCE_HARDNESS, fused
from tests.attention.scenes import layered_disparity, optics_of

triton = pytest.importorskip("triton")
GPUTarget = pytest.importorskip("triton.backends.compiler").GPUTarget

KERNELS = ("source_log_sums", "received_light", "source_gradients", "receiver_gradients")
CONSUMER_BYTES = 99 * 1024  # shared memory of a program on sm_86, 89 and 120; sm_80 has 163 KiB, sm_90 227
SPILLED_BYTES = 96  # of a thread, in the gradients of heads above 64 wide on sm_80 and in single precision


@dataclass(frozen=True)
class Compiled:
    """One kernel in one shape.

    Args:
        kernel: Its name.
        shape: As in `fused.SHAPES`.
        binary: As Triton keeps it for the next launch.
        ptx: Its instructions.
        shared_bytes: Shared memory of a program.
        spilled_bytes: Registers of a thread that did not fit.
        registers: Of a thread.
    """

    kernel: str
    shape: tuple[int, int, int]
    binary: object
    ptx: str
    shared_bytes: int
    spilled_bytes: int
    registers: int


class AbsentGpu:
    """What Triton asks of a driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch  # Triton keeps compiled kernels by device

    def get_current_stream(self, _: int) -> int:
        return 0


def compiled(monkeypatch, capability, dtype, width, *, dropout=0.0, dropout_seed=0, all_shapes=False) -> list[Compiled]:
    """The kernels that `fused_pisa` and its backward pass would launch, with the arguments they would get."""
    if fused._kernels().INTERPRETED.value:
        pytest.skip("kernels are interpreted in this process")
    found = []

    class Compiler:
        def __init__(self, kernel, is_half):
            self.kernel, self.shapes = kernel, fused.SHAPES[kernel, is_half][: None if all_shapes else 1]

        def __getitem__(self, grid):
            return lambda *arguments, **constants: found.extend(
                of_shape(self.kernel, shape, grid, arguments, constants) for shape in self.shapes
            )

    monkeypatch.setattr(triton.runtime.driver, "_active", AbsentGpu(capability))
    monkeypatch.setattr(fused, "_tuned", Compiler)
    monkeypatch.setattr(fused, "_check", lambda *_: None)  # which would refuse tensors on the CPU
    optics = optics_of(layered_disparity(1, (256, 256)), (16, 16))
    optics.coc.requires_grad_()
    as_layers_leave_it = torch.randn(3, 1, 256, 2, width).to(dtype).transpose(2, 3)
    query, key, value = as_layers_leave_it.requires_grad_()
    out = fused.fused_pisa(
        query, key, value, optics, hardness=INFERENCE_HARDNESS, dropout=dropout, dropout_seed=dropout_seed
    )
    torch.autograd.grad(out.sum(), [query, optics.coc])
    return found


def of_shape(kernel, shape, grid, arguments, constants) -> Compiled:
    step, warps, stages = shape
    function = getattr(fused._kernels(), kernel)
    binary = function.warmup(*arguments, **constants, STEP=step, num_warps=warps, num_stages=stages, grid=grid)
    usage = resource_usage(binary.asm["cubin"])
    return Compiled(
        kernel, shape, binary, binary.asm["ptx"], binary.metadata.shared, usage["STACK"] + usage["LOCAL"], usage["REG"]
    )


def resource_usage(cubin: bytes) -> dict[str, int]:
    """Registers, stack and so on, as NVIDIA's own tool reads them from the binary."""
    tool = triton.knobs.nvidia.cuobjdump.path
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}


HALF = [torch.float16, torch.bfloat16]


def assert_good(kernels: list[Compiled], capability: int, dtype: torch.dtype, *, spilled_bytes: int = 0) -> None:
    product = "wgmma.mma_async" if capability == 90 else "mma.sync"
    assert {each.kernel for each in kernels} == set(KERNELS)
    for each in kernels:
        assert (product in each.ptx) == (dtype in HALF), each.kernel  # matrix units; single precision is kept single
        assert ".tf32" not in each.ptx
        assert ".f64" not in each.ptx, each.kernel
        assert "cp.async" in each.ptx, each.kernel  # what comes next is loaded while this is computed
        assert each.spilled_bytes <= spilled_bytes, (each.kernel, each.shape, each.spilled_bytes)
        assert each.shared_bytes <= CONSUMER_BYTES, (each.kernel, each.shape, each.shared_bytes)


@pytest.mark.parametrize("capability", [80, 90])
def test_half_precision_runs_on_matrix_units_without_spills(monkeypatch, capability):
    kernels = compiled(monkeypatch, capability, torch.bfloat16, 64)
    assert [each.kernel for each in kernels] == list(KERNELS)
    assert_good(kernels, capability, torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("dtype", "width", "dropout"),
    [(torch.bfloat16, width, 0.0) for width in (32, 40, 64, 80, 128)]
    + [(torch.float16, 96, 0.0), (torch.bfloat16, 64, 0.1), (torch.float16, 128, 0.1)]
    + [(torch.float32, 64, 0.0), (torch.float32, 80, 0.1), (torch.float32, 128, 0.0)],
)
def test_every_shape_is_compiled_within_what_cards_have(monkeypatch, capability, dtype, width, dropout):
    kernels = compiled(monkeypatch, capability, dtype, width, dropout=dropout, all_shapes=True)
    assert_good(kernels, capability, dtype, spilled_bytes=SPILLED_BYTES)


def test_a_seed_is_no_reason_to_compile_again(monkeypatch):
    capability, dtype = 90, torch.bfloat16
    first = compiled(monkeypatch, capability, dtype, 64, dropout=0.1, dropout_seed=5)
    for seed in (0, 1, 16, 2**32 + 16, 2**40 + 1, -1):
        again = compiled(monkeypatch, capability, dtype, 64, dropout=0.1, dropout_seed=seed)
        assert all(one.binary is other.binary for one, other in zip(first, again, strict=True))
