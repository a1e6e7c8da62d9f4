"""Where ports are: what is seen of each, and the decisions that follow from it (`decide/bindings.py`; docs/decisions.md, section 6).

The cluster tells what happens: a view has changed, a frame was heard, a member has moved on. Ports that this may concern are queued, and
looked at together, in one transaction. A port that is under way between two places is looked at again until it has arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence, Set
from typing import TYPE_CHECKING

import msgspec
import structlog

from ebbtide.decide import bindings
from ebbtide.errors import EbbtideError
from ebbtide.model.facts import Binding, BindingPhase, Edit, Membership
from ebbtide.model.observed import View, differing
from ebbtide.model.state import State, apply
from ebbtide.runtime import vswitch

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster
    from ebbtide.runtime.member import Member

log = structlog.get_logger("places")
#: Seconds that ports under way wait to be looked at again after somebody's step, and for each of them more; at most, and how long
#: without any step.
_LOOK, _LOOK_EACH, _LOOK_AT_MOST = 0.01, 0.002, 0.2


class Places:
    """All ports, as far as something is seen of them. `queued`: those to be looked at next."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.queued: set[str] = set()
        self._seen: dict[str, set[int]] = {}
        self._frames: dict[str, set[int]] = {}
        self._unsettled: set[str] = set()
        self._waking: dict[str, float] = {}
        self._looking: asyncio.TimerHandle | None = None
        self._judging = asyncio.Event()

    # --- what is told ---

    def forget(self) -> None:
        """A new leadership: what was heard before belongs to another one."""
        self._frames.clear()
        self._waking.clear()
        self._unsettled.clear()

    def shown(self, compute: int, old: View, view: View) -> None:
        """A compute shows other ports than before."""
        for port in differing(old.ports, view.ports):
            if port in view.ports:
                self._seen.setdefault(port, set()).add(compute)
            else:
                self._unsee(port, compute)

    def dropped(self, compute: int) -> None:
        """A compute is forgotten."""
        for port in list(self._seen):
            self._unsee(port, compute)

    def _unsee(self, port: str, compute: int) -> None:
        seen = self._seen.get(port)
        if seen is not None:
            seen.discard(compute)
            if not seen:
                del self._seen[port]

    def heard(self, port: str, compute: int) -> None:
        """A frame of the port's MAC came in at its interface there."""
        self._frames.setdefault(port, set()).add(compute)
        self.look_at([port])

    def bound_anew(self, port: str) -> None:
        """Its bindings have changed: what was heard of it before says nothing about them."""
        self._frames.pop(port, None)

    def tunnel_heard(self) -> None:
        """A probe has arrived: a port may have waited for its tunnel."""
        self.look_at(self._waking)

    def somebody_has_moved_on(self) -> None:
        """A member has taken a step; ports under way may have waited for it.

        Not at once: a step of each member of a large network would have every port under way looked at by all of them.
        """
        if self._unsettled and self._looking is None:
            wait = min(_LOOK + _LOOK_EACH * len(self._unsettled), _LOOK_AT_MOST)
            self._looking = asyncio.get_running_loop().call_later(wait, self._look_at_unsettled)

    # --- the decisions ---

    def _look_at_unsettled(self) -> None:
        self._looking = None
        self.look_at(self._unsettled)

    def look_at(self, ports: Iterable[str]) -> None:
        """These may have come to another place."""
        self.queued.update(ports)
        if self.queued:
            self._judging.set()

    async def run(self) -> None:
        """Look at queued ports, many in one transaction; until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_AT_MOST if self._unsettled else 3600):
                    await self._judging.wait()
            except TimeoutError:
                self.queued |= self._unsettled
            self._judging.clear()
            ports, self.queued = self.queued, set()
            if not self._cluster.store.leading.is_set() or not ports:
                continue

            try:
                await self._judge_these(frozenset(ports))
            except Exception as error:
                if isinstance(error, EbbtideError):
                    log.warning("bindings_wait", reason=str(error), ports=len(ports))
                else:
                    # One port that cannot be judged must not keep all others from being looked at ever again.
                    log.exception("bindings_fault", ports=len(ports))
                self.queued |= ports
                await asyncio.sleep(0.5)
                self._judging.set()

    async def _judge_these(self, ports: Set[str]) -> None:
        def decide(state: State) -> tuple[list[Edit], None]:
            edits: list[Edit] = []
            for port in sorted(ports):
                found = bindings.judge(state, port, self._sight(port))
                edits += found
                # Two that come to a compute together get zones of their own.
                state = apply(state, found, state.revision) if found else state
            return edits, None

        await self._cluster.store.commit(decide)
        for port in ports:
            held = self._cluster.state.bindings.get(port, ())
            moving = any(b.phase is not BindingPhase.ACTIVE for b in held) or (not held and self._at_member(port))
            if moving and port in self._cluster.state.ports:
                self._unsettled.add(port)
            else:
                self._unsettled.discard(port)

    def _at_member(self, port: str) -> bool:
        found = (self._cluster.state.computes.get(number) for number in self._seen.get(port, ()))
        return any(c is not None and c.membership is Membership.MEMBER for c in found)

    def evidence(self, port: str) -> frozenset[int]:
        """Computes where a frame of the port's MAC came in, since its bindings last changed."""
        return frozenset(self._frames.get(port, ()))

    def _sight(self, port: str) -> bindings.Sight:
        state = self._cluster.state
        held = state.bindings.get(port, ())
        plugged: dict[int, bool] = {}
        for number in self._seen.get(port, ()):
            interface = self._cluster.members[number].view.ports.get(port) if number in self._cluster.members else None
            # A fresh one counts: while the switch realises it, the store can take the binding and the tunnels can be made.
            if (
                interface is not None
                and (interface.ofport or interface.fresh)
                and self._cluster.members[number].view.live
            ):
                plugged[number] = True
        for binding in held:
            member = self._cluster.members.get(binding.compute)
            if member is not None and member.view.live and port not in member.view.ports and self._speaks(member):
                plugged[binding.compute] = False
        applied = {
            b.compute
            for b in held
            if b.compute in self._cluster.members and self._cluster.members[b.compute].applied() >= b.since
        }
        frames = self.evidence(port)
        leaving = any(b.phase is BindingPhase.LEAVING for b in held)
        flipped = leaving and self._flipped(port, held)
        sight = bindings.Sight(plugged, frames, applied, flipped)
        return msgspec.structs.replace(sight, open=self._opened(port, held, sight))

    def _opened(self, port: str, held: Sequence[Binding], sight: bindings.Sight) -> bool:
        """Whether the tunnels of a pending place carry frames, or have been waited for long enough. Until then the old one relays."""
        coming = next((b for b in held if b.phase is BindingPhase.PENDING), None)
        active = self._cluster.state.active(port)
        if coming is None or active is None or not bindings.arrives(self._cluster.state, coming, active, sight):
            self._waking.pop(port, None)
            return True
        pending = coming.compute
        since = self._waking.setdefault(port, self._cluster.now())
        if self._cluster.now() - since >= self._cluster.settings.open_patience:
            return True
        reachable = (
            n
            for n in self._cluster.state.footprint(self._cluster.state.ports[port].network)
            if n in self._cluster.members
        )
        # All of them are asked, so that all that are not open are probed.
        opened = [
            self._cluster.probes.want(pending, n)
            for n in reachable
            if n != pending and self._cluster.members[n].connected
        ]
        return all(opened)

    def _speaks(self, member: Member) -> bool:
        """Whether what a compute does not show is to be believed: not while its br-int is missing."""
        return member.tables is not None and vswitch.bridge(member.tables) is not None

    def _flipped(self, port: str, held: Sequence[Binding]) -> bool:
        """Whether all whom it concerns have applied the flip and are settled."""
        since = max((b.since for b in held if b.phase is not BindingPhase.PENDING), default=0)
        fact = self._cluster.state.ports.get(port)
        if fact is None:
            return False
        for number in self._cluster.state.footprint(fact.network):
            member = self._cluster.members.get(number)
            if member is None or not member.settled(since):
                lost = member.lost_at if member is not None else None
                if lost is None or self._cluster.now() - lost < self._cluster.settings.unreachable_grace:
                    return False
        return True

    def moving(self) -> set[str]:
        """Ports that have left a place which may still be needed: not everybody who sends to them has settled."""
        held = ((port, self._cluster.state.bindings.get(port, ())) for port in self._unsettled)
        leaving = ((p, b) for p, b in held if any(x.phase is BindingPhase.LEAVING for x in b))
        return {port for port, found in leaving if not self._flipped(port, found)}
