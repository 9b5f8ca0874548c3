"""What `attention.py` measures, and how: a pass of attention by one method, timed in a process of its own."""

from __future__ import annotations

import itertools
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from published_attention import published_block
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bokehdiff.attention import INFERENCE_HARDNESS, PisaInputs, TokenOptics, fused, local, pisa_attention
from bokehdiff.images import load_mask
from bokehdiff.optics import focus_from_mask

SCENE = Path(__file__).parents[1] / "test_data"
TOKEN_PX, UNIT_PX = 16, 10.0
LAYERS, HEADS, WIDTH = 2, 10, 64
WARM_UP_PX = 160  # 100 tokens: enough for the back end of larger ones
BEYOND_THE_SCENE = 1.5  # a focus where nothing is, so that everything is blurred
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PRODUCT_SIDE, COPIED_BYTES = {"cpu": 2048, "cuda": 8192}, 2**28


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Args:
        method: "published", "thin_lens" or "released" (ours, by convention), or "flash" (ordinary attention).
        size_px: Side of the image.
        blur: Largest circle of confusion in units of 10 px; "all" where every disc covers the whole image, "quarter"
            where discs cover a quarter of its area on average.
        backward: Whether gradients of query, key and value are computed too.
        device: "cpu" or "cuda".
        dtype: Of query, key and value.
        repeats: Passes on the clock.
        threads: On the CPU.
    """

    method: str
    size_px: int
    blur: float | str = 4.0
    backward: bool = False
    device: str = "cpu"
    dtype: str = "float32"
    repeats: int = 7
    threads: int = 2

    @property
    def n_tokens(self) -> int:
        """Of the image."""
        return (self.size_px // TOKEN_PX) ** 2


@dataclass(frozen=True)
class Measurement:
    """What came out.

    Args:
        case: What was measured.
        device: Its name.
        seconds: Median of a pass on the clock.
        cpu_seconds: Median of processor time, all threads.
        stages: Medians on the clock of visibility, attention and its backward part.
        extra_bytes: Highest memory of the first pass above that before it.
        operations: Of attention's products for the weights that are computed, forward.
        moved_bytes: Of attention's tensors, each read or written once, forward.
        share_of_limit: Least time of those at the machine's rates over the time attention took forward.
        load_before: Jobs that wanted a core in the last minute: above 0, time on the clock is not this program's alone.
    """

    case: Case
    device: str
    seconds: float
    cpu_seconds: float
    stages: dict[str, float]
    extra_bytes: int
    operations: float
    moved_bytes: float
    share_of_limit: float
    load_before: float


@dataclass(frozen=True)
class Rates:
    """What the machine can do, measured.

    Args:
        operations: Per second, in a large product of matrices.
        moved_bytes: Per second, read and written in a large copy.
    """

    operations: float
    moved_bytes: float


def measure(case: Case, rates: Rates) -> Measurement:
    """Warm up on a small image, then the memory of one pass and the time of some.

    Args:
        case: What.
        rates: Of this machine.
    """
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    Pass(replace(case, size_px=WARM_UP_PX, blur=4.0)).run()
    work = Pass(case)
    load, memory = os.getloadavg()[0], Memory(case.device)
    work.run()
    extra_bytes = memory.extra_bytes()
    clock, processor, stages = [], [], []
    for _ in range(case.repeats):
        started, started_cpu = time.perf_counter(), time.process_time()
        stages.append(work.run())
        clock.append(time.perf_counter() - started)
        processor.append(time.process_time() - started_cpu)
    medians = {stage: statistics.median(each[stage] for each in stages) for stage in stages[0]}
    operations, moved_bytes = work.cost()
    least = max(operations / rates.operations, moved_bytes / rates.moved_bytes)
    return Measurement(
        case=case,
        device=torch.cuda.get_device_name() if case.device == "cuda" else f"{case.threads} threads",
        seconds=statistics.median(clock),
        cpu_seconds=statistics.median(processor),
        stages=medians,
        extra_bytes=extra_bytes,
        operations=operations,
        moved_bytes=moved_bytes,
        share_of_limit=least / medians["attention"],
        load_before=load,
    )


@dataclass(frozen=True, eq=False)
class Maps:
    """A photograph's disparity and its blur.

    Args:
        disparity: 1 nearest.
        coc_px: Signed circle of confusion.
        focus: Disparity in focus.
    """

    disparity: Float[Tensor, "1 h w"]
    coc_px: Float[Tensor, "1 h w"]
    focus: float


def motorcycle(case: Case) -> Maps:
    """test_data's photograph with its measured disparity, cut square, at the size and blur of a case.

    Args:
        case: Blur in units has the subject in focus; else everything is out of focus.
    """
    whole = torch.from_numpy(np.load(SCENE / "depth" / "motorcycle_pred.npy")).float().reshape(1, 324, 480)
    in_focus = float(focus_from_mask(whole, load_mask(SCENE / "mask" / "motorcycle.png")))
    size_hw = (case.size_px, case.size_px)
    disparity = F.interpolate(whole[None, :, :, 78:402], size_hw, mode="bilinear")[0].clamp(0.0, 1.0)
    focus = BEYOND_THE_SCENE if isinstance(case.blur, str) else in_focus
    defocus = disparity - focus
    if case.blur == "all":
        strength_px = math.sqrt(2.0) * case.size_px / float(defocus.abs().min())  # the diagonal, from any corner
    elif case.blur == "quarter":
        strength_px = math.sqrt(0.25 / math.pi) * case.size_px / float(defocus.abs().mean())
    else:
        strength_px = UNIT_PX * float(case.blur) / float(defocus.abs().max())
    return Maps(disparity.to(case.device), (strength_px * defocus).to(case.device), focus)


class Pass:
    """What the PISA layers of one UNet pass compute, by the method of a case.

    Args:
        case: Which.
    """

    def __init__(self, case: Case) -> None:
        self.case, self.maps = case, motorcycle(case)
        shape = (LAYERS, 3, 1, case.n_tokens, HEADS, WIDTH)  # as projections leave it: heads beside each other
        tokens = torch.randn(shape, dtype=DTYPES[case.dtype], device=case.device).transpose(3, 4)
        self.layers = [[t.requires_grad_(case.backward) for t in layer] for layer in tokens]
        self.optics: TokenOptics | None = None

    def run(self) -> dict[str, float]:
        """Compute it, and tell the seconds of each stage."""
        self.optics = None  # of the pass before, and its memory
        moments = [self._now()]
        attend = self._prepared()
        moments.append(self._now())
        received = [attend(*layer) for layer in self.layers]
        moments.append(self._now())
        if self.case.backward:
            for out, layer in zip(received, self.layers, strict=True):
                torch.autograd.grad(out, layer, torch.ones_like(out))
            moments.append(self._now())
        spent = [end - begin for begin, end in itertools.pairwise(moments)]
        return dict(zip(("visibility", "attention", "backward"), spent, strict=False))

    def _prepared(self) -> Callable[..., Tensor]:
        """A layer's attention, after all that is done once per image."""
        case, maps = self.case, self.maps
        if case.method == "flash":
            return _flash_attention if case.device == "cuda" else F.scaled_dot_product_attention
        if case.method == "published":
            options = {"disparity": maps.disparity, "coc_px": maps.coc_px, "hard": math.exp(INFERENCE_HARDNESS)}
            return lambda query, key, value: published_block(query, key, value, **options)
        side = case.size_px // TOKEN_PX
        optics = TokenOptics.from_maps(
            maps.disparity, maps.coc_px, (side, side), focus_disparity=maps.focus, convention=case.method
        )
        self.optics = PisaInputs(optics, INFERENCE_HARDNESS).optics
        return lambda query, key, value: pisa_attention(query, key, value, self.optics, hardness=INFERENCE_HARDNESS)

    def _now(self) -> float:
        if self.case.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def cost(self) -> tuple[float, float]:
        """Operations and bytes of attention's forward pass; of ours, for what light reaches by the stated bound."""
        token = self.layers[0][0]
        moved_bytes, n_weights = 4 * token.numel() * token.element_size(), self.case.n_tokens**2
        if self.optics is not None and self.case.device == "cuda":
            tiles = fused.fused_plan(self.optics, hardness=INFERENCE_HARDNESS).tiles
            pairs = self.optics.block_pairs(INFERENCE_HARDNESS, block_hw=fused.BLOCK_HW)
            n_weights = pairs.n_pairs * pairs.blocks.tokens_per_block**2
            moved_bytes += tiles.numel() * tiles.element_size()
        elif self.optics is not None:
            plan = local.local_plan(self.optics, hardness=INFERENCE_HARDNESS)
            n_weights = plan.n_receivers * math.prod(local.BLOCK_HW)
            moved_bytes += plan.visible.numel() * plan.visible.element_size()
        return LAYERS * HEADS * n_weights * 4.0 * WIDTH, float(LAYERS * moved_bytes)


