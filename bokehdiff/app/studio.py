"""Who has which photograph open."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict

from bokehdiff.app.equipment import Equipment
from bokehdiff.app.session import Session
from bokehdiff.errors import InputError

PUT_AWAY = "this photo was put away because others were opened since; open it again"


class Studio:
    """The tables at which users sit, each known by a key that nobody else can guess.

    Args:
        equipment: What they share.
    """

    def __init__(self, equipment: Equipment) -> None:
        self.equipment = equipment
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._seating = threading.Lock()

    def new_session(self) -> str:
        """The key of a new table; where there are too many, the one that was used longest ago is cleared."""
        key = secrets.token_urlsafe(16)
        session = Session(self.equipment)
        with self._seating:
            self._sessions[key] = session
            left = [
                self._sessions.popitem(last=False)[1]
                for _ in range(len(self._sessions) - self.equipment.limits.most_sessions)
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
