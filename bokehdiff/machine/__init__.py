"""What works on this machine: devices, back ends tried out, weights that are there, packages."""

from bokehdiff.machine.computing import Device, Tried, try_attention, try_layers, try_xformers
from bokehdiff.machine.installed import Extra, Package, installed_extras, installed_packages
from bokehdiff.machine.report import Machine, look_around
from bokehdiff.machine.screen import report_lines
from bokehdiff.machine.stored import Stored, stored_weights

__all__ = [
    "Device",
    "Extra",
    "Machine",
    "Package",
    "Stored",
    "Tried",
    "installed_extras",
    "installed_packages",
    "look_around",
    "report_lines",
    "stored_weights",
    "try_attention",
    "try_layers",
    "try_xformers",
]
