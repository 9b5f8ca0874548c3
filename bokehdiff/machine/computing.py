"""Devices with their memory, and back ends tried out on a few numbers, as programs call them."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import psutil
import torch

from bokehdiff.attention import BACKENDS as ATTENTION_BACKENDS
from bokehdiff.attention import INFERENCE_HARDNESS, TokenOptics, pisa_attention
from bokehdiff.devices import pick_device
from bokehdiff.errors import BokehDiffError, first_line
from bokehdiff.inference import free_bytes_of
from bokehdiff.models import xformers_problem
from bokehdiff.optics import Lens, circle_of_confusion
from bokehdiff.renderers import BACKENDS as LAYER_BACKENDS
from bokehdiff.renderers import LayerStack, render_layers

SIDE = 8  # tokens and pixels of what is tried out: more than one block of nothing, and done in no time
HEAD_WIDTH = 32  # a width that every card's tensor cores take
STRENGTH_PX = 4.0


@dataclass(frozen=True)
class Device:
    """Something that computes.

    Args:
        name: torch's, such as "cpu" or "cuda:0".
        about: What it is, in words.
        free_bytes: Memory that is left.
        total_bytes: Memory that it has; None where torch does not tell.
        problem: Why it cannot be used; None if it can.
    """

    name: str
    about: str
    free_bytes: int
    total_bytes: int | None
    problem: str | None = None


@dataclass(frozen=True)
class Tried:
    """A back end that was tried out.

    Args:
        name: As options call it.
        device: Where it was tried.
        problem: Why it does not work there, in one line; None if it does.
    """

    name: str
    device: str
    problem: str | None


def this_cpu() -> Device:
    """Cores, threads, load and memory of this machine."""
    about = f"{os.cpu_count()} cores, threads of torch: {torch.get_num_threads()}"
    usable = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count()
    if usable != os.cpu_count():
        about += f", {usable} cores for this process"
    about += f", load {psutil.getloadavg()[0]:.1f}"
    return Device(
        "cpu",
        f"{platform.machine()}: {about}",
        free_bytes_of(torch.device("cpu")),
        psutil.virtual_memory().total,
    )


def accelerators() -> tuple[Device, ...]:
    """GPUs, each tried out on one number; empty without any."""
    if not torch.accelerator.is_available():
        return ()
    kind = pick_device("auto").type
    return tuple(_accelerator(f"{kind}:{index}") for index in range(torch.accelerator.device_count()))


def no_accelerator() -> str:
    """Why torch has no NVIDIA card here, as it says itself."""
    return _problem(partial(pick_device, "cuda")) or "torch finds none"


def try_attention(device: torch.device) -> tuple[Tried, ...]:
    """Each back end of physics-inspired attention, over a few tokens.

    Args:
        device: Where.
    """

    def attend(backend: str) -> None:
        disparity = torch.linspace(0.0, 1.0, SIDE * SIDE, device=device).reshape(1, SIDE, SIDE)
        focus = disparity.new_tensor([0.5])
        coc_px = circle_of_confusion(disparity, focus, disparity.new_tensor([STRENGTH_PX]))
        optics = TokenOptics.from_maps(disparity, coc_px, (SIDE, SIDE), focus_disparity=focus)
        query = torch.ones(1, 1, SIDE * SIDE, HEAD_WIDTH, device=device)
        with torch.no_grad():
            pisa_attention(query, query, query, optics, hardness=INFERENCE_HARDNESS, backend=backend).cpu()

    return _tried(ATTENTION_BACKENDS, attend, device)


def try_layers(device: torch.device) -> tuple[Tried, ...]:
    """Each back end of the ray tracer of layers, over a few pixels; "cpu" is tried on the CPU.

    Args:
        device: Where the others are tried.
    """

    def render(backend: str) -> None:
        place = torch.device("cpu") if backend == "cpu" else device
        stack = LayerStack(
            torch.ones(1, 1, 4, SIDE, SIDE, device=place), torch.tensor([[[0.5, 0.0, 0.0]]], device=place)
        )
        with torch.no_grad():
            render_layers(stack, Lens(0.0, STRENGTH_PX), n_samples=16, backend=backend).cpu()

    return _tried(LAYER_BACKENDS, render, device)


def try_xformers(device: torch.device) -> Tried:
    """xFormers, as `models.use_xformers` tries it.

    Args:
        device: Where.
    """
    return Tried("xformers", str(device), xformers_problem(device))


def _tried(backends: Iterable[str], run: Callable[[str], None], device: torch.device) -> tuple[Tried, ...]:
    return tuple(
        Tried(name, "cpu" if name == "cpu" else str(device), _problem(partial(run, name))) for name in backends
    )


def _problem(attempt: Callable[[], object]) -> str | None:
    """What an attempt fails with, in one line; None if it succeeds."""
    try:
        attempt()
    except BokehDiffError as error:
        return str(error)
    except Exception as error:  # compilers and drivers fail in many ways, all of which are to be told
        return f"{type(error).__name__}: {first_line(error)}"
    return None


def _accelerator(name: str) -> Device:
    device = torch.device(name)
    problem = _problem(partial(pick_device, name))
    if device.type != "cuda":
        return Device(name, "shares the machine's memory", free_bytes_of(device), None, problem)
    told = torch.cuda.get_device_properties(device)
    about = f"{told.name}, compute capability {told.major}.{told.minor}"
    return Device(name, about, free_bytes_of(device) if problem is None else 0, told.total_memory, problem)
