"""Speed and memory of one picture, beside a plain diffusers step of the same size: `python benchmarks/inference.py`.

On a GPU with networks of SDXL's sizes and random weights, which neither time nor memory depends on; `--tiny` takes the
tiny backbone, to measure a CPU. `--count` counts on no device at all what the networks hold per pixel, which is where
the numbers in bokehdiff/inference/memory.py come from. `--detail` measures what keeping the focus and matching colours
bring back of a picture that was softened and cast on purpose, and of one that went through the autoencoder of the
backbone that ships with the repository. Results go to benchmarks/results/ as JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.attention import install_pisa, remove_pisa
from bokehdiff.data import find_scenes, load_scene
from bokehdiff.images import linear_to_srgb, resize, srgb_to_linear
from bokehdiff.inference import BokehDiffPipeline, RenderSettings, keep_focus, match_colour, resolve_focus
from bokehdiff.metrics import psnr
from bokehdiff.models import OneStepGenerator, PromptEmbedding, load_sdxl, sketch_sdxl, write_tiny_sdxl
from bokehdiff.optics import Lens
from bokehdiff.renderers import render_photo
from bokehdiff.tiling import pad_to_multiple
from bokehdiff.training.memory import GIB, ImitatedAutocast, StorageCounter

REPOSITORY = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
HALF = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STRENGTH_PX = 20.0


def main() -> int:
    """Measure, print, write."""
    options = parse()
    if options.count:
        return write("inference_count", count())
    if options.detail:
        return write("inference_detail", detail())
    with tempfile.TemporaryDirectory() as scratch:
        base = str(write_tiny_sdxl(Path(scratch) / "tiny")) if options.tiny else "SDXL"
        return write(f"inference_{'tiny' if options.tiny else 'sdxl'}_{options.size}", measure(options, base))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the tiny backbone instead of SDXL's sizes")
    parser.add_argument("--count", action="store_true", help="count bytes per pixel, on no device")
    parser.add_argument("--detail", action="store_true", help="what keeping focus and colour brings back")
    parser.add_argument("--size", type=int, default=1024, help="side of the picture [px]")
    parser.add_argument("--precision", choices=HALF, default="bf16")
    parser.add_argument("--vae-precision", choices=HALF, default="no")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=10)
    return parser.parse_args()


def write(name: str, record: dict[str, Any]) -> int:
    """Print a record and keep it."""
    text = json.dumps(record, indent=2)
    sys.stdout.write(text + "\n")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return 0


def prompt_for(generator: OneStepGenerator, device: torch.device | str) -> PromptEmbedding:
    """Of the width that the UNet takes; its content does not matter here."""
    config = generator.unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    with torch.device(device):
        return PromptEmbedding(torch.rand(1, 77, config.cross_attention_dim), torch.rand(1, pooled))


def measure(options: argparse.Namespace, base: str) -> dict[str, Any]:
    """Milliseconds and memory of the plain step and of ours, on the same networks."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks = sketch_sdxl(base, dtype=HALF[options.precision], device=device)
    generator = OneStepGenerator(networks)
    pipeline = BokehDiffPipeline(generator, prompt_for(generator, device), convention="thin_lens")
    pipeline.to(vae_dtype=HALF[options.vae_precision])
    if options.compile:
        pipeline.compile()
    image_srgb = torch.rand(1, 3, options.size, options.size, device=device)
    ramp = torch.linspace(0, 1, options.size, device=device)
    disparity = ramp.expand(1, options.size, options.size).contiguous()
    lens = Lens(0.5, STRENGTH_PX)
    bare = RenderSettings(preserve_focus=False, match_colour=False)
    remove_pisa(generator.unet)
    plain = timed(lambda: plain_step(pipeline, image_srgb), options.repeats, device)
    install_pisa(generator.unet)
    ours = timed(lambda: list(pipeline.render_lenses(image_srgb, disparity, [lens], bare)), options.repeats, device)
    finished = timed(lambda: list(pipeline.render_lenses(image_srgb, disparity, [lens])), options.repeats, device)
    rows = {"plain diffusers step": plain, "ours": ours, "ours, focus and colour kept": finished}
    return {
        "options": vars(options),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU",
        "torch": torch.__version__,
        "rows": rows,
        "ours_over_plain": {kind: ours[kind] / plain[kind] for kind in ("ms", "cpu_ms")},
    }


@torch.no_grad()
def plain_step(pipeline: BokehDiffPipeline, image_srgb: Tensor) -> Tensor:
    """Encode, one call of the UNet, decode, as a diffusers pipeline does it."""
    unet, vae = pipeline.generator.unet, pipeline.generator.vae
    latents = vae.encode((2 * image_srgb - 1).to(vae.dtype)).latent_dist.mode() * vae.config.scaling_factor
    height, width = image_srgb.shape[2:]
    ids = torch.tensor([[height, width, 0, 0, height, width]], device=image_srgb.device, dtype=torch.float32)
    conditions = {"text_embeds": pipeline.prompt.pooled.to(unet.dtype), "time_ids": ids}
    tokens = pipeline.prompt.tokens.to(unet.dtype)
    noise = unet(latents.to(unet.dtype), 499, encoder_hidden_states=tokens, added_cond_kwargs=conditions).sample
    return vae.decode((latents - noise.to(latents)) / vae.config.scaling_factor).sample


