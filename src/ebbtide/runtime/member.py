"""One compute's owner: it brings rows and flows to what State asks, in order, for as long as the compute is there.

One task per compute. It sleeps until something is dirty, and then takes one step, top to bottom (docs/decisions.md, section 5):

    brake -> rows that make -> wait until realised -> flows that make, barrier (applied) -> rows that arm -> settled -> breaks

A step that is cut short by a lost connection is taken again from the start: the dump at the start of a session says how far the
last one came. While either session is away nothing is touched.

Longer than 400 lines: a step is one story, and its parts share what is known of one compute. What waits to be taken away is in
`breaks.py`, what goes over the wires in `switch.py` and `vswitch.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

import msgspec
import structlog

from ebbtide.compile import compiler, ledger
from ebbtide.compile.features import tunnel
from ebbtide.compile.fragment import Fragment, Key, TunnelRow
from ebbtide.decide import brake
from ebbtide.decide.designation import Sighting
from ebbtide.errors import EbbtideError
from ebbtide.model.facts import Compute, Membership
from ebbtide.model.observed import Phase, View, is_waited_for
from ebbtide.model.state import State
from ebbtide.ovsdb.replica import Replica
from ebbtide.reconcile.delta import Break, Encoded, FlowKey, Found, Work, diff, encode, resync, strangers
from ebbtide.runtime import paths, vswitch
from ebbtide.runtime.breaks import Breaks
from ebbtide.runtime.collector import no_collection
from ebbtide.runtime.link import LinkLost, OvsdbLink
from ebbtide.runtime.providers import Provider, complaint
from ebbtide.runtime.pulse import Pulse
from ebbtide.runtime.switch import BUNDLE_MESSAGES, Rejected, SwitchLink, SwitchLost

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster

log = structlog.get_logger("compute")
#: A br-int that nobody has claimed may hold this many flows without a cookie of ours: a new bridge has one (NORMAL).
FEW_STRANGERS = 10
#: A vswitchd counts as held when it has shown no controller status for so long (seconds).
HELD_FOR = 1.0
#: How a switch refuses what comes from a controller that is not its master (OpenFlow 1.3 section 7.4.4, OFPBRC_IS_SLAVE).
NOT_MASTER = "is_slave"
#: Seconds that a tunnel which BFD sees no more counts as up for the flows that are made.
HOLD_DOWN = 3.0
#: Seconds from a session's begin until what its rows say of BFD is believed: a vswitchd that has just started writes them within half.
OPENING_EYES = 1.0
#: Seconds between two tries of a step that fails again and again.
RETRY_AT_MOST = 5.0
#: Flows wait for new tunnel ports to be realised, so that they go together; but no longer than this (seconds).
TUNNEL_PATIENCE = 1.0
#: Seconds between two looks whether all have been compared.
COMPARED = 0.5
#: A switch that makes an interface answers nobody meanwhile: what it is sent waits so long (seconds) at most, so that the flows of the new
#: port go with it, in one bundle instead of two (`bench neutron`).
PLUG_PATIENCE = 0.02
#: So many fragments are compiled at a stretch before others have their turn.
SLICE = 100


class Member:
    """The compute with this number, whether it is a member, waits for admission, or is quarantined."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster = cluster
        self.number = number
        self.phase = Phase.CONNECTED
        self.reason = ""
        self.view = View()
        self.link: OvsdbLink | None = None
        self.tables: Replica | None = None
        self.switch: SwitchLink | None = None
        self.synced = False
        self.approved = False
        #: The store's hold from which an operator has let this compute go, though not yet all of them.
        self.released = ""
        self.held_back = ""
        self._unexplained = False
        self.lost_at: float | None = cluster.now()
        #: Whether it was ever reachable in this leadership: one that was never heard has not just been lost.
        self.heard_before = False
        #: Whom it has seen by BFD in this session, and since when it does not any more.
        self.seen_up: set[int] = set()
        self._sees_from = 0.0
        self.down_at: dict[int, float] = {}
        self.rejected: dict[Key, str] = {}
        self.open: dict[int, float] = {}
        self.held: dict[Key, Encoded] = {}
        self._volatile: list[tuple[FlowKey, int]] = []
        self.resyncs = 0
        self.resync_flow_mods = 0
        self._dirty: set[Key] = set()
        self._dirty_from: int | None = None
        self._rows_dirty = True
        self._drop_tunnels = True
        self._tunnels_of: tuple[State, dict[int, TunnelRow]] | None = None
        self._breaks = Breaks()
        self._done: deque[tuple[int, float]] = deque(maxlen=256)
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0
        self._foreign_flows = ""
        self._realised = Pulse()
        self._held_since: float | None = None
        self._busy = False
        self._leaving = False
        self._deep = False
        self.left = False
        self._wiped: SwitchLink | None = None
        self._stamp_due: float | None = None
        self._task: asyncio.Task[None] | None = None
        self.log = log.bind(number=number)

    # --- what others ask ---

    @property
    def compute(self) -> Compute | None:
        """Its fact, member or removed."""
        state = self.cluster.state
        return state.computes.get(self.number) or state.removed.get(self.number)

    @property
    def name(self) -> str:
        """Its name, for people."""
        compute = self.compute
        return compute.name if compute else f"#{self.number}"

    @property
    def connected(self) -> bool:
        """Whether both sessions are up: it can be programmed now."""
        return self.link is not None and self.switch is not None

    @property
    def waited_for(self) -> bool:
        """Whether others wait for what it has to confirm."""
        return is_waited_for(self.connected, self.phase)

    def applied(self) -> int:
        """The newest revision that the switch has confirmed by barrier; 0 while its tables are not known to be right."""
        if not self.synced:
            return 0
        return self.cluster.state.revision if self._dirty_from is None else self._dirty_from - 1

    def serves(self, port: str) -> bool:
        """Whether its switch has confirmed the flows of a port that is plugged there."""
        return Key("plug", port, self.number) in self.held

    def settled(self, revision: int) -> bool:
        """Whether `revision` is applied and its cached datapath flows have had their lag."""
        if self.applied() < revision:
            return False
        done = next((at for rev, at in self._done if rev >= revision), None)
        return done is None or self.cluster.now() - done >= self.cluster.settings.lag

    @property
    def clean(self) -> bool:
        """Nothing is left to make or to break."""
        left = self._dirty or self._breaks or self._rows_dirty
        return self.synced and not left and not self._busy and not self.held_back

    def rid_through(self) -> int:
        """The newest revision that it has applied, and of which, as of all before it, everything that was taken away has gone from its
        switch; 0 while its tables are not known to be right."""
        oldest = self._breaks.oldest()
        through = self.applied() if oldest is None else min(self.applied(), oldest - 1)
        # What the brake holds back is still there, whenever it should have gone: nothing after the last stamp is sure.
        return min(through, self._stamp_now().revision) if self.held_back else through

    def touch(self, keys: Iterable[Key], revision: int) -> None:
        """These fragments may differ from `revision` on; and our rows, if tunnels are among them."""
        for key in keys:
            self._dirty.add(key)
            if key.room == "tunnel":
                self._rows_dirty = True
        if self._dirty_from is None and self._dirty:
            self._dirty_from = revision
        self._wake.set()

    def approve(self) -> None:
        """An operator has approved what the brake held: reconcile anew, and carry it out."""
        self.approved = True
        self.released = self.cluster.store.hold
        self.synced = False
        self.touch_rows()

    def look_again(self) -> None:
        """An operator asks for its switch to be compared anew, actions included, and for what it refused to be tried again."""
        self.rejected.clear()
        self._deep = True
        self.synced = False
        self.touch_rows()

    def renew(self) -> None:
        """A new leadership: nothing is known of its switch until it has been dumped again."""
        self.synced = False
        self.approved = False
        # Whoever led meanwhile has heard it, or not; we have not listened, and a session that is still there is about to be closed. Silence
        # begins to count now.
        self.lost_at = self.cluster.now()
        self.heard_before = False
        self.touch_rows()

    def wake(self) -> None:
        """Something that a step waits for may have happened."""
        self._wake.set()

    def touch_rows(self) -> None:
        """Its rows may differ."""
        self._rows_dirty = True
        self._wake.set()

    # --- sessions ---

    def start(self) -> None:
        """Begin to look after it."""
        self._task = asyncio.create_task(self._run(), name=f"member-{self.number}")

    async def stop(self) -> None:
        """Stop looking after it; nothing is sent any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def attach_link(self, link: OvsdbLink, tables: Replica) -> None:
        """Its OVSDB session is up."""
        if self.link is not None:
            self.link.close("replaced by a newer session")
        self.link, self.tables = link, tables
        self._see_anew()
        self._leaving = self.left = False
        self._foreign_flows = ""
        self._note_reachable()
        self.touch_rows()

    def detach_link(self, link: OvsdbLink) -> None:
        """Its OVSDB session ended. The view stays, marked as not live."""
        if self.link is link:
            self.link = None
            self.view = msgspec.structs.replace(self.view, live=False)
            self._note_reachable()

    def attach_switch(self, switch: SwitchLink) -> None:
        """Its OpenFlow session is up."""
        if self.switch is not None:
            self.switch.close("replaced by a newer session")
        self.switch = switch
        self._see_anew()
        self.synced = False
        self.rejected.clear()  # another switch may take what this one refused
        self._foreign_flows = ""
        self._note_reachable()
        self._wake.set()

    def detach_switch(self, switch: SwitchLink) -> None:
        """Its OpenFlow session ended. Nothing is concluded from that."""
        if self.switch is switch:
            self.switch = None
            self.synced = False
            self._note_reachable()
            if self.phase in (Phase.READY, Phase.RECONCILED):
                self.phase = Phase.CONNECTED
            self._wake.set()

    def _see_anew(self) -> None:
        """Its switch may be another process than before: it has seen nobody, and what its rows say of BFD may be the last one's words."""
        self.seen_up.clear()
        self.down_at.clear()
        self._sees_from = self.cluster.now() + OPENING_EYES

    def sighting(self) -> Sighting:
        """Whom it sees by BFD, of those that it is to watch: one end is disarmed before the other, and that is no death."""
        wanted = self.seen_up & set(self.view.tunnels) & self.cluster.state.relation_peers(self.number)
        lost = frozenset(n for n in wanted if n in self.down_at)
        members = self.cluster.members
        return Sighting(
            self.number, frozenset(wanted), lost, all(n in members and not members[n].connected for n in lost)
        )

    def forget_sights(self, keep: Container[int]) -> None:
        """Whoever else it has seen by BFD is to be seen anew."""
        for number in [n for n in self.seen_up if n not in keep]:
            self.seen_up.discard(number)
            self.down_at.pop(number, None)

    def look_around(self, view: View) -> tuple[View, float]:
        """What BFD says in a view, noted; a tunnel that has just gone down counts as up a moment longer, and for how long (seconds).

        The switch has sent by another way already. What follows from a death is decided in that moment; flows made for the time between
        would have to be made again.
        """
        now, tunnels, left = self.cluster.now(), view.tunnels, 0.0
        for number in [n for n in self.seen_up if n not in tunnels or not tunnels[n].watched]:
            # Nobody looks there any more; who is watched anew is to be seen first.
            self.seen_up.discard(number)
            self.down_at.pop(number, None)
        if self.switch is None or now < self._sees_from:
            return view, max(0.0, self._sees_from - now)
        for number, interface in view.tunnels.items():
            if interface.up:
                self.seen_up.add(number)
                self.down_at.pop(number, None)
            elif number in self.seen_up:
                rest = self.down_at.setdefault(number, now) + HOLD_DOWN - now
                if rest > 0:
                    tunnels = tunnels.set(number, msgspec.structs.replace(interface, up=True))
                    left = max(left, rest)
        return msgspec.structs.replace(view, tunnels=tunnels), left

    def _note_reachable(self) -> None:
        if self.connected:
            self.lost_at = None
            self.heard_before = True
        elif self.lost_at is None:
            self.lost_at = self.cluster.now()

    def observed(self, view: View) -> None:
        """Its OVSDB shows something new."""
        self.view = view
        self._realised.fire()

    # --- the step ---

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._busy = True
            try:
                await self._step()
                self._busy = False
                self._failures = 0
                self.cluster.progressed(self)
            except (LinkLost, SwitchLost) as error:
                self.log.info("cut_short", compute=self.name, reason=str(error))
                self._after_failure()
            except Rejected as error:
                self.log.error("rejected", compute=self.name, reason=str(error))
                self._after_failure()
            except EbbtideError as error:
                self.reason = str(error)
                self.log.error("step_failed", compute=self.name, reason=str(error))
                self._after_failure()
            except Exception:
                # A fault of ours must not leave a compute without an owner: begin again from its dump.
                self.reason = "a fault of the controller: see its log"
                self.log.exception("step_fault", compute=self.name)
                self.synced = False
                self._rows_dirty = True
                self._after_failure()
            finally:
                self._busy = False

    def _after_failure(self) -> None:
        """Try again: at once nearly, then at longer and longer intervals. A session that comes back wakes it in any case."""
        self._failures += 1
        self._again(retry_after(self._failures))

    def _again(self, after: float) -> None:
        """Wake it by then. One timer a compute, the earliest: whoever is woken asks anew for what is left."""
        loop = asyncio.get_running_loop()
        at = loop.time() + after
        if self._timer is not None and self._timer.when() <= at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._wake.set()

    async def _step(self) -> None:
        compute = self.compute
        if compute is None or self.link is None or self.tables is None:
            return
        if compute.membership is Membership.REMOVED:
            if self._trusted(compute):
                await self._quarantine(compute)
        elif compute.membership is Membership.WAITING:
            self.phase, self.reason = Phase.WAITING, "waits for `ebbtide compute approve`"
        elif self._may_write(compute):
            await self._member_step(compute)

    def _trusted(self, compute: Compute) -> bool:
        """Whether this store may rule this switch: the brake's first two questions."""
        own = vswitch.bridge(self.tables) if self.tables is not None else None
        held = ""
        if own is not None:
            hold = self.cluster.store.hold
            held = (hold if hold != self.released else "") or brake.wrong_store(
                own.stamp, self.cluster.state.store_id, self.cluster.state.revision
            )
        if not held or self.approved:
            return True
        if self.phase is not Phase.BRAKED:
            self.log.error("brake", compute=compute.name, reason=held)
        self.phase, self.reason = Phase.BRAKED, held
        self.cluster.braked(self, own.stamp if own else brake.Stamp())
        return False

    def _may_write(self, compute: Compute) -> bool:
        if not self._trusted(compute):
            return False
        assert self.tables is not None
        strange = ""
        if not compute.adopted:
            strange = self._foreign_flows or vswitch.foreign(self.tables, self.cluster.state.store_id, self._target())
        if strange:
            self.phase = Phase.FOREIGN
            self.reason = f"{strange}; `ebbtide compute adopt {compute.name}` takes it over"
            return False
        return True

    def _open_switch(self) -> SwitchLink:
        if self.switch is None:
            raise SwitchLost("its OpenFlow session has ended")
        return self.switch

    def _target(self) -> str:
        if self.link is None:
            raise LinkLost("its OVSDB session has ended")
        return self.cluster.openflow_target(self.link)

    async def _member_step(self, compute: Compute) -> None:
        rows = self._rows_dirty or not self.synced
        self._rows_dirty = False
        try:
            await self._make_and_break(compute, rows)
        except BaseException:
            self._rows_dirty = self._rows_dirty or rows
            raise

    async def _make_and_break(self, compute: Compute, rows: bool) -> None:
        """`rows`: whether ours are to be compared with what should be; most changes concern flows alone."""
        if rows:
            await self._rows_that_make(compute)
        switch = self.switch
        if switch is None:
            if compute.held_start or vswitch.is_held_by_us(self.tables):
                await self._release_held(compute)
            return
        if not self.synced:
            await self._resync(compute, switch)
        else:
            await self._realised.until(self._is_plugged, PLUG_PATIENCE)
            await self._update(switch)
        if not self.held_back and self.phase is not Phase.READY:
            self.phase = Phase.RECONCILED
        if rows:
            await self._rows_that_arm(compute)
        if self.switch is not switch:
            raise SwitchLost("its OpenFlow session has ended")
        if self.held_back:
            self.phase, self.reason = Phase.BRAKED, self.held_back
        else:
            self._ready(compute)
        await self._breaks_due(switch)
        if self._drop_tunnels:
            await self._rows_that_break(self._rows())
        await self._stamp()

    def _ready(self, compute: Compute) -> None:
        self.reason = ""
        if self.phase is Phase.READY:
            return
        self.phase = Phase.READY
        self.log.info("ready", compute=compute.name, revision=self.cluster.state.revision)
        narrow = paths.narrow(self.cluster, self)
        if narrow:
            self.log.warning("narrow", compute=compute.name, reason=narrow)

    # --- rows ---

    def _tunnel_rows(self) -> dict[int, TunnelRow]:
        """The tunnel ports that it should have, worked out once a State."""
        state = self.cluster.state
        if self._tunnels_of is None or self._tunnels_of[0] is not state:
            self._tunnels_of = (state, tunnel.rows(state, self.number))
        return self._tunnels_of[1]

    def _provider_rows(self) -> list[Provider]:
        """The networks outside that it should have: those of State on a physical network that it has a mapping for."""
        compute, state = self.compute, self.cluster.state
        vlans: dict[str, set[int]] = {}
        for external in state.externals.values():
            vlans.setdefault(external.physical, set()).add(external.vlan)
        mapped = compute.provider_mappings if compute is not None else ()
        return [
            Provider(physical, target, frozenset(vlans[physical])) for physical, target in mapped if physical in vlans
        ]

    def complaints(self) -> list[str]:
        """What is wrong with its ways to networks outside, in words."""
        tables = self.tables
        return [complaint(tables, p) for p in self._provider_rows()] if tables is not None else []

    async def _send_rows(self, rows: vswitch.Rows) -> bool:
        transaction = rows.transaction
        if transaction is None:
            return False
        if self.link is None:
            raise LinkLost("its OVSDB session has ended")
        outcome = await self.link.transact(transaction)
        if not outcome.ok:
            # The fence: something else was written meanwhile, or by a newer term. Look again; the replica has moved.
            self.log.warning("rows_refused", compute=self.name, reason=str(outcome.error))
            raise LinkLost(f"rows refused: {outcome.error}")
        return True

    def _rows(self) -> vswitch.Rows:
        assert self.tables is not None
        own, term = vswitch.bridge(self.tables), self.cluster.store.own_term
        if own is not None and own.stamp.term > term:
            raise LinkLost(f"a newer leader (term {own.stamp.term}) has written here")
        return vswitch.Rows(self.tables, term)

    async def _rows_that_make(self, compute: Compute) -> None:
        assert self.tables is not None
        state = self.cluster.state
        ids = {
            vswitch.STORE: state.store_id,
            vswitch.TERM: str(self.cluster.store.own_term),
        }
        own = vswitch.bridge(self.tables)
        if own is None:
            ids[vswitch.REVISION] = str(state.revision)
        if own is not None and not own.stamp.store:
            ids[vswitch.REVISION] = "0"
        if compute.tombstoned:
            ids[vswitch.TOMBSTONED] = "true"
        drop = () if compute.tombstoned else (vswitch.TOMBSTONED,)
        rows = self._rows()
        rows.ensure_bridge(ids, drop, compute.dpid, self._target())
        again = own is None or rows.make_tunnels(self._tunnel_rows().values(), compute.adopted)
        rows.make_providers(self._provider_rows())
        if await self._send_rows(rows) and again:
            if own is not None:
                await self._await_realised()
            rows = self._rows()
            rows.make_tunnels(self._tunnel_rows().values())
            rows.make_providers(self._provider_rows())
            await self._send_rows(rows)
        if rows.made_tunnels and self.synced:
            # vswitchd does one thing after the other: flows sent now would wait for the ports, and those towards them come after.
            await self._realised.until(self._is_realised, TUNNEL_PATIENCE)

    async def _rows_that_arm(self, compute: Compute) -> None:
        # What is not wanted any more goes soon, armed or not: to disarm it first would keep vswitchd busy while it should let go.
        rows = self._rows()
        rows.arm({row.name: row.bfd for row in self._tunnel_rows().values()}, self.cluster.settings.bfd_interval)
        rows.restore_wait(on=compute.held_start)
        await self._rows_that_break(rows)

    async def _release_held(self, compute: Compute) -> None:
        """A gateway's vswitchd has started and waits, silent (docs/decisions.md, section 10): BFD off first, then let it speak.

        Held, its Controller row has no status; one that only lost the connection shows that it tries again. What a vswitchd that died
        has left in the row is not believed: it shows a state.
        """
        assert self.tables is not None
        own = vswitch.bridge(self.tables)
        held = own is not None and vswitch.is_held(self.tables) and all(not c["status"] for c in own.controllers)
        if not held:
            self._held_since = None
            return
        now = self.cluster.now()
        if self._held_since is None:
            self._held_since = now
        if now - self._held_since < HELD_FOR:
            self._again(HELD_FOR / 4)
            return
        rows = self._rows()
        rows.disarm()
        rows.restore_wait(on=False)
        await self._send_rows(rows)
        self.log.info("released", compute=compute.name)

    async def _await_realised(self) -> None:
        """Port numbers may have changed while the switch was away: have it say that what we read is what is."""
        assert self.tables is not None
        rows = self._rows()
        rows.bump()
        await self._send_rows(rows)
        if not await self._realised.until(self._is_realised, self.cluster.settings.realise_timeout):
            raise LinkLost("the switch does not realise its configuration: is ovs-vswitchd running?")

    def _is_plugged(self) -> bool:
        """Whether the switch makes no interface just now."""
        return not any(interface.fresh for interface in self.view.ports.values())

    def _is_realised(self) -> bool:
        found = vswitch.root(self.tables) if self.tables is not None else None
        return self.link is None or (found is not None and found[1]["cur_cfg"] >= found[1]["next_cfg"])

    # --- flows ---

    async def _resync(self, compute: Compute, switch: SwitchLink) -> None:
        """Dump, compare by key and cookie, send the difference. With nothing changed, nothing is sent."""
        assert self.tables is not None
        await self._await_realised()
        before = switch.flow_mods
        state, work, ours = await self._dump_and_compare(compute, switch)
        with no_collection():
            if work is None:
                work = await self._install(state, switch)
            await self._brake(compute, state, ours, work)
            if not self.held_back:
                work.break_flows += self._left_over(state)
            await self._carry_out_isolating(switch, work, state.revision)
        if self.switch is not switch:
            raise SwitchLost("its OpenFlow session was replaced meanwhile")
        self.synced = True
        # What a predecessor, or a commit whose answer was lost, has changed a moment ago may still be on its way into the datapath.
        self._done.append((state.revision, self.cluster.now()))
        # A switch that has just started knows none of its peers' MACs, whatever was known of the one before it.
        for peer in self.view.tunnels:
            self.cluster.probes.watch(self.number, peer)
        self._deep = False
        self.approved = False
        self.resyncs += 1
        self.resync_flow_mods = switch.flow_mods - before
        self.log.info(
            "reconciled",
            compute=compute.name,
            revision=state.revision,
            flows=ours,
            made=work.makes,
            to_break=work.breaks,
        )

    async def _dump_and_compare(self, compute: Compute, switch: SwitchLink) -> tuple[State, Work | None, int]:
        """A State, the work that the switch needs to be brought to it (None where it holds nothing: see `_install`), and the number of
        flows of ours that it holds."""
        async with self.cluster.dumping:
            with no_collection():
                found = await switch.dump()
                # From here on nothing is awaited: what changes later is marked dirty, what changed before is in this State.
                state = self.cluster.state
                strange = len(strangers(found))
                self._check_found(compute, strange)
                self._dirty.clear()
                self._dirty_from = None
                self._forget_held()
                self._volatile = [
                    (f.key, f.cookie) for f in found.flows if ledger.read_cookie(f.cookie)[0] == ledger.Kind.VOLATILE
                ]
                if not found.flows and not found.groups:
                    return state, None, 0
                desired = self.cluster.compiled.desired(state, self.number, self.view)
                for key in self.rejected:
                    desired.pop(key, None)
                return state, resync(found, desired, self._deep), len(found.flows) - strange

    def _left_over(self, state: State) -> list[Break]:
        """Learnt and imported flows of routers in whose NAT this compute has no part: what a move has left while it was away."""
        served, found = self._served(state), []
        for key, cookie in self._volatile:
            _, feature, tag = ledger.read_cookie(cookie)
            # What holds off a question goes by itself, soon.
            if feature == ledger.Feature.NAT and tag not in served:
                found.append(Break(key, cookie))
        return found

    def _served(self, state: State) -> set[int]:
        """Tags of the routers in whose NAT this compute has a part."""
        return {state.routers[r].tag for r in state.serves.get(self.number, ()) if r in state.routers}

    def _check_found(self, compute: Compute, strange: int) -> None:
        """Whether a switch that shows so many flows of others may be written to by us, now."""
        assert self.tables is not None
        if self.compute is None or self.compute.membership is not Membership.MEMBER or not self._trusted(compute):
            raise LinkLost("stopped: the store has changed meanwhile")
        if not self._stamp_now().revision and not compute.adopted and strange > FEW_STRANGERS:
            # Until somebody adopts it or it connects anew: a dump of another system's switch costs it as much as us.
            self._foreign_flows = f"br-int holds {strange} flows of another system"
            self.touch_rows()
            raise LinkLost(self._foreign_flows)

    def _stamp_now(self) -> brake.Stamp:
        own = vswitch.bridge(self.tables) if self.tables is not None else None
        return own.stamp if own is not None else brake.Stamp()

    async def _brake(self, compute: Compute, state: State, ours: int, work: Work) -> None:
        """The brake's third and fourth question. What they once held back stays held, whatever the store's revision is by then, until
        an operator approves: a mark on br-int says so."""
        own = vswitch.bridge(self.tables) if self.tables is not None else None
        if own is None:
            raise LinkLost("br-int is gone")
        held = vswitch.held_back(own)
        revision = own.stamp.revision if held else state.intent
        # What was learnt comes and goes without being asked for; what a metadata agent has, with the agent.
        deletes = sum(ledger.read_cookie(b.cookie)[1] not in _UNASKED for b in work.break_flows)
        self._unexplained = not self.approved and brake.is_unexplained(own.stamp, revision, deletes)
        self.cluster.unexplained(self.number, self._unexplained)
        self.held_back = ""
        if self._unexplained:
            self.held_back = brake.unexplained(own.stamp, revision, ours, deletes) or self.cluster.widespread()
            if held and not self.held_back:
                self.held_back = (
                    f"{deletes} flows were held back before, and that was not approved: `ebbtide reconcile --approve`"
                )
        if self.held_back:
            self.log.error("brake", compute=compute.name, reason=self.held_back)
            work.break_flows, work.break_groups, work.break_meters = [], [], []
        if bool(self.held_back) != held:
            rows = self._rows()
            rows.hold_back(on=bool(self.held_back))
            await self._send_rows(rows)

    async def _install(self, state: State, switch: SwitchLink) -> Work:
        """A switch that holds nothing: it carries out one part while the next is compiled. Gives the last part, not yet sent.

        Nobody is served by this switch yet, so the parts need not go in together; but whatever flows point to goes first. A change of
        State meanwhile marks what it touches, and that is sent again when this is done.
        """
        compiled, view = self.cluster.compiled, self.view
        found = Found([], {}, frozenset())
        keys = sorted(compiler.keys(state, self.number, view), key=lambda key: key.room == "port")
        part: dict[Key, Encoded] = {}
        size = 0
        sending: asyncio.Task[None] | None = None
        try:
            for index, key in enumerate(keys):
                get = compiled.get if self.cluster.state is state else compiled.once
                made = get(state, key, view)
                if made is not None and key not in self.rejected:
                    part[key] = made
                    size += len(made.flows) + len(made.groups)
                if size >= BUNDLE_MESSAGES and key.room == "port":
                    if sending is not None:
                        await sending
                    work = resync(found, part)
                    sending = asyncio.create_task(self._carry_out_isolating(switch, work, state.revision))
                    part, size = {}, 0
                if index % SLICE == 0:
                    await asyncio.sleep(0)
            if sending is not None:
                await sending
        except BaseException:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            raise
        return resync(found, part)

    def _forget_held(self) -> None:
        self._breaks.clear()
        self.held = {}

    async def _carry_out_isolating(self, switch: SwitchLink, work: Work, revision: int) -> None:
        try:
            await self._carry_out(switch, work, revision)
        except Rejected as error:
            self._isolate(error, work, set())
            raise

    async def _update(self, switch: SwitchLink) -> None:
        keys, self._dirty = self._dirty, set()
        if not keys:
            self._dirty_from = None
            return
        work = Work()
        try:
            compute = self.compute
            if compute is None or not self._trusted(compute):
                raise LinkLost("stopped: the store has changed meanwhile")
            state = self.cluster.state
            for key in keys & set(self.rejected):
                del self.rejected[key]
            work = diff(self.held, self.cluster.compiled.wanted(state, self.number, self.view, keys))
            await self._carry_out(switch, work, state.revision)
        except Rejected as error:
            self._isolate(error, work, keys)
            raise
        except BaseException:
            self._dirty |= keys
            raise
        self._dirty_from = state.revision + 1 if self._dirty else None

    async def _carry_out(self, switch: SwitchLink, work: Work, revision: int) -> None:
        if work.makes:
            await switch.make(work)
        self._breaks.spare(work)
        for key, encoded in work.after.items():
            if encoded is None:
                self.held.pop(key, None)
            else:
                self.held[key] = encoded
        now, computes = self.cluster.now(), self.cluster.state.computes
        if work.makes or work.breaks:
            self._done.append((revision, now))
        self._breaks.add(work, revision, now, self.cluster.settings.lag, computes.__contains__)

    def _isolate(self, error: Rejected, work: Work, keys: set[Key]) -> None:
        """Leave out the fragments of the refused messages, by name, and let the rest go on."""
        if any(NOT_MASTER in words for words in error.refused.values()):
            # Nothing is wrong with the messages: another controller has taken the role.
            if self.switch is not None:
                self.switch.close("another controller is the switch's master")
            self._dirty |= keys
            return
        sent = [g.group_id for g in work.groups], [f.key for f in work.flows]
        bad_groups, bad_flows = set(), set()
        for index in error.refused:
            if 0 <= index < len(sent[0]):
                bad_groups.add(sent[0][index])
            elif len(sent[0]) <= index < work.makes:
                bad_flows.add(sent[1][index - len(sent[0])])
        words = next(iter(error.refused.values()))
        for key, encoded in work.after.items():
            if encoded is not None and (
                any(g.group_id in bad_groups for g in encoded.groups) or any(f.key in bad_flows for f in encoded.flows)
            ):
                self.rejected[key] = words
                self._again(0.05)
                self.log.error("fragment_rejected", compute=self.name, fragment=str(key), reason=words)
        self._dirty |= {k for k in keys if k not in self.rejected}

    async def _breaks_due(self, switch: SwitchLink) -> None:
        if self._unexplained and not self.held_back:
            if self.cluster.widespread():
                # Others have turned out to be like this one since its dump: look again, with that in mind.
                self.synced = False
                self.touch_rows()
                return
            if self.cluster.compares_still():
                # Whether it is alone with that is not known yet, and what nothing explains is in no hurry.
                self._again(COMPARED)
                return
        if self._breaks:
            self._breaks.spare_rows(self._served(self.cluster.state))
        gone = self._breaks.due(self.cluster.now())
        if any(gone):
            await switch.take_away(*gone)
            self._breaks.done(gone)
        due = self._breaks.next_due()
        if due is not None:
            self._again(max(0.0, due - self.cluster.now()) + 0.01)

    async def _rows_that_break(self, rows: vswitch.Rows) -> None:
        """Tunnel ports that nobody asks for go when the last flow that uses them has gone; those to a removed compute before it:
        nothing is sent there any more, and no port is ever given that number again."""
        present = self.cluster.state.computes
        waiting = {peer for peer in self._breaks.peers() if peer in present}
        wanted = self._tunnel_rows()
        names = {row.name for row in wanted.values()}
        keep = names | {i.name for peer, i in self.view.tunnels.items() if peer in waiting}
        keep |= {i.name for peer, i in self.view.tunnels.items() if Key("tunnel", peer, self.number) in self.held}
        rows.drop_tunnels(keep)
        if not self._breaks:
            rows.drop_providers(self._provider_rows())
        self._drop_tunnels = True
        await self._send_rows(rows)
        self._drop_tunnels = keep != names or bool(self._breaks)

    async def _stamp(self) -> None:
        """Write the revision to the switch, at rest, at most once a second: what it has applied, and rid itself of what that took away.

        Each write has vswitchd go through its whole configuration, so it never stands between a change and the next: it is written
        a second after the first change that it is for.
        """
        assert self.tables is not None
        now, revision = self.cluster.now(), self.rid_through()
        own = vswitch.bridge(self.tables)
        if own is None or own.stamp.revision >= min(revision, self.cluster.state.intent) or self.phase is Phase.BRAKED:
            self._stamp_due = None
            return
        if self._stamp_due is None:
            self._stamp_due = now + self.cluster.settings.stamp_interval
        if now < self._stamp_due:
            self._again(self._stamp_due - now + 0.01)
            return
        self._stamp_due = None
        rows = self._rows()
        rows.set_ids({vswitch.REVISION: str(revision)})
        await self._send_rows(rows)

    # --- removed ---

    async def _quarantine(self, compute: Compute) -> None:
        """A removed compute that is connected: wiped of all that is ours, and given nothing."""
        assert self.tables is not None
        self._rows_dirty = False
        self.phase = Phase.QUARANTINED
        self.reason = (
            f"removed at revision {compute.removed_at}; `ebbtide compute readmit {compute.name}` takes it back"
        )
        own = vswitch.bridge(self.tables)
        if own is None:
            return
        if self._leaving:
            await self._leave()
            return
        if self.switch is not None and self._wiped is not self.switch:
            drop_only = encode(compiler.fragment(self.cluster.state, compiler.QUARANTINE, self.view) or _NOTHING)
            await self._wipe(self.switch, Work(flows=list(drop_only.flows)))
            self.synced = True
            self.log.warning("quarantined", compute=compute.name)
        self._dirty.clear()
        self._dirty_from = None
        rows = self._rows()
        rows.release()
        await self._send_rows(rows)

    async def _wipe(self, switch: SwitchLink, keep: Work) -> None:
        await switch.wipe(keep)
        self._wiped = switch
        self._forget_held()

    def leave(self) -> None:
        """The end of a scale-in: a connected compute is wiped and our Controller row taken away, by its own task. See `left`."""
        if not self.left:
            self._leaving = True
            self.touch_rows()

    async def _leave(self) -> None:
        if self.switch is not None:
            await self._wipe(self.switch, Work())
        elif self._wiped is None:
            return
        self.synced = False
        rows = self._rows()
        rows.release(controller=True)
        await self._send_rows(rows)
        self.left = True
        self._leaving = False


def retry_after(failures: int) -> float:
    """Seconds until a step that has failed so many times on end is tried again."""
    return float(min(0.1 * 2 ** min(failures, 10), RETRY_AT_MOST))


_NOTHING = Fragment()
#: The features whose flows may go without anything having been asked for.
_UNASKED = frozenset({ledger.Feature.SUBNET_ROUTE, ledger.Feature.METADATA})
