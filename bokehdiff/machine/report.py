"""Everything at once."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from bokehdiff import __version__
from bokehdiff.devices import pick_device
from bokehdiff.machine.computing import (
    Device,
    Tried,
    accelerators,
    no_accelerator,
    this_cpu,
    try_attention,
    try_layers,
    try_xformers,
)
from bokehdiff.machine.installed import Extra, Package, installed_extras, installed_packages
from bokehdiff.machine.stored import Stored


@dataclass(frozen=True)
class Machine:
    """What works here.

    Args:
        version: Of bokehdiff.
        python: Version of Python.
        system: Operating system.
        device: What `auto` picks.
        devices: The CPU, then what accelerates.
        no_accelerator: Why there is none; None if there is one.
        attention: Back ends of physics-inspired attention.
        layers: Back ends of the ray tracer of layers.
        xformers: For the other attention layers.
        weights: Those that programs may ask for.
        packages: That the project needs.
        extras: That it can use.
    """

    version: str
    python: str
    system: str
    device: str
    devices: tuple[Device, ...]
    no_accelerator: str | None
    attention: tuple[Tried, ...]
    layers: tuple[Tried, ...]
    xformers: Tried
    weights: tuple[Stored, ...]
    packages: tuple[Package, ...]
    extras: tuple[Extra, ...]


def look_around(weights: tuple[Stored, ...]) -> Machine:
    """Gather the facts; nothing is downloaded, and nothing on the machine changes.

    Args:
        weights: What is stored, by `stored_weights`.
    """
    device = pick_device("auto")
    found = accelerators()
    return Machine(
        version=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}",
        device=str(device),
        devices=(this_cpu(), *found),
        no_accelerator=None if found else no_accelerator(),
        attention=try_attention(device),
        layers=try_layers(device),
        xformers=try_xformers(device),
        weights=weights,
        packages=installed_packages(),
        extras=installed_extras(),
    )