def timed(function: Callable[[], Any], repeats: int, device: torch.device) -> dict[str, float]:
    """Median of the clock and of the processor [ms], and the highest memory [GiB], after one warm-up."""
    function()
    wall, cpu = [], []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(repeats):
        started, processed = time.perf_counter(), time.process_time()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - processed)
    row = {"ms": 1e3 * statistics.median(wall), "cpu_ms": 1e3 * statistics.median(cpu)}
    return row | ({"peak_gib": torch.cuda.max_memory_allocated() / GIB} if device.type == "cuda" else {})


def count() -> dict[str, Any]:
    """Bytes that each network holds at most beside its weights, per pixel."""
    rows: dict[str, Any] = {}
    for precision in ("bf16", "no"):
        generator = OneStepGenerator(sketch_sdxl(dtype=HALF[precision]), pisa_layers=None).eval()
        prompt = prompt_for(generator, "meta")
        for size in (512, 1024, 2048):
            image = torch.empty(1, 3, size, size, device="meta")
            latents = torch.empty(1, 4, size // 8, size // 8, device="meta")
            for name, step in {
                "encoder, float32": partial(generator.encode, image),
                f"UNet, {precision}": partial(generator.denoise, latents, None, prompt),
                "decoder, float32": partial(generator.decode, latents),
            }.items():
                counter = StorageCounter()
                counter.ignore(generator)
                with torch.no_grad(), counter, ImitatedAutocast(generator.unet, torch.float32):
                    step()
                rows[f"{name}, {size} px"] = {
                    "gib": round(counter.peak / GIB, 3),
                    "bytes_per_pixel": round(counter.peak / size**2, 1),
                }
        unet = sum(weight.nbytes for weight in generator.unet.parameters())
        vae = sum(weight.nbytes for weight in generator.vae.parameters())
        rows[f"weights, UNet {precision}, autoencoder float32"] = {"gib": round((unet + vae) / GIB, 3)}
    return rows


def detail() -> dict[str, Any]:
    """PSNR [dB] to physics of a picture that something was done to: as it is, and brought back."""
    rows: dict[str, Any] = {}
    generator = OneStepGenerator(load_sdxl(REPOSITORY / "assets" / "tiny-sdxl"), pisa_layers=None).eval()
    for paths in find_scenes(REPOSITORY / "test_data" / "input"):
        scene = load_scene(paths)
        focus = float(resolve_focus(scene.disparity, "subject", scene.mask))
        lens = Lens(focus, STRENGTH_PX)
        coc_px = lens.coc_px(scene.disparity)
        true = linear_to_srgb(render_photo(srgb_to_linear(scene.image_srgb), scene.disparity, lens)).clamp(0, 1)
        for damage, damaged in {
            "softened and cast": softened_and_cast(true),
            "autoencoder": through(generator, true),
        }.items():
            rows[f"{scene.name}, {damage}"] = brought_back(damaged, true, scene.image_srgb, coc_px)
    return rows


def softened_and_cast(true: Tensor) -> Tensor:
    """Half as fine, 6 % redder and 5 % less blue."""
    size_hw = (true.shape[2], true.shape[3])
    soft = F.interpolate(resize(true, (size_hw[0] // 2, size_hw[1] // 2)), size=size_hw, mode="bicubic")
    cast = torch.tensor([1.06, 1.0, 0.95])[None, :, None, None]
    return linear_to_srgb((srgb_to_linear(soft.clamp(0, 1)) * cast).clamp_min(0)).clamp(0, 1)


@torch.no_grad()
def through(generator: OneStepGenerator, true: Tensor) -> Tensor:
    """Encoded and decoded."""
    padded = pad_to_multiple(true, generator.size_multiple)
    return padded.crop(generator.decode(generator.encode(padded.image))).clamp(0, 1)


def brought_back(damaged: Tensor, true: Tensor, photo_srgb: Tensor, coc_px: Tensor) -> dict[str, float]:
    """What each of the two steps, and both, make of a damaged picture."""
    coloured = match_colour(damaged, photo_srgb, coc_px)
    pictures = {
        "damaged": damaged,
        "focus kept": keep_focus(damaged, photo_srgb, coc_px),
        "colour matched": coloured,
        "both": keep_focus(coloured, photo_srgb, coc_px),
    }
    row = {name: round(float(psnr(picture, true)), 2) for name, picture in pictures.items()}
    sharp = (coc_px.abs() < 0.5)[:, None].expand_as(true)
    row["in focus, damaged"] = round(_psnr_where(damaged, true, sharp), 2)
    row["in focus, both"] = round(_psnr_where(pictures["both"], true, sharp), 2)
    return row


def _psnr_where(picture: Tensor, true: Tensor, where: Tensor) -> float:
    return float(-10 * torch.log10((picture - true)[where].square().mean().clamp_min(1e-12)))


if __name__ == "__main__":
    sys.exit(main())
