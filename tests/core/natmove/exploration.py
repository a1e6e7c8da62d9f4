"""Every interleaving of a move with connections, within bounds. The rules of the game:

- *The driver* asks for the next step when those have committed the last one whom `decide/natmove.py` names for it, and where that says
  "settled", when the lag has passed too: nothing is in the network then that was sent before, and the switches that are named use no old
  tables any more (others none that was old when the step was asked for). It reads the mappings of A when it asks for `import` and for
  `reply`. It leaves `address` when the fabric sends to B. It does not ask for `uncouple-out` while it knows of a connection in no row.
- *A switch* commits what is asked for at any time; until the lag has passed it may use old tables, at each stage of each packet anew, and
  may or may not have taken away what goes; but what it has done once by newer ones it does not do by older ones to the like (`Switch`).
- *The fabric* sends what is for the router's MAC to A or B: to whom it has heard last under it. ARP from outside is asked at any time.
- *A connection* has up to `limit` packets in the network, each of which may take any time (but for the lag); both ends may send, and send
  again, at any time.
- *A gateway* may crash once, for good, as soon as the move has begun, with all that is in its conntrack and on its links; computes may or
  may not have noticed.
- *A controller* may die: then nothing more is asked for, which is among all this; another reads the store, and goes on.

What must hold: `untranslated`, nothing leaves with another address than the router's; `two mappings`, a connection has one; `shared`, no
two have the same towards one end; `loops`, nothing goes from gateway to gateway a third time; `flaps`, the fabric never hears the old place
of the router's MAC after the new one; `doubled` and `strayed`; and unless a gateway has crashed, `lost`.

Reductions, and why nothing is missed by them:

- What a compute without NAT does to a packet keeps no state, and is one with the sending; what a VM or the outside receives, with the
  receiving: a delay of either is a delay of what follows it. So is the way from a gateway to the fabric, since the lag outlasts it.
- The lag passes when the driver waits for it, and at no other time: until then a switch may do more, not less. The network is empty at that
  instant: what was sent when all tables were new already can as well be sent after the driver's step, which changes no table.
- A packet passes one gateway at once. Two that miss in conntrack together are ordered by its lock, and a commit of what has an entry
  changes nothing (`test_conntrack`).
- Which port of a block is given is not chosen: the lowest. Ports differ in nothing but whose they are.

Connections meet in two places only: the fabric, which any owner of the address may teach at any time (ARP), and the ports that conntrack
has given. So what one connection alone can suffer, with two packets in the network, it can suffer in any company.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import cache
from time import perf_counter
from typing import Generic, NamedTuple, TypeVar

from ebbtide.decide.natmove import NEEDS, Need
from ebbtide.model.facts import MovePhase
from tests.core.natmove.site import NAMES, NO_ROWS, SWITCHES, VMS, A, B, Rows, Seen, Site, Version
from tests.core.natmove.site import Mapping as Mapped
from tests.core.natmove.traffic import NO_SEEN, Broken, Kind, Local, Traffic, View, heard
from tests.fakes.conntrack import EMPTY, ICMP, Entries

P = MovePhase
V = TypeVar("V")
Needs = Mapping[P, Need]
_WHO = {"old": (A,), "new": (B,), "all": SWITCHES}


class Control(NamedTuple):
    """The step that is asked for, who has not committed it, and what is so by now. `last`: what each switch has committed last, and `held`:
    had, when this step was asked for. `rows`: those asked for; `unknown`: not all of A's connections are in them."""

    step: int
    pending: frozenset[int]
    view: View
    last: tuple[tuple[Version, ...], ...]
    held: tuple[tuple[Version, ...], ...]
    rows: tuple[Rows, Rows] = (NO_ROWS, NO_ROWS)
    unknown: bool = False


class Shown(NamedTuple):
    """What the driver sees of a connection: packets in the network, its mappings, and whether A has one that is not among them."""

    busy: bool
    known: Rows
    unknown: bool


class Fault(Exception):
    """A property does not hold. `trace`: the shortest way there."""

    def __init__(self, what: str, trace: list[str]) -> None:
        super().__init__("\n  ".join([what, *trace]))
        self.what, self.trace = what, trace


