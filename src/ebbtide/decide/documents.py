"""What Neutron says, as documents: which kinds there are, what has to be in one, and what becomes of a document when one is posted, put or
deleted. What documents mean for our own facts is in `neutron.py`.

A document is kept as it came. It is refused if it could not be read later, or names a parent that is not there; whether all of it can be
served is no matter here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from ebbtide.decide.bodies import (
    AssociationBody,
    Body,
    FloatingBody,
    GroupBody,
    NetworkBody,
    PortBody,
    RouterBody,
    RuleBody,
    SubnetBody,
    VpnBody,
)
from ebbtide.errors import BadInput, MissingParent, NotFound, Refused, StaleWriter, TooLarge
from ebbtide.model.addresses import parse_ip, parse_net
from ebbtide.model.facts import Cursor, Document, Edit
from ebbtide.model.state import State

#: Bytes of one document. A row of the store holds it, and it is read whole.
MAX_BODY = 256 << 10
#: Objects in one call.
MAX_BULK = 1000
#: Things that one document names: each is an entry of an index.
MAX_REFS = 2000
#: networking-odl asks for this network to learn whether the controller knows everything; it is made last, and is no network.
CANARY = "bd8db3a8-2b30-4083-a8b3-b3fd46401142"
#: Under which the number of who speaks is stored.
_WRITER = "neutron-writer"
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


class Kind(NamedTuple):
    """A kind of document: its name in bodies, what is read of it, and the fields that name what has to be there before it."""

    singular: str
    body: type[Body]
    parents: tuple[tuple[str, str], ...] = ()


KINDS: Mapping[str, Kind] = {
    "networks": Kind("network", NetworkBody),
    "subnets": Kind("subnet", SubnetBody, (("network_id", "networks"),)),
    "ports": Kind("port", PortBody, (("network_id", "networks"),)),
    "routers": Kind("router", RouterBody),
    "floatingips": Kind("floatingip", FloatingBody, (("floating_network_id", "networks"),)),
    "security-groups": Kind("security_group", GroupBody),
    "security-group-rules": Kind("security_group_rule", RuleBody, (("security_group_id", "security-groups"),)),
    "bgpvpns": Kind("bgpvpn", VpnBody),
    "bgpvpn-network-associations": Kind("bgpvpn_network_association", AssociationBody, (("bgpvpn_id", "bgpvpns"),)),
    "bgpvpn-router-associations": Kind("bgpvpn_router_association", AssociationBody, (("bgpvpn_id", "bgpvpns"),)),
}
#: What a PUT takes away by not saying it: networking-odl leaves these out when a floating IP leads nowhere any more.
_DROPPED = {"floatingips": ("port_id", "fixed_ip_address", "router_id")}


def kind(name: str) -> Kind:
    """The kind of that name.

    Raises:
        NotFound: there is none; what Neutron has besides is not served, and nothing of it is taken.
    """
    found = KINDS.get(name)
    if found is None:
        raise NotFound(
            f"{name[:80]} is not served, and nothing was stored: there are {', '.join(KINDS)}. Take the service or extension that sends it "
            "out of Neutron's configuration"
        )
    return found


@lru_cache(16384)
def read(name: str, body: str) -> Any:
    """What is read of a document's body, as the struct of its kind.

    Raises:
        BadInput: it has not that shape; the path says where.
    """
    try:
        return msgspec.json.decode(body, type=KINDS[name].body)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        where = path.rstrip("`").lstrip(".")
        words = f"{KINDS[name].singular}: {message}" + (f", at {where}" if where else "")
        raise BadInput(f"{words}; send it as Neutron's API has it", where) from None


def host_of(state: State, port: str) -> str | None:
    """Where Neutron has bound a port, in its own words ("": nowhere; None: it does not say, or does not know the port)."""
    document = state.document("ports", port)
    host: str | None = read("ports", document.body).host if document is not None else None
    return host


def servers_at(state: State, host: str) -> list[str]:
    """Ports of Nova's servers that Neutron has bound to a host, by id."""
    known: Mapping[str, Document] = state.documents.get("ports", {})
    # To look for the name costs a hundredth of decoding a body.
    said = msgspec.json.encode(host).decode()
    found = (name for name, document in known.items() if said in document.body)
    return sorted(name for name in found if _is_servers(known[name], host))


