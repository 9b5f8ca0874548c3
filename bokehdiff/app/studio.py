"""What all users of the app share: models, folders, limits, and who has which photograph open."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict

import torch

from bokehdiff.app.networks import Networks
from bokehdiff.app.places import Places
from bokehdiff.app.session import Limits, Session
from bokehdiff.errors import InputError
from bokehdiff.preparation import DisparityModel

PUT_AWAY = "this photo was put away because others were opened since; open it again"


class Studio:
    """The tables at which users sit, each known by a key that nobody else can guess.

    Args:
        places: Where to write.
        limits: How much is taken on.
        model: Predicts disparity; None for a guess.
        networks: The diffusion renderer; None if there is none.
        device: Where physics is computed.
    """

    def __init__(
        self,
        places: Places,
        *,
        limits: Limits,
        model: DisparityModel | None = None,
        networks: Networks | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.places = places
        self.limits = limits
        self.model = model
        self.networks = networks
        self._device = device
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._seating = threading.Lock()

    def new_session(self) -> str:
        """The key of a new table; where there are too many, the one that was used longest ago is cleared."""
        key = secrets.token_urlsafe(16)
        session = Session(
            self.places, limits=self.limits, model=self.model, networks=self.networks, device=self._device
        )
        with self._seating:
            self._sessions[key] = session
            left = [
                self._sessions.popitem(last=False)[1] for _ in range(len(self._sessions) - self.limits.most_sessions)
            ]
        for one in left:
            one.close()
        return key

    def session(self, key: str) -> Session:
        """The table of a key.

        Args:
            key: From `new_session`.
        """
        with self._seating:
            if key not in self._sessions:
                raise InputError(PUT_AWAY)
            self._sessions.move_to_end(key)
            return self._sessions[key]

    def close(self, key: str | None) -> None:
        """Clear a table, whose user has left.

        Args:
            key: From `new_session`; one that is cleared already, or None for no table, is no error.
        """
        if key is None:
            return
        with self._seating:
            session = self._sessions.pop(key, None)
        if session is not None:
            session.close()
