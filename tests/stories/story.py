"""Stories as text: what is done, and what follows. One file is told to a cloud without wires in milliseconds, and to a lab.

A line is a command, or after `=>` a consequence of what has been done so far; `#` begins a remark. Before a consequence is looked at,
everything has come to rest. A command that is refused must be followed by `=> refused: ...`.

    a, b join                                   computes come, one after the other
    network red 10.2.0.0/24
    vm vm1 on a in red at 10.2.0.1              a port of that name, plugged; its default route is to .254
    vm1 migrates to b                           the whole live migration
    vm1 is deleted
    vm1 has 10.2.0.100 too                      an address of which nobody is told
    router r1 in red, blue                      at .254 of each
    vpn green in red, blue importing 100:1, 100:2 exporting 100:2
                                                at .254 of each; `importing none`. The same again with other targets changes them
    scalein-computes-start a, b                 also -end and -recover
    a falls silent                              its control session is lost; tenants' packets go on
    a is heard again

    => vm1 reaches vm2, 10.2.0.100              an echo, there and back; `does not reach`
    => vm1 is on b
    => a is ready, tombstoned, removed          one of them
    => red's subnet is served by b              or by nobody
    => c stands by for red's subnet             or nobody
    => green is on a, b                         the computes on which a router or a VPN is present; or nowhere
    => 10.2.0.100 is behind vm2                 it is learnt
    => a owes b                                 a debt; `nobody owes`
    => refused: still carries                   the last command was, with these words
    => told: nobody else can serve              the last scalein-computes-start or -recover said so

A teller does the commands and answers what only packets can tell; all else is read from its State.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from ebbtide.errors import EbbtideError
from ebbtide.model.facts import Compute, Cursor, Item, Membership, Operation, Proof, Retired
from ebbtide.model.state import SUBNET, State, facts, subnet_name

STORIES = sorted(Path(__file__).parent.glob("*.story"))
#: What a revision, or only a lab, gives to a fact: ids of its databases, addresses of its cables, and MACs made of its store's id.
_ITS_OWN: dict[str, Any] = {
    "since": 0,
    "system_id": "",
    "ovs_uuid": "",
    "hostname": "",
    "dpid": 0,
    "teps": (),
    "macs": (),
    "past": (),
    "removed_at": 0,
}


class Teller(Protocol):
    """Who does what a story says. Each command comes to rest by itself, and raises an EbbtideError where it is refused."""

    @property
    def state(self) -> State:
        """The newest State."""

    def join(self, name: str) -> None:
        """A compute comes."""

    def network(self, name: str, subnet: str) -> None:
        """A network is made."""

    def vm(self, name: str, compute: str, network: str, address: str) -> None:
        """A VM is made, with a port of its name."""

    def migrate(self, vm: str, to: str) -> None:
        """A VM moves."""

    def delete(self, vm: str) -> None:
        """A VM and its port go."""

    def hide(self, vm: str, address: str) -> None:
        """A VM has one more address."""

    def router(self, name: str, places: Sequence[tuple[str, str]]) -> None:
        """A router is made; `places`: network and address."""

    def vpn(self, name: str, places: Sequence[tuple[str, str]], imports: Sequence[str], exports: Sequence[str]) -> None:
        """A VPN is made, or its targets change."""

    def scale_in(self, verb: str, names: Sequence[str]) -> str:
        """start, end or recover; what was said of them."""

    def silence(self, name: str) -> None:
        """A compute is heard no more."""

    def hear(self, name: str) -> None:
        """A compute is heard again."""

    def reaches(self, vm: str, address: str, wanted: bool) -> bool:
        """Whether an echo comes back. `wanted`: it may take its time; else it is not waited for."""


class Line(NamedTuple):
    """One line: where it stands, for people, and what it says."""

    where: str
    text: str


def read(path: Path) -> list[Line]:
    """The lines of a story that say something."""
    found = ((n, line.partition("#")[0].strip()) for n, line in enumerate(path.read_text().splitlines(), 1))
    return [Line(f"{path.name}:{n}: {line}", line) for n, line in found if line]


def tell(path: Path, teller: Teller) -> None:
    """Tell a story, and hold each consequence against what is so."""
    telling = Telling(teller)
    for line in read(path):
        try:
            telling.say(line.text)
        except AssertionError as error:
            raise AssertionError(f"{line.where}\n{error}") from error
    telling.close()


def end_state(state: State) -> set[Any]:
    """What both tellers must end with: all facts but those of the bookkeeping, without what is a lab's own."""
    return {_plain(fact) for fact in facts(state) if not isinstance(fact, Cursor | Item | Operation | Proof | Retired)}