def _is_servers(document: Document, host: str) -> bool:
    body = read("ports", document.body)
    return body.host == host and (body.device_owner or "").startswith("compute:")


def objects(name: str, given: Any) -> tuple[list[dict[str, Any]], bool]:
    """The objects of a decoded body, and whether there may be several: {"port": {...}} or {"ports": [{...}, ...]}.

    Raises:
        BadInput: it is neither.
    """
    one, several = kind(name).singular, name.replace("-", "_")
    found = given if isinstance(given, dict) else {}
    if isinstance(found.get(one), dict) and several not in found:
        return [found[one]], False
    many = found.get(several)
    if isinstance(many, list) and one not in found and all(isinstance(each, dict) for each in many):
        if len(many) > MAX_BULK:
            raise BadInput(f"{len(many)} {several} in one call: at most {MAX_BULK}", several, "too-big")
        return many, True
    raise BadInput(
        f'a body of {name} is {{"{one}": {{...}}}}, or {{"{several}": [{{...}}, ...]}} for several: this is neither',
        tag="malformed-message",
    )


def ids(name: str, given: Sequence[Mapping[str, Any]]) -> list[str]:
    """The ids of objects that are posted.

    Raises:
        BadInput: one has none, or two have the same.
    """
    found: list[str] = []
    for each in given:
        document_id = each.get("id")
        if not isinstance(document_id, str) or not _ID.fullmatch(document_id):
            raise BadInput(
                f"{kind(name).singular} id {str(document_id)[:80]!r} is none: up to 64 letters, digits, dots, dashes and underlines",
                "id",
            )
        found.append(document_id)
    if len(set(found)) != len(found):
        raise BadInput(f"a {kind(name).singular} is there twice in one call: send it once", "id")
    return found


def post(state: State, name: str, given: Sequence[dict[str, Any]]) -> list[Edit]:
    """The edits of documents that are posted, all or none. One that is there already is said anew, unless an older revision says it.

    Raises:
        BadInput, MissingParent, TooLarge, Refused: as `_made`.
    """
    found: dict[str, Document] = {}
    for document_id, each in zip(ids(name, given), given, strict=True):
        known = state.document(name, document_id)
        number = _revision(each)
        if known is not None and number is not None and number < known.revision:
            continue
        found[document_id] = _made(state, name, document_id, each, known, number)
    edits = [Edit(state.document(name, i), made) for i, made in found.items()]
    return [edit for edit in edits if edit.old != edit.new]


def put(state: State, name: str, document_id: str, given: Mapping[str, Any]) -> list[Edit]:
    """The edit of a document that is put: what is said replaces what was said, field by field. An older revision changes nothing.

    Raises:
        NotFound: there is no such document.
        BadInput, MissingParent, TooLarge, Refused: as `_made`.
    """
    known = one(state, name, document_id)
    number = _revision(given)
    if given.get("id", document_id) != document_id:
        raise BadInput(f"the path names {document_id}, and the body {str(given['id'])[:80]!r}: send one of them", "id")
    if number is not None and number < known.revision:
        return []
    held = {k: v for k, v in msgspec.json.decode(known.body).items() if k not in _DROPPED.get(name, ())}
    made = _made(state, name, document_id, {**held, **given}, known, number)
    return [Edit(known, made)] if made != known else []


def delete(state: State, name: str, document_id: str) -> list[Edit]:
    """The edits that take a document away, and associations with it.

    Raises:
        NotFound: there is no such document.
    """
    known = one(state, name, document_id)
    near = [key for key in state.referrers.get(ref(name, document_id), ()) if KINDS[key[0]].body is AssociationBody]
    found = (state.document(*key) for key in sorted(near))
    return [Edit(known, None), *(Edit(x, None) for x in found if x is not None)]


def one(state: State, name: str, document_id: str) -> Document:
    """A document by its id.

    Raises:
        NotFound: there is none.
    """
    singular = kind(name).singular
    found = state.document(name, document_id)
    if found is None:
        raise NotFound(f"there is no {singular} {document_id[:80]}: POST it to {name} first")
    return found


def ref(name: str, document_id: str) -> str:
    """How a document is named among the references of others."""
    return f"{name}/{document_id}"


def _revision(given: Mapping[str, Any]) -> int | None:
    found = given.get("revision_number")
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 1 << 62:
        raise BadInput(f"revision_number {str(found)[:40]!r} is none: a number from 0", "revision_number")
    return found


