"""Speed and memory of a training step at real SDXL sizes: `python benchmarks/training.py` on a GPU, no weights needed.

The networks have the sizes of SDXL, LPIPS and the chosen discriminator, and random weights: neither time nor memory
depends on what they have learned. Samples are composed on the fly from a procedural set, as in training, or made once
with --still. `--tiny` takes the tiny backbone instead, to try the script out on a CPU. Results go to
benchmarks/results/ as JSON with the machine they were measured on, the estimate of `--dry-run` beside them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

import torch
from accelerate import Accelerator

from bokehdiff.data import OnTheFlyDataset, TrainBatch, preset, training_loader, write_training_set
from bokehdiff.losses import PerceptualLoss
from bokehdiff.models import (
    OneStepGenerator,
    PromptEmbedding,
    VisionAidedDiscriminator,
    add_lora,
    sketch_sdxl,
    trainable_groups,
    write_tiny_sdxl,
)
from bokehdiff.training.memory import GIB, Recipe, estimate_memory
from bokehdiff.training.network import Network, trained_weights
from bokehdiff.training.optimizers import adamw, learning_rate_course
from bokehdiff.training.steps import (
    Attention,
    Objective,
    discriminator_step,
    generator_losses,
    pisa_inputs,
)

RESULTS = Path(__file__).parent / "results"
HALF = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HARDNESS = 12.0  # in the middle of a run; changes nothing here


@dataclass
class Clock:
    """Time on the clock and of the processor, and memory at its highest, by stage.

    Args:
        device: Waited for before a stage is said to be over.
        seconds: Of each repeat [s].
        cpu_seconds: All threads of this process [s].
        peak_bytes: On the device; 0 where it does not tell.
    """

    device: torch.device
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu_seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Everything in the block belongs to the stage."""
        self._wait()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        started, processed = time.perf_counter(), time.process_time()
        yield
        self._wait()
        self.seconds.setdefault(name, []).append(time.perf_counter() - started)
        self.cpu_seconds.setdefault(name, []).append(time.process_time() - processed)
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            self.peak_bytes[name] = max(peak, self.peak_bytes.get(name, 0))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def main() -> int:
    """Measure, print, write."""
    options = parse()
    accelerator = Accelerator(mixed_precision=options.precision)
    torch.backends.cuda.matmul.allow_tf32 = True
    clock = Clock(accelerator.device)
    with tempfile.TemporaryDirectory() as scratch:
        base = str(write_tiny_sdxl(Path(scratch) / "tiny")) if options.tiny else "SDXL"
        with clock.stage("building"):
            generator, critic, objective, prompt = build(options, base, accelerator)
        for number, batch in enumerate(batches(options, Path(scratch), accelerator.device, clock)):
            if number == options.warm_up:
                clock.seconds.clear(), clock.cpu_seconds.clear()
            step(clock, batch, generator, critic, objective, prompt, accelerator)
        estimate = estimate_memory(recipe(options, base, objective))
    report(options, clock, estimate.peak)
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the tiny backbone instead of SDXL's sizes")
    parser.add_argument("--still", action="store_true", help="one sample, made once, instead of composing each")
    parser.add_argument("--resolution", type=int, default=512, help="side of a sample [px]")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--precision", choices=HALF, default="bf16")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep activations: faster, more memory")
    parser.add_argument("--no-lpips", action="store_true")
    parser.add_argument("--cv-type", default="convnext", help="the discriminator's backbone; none trains without")
    parser.add_argument("--in-8-bits", action="store_true", help="AdamW of bitsandbytes")
    parser.add_argument("--workers", type=int, default=4, help="processes that compose samples")
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="measured steps")
    return parser.parse_args()


def build(
    options: argparse.Namespace, base: str, accelerator: Accelerator
) -> tuple[Network[OneStepGenerator], Network[VisionAidedDiscriminator] | None, Objective, PromptEmbedding]:
    """What `bokehdiff.training.build` makes, of the same sizes and random weights."""
    device, dtype = accelerator.device, HALF[options.precision]
    networks = sketch_sdxl(base, dtype=dtype, device=device)
    add_lora(networks.unet)
    module = OneStepGenerator(networks).train()
    lora, vae = trainable_groups(module.unet, module.vae)
    if not options.no_checkpointing:
        module.enable_gradient_checkpointing()
    generator = network(module, [{"params": lora, "lr": 5e-5}, {"params": vae, "lr": 5e-6}], options, accelerator)
    critic = None
    if options.cv_type != "none":
        judge = VisionAidedDiscriminator(options.cv_type, random_backbone=True, backbone_dtype=dtype)
        groups = [{"params": list(trained_weights(judge).values()), "lr": 1e-4}]
        critic = network(judge, groups, options, accelerator)
    perceptual = None if options.no_lpips else PerceptualLoss(random_trunk=True).to(device)
    objective = Objective(1.0, 1.0, 5.0, perceptual, 0.1 if critic else 0.0, 0)
    config = module.unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    prompt = PromptEmbedding(torch.rand(1, 77, config.cross_attention_dim), torch.rand(1, pooled)).to(device)
    return generator, critic, objective, prompt


