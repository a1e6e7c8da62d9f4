"""Identity: who claims to be which compute, and what becomes of the claim.

A compute is known by name, system-id, DPN id and TEP. A claim is what a connecting Open vSwitch says of itself; the holder is
the compute that has that identity in State. The table (docs/decisions.md, "Identity"):

    claim                      | holder alive          | holder silent           | holder tombstoned | holder removed
    all the same, own session  | it                    | it                      | it, mark stays    | quarantined
    same system-id, and name   | refused: a clone      | it (rows of a new uuid) | it, mark stays    | quarantined
      or TEP, not all the same |                       |                         |                   |
    same name, rest new        | refused: duplicate    | replaces it (re-image), | replaces, marked, | quarantined
                               |                       | by approval             | by approval       |
    same system-id, rest new   | refused: cloned image | waits for approval      | waits             | quarantined
    same TEP, rest new         | refused: address used | waits for approval      | waits             | admission
    same DPN id, rest new      | gets another DPN id   | gets another            | gets another      | gets another
    nothing known              | admission             |                         |                   |

A live holder is never displaced. "Alive" means that a session of it is up, or that a peer sees it by BFD, or that this
leadership is too young to know (a holder counts as silent only after a minute's silence): see `Sign`. Only a session that is up
keeps its own host out, when that comes back unchanged. A host that is renamed while its
system-id and TEP stay is the same compute under its new name; the old name stays an alias in `past`.

"By approval": where admission is open, at once; else who asks is refused and noted with the holder (`Compute.applicants`), and
`compute approve` turns that into a permission for that host alone (`Compute.successor`), good while the holder is silent. The
holder's own return, unchanged, is let in before and after, and makes an end of both. A host that comes back as itself but changed
waits until its old self has been silent, or for the same approval.

A TEP is never two computes': who announces another's keeps its own, or none, and what it asked for is in its fact (`Compute.asked`).
It is judged again when a compute has stood aside (`stands_aside`). Computes that ask for each other's, in a ring, all get them in the
transaction that closes the ring.

Longer than 400 lines: it is one table, and its cells are only right together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from enum import StrEnum

import msgspec

from ebbtide.decide.ids import Allocator
from ebbtide.errors import NotFound, Refused
from ebbtide.model import teps
from ebbtide.model.facts import Compute, Document, Edit, Membership
from ebbtide.model.state import State

#: So many hosts that ask for one compute's place are noted.
MAX_APPLICANTS = 8


class Claim(msgspec.Struct, frozen=True):
    """What a connecting Open vSwitch says of itself. `dpid` 0: it has no br-int yet. `teps`: see `model/teps.py`."""

    name: str
    system_id: str
    ovs_uuid: str
    hostname: str = ""
    teps: tuple[str, ...] = ()
    dpid: int = 0
    zone: str = "default-transport-zone"
    provider_mappings: tuple[tuple[str, str], ...] = ()
    gateway: bool = False
    held_start: bool = False
    weight: int = 1
    base: int = 0
    certificate: str = ""
    macs: tuple[str, ...] = ()
    nova_host: str = ""


class Outcome(StrEnum):
    """What becomes of a claim."""

    ACCEPTED = "accepted"
    WAITING = "waiting"
    REFUSED = "refused"
    QUARANTINED = "quarantined"


class Verdict(msgspec.Struct, frozen=True):
    """`number` is the compute that the session speaks for (0: none); `edits` is what to store.

    `kept`: something that was claimed is another's and was not granted; `reason` says what, and it is to be judged again later.
    """

    outcome: Outcome
    number: int = 0
    reason: str = ""
    edits: tuple[Edit, ...] = ()
    kept: bool = False


def stands_aside(edit: Edit) -> bool:
    """Whether something that others may have claimed in vain is free after this edit, or promised to them."""
    old, new = edit
    if not isinstance(old, Compute):
        return False
    if not isinstance(new, Compute):
        return True
    return (old.name, old.teps, old.membership) != (new.name, new.teps, new.membership) or (
        bool(new.successor) and old.successor != new.successor
    )


def _past(old: Compute, new: Compute) -> tuple[str, ...]:
    return tuple(sorted(old.identities() - (new.identities() - set(new.past))))


def _replaced(old: Compute, claim: Claim, dpid: int, asked: str = "") -> Compute:
    new = msgspec.structs.replace(
        old,
        name=claim.name,
        system_id=claim.system_id,
        ovs_uuid=claim.ovs_uuid,
        hostname=claim.hostname,
        nova_host=claim.nova_host,
        teps=claim.teps or old.teps,
        # A switch that starts says one after the other; what was said before is not taken back by silence.
        macs=old.macs if set(claim.macs) <= set(old.macs) else claim.macs,
        dpid=dpid,
        zone=claim.zone,
        provider_mappings=claim.provider_mappings,
        gateway=claim.gateway,
        held_start=claim.held_start,
        weight=claim.weight,
        base=claim.base,
        certificate=claim.certificate or old.certificate,
        asked=asked,
        applicants=(),
        successor="",
    )
    return msgspec.structs.replace(new, past=_past(old, new))


def _free_dpid(state: State, wanted: int, number: int, own: int = 0) -> int:
    """The DPN id asked for, unless another compute has it or had it: then one made of the compute's number."""
    taken = {c.dpid for c in state.removed.values()} | set(state.by_dpid)
    taken.discard(own)
    if wanted and wanted not in taken:
        return wanted
    candidate = 0x00EB_0000_0000_0000 | number
    while candidate in taken:
        candidate += 1 << 16
    return candidate