class Result(NamedTuple):
    """What a search has cost, and whether the move can come to its end."""

    states: int
    controls: int
    steps: int
    seconds: float
    arrived: bool


class Rules(NamedTuple):
    """Bounds, and what may be left out of the rules to see what they are good for.

    `limit`: packets of a connection in the network. `crash`: a gateway may. `lossy`: the record of a connection may get lost. `needs`: whom
    the driver waits for. `patient`: it waits for what it does not know. `looks`: it waits for the fabric. `anew`: after a
    crash an unanswered SYN, and UDP, may get another mapping (that is what whoever stands by does with what it does not know).
    """

    limit: int = 2
    crash: bool = True
    lossy: bool = False
    needs: Needs = NEEDS
    patient: bool = True
    looks: bool = True
    anew: bool = False


def explore(site: Site, kinds: tuple[Kind, ...], rules: Rules) -> Result:
    """Search until there is nothing new.

    Raises:
        Fault: a property does not hold.
    """
    return _Search(site, kinds, rules).run()


class _Numbers(Generic[V]):
    """Values as numbers, so that states are tuples of these."""

    def __init__(self) -> None:
        self._numbers: dict[V, int] = {}
        self.values: list[V] = []

    def of(self, value: V) -> int:
        found = self._numbers.setdefault(value, len(self.values))
        if found == len(self.values):
            self.values.append(value)
        return found


#: Number of the control, numbers of the connections.
State = tuple[int, ...]
#: Label, number of the control afterwards, and what becomes of all connections: nothing, a crash of A or B, or, from LAG on, the lag passes
#: and there is the view of that number.
ControlStep = tuple[str, int, int]
LAG = 3
#: Label, number of the control afterwards, number of the connection; or of a part, the connection, and where the fabric sends.
LocalStep = tuple[str, int, int]