def network(module, groups, options, accelerator) -> Network:  # noqa: D103
    optimizer = adamw(groups, betas=(0.9, 0.95), weight_decay=1e-2, epsilon=1e-7, in_8_bits=options.in_8_bits)
    course = learning_rate_course(optimizer, kind="constant", n_warmup_steps=0, n_steps=1000, n_cycles=1)
    wrapped, prepared = accelerator.prepare(module, optimizer)
    return Network(wrapped, module, prepared, course, 1.0)


def batches(options: argparse.Namespace, scratch: Path, device: torch.device, clock: Clock) -> Iterator[TrainBatch]:
    """As many as are asked for, the time each takes to come counted as "waiting for data"."""
    write_training_set(scratch / "set", n_foregrounds=8, n_backgrounds=4, size_px=max(options.resolution, 96), seed=0)
    dataset = OnTheFlyDataset(
        scratch / "set", seed=0, composition=preset("published", resolution_px=options.resolution)
    )
    n_batches = options.warm_up + options.steps
    loader = training_loader(
        dataset, batch_size=options.batch_size, n_samples=n_batches * options.batch_size, n_workers=options.workers
    )
    coming = iter(loader)
    if options.still:
        coming = repeat(next(coming), n_batches)
    for _ in range(n_batches):
        with clock.stage("waiting for data"):
            batch = next(coming).to(device)
        yield batch


def step(clock, batch, generator, critic, objective, prompt, accelerator) -> None:
    """`generator_step` and `discriminator_step`, taken apart for the clock."""
    with accelerator.accumulate(generator.module):
        with clock.stage("optics of the tokens"):
            pisa = pisa_inputs(batch, generator.bare, Attention("thin_lens", 0.1, 0), hardness=HARDNESS)
        with clock.stage("generator, forward"):
            prediction_srgb = generator.module(batch.image_srgb, pisa, prompt).float()
        with clock.stage("losses"):
            if critic is None:
                losses = generator_losses(prediction_srgb, batch, objective)
            else:
                with critic.held_still() as judge:
                    losses = generator_losses(prediction_srgb, batch, objective, discriminator=judge)
        with clock.stage("backward"):
            accelerator.backward(losses.total)
        with clock.stage("optimiser"):
            generator.step(accelerator)
        if critic is not None:
            with clock.stage("discriminator's step"):
                discriminator_step(critic, prediction_srgb.detach(), batch, accelerator, kind=objective.gan_kind)


def recipe(options: argparse.Namespace, base: str, objective: Objective) -> Recipe:
    """The same as the estimate of `--dry-run` takes it."""
    return Recipe(
        base=base, dtype=HALF[options.precision], rank=8, train_vae=True, checkpointing=not options.no_checkpointing,
        resolution_px=options.resolution, batch_size=options.batch_size, objective=objective,
        lpips=not options.no_lpips, cv_type=None if options.cv_type == "none" else options.cv_type, averaged=False,
        in_8_bits=options.in_8_bits,
    )  # fmt: skip


def report(options: argparse.Namespace, clock: Clock, estimated_bytes: int) -> None:
    """Print the table, write the JSON."""
    rows = {name: statistics.median(values) for name, values in clock.seconds.items()}
    cpu = {name: statistics.median(values) for name, values in clock.cpu_seconds.items()}
    total = sum(rows.values())
    lines = []
    for name, seconds in rows.items():
        peak = f"{clock.peak_bytes[name] / GIB:8.2f} GiB" if name in clock.peak_bytes else ""
        lines.append(f"{name:<24}{1e3 * seconds:10.1f} ms {seconds / total:6.1%} {1e3 * cpu[name]:10.1f} ms CPU {peak}")
    peak_bytes = max(clock.peak_bytes.values(), default=0)
    measured = f"{peak_bytes / GIB:.2f} GiB measured" if peak_bytes else "measured on GPUs only"
    lines.append(f"{'samples per second':<24}{options.batch_size / total:10.2f}")
    lines.append(f"{'peak memory':<24}{measured}, {estimated_bytes / GIB:.2f} GiB estimated")
    sys.stdout.write("\n".join(lines) + "\n")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"
    record = {
        "options": vars(options), "device": device, "torch": torch.__version__, "seconds": rows, "cpu_seconds": cpu,
        "peak_bytes": clock.peak_bytes, "estimated_peak_bytes": estimated_bytes,
        "samples_per_s": options.batch_size / total,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    name = f"training_{'tiny' if options.tiny else 'sdxl'}_{options.precision}.json"
    (RESULTS / name).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