def _flash_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(query, key, value)


class Memory:
    """The highest memory from now on.

    Args:
        device: "cuda" asks torch, "cpu" the kernel about this process: its high-water mark is reset, which `ru_maxrss`
            does not allow, and which would begin with that of the process that started this one.
    """

    def __init__(self, device: str) -> None:
        self.on_gpu = device == "cuda"
        if self.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")
            self.before = _resident_bytes("VmRSS")

    def extra_bytes(self) -> int:
        """Above what there was at the beginning."""
        highest = torch.cuda.max_memory_allocated() if self.on_gpu else _resident_bytes("VmHWM")
        return highest - self.before


def _resident_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def measure_rates(device: str, dtype: str, threads: int) -> Rates:
    """What this machine can do at best.

    Args:
        device: "cpu" or "cuda".
        dtype: Of the product.
        threads: On the CPU.
    """
    torch.set_num_threads(threads)
    side = PRODUCT_SIDE[device]
    left, right = torch.randn(2, side, side, device=device).to(DTYPES[dtype])
    source, target = torch.ones(2, COPIED_BYTES, dtype=torch.uint8, device=device)
    return Rates(
        operations=2.0 * side**3 / _least_seconds(lambda: left @ right, device),
        moved_bytes=2.0 * COPIED_BYTES / _least_seconds(lambda: target.copy_(source), device),
    )


def _least_seconds(work: Callable[[], Tensor], device: str, repeats: int = 7) -> float:
    seconds = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