def fenced(state: State, writer: int | None) -> list[Edit]:
    """The edit that notes who speaks. Those who take turns have numbers that grow: a call of one whose turn is over, on its way for long,
    must not bring back what was deleted since. None: it takes no turns.

    Raises:
        StaleWriter: another one, with a higher number, has spoken.
    """
    known = state.cursors.get(_WRITER)
    if writer is None or (known is not None and writer == known.last):
        return []
    if known is not None and writer < known.last:
        raise StaleWriter(
            f"writer {writer} is too late: {known.last} has spoken since; read what is there, and judge anew"
        )
    return [Edit(known, Cursor(_WRITER, writer))]


def _made(
    state: State, name: str, document_id: str, given: Mapping[str, Any], known: Document | None, number: int | None
) -> Document:
    """The document that this makes.

    Raises:
        BadInput: a field that is read has another type than Neutron's API gives it, or is missing.
        MissingParent: what it is in is not there.
        TooLarge: it is longer than a document may be.
        Refused: it would move to another network or group.
    """
    what = kind(name)
    raw = msgspec.json.encode(given)
    if len(raw) > MAX_BODY:
        raise TooLarge(
            f"{what.singular} {document_id} has {len(raw)} bytes: at most {MAX_BODY} are kept, send less of it"
        )
    body = raw.decode()
    found = read(name, body)
    for field, parents in what.parents:
        parent = getattr(found, field)
        if state.document(parents, parent) is None:
            raise MissingParent(
                f"{what.singular} {document_id}: {field} {parent[:80]} is no {KINDS[parents].singular} that is known here, POST that first"
            )
        before = getattr(read(name, known.body), field) if known is not None else parent
        if before != parent:
            raise Refused(f"{what.singular} {document_id}: {field} is {before}, and stays: delete it and make it anew")
    if isinstance(found, SubnetBody):
        _check_subnet(found)
    refs = tuple(sorted(set(_refs(found))))
    if len(refs) > MAX_REFS:
        raise BadInput(f"{what.singular} {document_id} names {len(refs)} others: at most {MAX_REFS}")
    revision = max(number or 0, known.revision if known is not None else 0)
    return Document(name, document_id, body, revision, refs, known.unserved if known is not None else "")


def _check_subnet(found: SubnetBody) -> None:
    """Whether a subnet's addresses are some, and of its family.

    Raises:
        BadInput: they are not.
    """
    ways = found.host_routes or ()
    try:
        net = parse_net(found.cidr)
        hops = [
            parse_ip(text) for text in (*([found.gateway_ip] if found.gateway_ip else []), *(w.nexthop for w in ways))
        ]
        families = {each.version for each in (net, *hops, *(parse_net(way.destination) for way in ways))}
        for text in found.dns_nameservers or ():
            parse_ip(text)
    except ValueError as error:
        raise BadInput(f"subnet: {str(error)[:120]}; send addresses as Neutron's API has them") from None
    if len(families) > 1:
        raise BadInput(f"subnet {net}: its gateway or a host route is of the other IP version; send those of its own")


def _refs(found: Any) -> Iterable[str]:
    """What a document names."""
    pairs: list[tuple[str, str | None]] = []
    match found:
        case SubnetBody():
            pairs = [("networks", found.network_id)]
        case PortBody():
            pairs = [("networks", found.network_id), ("routers", found.router)]
            pairs += [("subnets", fixed.subnet_id) for fixed in found.fixed_ips or ()]
            pairs += [("security-groups", group) for group in found.groups]
        case RouterBody():
            outside = found.external_gateway_info
            if outside is not None:
                pairs = [("networks", outside.network_id)]
                pairs += [("subnets", fixed.subnet_id) for fixed in outside.external_fixed_ips or ()]
        case FloatingBody():
            pairs = [("networks", found.floating_network_id), ("ports", found.port_id), ("routers", found.router_id)]
        case RuleBody():
            pairs = [("security-groups", found.security_group_id), ("security-groups", found.remote_group_id)]
        case VpnBody():
            pairs = [("networks", network) for network in found.networks or ()]
            pairs += [("routers", router) for router in found.routers or ()]
        case AssociationBody():
            pairs = [("bgpvpns", found.bgpvpn_id)]
    return [ref(name, named) for name, named in pairs if named and _ID.fullmatch(named)]
