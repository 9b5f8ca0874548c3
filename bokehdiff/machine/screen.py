"""What was found, as text for one screen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from huggingface_hub import constants

from bokehdiff.machine.computing import Device, Tried
from bokehdiff.machine.installed import Package
from bokehdiff.machine.report import Machine

WIDTH = 110  # columns, but for commands, which are left whole to be copied
LABEL = 12
GIB = 2**30


def report_lines(machine: Machine) -> list[str]:
    """The screen.

    Args:
        machine: What was found.
    """
    lines = [
        f"bokehdiff {machine.version}, Python {machine.python}, {machine.system}; --device auto is {machine.device}"
    ]
    lines += _section("devices", [_device(device) for device in machine.devices])
    if machine.no_accelerator is not None:
        lines += _section("", [f"no GPU: {machine.no_accelerator}"])
    lines += _section("attention", [_tried(tried) for tried in machine.attention])
    lines += _section("layers", [_tried(tried) for tried in machine.layers])
    lines += _section("xFormers", [_works(machine.xformers)])
    lines += _section("weights", [f"in {constants.HF_HUB_CACHE}, where first use puts them, or a folder:"])
    width = max(len(stored.what) for stored in machine.weights)
    for stored in machine.weights:
        state = f"there  {stored.place}" if stored.place else f"no     {stored.otherwise}"
        lines.append(f"{'':<{LABEL}}{stored.what:<{width}}  {state}")
    lines += _section("packages", _packages(machine))
    lines += _section("extras", _extras(machine))
    return lines


def _section(label: str, entries: list[str]) -> Iterator[str]:
    """Entries beside their label, wrapped."""
    for index, entry in enumerate(entries):
        start = (label if index == 0 else "").ljust(LABEL)
        yield from textwrap.wrap(
            entry,
            WIDTH,
            initial_indent=start,
            subsequent_indent=" " * LABEL,
            break_long_words=False,
            break_on_hyphens=False,
        )


def _device(device: Device) -> str:
    total = f" of {device.total_bytes / GIB:.1f}" if device.total_bytes is not None else ""
    memory = f"{device.free_bytes / GIB:.1f}{total} GiB free"
    return f"{device.name}  {device.about}, {memory}" + (f"; unusable: {device.problem}" if device.problem else "")


def _tried(tried: Tried) -> str:
    return f"{tried.name:<10} {_works(tried)}"


def _works(tried: Tried) -> str:
    return f"no: {tried.problem}" if tried.problem else f"works on {tried.device}"


def _packages(machine: Machine) -> list[str]:
    if not machine.packages:
        return ["bokehdiff runs without being installed: pip install -e ."]
    there = ", ".join(f"{package.name} {package.version}" for package in machine.packages if package.serves)
    return [there, *(_mended(package) for package in machine.packages if not package.serves)]


def _mended(package: Package) -> str:
    wanted = f"{package.name}{package.wanted}"
    return f"{wanted} is needed, {package.version or 'none'} is there: pip install '{wanted}'"


def _extras(machine: Machine) -> list[str]:
    there = [extra.name for extra in machine.extras if not extra.lacking]
    lacking = [
        f"{extra.name:<10} {extra.install}  (lacks {', '.join(package.name for package in extra.lacking)})"
        for extra in machine.extras
        if extra.lacking
    ]
    return [f"there: {', '.join(there) or 'none'}", *lacking]
