"""What all users of the app share: folders, limits, models, the device."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from bokehdiff.app.networks import Networks
from bokehdiff.app.places import Places
from bokehdiff.preparation import DisparityModel

MEBI = 2**20


@dataclass(frozen=True)
class Limits:
    """How much the app takes on.

    Args:
        most_pixels: Of a photograph or a map.
        most_bytes: Of an uploaded file.
        most_sessions: Photographs open at the same time; the one that was used longest ago is put away.
    """

    most_pixels: int = 32_000_000
    most_bytes: int = 64 * MEBI
    most_sessions: int = 16


@dataclass(frozen=True)
class Equipment:
    """What stands in the room, for every table.

    Args:
        places: Where to write.
        limits: How much is taken on.
        model: Predicts disparity; None for a guess.
        networks: The diffusion renderer; None if there is none.
        device: Where physics is computed.
    """

    places: Places
    limits: Limits = field(default_factory=Limits)
    model: DisparityModel | None = None
    networks: Networks | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
