"""Colour profiles made byte by byte, so that nobody's file is needed (ICC.1:2001, sections 6 and 7)."""

from __future__ import annotations

import struct

import numpy as np

# Colorants of Adobe RGB (1998) in XYZ at D50 (Bradford), columns red, green, blue.
ADOBE_TO_XYZ_D50 = np.array(
    [[0.6097559, 0.2052401, 0.1492240], [0.3111242, 0.6256560, 0.0632197], [0.0194811, 0.0608902, 0.7448387]]
)


# The same of Display P3.
P3_TO_XYZ_D50 = np.array(
    [[0.5151187, 0.2919778, 0.1571035], [0.2411892, 0.6922441, 0.0665668], [-0.0010505, 0.0418791, 0.7840713]]
)


def fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def gamma(exponent: float) -> bytes:
    return b"curv\x00\x00\x00\x00" + struct.pack(">IH", 1, round(exponent * 256))


def table(exponent: float, count: int) -> bytes:
    values = np.round(np.linspace(0, 1, count) ** exponent * 65535).astype(">u2")
    return b"curv\x00\x00\x00\x00" + struct.pack(">I", count) + values.tobytes()


def parametric(kind: int, *parameters: float) -> bytes:
    return b"para\x00\x00\x00\x00" + struct.pack(">HH", kind, 0) + fixed(*parameters)


def profile_of(curve: bytes, *, to_xyz: np.ndarray | None = ADOBE_TO_XYZ_D50, name: str = "Wide") -> bytes:
    """A version 2 display profile of one curve and a matrix, or of one curve for greys."""
    description = b"desc\x00\x00\x00\x00" + struct.pack(">I", len(name) + 1) + name.encode() + b"\x00" * 80
    tags = {b"desc": description, b"wtpt": b"XYZ \x00\x00\x00\x00" + fixed(0.9642, 1.0, 0.8249)}
    tags[b"cprt"] = b"text\x00\x00\x00\x00none\x00"
    if to_xyz is None:
        tags[b"kTRC"] = curve
    else:
        for index, channel in enumerate("rgb"):
            tags[f"{channel}XYZ".encode()] = b"XYZ \x00\x00\x00\x00" + fixed(*to_xyz[:, index])
            tags[f"{channel}TRC".encode()] = curve
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for signature, data in tags.items():
        data = data + b"\x00" * (-len(data) % 4)
        table += signature + struct.pack(">II", start + len(body), len(data))
        body += data
    space = b"GRAY" if to_xyz is None else b"RGB "
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\x00" * 4, 0x02400000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + b"\x00" * 24 + struct.pack(">I", 0)
    header += fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\x00") + struct.pack(">I", len(tags)) + table + body


ADOBE_RGB = profile_of(gamma(563 / 256), name="Adobe RGB (1998)")
DISPLAY_P3 = profile_of(
    parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045), to_xyz=P3_TO_XYZ_D50, name="Display P3"
)