class Sign(msgspec.Struct, frozen=True):
    """What shows that a compute is there, when somebody claims to be it.

    `session`: another OVSDB session of it is up. `switch`: its OpenFlow session is; `vouches`: from where the claimant is, which has
    its system-id, so that the two are one host. `bfd`: a peer sees it. `silent`: seconds since the last of these (0: nobody knows,
    which is so at the start of a leadership).
    """

    number: int
    session: bool = False
    switch: bool = False
    vouches: bool = False
    bfd: bool = False
    silent: float = 0.0


def alive(signs: Iterable[Sign]) -> set[int]:
    """Computes with a session: who claims to be one of them is another."""
    return {s.number for s in signs if s.session}


def seen(signs: Iterable[Sign]) -> set[int]:
    """Computes without a session that forward all the same."""
    return {s.number for s in signs if s.bfd and not s.session and not (s.switch and s.vouches)}


def recent(signs: Iterable[Sign], silence: float) -> set[int]:
    """Computes that are not to be taken for gone yet, though nothing shows them now but perhaps their switch."""
    return {s.number for s in signs if not s.session and (not s.vouches if s.switch else s.silent < silence)}


def claimed(state: State, claim: Claim) -> set[int]:
    """The computes whose name, system-id or TEP is claimed."""
    return {holder.number for holder in _holders(state, claim).values() if holder is not None}


def judge(
    state: State,
    claim: Claim,
    alive: Set[int],
    *,
    seen: Set[int] = frozenset(),
    recent: Set[int] = frozenset(),
    session_of: int = 0,
    open_admission: bool = False,
) -> Verdict:
    """Decide a claim.

    `alive`: numbers of computes that are alive by another session than the one that claims. `seen`: those that a peer sees by BFD;
    `recent`: those that have not been silent for long enough to be taken for gone. Their own return is let in, nobody else gets what
    is theirs. `session_of`: the compute that this very session was accepted as before (0: it is new); an accepted session may change
    its TEP or name.
    """
    if len(claim.teps) > 1:
        return Verdict(
            Outcome.REFUSED,
            reason=f"{claim.name} announces {len(claim.teps)} tunnel addresses; one is supported: set one local_ip",
        )
    wrong = next((f"{tep!r}, which {why}" for tep in claim.teps if (why := teps.trouble(tep))), "")
    if wrong:
        why = f"{claim.name} announces {wrong}: set other_config:local_ip to an IPv4 or IPv6 address that the other computes reach"
        return Verdict(Outcome.REFUSED, reason=why)
    gone = _removed_holder(state, claim)
    holders = _holders(state, claim)
    by_tep = holders["tep"]
    known = holders["session"] if session_of == 0 else state.computes.get(session_of)
    if known is None and session_of == 0:
        known = holders["system-id"] if _same_host(holders["system-id"], claim) else None
    if known is not None:
        changed = _changed(known, claim) if session_of == 0 else ""
        if changed and known.number in seen - alive:
            why = f"{claim.name} has the system-id of {known.name}, which peers see alive by BFD, but another {changed}"
            return Verdict(Outcome.REFUSED, reason=f"{why}: a cloned host")
        if changed and known.number in recent - alive and known.successor != _applicant(claim):
            # A host that was changed, or a clone that was quicker. The real one has a minute to come back.
            return _ask(
                known,
                claim,
                f"{claim.name} has the system-id of {known.name} but another {changed}: accepted when {known.name} stays silent, "
                f"or by `ebbtide compute approve {known.name}`",
            )
        return _returns(state, claim, known, by_tep, alive)
    if gone is not None:
        return Verdict(
            Outcome.QUARANTINED,
            gone.number,
            f"{gone.name} was removed at revision {gone.removed_at}: `ebbtide compute readmit {gone.name}` takes it back",
        )
    refused = _against_live(claim, holders, alive | recent, seen)
    if refused:
        return Verdict(Outcome.REFUSED, reason=refused)
    if holders["name"] is not None:
        return _reimaged(state, claim, holders["name"], by_tep, open_admission)
    if holders["system-id"] is not None or by_tep is not None:
        other = holders["system-id"] or by_tep
        assert other is not None
        why = (
            f"its tunnel address {claim.teps[0]} is that of {by_tep.name}, which is silent: it has none until {by_tep.name} is removed "
            "or has another"
            if by_tep
            else f"its system-id is that of {other.name}, which is silent: approve it if {other.name} is gone"
        )
        return _join(state, claim, approved=False, reason=why, has_tep=by_tep is None)
    return _join(state, claim, approved=open_admission, reason="a new compute: `ebbtide compute approve` admits it")


