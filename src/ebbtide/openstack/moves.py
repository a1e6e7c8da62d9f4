"""How one server leaves its host, look by look. Pure: what Nova shows of it goes in, what is to be done comes out."""

from __future__ import annotations

from enum import StrEnum

from ebbtide.openstack.servers import Server, Way, need

#: Seconds after which a server that has not begun to move by our call is asked for again.
BEGINS = 60.0
_NEVER = float("-inf")


class Act(StrEnum):
    """What is to be done: look again; have Nova begin; nothing, since it has left, or nobody wants it moved any more, or it needs another
    way now; or say that it has failed, in Nova's words or (`STRANDED`) for where it is."""

    WAIT = "wait"
    BEGIN = "begin"
    LEFT = "left"
    DROPPED = "dropped"
    FAILED = "failed"
    STRANDED = "stranded"


class Move:
    """One server on its way. `source`: the host that it leaves; `way`: how, which becomes a confirmation when a cold one has arrived."""

    def __init__(self, server: Server, way: Way) -> None:
        self.server, self.source, self.way = server, server.host, way
        self._asked = _NEVER
        #: Whether Nova has been seen at it, or has said that it is: when it is at it no more, it is over.
        self._seen = server.task == "migrating"

    @property
    def begun(self) -> bool:
        """Whether Nova has taken a call of ours."""
        return self._asked != _NEVER

    def asked(self, at: float) -> None:
        """Nova has taken the call."""
        self._asked = at
        # A confirmation is over when it is; of a migration that was over at once, Nova's words are asked for.
        self._seen = self.way is not Way.CONFIRM

    def step(self, now: Server | None, at: float, *, wanted: bool) -> Act:
        """What is to be done. `now`: the server (None: it is deleted); `at`: seconds; `wanted`: the drain goes on. What has begun is
        brought to its end all the same."""
        if now is None or self._has_left(now):
            return Act.LEFT
        if not wanted and not self.begun and self.way is not Way.CONFIRM:
            return Act.DROPPED
        if now.task:
            self._seen = self._seen or self.begun or now.task == "migrating"
            return Act.WAIT
        if now.status == "ERROR" and now.host != self.source:
            return Act.STRANDED
        if self.way is Way.COLD and now.status == "VERIFY_RESIZE":
            self.way, self._seen = Way.CONFIRM, False
            return Act.BEGIN
        if self._seen:
            return Act.FAILED
        if at - self._asked <= BEGINS:
            return Act.WAIT
        # Its owner may have started or stopped it since: a stopped one is not migrated live, and a running one never cold.
        if self.way is not Way.CONFIRM and need(now, cold=True, own=False).way is not self.way:
            return Act.DROPPED
        return Act.BEGIN

    def _has_left(self, now: Server) -> bool:
        """Whether it has; a cold one has when it is confirmed."""
        if now.task or now.status in ("VERIFY_RESIZE", "ERROR"):
            return False
        return self.way is Way.CONFIRM or now.host != self.source