def _plain(fact: Any) -> Any:
    own = dict(_ITS_OWN) if isinstance(fact, Compute) else {"since": 0, "zone": 0}
    if type(fact).__name__ in ("Router", "RouterPort"):
        own["mac"] = 0
    return msgspec.structs.replace(fact, **{k: v for k, v in own.items() if k in fact.__struct_fields__})


class Telling:
    """A story as far as it has been told."""

    def __init__(self, teller: Teller) -> None:
        self.teller = teller
        self.refusal = ""
        self.told = ""
        self.addresses: dict[str, str] = {}

    @property
    def state(self) -> State:
        return self.teller.state

    def say(self, text: str) -> None:
        """One line."""
        if text.startswith("=>"):
            _match(_CONSEQUENCES, text.removeprefix("=>").strip(), self)
            return
        self.close()
        self.told = ""
        try:
            _match(_COMMANDS, text, self)
        except EbbtideError as error:
            self.refusal = str(error)

    def close(self) -> None:
        """Nothing was refused that the story does not speak of."""
        assert not self.refusal, f"the command before was refused: {self.refusal}"

    # --- commands ---

    def joins(self, names: str) -> None:
        for name in _listed(names):
            self.teller.join(name)

    def network(self, name: str, subnet: str) -> None:
        self.teller.network(name, subnet)

    def vm(self, name: str, compute: str, network: str, address: str) -> None:
        self.addresses[name] = address
        self.teller.vm(name, compute, network, address)

    def migrates(self, vm: str, to: str) -> None:
        self.teller.migrate(vm, to)

    def deleted(self, vm: str) -> None:
        self.teller.delete(vm)

    def has_too(self, vm: str, address: str) -> None:
        self.teller.hide(vm, address)

    def router(self, name: str, networks: str) -> None:
        self.teller.router(name, self._places(networks))

    def vpn(self, name: str, networks: str, imports: str, exports: str) -> None:
        self.teller.vpn(name, self._places(networks), _listed(imports), _listed(exports))

    def _places(self, networks: str) -> list[tuple[str, str]]:
        subnets = ((name, self.state.networks[name].subnets[0]) for name in _listed(networks))
        return [(name, gateway(subnet)) for name, subnet in subnets]

    def scale_in(self, verb: str, names: str) -> None:
        self.told = self.teller.scale_in(verb, _listed(names))

    def silent(self, name: str) -> None:
        self.teller.silence(name)

    def heard(self, name: str) -> None:
        self.teller.hear(name)

    # --- consequences ---

    def reaches(self, vm: str, what: str) -> None:
        for name in _listed(what):
            assert self.teller.reaches(vm, self.addresses.get(name, name), True), f"{vm} does not reach {name}"

    def reaches_not(self, vm: str, what: str) -> None:
        for name in _listed(what):
            assert not self.teller.reaches(vm, self.addresses.get(name, name), False), f"{vm} reaches {name}"

    def is_on(self, name: str, computes: str) -> None:
        if name in self.state.ports:
            active = self.state.active(name)
            found = {active.compute} if active is not None else set()
        else:
            assert self.state.vrf(name) is not None, f"there is no VM, router or VPN {name}"
            found = self.state.present(name)
        _same(self._names(found), set(_listed(computes)))

    def is_now(self, name: str, how: str) -> None:
        everybody = [*self.state.computes.values(), *self.state.removed.values()]
        found = next(c for c in everybody if c.name == name)
        removed = found.membership is Membership.REMOVED
        _same("removed" if removed else "tombstoned" if found.tombstoned else "ready", how)

    def served(self, network: str, name: str) -> None:
        _same(self._part(network, "compute"), set(_listed(name)))

    def stands_by(self, name: str, network: str) -> None:
        _same(self._part(network, "standby"), set(_listed(name)))

    def _part(self, network: str, part: str) -> set[str]:
        key = SUBNET, subnet_name(network, self.state.networks[network].subnets[0])
        found = self.state.designations.get(key)
        return self._names({getattr(found, part)} - {0}) if found is not None else set()

    def behind(self, address: str, vm: str) -> None:
        found = {x.port for known in self.state.learnt.values() for x in known.values() if x.address == address}
        _same(found, set(_listed(vm)))

    def owes(self, name: str, whom: str) -> None:
        _same({(self._name(d.compute), self._name(d.removed)) for d in self.state.debts.values()}, {(name, whom)})

    def owes_nobody(self) -> None:
        _same(set(self.state.debts), set())

    def refused(self, words: str) -> None:
        assert self.refusal, "nothing was refused"
        assert words in self.refusal, f"refused: {self.refusal}"
        self.refusal = ""

    def said(self, words: str) -> None:
        assert words in self.told, f"told: {self.told}"

    def _name(self, number: int) -> str:
        return (self.state.computes.get(number) or self.state.removed[number]).name

    def _names(self, numbers: set[int]) -> set[str]:
        return {self._name(n) for n in numbers}