def _holders(state: State, claim: Claim) -> dict[str, Compute | None]:
    found: dict[str, Compute | None] = dict.fromkeys(("name", "system-id", "tep", "session"))
    number = state.by_name.get(claim.name)
    found["name"] = state.computes[number] if number else None
    for compute in state.computes.values():
        # Two have one system-id where a cloned image was approved: then the one that is the claimant's by the rest.
        if compute.system_id and compute.system_id == claim.system_id and not _same_host(found["system-id"], claim):
            found["system-id"] = compute
        if claim.teps and claim.teps[0] in compute.teps:
            found["tep"] = compute
        if compute.ovs_uuid == claim.ovs_uuid and compute.system_id == claim.system_id and compute.name == claim.name:
            found["session"] = compute
    return found


def _same_host(holder: Compute | None, claim: Claim) -> bool:
    """Same system-id, and the name or the TEP as well: a host that came back with a new database row, name or address."""
    return holder is not None and (holder.name == claim.name or (bool(claim.teps) and claim.teps == holder.teps))


def _removed_holder(state: State, claim: Claim) -> Compute | None:
    """A removed compute that had this name or system-id when it was removed.

    What it was called before that may be another host's by now, and so may its TEP or DPN id.
    """
    for compute in state.removed.values():
        if compute.name == claim.name or (claim.system_id and compute.system_id == claim.system_id):
            return compute
    return None


def _against_live(claim: Claim, holders: dict[str, Compute | None], alive: Set[int], seen: Set[int]) -> str:
    why = {
        "name": "two hosts must not have one name: set other_config:dp-desc or the host name",
        "system-id": "a cloned image keeps its system-id: give this host its own external_ids:system-id",
        "tep": "two hosts must not have one tunnel address: set other_config:local_ip",
    }
    for what, remedy in why.items():
        holder = holders[what]
        if holder is not None and holder.number in alive | seen:
            how = "peers see alive by BFD" if holder.number in seen else "is alive or was a moment ago"
            return f"{claim.name} claims the {what} of {holder.name}, which {how}; {remedy}"
    return ""


def _returns(state: State, claim: Claim, known: Compute, by_tep: Compute | None, alive: Set[int]) -> Verdict:
    stranger = _another_certificate(claim, known)
    if stranger:
        return Verdict(Outcome.REFUSED, reason=stranger)
    if known.number in alive:
        return Verdict(
            Outcome.REFUSED,
            reason=f"{known.name} is connected already by another session: a cloned host, or a session not yet closed",
        )
    claim, asked, ring, kept = _tunnel_address(state, claim, known, by_tep)
    other = state.by_name.get(claim.name)
    if other is not None and other != known.number:
        kept.append(f"its new name {claim.name} is another compute's; it stays {known.name}")
        claim = msgspec.structs.replace(claim, name=known.name)
    new = _replaced(known, claim, known.dpid, asked)
    outcome = Outcome.WAITING if known.membership is Membership.WAITING else Outcome.ACCEPTED
    edits = (Edit(known, new),) if new != known else ()
    return Verdict(outcome, known.number, "; ".join(kept), (*edits, *ring), bool(kept))