class _Search:
    def __init__(self, site: Site, kinds: tuple[Kind, ...], rules: Rules) -> None:
        self.site, self.kinds, self.rules = site, kinds, rules
        self.traffic = Traffic(site, kinds, rules.limit, rules.lossy, rules.anew)
        self.order = [None, *(P(name) for name in site.steps[1:-1]), None]
        self.controls: _Numbers[Control] = _Numbers()
        self.locals: _Numbers[Local] = _Numbers()
        self.views: _Numbers[View] = _Numbers()
        self.taken: _Numbers[tuple[Entries, Entries]] = _Numbers()
        # What follows is remembered, or the search would take hours.
        self._parts = cache(self._views)
        self._changed, self._taken, self._shown = cache(self._change), cache(self._take), cache(self._show)
        self._with_fabric, self._of_control = cache(self._send_to), cache(self._controls)
        self._of_part = cache(self._part_steps)
        # Of a connection that is alone, this is asked once in each state.
        self._of_local = cache(self._local_steps) if len(kinds) > 1 else self._local_steps
        self._mapped = cache(self._mapping)

    def run(self) -> Result:
        began = perf_counter()
        view = View(tuple(tuple(Version(t) for t in self.site.versions[0][n]) for n in SWITCHES))
        opened = self.traffic.before(view)
        control = Control(0, frozenset(), view._replace(hush=True), view.versions, view.versions)
        first = (self.controls.of(control), *map(self.locals.of, opened))
        came: dict[State, State | None] = {first: None}
        todo, steps = deque([first]), 0
        while todo:
            at = todo.popleft()
            try:
                for _, after in self._after(at):
                    steps += 1
                    if after not in came:
                        came[after] = at
                        self._compare(after)
                        todo.append(after)
            except Broken as found:
                raise Fault(str(found), self._trace(came, at)) from None
        reached = [c for c in self.controls.values if c.step == len(self.order) - 1 and not c.pending]
        return Result(len(came), len(self.controls.values), steps, perf_counter() - began, bool(reached))

    def _trace(self, came: dict[State, State | None], at: State) -> list[str]:
        labels: list[str] = []
        before = came[at]
        while before is not None:
            labels.append(next(label for label, after in self._after(before) if after == at))
            at, before = before, came[before]
        return labels[::-1]

    def _after(self, state: State) -> list[tuple[str, State]]:
        control, connections = state[0], state[1:]
        found: list[tuple[str, State]] = []
        for label, after, change in self._of_control(control, tuple(map(self._shown, connections))):
            found.append(
                (label, (after, *(self._changed(n, change) for n in connections)) if change else (after, *connections))
            )
        for index, own in enumerate(connections):
            before, behind = connections[:index], connections[index + 1 :]
            steps = self._of_local(control, index, own, *map(self._taken, before + behind))
            found += [(label, (after, *before, local, *behind)) for label, after, local in steps]
        return found

    # --- the control ---

    def _controls(self, number: int, shown: tuple[Shown, ...]) -> list[ControlStep]:
        control = self.controls.values[number]
        view, found = control.view, []
        for switch in sorted(control.pending - {view.dead}):
            label = f"{NAMES[switch]} commits {self.site.steps[control.step]}"
            found.append((label, self.controls.of(self._commit(control, switch)), 0))
        if control.step + 1 < len(self.order) and self._may_go_on(control, shown):
            after = self._asked(control, shown)
            lag = LAG + self.views.of(after.view) if self._settled(control) else 0
            found.append((f"{self.site.steps[after.step]} is asked for", self.controls.of(after), lag))
        for gateway in (A, B) if self.rules.crash and control.step and not view.dead else ():
            found.append((f"{NAMES[gateway]} crashes", self.controls.of(_without(control, gateway)), gateway))
        for gateway in {A, B} - {view.fabric, view.dead}:
            if any(map(self.site.teaches, view.versions[gateway - 1])):
                found.append((f"{NAMES[gateway]} is heard", self._with_fabric(number, heard(view, gateway)), 0))
        return found

    def _need(self, control: Control) -> Need:
        phase = self.order[control.step]
        return self.rules.needs[phase] if phase is not None else Need()

    def _settled(self, control: Control) -> set[int]:
        return {n for role in self._need(control).settled for n in _WHO[role]}

    def _may_go_on(self, control: Control, shown: tuple[Shown, ...]) -> bool:
        view, need = control.view, self._need(control)
        named = {n for role in (*need.applied, *need.settled) for n in _WHO[role]}
        if named & (control.pending | {view.dead}) or (need.settled and any(s.busy for s in shown)):
            return False
        if self.rules.looks and self.order[control.step] is P.ADDRESS and view.fabric != B:
            return False
        return not (self.rules.patient and control.unknown and self.order[control.step + 1] is P.UNCOUPLE_OUT)

    def _asked(self, control: Control, shown: tuple[Shown, ...]) -> Control:
        step, view, settled = control.step + 1, control.view, self._settled(control)
        if settled:
            since = [control.last[n - 1] if n in settled else control.held[n - 1] for n in SWITCHES]
            view = view._replace(versions=tuple(map(_since, view.versions, since)))
        rows, unknown, phase = control.rows, control.unknown, self.order[step]
        if phase in (P.IMPORT, P.REPLY):
            known = NO_ROWS.union(*(s.known for s in shown))
            rows = (known, known if phase is P.REPLY else rows[1])
            unknown = any(s.unknown for s in shown)
        hush = any(phase in (P.IMPORT, P.REPLY) for phase in self.order[step:])
        wanted = Control(step, frozenset(), view._replace(hush=hush), control.last, control.last, rows, unknown)
        alive = (n for n in SWITCHES if n != view.dead)
        return wanted._replace(pending=frozenset(n for n in alive if self._versions(wanted, n) != control.last[n - 1]))

    def _versions(self, control: Control, switch: int) -> tuple[Version, ...]:
        """What a switch has that has committed what is asked for."""
        out, back = control.rows if switch == B else (NO_ROWS, NO_ROWS)
        return tuple(Version(t, out, back) for t in self.site.versions[control.step][switch])

    def _commit(self, control: Control, switch: int) -> Control:
        made, place = self._versions(control, switch), switch - 1
        held = (*(v for v in control.view.versions[place] if v not in made), *made)
        view = control.view._replace(versions=_put(control.view.versions, place, held))
        return control._replace(pending=control.pending - {switch}, view=view, last=_put(control.last, place, made))

    def _views(self, number: int, index: int) -> tuple[int, ...]:
        """What of the view of a control bears on the ends of a connection, and on packets at A and at B."""
        view = self.controls.values[number].view
        sees = VMS[self.kinds[index].vm], A, B
        return tuple(
            self.views.of(view._replace(versions=_only(view.versions, n), hush=view.hush and not part))
            for part, n in enumerate(sees)
        )

    def _send_to(self, number: int, fabric: int) -> int:
        control = self.controls.values[number]
        return self.controls.of(control._replace(view=control.view._replace(fabric=fabric)))

    # --- connections ---

    def _local_steps(self, control: int, index: int, own: int, *taken: int) -> list[LocalStep]:
        """What changes anything, each once."""
        found: dict[tuple[int, int], str] = {}
        for part, view in enumerate(self._parts(control, index)):
            for label, local, fabric in self._of_part(part, view, index, own, *taken):
                found.setdefault((self._with_fabric(control, fabric), local), label)
        found.pop((control, own), None)
        return [(label, after, local) for (after, local), label in found.items()]

    def _part_steps(self, part: int, view: int, index: int, own: int, *taken: int) -> list[LocalStep]:
        held = [self.taken.values[n] for n in taken]
        others = EMPTY.union(*(h[0] for h in held)), EMPTY.union(*(h[1] for h in held))
        found = self.traffic.steps(self.views.values[view], index, self.locals.values[own], others, part)
        return [(label, self.locals.of(after), fabric) for label, after, fabric in found]

    def _take(self, number: int) -> int:
        """What other connections see of one: that its ports are taken."""
        a, b = (frozenset(e._replace(answered=True) for e in held) for held in self.locals.values[number].entries)
        return self.taken.of((a, b))

    def _show(self, number: int) -> Shown:
        local = self.locals.values[number]
        entries = {(e.original, e.mapping) for e in local.entries[0] if e.original.proto != ICMP}
        return Shown(bool(local.connection.items), local.known, not entries <= local.known)

    def _change(self, number: int, change: int) -> int:
        local = self.locals.values[number]
        if change >= LAG:
            a, b = (_left(s, v) for s, v in zip(local.seen, self.views.values[change - LAG].versions, strict=False))
            return self.locals.of(local._replace(seen=(a, b)))
        left = tuple(i for i in local.connection.items if i.gateway != change)
        entries = (EMPTY, local.entries[1]) if change == A else (local.entries[0], EMPTY)
        seen = (NO_SEEN[0], local.seen[1]) if change == A else (local.seen[0], NO_SEEN[1])
        return self.locals.of(Local(entries, seen, local.known, local.connection._replace(items=left)))

    def _mapping(self, index: int, number: int) -> tuple[int, Mapped] | None:
        mapping = self.locals.values[number].connection.mapping
        return (self.kinds[index].proto, mapping) if mapping else None

    def _compare(self, state: State) -> None:
        if len(state) < 3:
            return
        held = [m for m in (self._mapped(index, n) for index, n in enumerate(state[1:])) if m is not None]
        if len(set(held)) < len(held):
            names = " and ".join(k.name for k in self.kinds)
            raise Broken(f"shared: of {names}, two have the same of the mappings {held}")


def _only(versions: tuple[tuple[Version, ...], ...], switch: int) -> tuple[tuple[Version, ...], ...]:
    return tuple(held if n == switch else () for n, held in zip(SWITCHES, versions, strict=True))


def _since(versions: tuple[Version, ...], first: tuple[Version, ...]) -> tuple[Version, ...]:
    """Those that are not older than these."""
    return versions[versions.index(first[0]) :] if first else versions


def _left(seen: Seen, versions: tuple[Version, ...]) -> Seen:
    """What still says something: newer versions, where there is an older one."""
    return frozenset((look, v) for look, v in seen if v in versions[1:])


def _put(
    held: tuple[tuple[Version, ...], ...], place: int, made: tuple[Version, ...]
) -> tuple[tuple[Version, ...], ...]:
    return (*held[:place], made, *held[place + 1 :])


def _without(control: Control, gateway: int) -> Control:
    """A gateway has crashed."""
    view = control.view._replace(versions=_put(control.view.versions, gateway - 1, ()), dead=gateway)
    last, held = (_put(found, gateway - 1, ()) for found in (control.last, control.held))
    return control._replace(pending=control.pending - {gateway}, view=view, last=last, held=held)