def gateway(subnet: str) -> str:
    """The address of whatever routes for a subnet."""
    return subnet.rpartition(".")[0] + ".254"


def _listed(text: str) -> list[str]:
    return [] if text in ("nobody", "nowhere", "none") else re.split(r",\s*", text)


def _same(found: object, wanted: object) -> None:
    assert found == wanted, f"it is {found}"


Handler = Callable[..., None]
_W, _L = r"(\S+?)", r"(\S+(?:, *\S+)*)"  # a word, a list of them
_COMMANDS: dict[str, Handler] = {
    f"{_L} joins?": Telling.joins,
    f"network {_W} {_W}": Telling.network,
    f"vm {_W} on {_W} in {_W} at {_W}": Telling.vm,
    f"{_W} migrates to {_W}": Telling.migrates,
    f"{_W} is deleted": Telling.deleted,
    f"{_W} has {_W} too": Telling.has_too,
    f"router {_W} in {_L}": Telling.router,
    f"vpn {_W} in {_L} importing {_L} exporting {_L}": Telling.vpn,
    f"scalein-computes-(start|end|recover) {_L}": Telling.scale_in,
    f"{_W} falls silent": Telling.silent,
    f"{_W} is heard again": Telling.heard,
}
_CONSEQUENCES: dict[str, Handler] = {
    f"{_W} reaches {_L}": Telling.reaches,
    f"{_W} does not reach {_L}": Telling.reaches_not,
    f"{_W} is on {_L}": Telling.is_on,
    f"{_W} is (ready|tombstoned|removed)": Telling.is_now,
    f"{_W}'s subnet is served by {_L}": Telling.served,
    f"{_W} stands by for {_W}'s subnet": Telling.stands_by,
    f"{_W} is behind {_W}": Telling.behind,
    "nobody owes": Telling.owes_nobody,
    f"{_W} owes {_W}": Telling.owes,
    r"refused: (.+)": Telling.refused,
    r"told: (.+)": Telling.said,
}


def _match(sentences: dict[str, Handler], text: str, telling: Telling) -> None:
    for pattern, handler in sentences.items():
        found = re.fullmatch(pattern, text)
        if found is not None:
            handler(telling, *found.groups())
            return
    raise AssertionError("no such sentence (tests/stories/story.py)")