def _tunnel_address(
    state: State, claim: Claim, known: Compute, holder: Compute | None
) -> tuple[Claim, str, list[Edit], list[str]]:
    """A compute announces an address: the claim as far as it is granted, what was asked in vain, others' edits, and why not."""
    if holder is None or holder.number == known.number:
        return claim, "", [], []
    ring = _ring(state, known, holder)
    if ring:
        return claim, "", [Edit(old, _moved(old)) for old in ring], []
    tep = claim.teps[0]
    why = f"its tunnel address {tep} is that of {holder.name}; it keeps {known.tep or 'none'} until {holder.name} has another or is removed"
    return msgspec.structs.replace(claim, teps=known.teps), tep, [], [why]


def _ring(state: State, known: Compute, holder: Compute) -> list[Compute]:
    """Those that must change addresses together for `known` to get the holder's: each asks for the next one's, the last for its own."""
    owners = {tep: compute for compute in state.computes.values() for tep in compute.teps}
    ring: list[Compute] = []
    while holder.number != known.number:
        following = owners.get(holder.asked)
        if following is None or holder in ring:
            return []
        ring.append(holder)
        holder = following
    return ring


def _moved(old: Compute) -> Compute:
    new = msgspec.structs.replace(old, teps=(old.asked,), asked="")
    return msgspec.structs.replace(new, past=_past(old, new))


def _another_certificate(claim: Claim, known: Compute) -> str:
    """A compute is bound to the certificate that it came with first; `compute approve` unbinds it. Without TLS nothing is asked."""
    if not known.certificate or not claim.certificate or claim.certificate == known.certificate:
        return ""
    return (
        f"{claim.name} comes with another certificate than before: if it was given a new one, "
        f"`ebbtide compute approve {known.name}`"
    )


def _changed(known: Compute, claim: Claim) -> str:
    """What differs from how the compute was known, in words; "" if it comes as it went."""
    differs = {
        "name": claim.name != known.name,
        "database": claim.ovs_uuid != known.ovs_uuid,
        "tunnel address": bool(claim.teps and known.teps) and claim.teps not in (known.teps, (known.asked,)),
    }
    return " and ".join(what for what, so in differs.items() if so)


def _applicant(claim: Claim) -> str:
    return "@".join((claim.system_id or claim.ovs_uuid, *claim.teps))


def _ask(holder: Compute, claim: Claim, reason: str) -> Verdict:
    """Refused until an operator says yes; who asks is noted, so that `approve` knows whom it lets in."""
    asking = _applicant(claim)
    if asking in holder.applicants or len(holder.applicants) >= MAX_APPLICANTS:
        return Verdict(Outcome.REFUSED, reason=reason)
    noted = msgspec.structs.replace(holder, applicants=tuple(sorted((*holder.applicants, asking))))
    return Verdict(Outcome.REFUSED, reason=reason, edits=(Edit(holder, noted),))


def _reimaged(state: State, claim: Claim, holder: Compute, by_tep: Compute | None, open_admission: bool) -> Verdict:
    """A new host under a silent compute's name: it takes its place, its ports and its mark, if admission allows."""
    # One that waits for approval itself has nothing yet that could be taken from it.
    allowed = open_admission or holder.membership is Membership.WAITING or holder.successor == _applicant(claim)
    if not allowed:
        return _ask(
            holder,
            claim,
            f"{_applicant(claim)} is another host than {holder.name}, which is silent: "
            f"`ebbtide compute approve {holder.name}` lets it take its place",
        )
    stranger = _another_certificate(claim, holder)
    if stranger:
        return Verdict(Outcome.REFUSED, reason=stranger)
    claim, asked, ring, kept = _tunnel_address(state, claim, holder, by_tep)
    new = _replaced(holder, claim, holder.dpid, asked)
    outcome = Outcome.WAITING if holder.membership is Membership.WAITING else Outcome.ACCEPTED
    reason = "; ".join((f"takes the place of the silent {holder.name}", *kept))
    return Verdict(outcome, holder.number, reason, (Edit(holder, new), *ring), bool(kept))


def _join(state: State, claim: Claim, *, approved: bool, reason: str, has_tep: bool = True) -> Verdict:
    ids = Allocator(state)
    number = ids.take("compute")
    new = Compute(
        claim.name,
        number,
        _free_dpid(state, claim.dpid, number),
        system_id=claim.system_id,
        ovs_uuid=claim.ovs_uuid,
        hostname=claim.hostname,
        nova_host=claim.nova_host,
        teps=claim.teps if has_tep else (),
        asked="" if has_tep else claim.teps[0],
        macs=claim.macs,
        zone=claim.zone,
        provider_mappings=claim.provider_mappings,
        gateway=claim.gateway,
        held_start=claim.held_start,
        weight=claim.weight,
        base=claim.base,
        certificate=claim.certificate,
        membership=Membership.MEMBER if approved else Membership.WAITING,
    )
    outcome = Outcome.ACCEPTED if approved else Outcome.WAITING
    edits = (Edit(None, new), *ids.edits())
    return Verdict(outcome, number, "" if approved else reason, edits, kept=not has_tep)


