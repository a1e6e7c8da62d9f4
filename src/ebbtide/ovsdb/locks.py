"""Locks of an OVSDB server, as one connection sees them (RFC 7047 sections 4.1.8 to 4.1.10).

A lock has a name and one owner; who asks later stands in a queue. A stolen lock comes back: ovsdb-server leaves the
robbed client in the queue, first in line, until it sends "unlock". All moves are in one table, and a move that is not
in it is the fault of whoever made it: ours before anything is sent, the peer's when it comes from the wire.

    FREE ─ask─► ASKED ─granted──────────────► HELD ─stolen─► WAITING
                  └────queued──► WAITING ─locked─► HELD
           any of these but ASKED ─release─► RELEASING ─released─► FREE
"""

from __future__ import annotations

import enum

from ebbtide.errors import LocalProtocolError, RemoteProtocolError

__all__ = ["LockState", "Locks"]


class LockState(enum.Enum):
    """Of one lock. Only HELD lets an "assert" pass."""

    FREE = "free"
    ASKED = "asked"
    WAITING = "waiting"
    HELD = "held"
    RELEASING = "releasing"


_L = LockState
_MOVES = {
    (_L.FREE, "ask"): _L.ASKED,
    (_L.ASKED, "granted"): _L.HELD,
    (_L.ASKED, "queued"): _L.WAITING,
    (_L.ASKED, "failed"): _L.FREE,
    (_L.WAITING, "locked"): _L.HELD,
    (_L.HELD, "stolen"): _L.WAITING,
    # ovsdb-server tells the owner again whenever one of the queue gives up.
    (_L.HELD, "locked"): _L.HELD,
    (_L.WAITING, "release"): _L.RELEASING,
    (_L.HELD, "release"): _L.RELEASING,
    # What the server sent before it saw our unlock.
    (_L.RELEASING, "locked"): _L.RELEASING,
    (_L.RELEASING, "stolen"): _L.RELEASING,
    (_L.RELEASING, "released"): _L.FREE,
    (_L.RELEASING, "failed"): _L.FREE,
}


class Locks:
    """The locks of one connection."""

    def __init__(self) -> None:
        self._states: dict[str, LockState] = {}

    def state(self, name: str) -> LockState:
        """How we stand with a lock."""
        return self._states.get(name, LockState.FREE)

    def check(self, name: str, happened: str) -> None:
        """A LocalProtocolError when we may not do this now."""
        state = self.state(name)
        if (state, happened) not in _MOVES:
            raise LocalProtocolError(f"cannot {happened} lock {name}: it is {state.value}")

    def move(self, name: str, happened: str) -> None:
        """Something happened. A RemoteProtocolError when it cannot have."""
        state = _MOVES.get((self.state(name), happened))
        if state is None:
            raise RemoteProtocolError(f"{happened} for lock {name[:60]!r}, which is {self.state(name).value}")
        if state is LockState.FREE:
            self._states.pop(name, None)
        else:
            self._states[name] = state

    def clear(self) -> None:
        """The connection is gone, and all its locks with it."""
        self._states.clear()
