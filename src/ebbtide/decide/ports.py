"""What may be changed of a port: its addresses, its security, and whose it is."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ebbtide.compile import ledger
from ebbtide.decide import bindings, hidden, networks, routing, security
from ebbtide.errors import BadInput, NotFound
from ebbtide.model.facts import Edit, Port
from ebbtide.model.state import State

#: Nova's are UUIDs, of 36 characters or of 32.
MAX_OWNER = 255


def check_port_name(name: str) -> None:
    """A port's name is what an interface has as iface-id; those of our own interfaces are nobody's.

    Raises:
        BadInput: it is no name, or one of those.
    """
    routing.check_name("port", name)
    if name.startswith(ledger.OWN_IFACE_ID):
        raise BadInput(
            f"port name {name[:40]!r}: names that begin with {ledger.OWN_IFACE_ID!r} are the controller's own", "id"
        )


def owned(port: Port, device: str | None, project: str | None) -> Port:
    """The port of that instance and project; None: as it is, "": of none.

    Raises:
        BadInput: one of them could not stand in a header of HTTP.
    """
    for what, text in (("device", device), ("project", project)):
        if text and (len(text) > MAX_OWNER or not text.isascii() or not text.isprintable() or " " in text):
            raise BadInput(f"{what} {text[:40]!r}: up to {MAX_OWNER} printable ASCII characters without spaces", what)
    device, project = port.device if device is None else device, port.project if project is None else project
    return msgspec.structs.replace(port, device=device, project=project)


def change(
    state: State,
    name: str,
    *,
    addresses: Sequence[str] | None = None,
    secured: bool | None = None,
    groups: Sequence[str] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    device: str | None = None,
    project: str | None = None,
) -> tuple[list[Edit], Port]:
    """Change what is given of a port; what is None stays. Addresses learnt behind it that it may not speak from any more, or is given now,
    are forgotten.

    Raises:
        NotFound: there is no such port, or no such group.
        BadInput, Refused: as `networks.readdressed`, `security.secure` and `owned`.
    """
    known = state.ports.get(name)
    if known is None:
        raise NotFound(f"there is no port {name[:80]}")
    given = known if addresses is None else networks.readdressed(state, known, addresses)
    made = owned(security.secure(state, given, secured, groups, pairs), device, project)
    if made == known:
        return [], known
    learnt = state.learnt_in(known.network)
    behind = (learnt[address] for address in state.learnt_of.get(name, ()))
    gone = [
        (known.network, found.address)
        for found in behind
        if found.address in made.addresses or not hidden.speaks_from(made, found.address, found.mac)
    ]
    zoned = _zoned(state, name) if made.secured and not known.secured else []
    return [Edit(known, made), *zoned, *hidden.withdraw(state, gone)], made


def _zoned(state: State, name: str) -> list[Edit]:
    """Zones that nobody is in, for a port that becomes secured: what conntrack has seen of it before is out of its window by now, and an
    older controller has stored none."""
    old = state.bindings.get(name, ())
    zones = (bindings.bound(state, name, b.compute, b.phase).zone for b in old)
    return [Edit(b, msgspec.structs.replace(b, zone=zone)) for b, zone in zip(old, zones, strict=True)]