def approve(state: State, text: str) -> tuple[Compute, list[Edit]]:
    """Admit a waiting compute; let a member come with another certificate, and another host in its place, if one asks for that.

    Raises:
        NotFound: nobody is known by this id.
        Refused: it was removed, or several hosts ask for its place.
    """
    compute, reason = resolve(state, text)
    asking: list[str] = []
    if compute is None:
        found = [(c, a) for c in state.computes.values() for a in c.applicants if text in (a, a.rpartition("@")[0])]
        if len(found) != 1:
            raise NotFound(reason)
        compute, asking = found[0][0], [found[0][1]]
    if compute.membership is Membership.REMOVED:
        raise Refused(f"{compute.name} was removed: `ebbtide compute readmit {compute.name}` takes it back")
    asking = asking or list(compute.applicants)
    if len(asking) > 1:
        raise Refused(f"{len(asking)} hosts ask to be {compute.name}: approve one of them: {', '.join(asking)}")
    admitted = msgspec.structs.replace(
        compute,
        membership=Membership.MEMBER,
        certificate="",
        applicants=(),
        successor=asking[0] if asking else compute.successor,
    )
    return admitted, [Edit(compute, admitted)] if admitted != compute else []


def note(compute: Compute) -> str:
    """What an operator should know of who claims to be this compute, or ""."""
    if compute.membership is Membership.REMOVED:
        return ""
    if compute.applicants:
        asking = ", ".join(compute.applicants)
        return f"{asking} asks to be {compute.name}: `ebbtide compute approve {compute.name}` if that is right"
    return f"{compute.successor} may take its place while it is silent" if compute.successor else ""


def unheld(compute: Compute) -> str:
    """What it means that a gateway's switch is not held at a start, or ""."""
    if not compute.gateway or compute.held_start or compute.membership is not Membership.MEMBER:
        return ""
    return (
        "a gateway whose switch is not held at a start: after a restart its peers may see it alive by BFD before it has its flows; "
        "set other_config:ebbtide-held-start=true if its management does not run through that switch"
    )


def _called(text: str) -> Callable[[Compute], bool]:
    """Whether a compute is called so now. The text is taken apart once, not every compute's names put together."""
    digits = text.removeprefix("openflow:")
    number = int(digits) if len(digits) <= 20 and digits.isascii() and digits.isdecimal() else -1
    dpid = number if str(number) == digits else -1
    uuid = text.removeprefix("ovsdb://uuid/").removesuffix("/bridge/br-int") if text.startswith("ovsdb://uuid/") else ""
    return lambda c: (
        text in (c.name, c.system_id, c.hostname)
        or c.dpid == dpid
        or (bool(uuid) and c.ovs_uuid == uuid and text in (c.ovsdb_node_id, c.bridge_node_id))
    )


def _aliases(compute: Compute) -> Set[str]:
    return {value for kind, _, value in (i.partition(":") for i in compute.past) if kind in ("name", "system-id")}


def resolve(state: State, text: str) -> tuple[Compute | None, str]:
    """The one compute that an id names: host name, system-id, DPN id in decimal, openflow:<dpn>, or bridge node id.

    Returns the compute and "", or None and the reason (unknown, ambiguous). Removed computes are found too.
    """
    # What one is called now counts before what another was called once, be it removed: "end a" twice must not end another.
    for matches in (_called(text), lambda c: text in _aliases(c)):
        for pool in (state.computes, state.removed):
            found = [c for c in pool.values() if matches(c)] if text else []
            if len(found) == 1:
                return found[0], ""
            if found:
                listed = ", ".join(sorted(c.name for c in found))
                return None, f"{text!r} is ambiguous: {listed}; use one's openflow:<DPN id>"
    return None, f"no compute is known as {text!r}; `ebbtide compute list` shows those there are"


def untold(state: State, plugged: Iterable[str]) -> set[str]:
    """Of what is plugged somewhere, what is no port and was never told to be one."""
    documents: Mapping[str, Document] = state.documents.get("ports", {})
    return {name for name in plugged if name not in state.ports and name not in documents}
