"""Time and memory of physics-inspired attention beside the published dense algorithm, and the floors set for them.

    python benchmarks/attention.py                 # minutes on two cores
    python benchmarks/attention.py --device cuda   # the kernels, beside the published algorithm and FlashAttention

What is timed is what the PISA layers of one UNet pass of SDXL need: two layers of 10 heads of 64 at inference's
hardness, visibility of the image included. The scene is test_data's motorcycle with its measured disparity, cut square
and focused on the subject; blur is up to 4 units (40 px) unless the line says otherwise; tokens are 16 px wide. The
baseline stands in published_attention.py and does what the published processor does in such a pass: four tracings, two
attentions. Ours runs as users run it: `TokenOptics.from_maps` and `PisaInputs` once, `pisa_attention` twice.

Each line is measured in a process of its own. Memory is the peak of the first pass above what the process held before:
resident memory on the CPU, torch's allocations on a GPU. Times are medians, on the clock and of the processor (all
threads); on the CPU a floor is asked of both, the worse counts. "of limit" is attention's share of what the machine
can do: the time that its products, and its tensors read or written once, would need at the rates that a large product
of matrices and a large copy reach here, over the time it took. Results go to benchmarks/results/ as JSON; the exit
status is 1 if a floor is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from attention_passes import Case, Measurement, Rates, measure, measure_rates

RESULTS = Path(__file__).parent / "results"
GIB = 2.0**30


@dataclass(frozen=True)
class Floor:
    """What was asked for, and what was measured.

    Args:
        asked: In words, the number in it.
        got: Measured.
        passed: Whether it is good enough.
    """

    asked: str
    got: float
    passed: bool


def on_cpu(chosen: argparse.Namespace) -> dict[str, Case]:
    """The lines of the table without a GPU."""
    common = {"threads": chosen.threads, "repeats": chosen.repeats}
    return {
        "published": Case("published", 512, threads=chosen.threads, repeats=3),
        "1024 tokens": Case("thin_lens", 512, **common),
        "1024 tokens, released": Case("released", 512, **common),
        "1024 tokens, training": Case("thin_lens", 512, backward=True, **common),
        "4096 tokens": Case("thin_lens", 1024, **common),
        "16384 tokens": Case("thin_lens", 2048, threads=chosen.threads, repeats=3),
    }


def cpu_floors(of: dict[str, Measurement]) -> list[Floor]:
    """What was asked of two cores."""
    published, small, large, whole = of["published"], of["1024 tokens"], of["4096 tokens"], of["16384 tokens"]
    faster = {name: 1.0 / _slower(of[name], published) for name in ("1024 tokens", "1024 tokens, released")}
    growth, smaller = _slower(large, small), small.extra_bytes / published.extra_bytes
    memory_growth = whole.extra_bytes / large.extra_bytes
    return [
        *(Floor(f"{name}: at least 50 x faster than published", got, got >= 50) for name, got in faster.items()),
        Floor("1024 tokens: at most 1/10 of its extra memory", smaller, smaller <= 0.1),
        Floor("4096 tokens: at most 6 x the time of 1024", growth, growth <= 6),
        Floor("16384 tokens: at most 4.4 x the memory of 4096", memory_growth, memory_growth <= 4.4),
        Floor("16384 tokens: under 2 GiB extra [GiB]", whole.extra_bytes / GIB, whole.extra_bytes < 2 * GIB),
    ]  # fmt: skip


def on_gpu(chosen: argparse.Namespace) -> dict[str, Case]:
    """The lines of the table on a GPU."""
    common = {"device": "cuda", "dtype": chosen.dtype, "repeats": 3 * chosen.repeats}
    lines = {
        "published": Case("published", 1024, device="cuda", dtype=chosen.dtype, repeats=3),
        "flash": Case("flash", 1024, **common),
        "4096 tokens": Case("thin_lens", 1024, **common),
        "4096 tokens, released": Case("released", 1024, **common),
        "65536 tokens": Case("thin_lens", 4096, device="cuda", dtype=chosen.dtype, repeats=3),
    }
    for blur in ("all", "quarter"):
        lines[f"blur {blur}"] = Case("thin_lens", 1024, blur=blur, backward=True, **common)
    return lines


def gpu_floors(of: dict[str, Measurement]) -> list[Floor]:
    """What was asked of a GPU; FlashAttention is compared with attention alone, visibility is once per image."""
    flash = of["flash"].stages["attention"]
    faster = of["published"].seconds / of["4096 tokens"].seconds
    wide, quarter = (of[f"blur {blur}"].stages for blur in ("all", "quarter"))
    backward = max(stages["backward"] / stages["attention"] for stages in (wide, quarter))
    return [
        Floor("4096 tokens: at least 100 x faster than published", faster, faster >= 100),
        Floor("blur all: at most 2 x FlashAttention", wide["attention"] / flash, wide["attention"] <= 2 * flash),
        Floor("blur quarter: faster than FlashAttention", quarter["attention"] / flash, quarter["attention"] < flash),
        Floor("backward: at most 3 x forward", backward, backward <= 3),
        Floor("65536 tokens: forward within memory [GiB]", of["65536 tokens"].extra_bytes / GIB, True),
    ]


def _slower(one: Measurement, other: Measurement) -> float:
    """How many times slower, by the clock or the processor, whichever is worse."""
    return max(one.seconds / other.seconds, one.cpu_seconds / other.cpu_seconds)


HEAD = (
    f"{'':24}{'tokens':>8}{'seconds':>10}{'cpu s':>9}{'extra MiB':>11}   {'visibility':>10}{'attention':>10}"
    f"{'backward':>10}{'GFLOP':>9}{'MiB':>8}{'of limit':>10}{'load':>6}"
)


def line(name: str, m: Measurement) -> str:
    """A measurement, aligned under `HEAD`."""
    stages = "".join(f"{m.stages.get(stage, 0.0):10.4f}" for stage in ("visibility", "attention", "backward"))
    return (
        f"{name:24}{m.case.n_tokens:8d}{m.seconds:10.4f}{m.cpu_seconds:9.3f}{m.extra_bytes / 2**20:11.1f}   {stages}"
        f"{m.operations / 1e9:9.2f}{m.moved_bytes / 2**20:8.1f}{m.share_of_limit:10.0%}{m.load_before:6.1f}"
    )


def run(cases: dict[str, Case], rates: Rates) -> dict[str, Measurement]:
    """Measure one case after the other, each in a new process."""
    measured = {}
    sys.stdout.write(HEAD + "\n")
    for name, case in cases.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            measured[name] = process.submit(measure, case, rates).result()
        sys.stdout.write(line(name, measured[name]) + "\n")
        sys.stdout.flush()
    return measured


def options() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16", help="on a GPU")
    parser.add_argument("--threads", type=int, default=2, help="on the CPU")
    parser.add_argument("--repeats", type=int, default=7, help="three times as many on a GPU")
    parser.add_argument("--out", type=Path, default=None, help="a file; by default one in benchmarks/results")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write; 1 if a floor is missed."""
    chosen = options()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("--device cuda: torch finds no GPU here\n")
        return 2
    rates = measure_rates(chosen.device, chosen.dtype if chosen.device == "cuda" else "float32", chosen.threads)
    sys.stdout.write(f"limits here: {rates.operations / 1e9:.0f} GFLOP/s, {rates.moved_bytes / 1e9:.1f} GB/s\n")
    cases, judge = (on_cpu(chosen), cpu_floors) if chosen.device == "cpu" else (on_gpu(chosen), gpu_floors)
    measured = run(cases, rates)
    floors = judge(measured)
    for floor in floors:
        sys.stdout.write(f"{'passed' if floor.passed else 'MISSED'}  {floor.asked}: {floor.got:.3g}\n")
    out = chosen.out or RESULTS / f"attention_{chosen.device}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    record = {
        **machine,
        "limits": asdict(rates),
        "floors": [asdict(floor) for floor in floors],
        "results": {name: asdict(each) for name, each in measured.items()},
    }
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if all(floor.passed for floor in floors) else 1


if __name__ == "__main__":
    sys.exit(main())
