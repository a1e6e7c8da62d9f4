"""Identity: one test for each cell of the table, and the names by which a compute is found.

The holder is "c1" (number 1): alive by another session, silent, tombstoned and silent, tombstoned and alive, or removed.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ebbtide.decide.lifecycle import (
    MAX_APPLICANTS,
    Claim,
    Outcome,
    Sign,
    Verdict,
    alive,
    approve,
    claimed,
    judge,
    recent,
    resolve,
    seen,
    stands_aside,
)
from ebbtide.errors import NotFound, Refused
from ebbtide.model.facts import Compute, Edit, Membership
from ebbtide.model.state import State
from tests.fakes.clouds import change, compute, state

HOLDER = compute(1, hostname="host-1")
SAME = Claim("c1", "sys-1", "uuid-1", "host-1", ("10.0.0.1",), HOLDER.dpid)
NEW = Claim("new", "sys-new", "uuid-new", "host-new", ("10.0.0.99",), 0x99)
MADE_DPID = 0x00EB_0000_0000_0000

CLAIMS = {
    "all the same": SAME,
    "all the same, database made anew": msgspec.structs.replace(SAME, ovs_uuid="uuid-new"),
    "same name, rest new": msgspec.structs.replace(NEW, name="c1"),
    "same system-id, rest new": msgspec.structs.replace(NEW, system_id="sys-1"),
    "same DPN id, rest new": msgspec.structs.replace(NEW, dpid=HOLDER.dpid),
    "same TEP, rest new": msgspec.structs.replace(NEW, teps=SAME.teps),
    "new name, rest the same": msgspec.structs.replace(SAME, name="new"),
    "new TEP, rest the same": msgspec.structs.replace(SAME, teps=NEW.teps),
    "all new": NEW,
}
HOLDERS: dict[str, tuple[dict[str, Any], frozenset[int]]] = {
    "alive": ({}, frozenset({1})),
    "silent": ({}, frozenset()),
    "tombstoned, silent": ({"tombstoned": True}, frozenset()),
    "tombstoned, alive": ({"tombstoned": True}, frozenset({1})),
    "removed": ({"membership": Membership.REMOVED, "removed_at": 5}, frozenset()),
}


def outcome(
    claim: Claim, holder: str, *, session_of: int = 0, open_admission: bool = True
) -> tuple[Verdict, State, State]:
    fields, connected = HOLDERS[holder]
    before = state(msgspec.structs.replace(HOLDER, **fields))
    verdict = judge(before, claim, connected - {session_of}, session_of=session_of, open_admission=open_admission)
    return verdict, before, change(before, *verdict.edits)


def same_compute(verdict: Verdict, before: State, after: State, **fields: Any) -> None:
    """It is the holder: number, DPN id and mark are kept, and what it was called before is remembered."""
    was, now = before.computes[1], after.computes[1]
    assert verdict.number == 1
    assert (now.number, now.dpid, now.tombstoned, now.membership) == (1, was.dpid, was.tombstoned, was.membership)
    assert len(after.computes) == 1
    for name, value in fields.items():
        assert getattr(now, name) == value
    assert was.identities() <= now.identities()


def newcomer(verdict: Verdict, before: State, after: State, **fields: Any) -> None:
    """It is a compute of its own, and the holder is untouched."""
    assert verdict.number == 2
    for name, value in fields.items():
        assert getattr(after.computes[2], name) == value
    assert (after.computes.delete(2), after.removed) == (before.computes, before.removed)


TABLE: dict[tuple[str, str], Outcome] = {}
for _claim, _row in {
    #                                   alive       silent        tombstoned,silent  tombstoned,alive removed
    "all the same": ("refused", "accepted", "accepted", "refused", "quarantined"),
    "all the same, database made anew": ("refused", "accepted", "accepted", "refused", "quarantined"),
    "same name, rest new": ("refused", "accepted", "accepted", "refused", "quarantined"),
    "same system-id, rest new": ("refused", "waiting", "waiting", "refused", "quarantined"),
    "same DPN id, rest new": ("accepted", "accepted", "accepted", "accepted", "accepted"),
    "same TEP, rest new": ("refused", "waiting", "waiting", "refused", "accepted"),
    "new name, rest the same": ("refused", "accepted", "accepted", "refused", "quarantined"),
    "new TEP, rest the same": ("refused", "accepted", "accepted", "refused", "quarantined"),
    "all new": ("accepted", "accepted", "accepted", "accepted", "accepted"),
}.items():
    TABLE |= {(_claim, holder): Outcome(word) for holder, word in zip(HOLDERS, _row, strict=True)}


@pytest.mark.parametrize(("claim", "holder"), TABLE)
def test_each_cell_of_the_identity_table(claim: str, holder: str) -> None:
    verdict, before, after = outcome(CLAIMS[claim], holder)
    assert verdict.outcome is TABLE[claim, holder], verdict.reason
    if verdict.outcome is Outcome.REFUSED:
        assert verdict.edits == ()
        assert verdict.number == 0
        assert verdict.reason
    elif verdict.outcome is Outcome.QUARANTINED:
        assert verdict.edits == ()
        assert verdict.number == 1
        assert "readmit" in verdict.reason
    elif claim in ("same DPN id, rest new", "same TEP, rest new", "same system-id, rest new", "all new"):
        newcomer(verdict, before, after, name="new", ovs_uuid="uuid-new")
        made = after.computes[2]
        assert made.membership is (Membership.MEMBER if verdict.outcome is Outcome.ACCEPTED else Membership.WAITING)
        assert made.dpid == (MADE_DPID | 2 if claim == "same DPN id, rest new" else 0x99)
        held = claim == "same TEP, rest new" and holder != "removed"
        assert made.teps == (() if held else CLAIMS[claim].teps)
        assert not made.tombstoned
    else:
        said = CLAIMS[claim]
        same_compute(
            verdict, before, after, name=said.name, system_id=said.system_id, ovs_uuid=said.ovs_uuid, teps=said.teps
        )
        assert not verdict.edits or claim != "all the same"


@pytest.mark.parametrize("claim", ["all the same", "new name, rest the same", "new TEP, rest the same"])
@pytest.mark.parametrize("holder", ["alive", "tombstoned, alive"])
def test_a_session_may_say_something_new_of_its_own_compute(claim: str, holder: str) -> None:
    """Alive by its own session and by no other: it is it, the mark stays, and the old name stays an alias."""
    verdict, before, after = outcome(CLAIMS[claim], holder, session_of=1)
    assert verdict.outcome is Outcome.ACCEPTED
    same_compute(verdict, before, after, name=CLAIMS[claim].name, teps=CLAIMS[claim].teps)
    assert resolve(after, "c1")[0] == after.computes[1]


def test_a_tunnel_address_that_is_said_no_more_is_not_taken_back() -> None:
    """Who takes the key away has not taken the compute out: what others send to it still arrives. That is what scale-in is for."""
    before = state(HOLDER)
    verdict = judge(before, msgspec.structs.replace(SAME, teps=()), frozenset(), session_of=1)
    assert (verdict.outcome, verdict.edits) == (Outcome.ACCEPTED, ())


def says(number: int, tep: str) -> Claim:
    """What compute c<number> says of itself, with this tunnel address."""
    return Claim(f"c{number}", f"sys-{number}", f"uuid-{number}", teps=(tep,), dpid=0xEB0000 + number)


def teps(found: State) -> dict[int, str]:
    return {number: c.tep for number, c in sorted(found.computes.items())}


def announce(found: State, number: int, tep: str) -> tuple[Verdict, State]:
    """The session of a compute says that it has another tunnel address."""
    verdict = judge(found, says(number, tep), frozenset(), session_of=number)
    return verdict, change(found, *verdict.edits)


def test_a_newcomer_gets_the_address_it_announces_when_the_silent_one_that_had_it_is_gone() -> None:
    before = state(HOLDER)
    claim = CLAIMS["same TEP, rest new"]
    joined = judge(before, claim, frozenset(), open_admission=True)
    after = change(before, *joined.edits)
    assert (joined.outcome, joined.kept, after.computes[2].teps) == (Outcome.WAITING, True, ())
    assert after.computes[2].asked == "10.0.0.1"
    approved = change(after, *approve(after, "new")[1])
    again = judge(approved, claim, frozenset(), session_of=2)
    assert (again.outcome, again.kept, again.edits) == (Outcome.ACCEPTED, True, ())
    assert "10.0.0.1 is that of c1" in again.reason
    gone = msgspec.structs.replace(HOLDER, membership=Membership.REMOVED, removed_at=5)
    edit = Edit(HOLDER, gone)
    assert stands_aside(edit)
    ended = change(approved, edit)
    granted = judge(ended, claim, frozenset(), session_of=2)
    assert (granted.outcome, granted.kept, granted.reason) == (Outcome.ACCEPTED, False, "")
    now = change(ended, *granted.edits).computes[2]
    assert (now.tep, now.asked) == ("10.0.0.1", "")


@pytest.mark.parametrize("count", [2, 3, 5])
def test_computes_that_pass_their_addresses_round_all_get_them_in_one_transaction(count: int) -> None:
    found = state(*(compute(n) for n in range(1, count + 1)))
    for number in range(1, count):
        verdict, found = announce(found, number, f"10.0.0.{number + 1}")
        assert verdict.kept
        assert verdict.reason
        assert teps(found) == {n: f"10.0.0.{n}" for n in range(1, count + 1)}
    verdict, found = announce(found, count, "10.0.0.1")
    assert not verdict.kept
    assert len(verdict.edits) == count
    assert teps(found) == {n: f"10.0.0.{n % count + 1}" for n in range(1, count + 1)}
    for number in range(1, count + 1):
        again, _ = announce(found, number, f"10.0.0.{number % count + 1}")
        assert (again.outcome, again.kept, again.edits) == (Outcome.ACCEPTED, False, ())


def test_computes_that_each_take_the_next_ones_address_get_it_when_that_has_moved() -> None:
    found = state(compute(1), compute(2), compute(3))
    for number in (1, 2):
        verdict, found = announce(found, number, f"10.0.0.{number + 1}")
        assert verdict.kept
    verdict, found = announce(found, 3, "10.0.0.4")
    assert not verdict.kept
    assert all(stands_aside(edit) for edit in verdict.edits)
    for number in (2, 1):
        verdict, found = announce(found, number, f"10.0.0.{number + 1}")
        assert not verdict.kept
        assert all(stands_aside(edit) for edit in verdict.edits)
    assert teps(found) == {1: "10.0.0.2", 2: "10.0.0.3", 3: "10.0.0.4"}


def test_one_that_takes_back_what_it_announced_has_no_part_in_an_exchange() -> None:
    found = state(compute(1), compute(2))
    _, found = announce(found, 1, "10.0.0.2")
    verdict, found = announce(found, 1, "10.0.0.1")
    assert (verdict.kept, found.computes[1].asked) == (False, "")
    verdict, found = announce(found, 2, "10.0.0.1")
    assert verdict.kept
    assert teps(found) == {1: "10.0.0.1", 2: "10.0.0.2"}


def test_one_that_was_not_granted_its_address_comes_back_as_it_went() -> None:
    found = state(compute(1), compute(2))
    _, found = announce(found, 1, "10.0.0.2")
    verdict = judge(found, says(1, "10.0.0.2"), frozenset(), recent=frozenset({1, 2}))
    assert (verdict.outcome, verdict.number, verdict.kept, verdict.edits) == (Outcome.ACCEPTED, 1, True, ())


def test_only_what_may_have_stood_in_anothers_way_has_it_judged_again() -> None:
    replace = msgspec.structs.replace
    for old, new, so in (
        (None, HOLDER, False),
        (HOLDER, None, True),
        (HOLDER, replace(HOLDER, teps=()), True),
        (HOLDER, replace(HOLDER, name="other"), True),
        (HOLDER, replace(HOLDER, membership=Membership.REMOVED), True),
        (HOLDER, replace(HOLDER, successor="sys-new"), True),
        (HOLDER, replace(HOLDER, tombstoned=True, zone="z", applicants=("sys-new",), asked="10.0.0.9"), False),
    ):
        assert stands_aside(Edit(old, new)) is so


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("fields", [{}, {"tombstoned": True}], ids=["member", "tombstoned"])
def test_one_that_was_heard_a_moment_ago_is_displaced_by_nobody_but_its_own_database(
    claim: str, fields: dict[str, Any]
) -> None:
    before = state(msgspec.structs.replace(HOLDER, **fields))
    verdict = judge(before, CLAIMS[claim], frozenset(), recent=frozenset({1}), open_admission=True)
    own = claim == "all the same"
    newcomers = claim in ("all new", "same DPN id, rest new")
    assert verdict.outcome is (Outcome.ACCEPTED if own or newcomers else Outcome.REFUSED), verdict.reason
    assert verdict.number == (1 if own else 2 if newcomers else 0)
    if verdict.outcome is Outcome.REFUSED:
        # Its own host may have been changed while it was away: an operator may say so without waiting.
        asks = claim in ("all the same, database made anew", "new name, rest the same", "new TEP, rest the same")
        assert bool(verdict.edits) is asks
        for edit in verdict.edits:
            tep = CLAIMS[claim].teps[0]
            assert edit == Edit(before.computes[1], msgspec.structs.replace(edit.old, applicants=(f"sys-1@{tep}",)))
    else:
        assert bool(verdict.edits) is newcomers


@pytest.mark.parametrize(
    "claim", ["all the same, database made anew", "new name, rest the same", "new TEP, rest the same"]
)
def test_a_host_that_was_changed_while_it_was_away_is_let_in_when_it_was_silent_or_is_approved(claim: str) -> None:
    said, just_heard = CLAIMS[claim], frozenset({1})
    before = state(HOLDER)
    asks = judge(before, said, frozenset(), recent=just_heard)
    asked = change(before, *asks.edits)
    again = judge(asked, said, frozenset(), recent=just_heard)
    assert (again.outcome, again.edits) == (Outcome.REFUSED, ()), "who asks is written once"
    silent = judge(asked, said, frozenset())
    approved = change(asked, *approve(asked, "c1")[1])
    let_in = judge(approved, said, frozenset(), recent=just_heard)
    for verdict, basis in ((silent, asked), (let_in, approved)):
        assert (verdict.outcome, verdict.number) == (Outcome.ACCEPTED, 1)
        now = change(basis, *verdict.edits).computes[1]
        assert (now.name, now.ovs_uuid, now.teps) == (said.name, said.ovs_uuid, said.teps)
        assert (now.applicants, now.successor) == ((), "")
    # Approved or not: the first is connected.
    live = judge(approved, said, frozenset({1}), recent=just_heard)
    assert (live.outcome, live.edits) == (Outcome.REFUSED, ())


# ---- what shows that a holder is there -----------------------------------------------------------


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize(
    "fields", [{}, {"tombstoned": True, "successor": "sys-new@10.0.0.99"}], ids=["member", "marked"]
)
def test_one_that_its_peers_see_by_bfd_is_displaced_by_nobody_however_long_it_is_silent(
    claim: str, fields: dict[str, Any]
) -> None:
    """Its control connections are cut: it may come back as it went, and neither silence nor approval lets another in."""
    before = state(msgspec.structs.replace(HOLDER, **fields))
    verdict = judge(before, CLAIMS[claim], frozenset(), seen=frozenset({1}), open_admission=True)
    own, newcomers = claim == "all the same", claim in ("all new", "same DPN id, rest new")
    assert verdict.outcome is (Outcome.ACCEPTED if own or newcomers else Outcome.REFUSED), verdict.reason
    if not own and not newcomers:
        assert verdict.edits == ()
        assert "BFD" in verdict.reason


SIGNS = {
    "session": (Sign(1, session=True, silent=99.0), (True, False, False)),
    "switch": (Sign(1, switch=True, silent=99.0), (False, False, True)),
    "switch, where the claimant is": (Sign(1, switch=True, vouches=True), (False, False, False)),
    "switch there, and BFD": (Sign(1, switch=True, vouches=True, bfd=True), (False, False, False)),
    "BFD": (Sign(1, bfd=True, silent=99.0), (False, True, False)),
    "silent for less than a minute": (Sign(1, silent=59.9), (False, False, True)),
    "silent for a minute": (Sign(1, silent=60.0), (False, False, False)),
    "never heard by this leadership": (Sign(1), (False, False, True)),
}


@pytest.mark.parametrize("sign", SIGNS)
def test_what_shows_that_a_compute_is_there(sign: str) -> None:
    given, expected = SIGNS[sign]
    assert (1 in alive([given]), 1 in seen([given]), 1 in recent([given], 60.0)) == expected


def test_signs_are_asked_for_of_whom_a_claim_concerns() -> None:
    before = state(*(compute(n) for n in range(1, 9)))
    claim = Claim("c1", "sys-2", "uuid-new", teps=("10.0.0.3",))
    assert claimed(before, claim) == {1, 2, 3}
    assert claimed(before, NEW) == set()
    assert claimed(before, SAME) == {1}


# ---- a replacement that waits for approval ---------------------------------------------------------

REIMAGED = CLAIMS["same name, rest new"]


@pytest.mark.parametrize("fields", [{}, {"tombstoned": True}], ids=["member", "tombstoned"])
def test_without_open_admission_another_host_takes_a_silent_ones_place_when_it_is_approved(
    fields: dict[str, Any],
) -> None:
    before = state(msgspec.structs.replace(HOLDER, **fields))
    asks = judge(before, REIMAGED, frozenset())
    assert (asks.outcome, asks.number) == (Outcome.REFUSED, 0)
    assert "`ebbtide compute approve c1`" in asks.reason
    asked = change(before, *asks.edits)
    assert asked.computes[1] == msgspec.structs.replace(before.computes[1], applicants=("sys-new@10.0.0.99",))
    assert judge(asked, REIMAGED, frozenset()).edits == ()
    compute, edits = approve(asked, "c1")
    approved = change(asked, *edits)
    assert compute == approved.computes[1]
    # Only the host that had asked, and only while the holder is silent.
    other = judge(approved, msgspec.structs.replace(REIMAGED, system_id="sys-other"), frozenset())
    assert other.outcome is Outcome.REFUSED
    for connected, just_heard in ((frozenset({1}), frozenset[int]()), (frozenset[int](), frozenset({1}))):
        assert judge(approved, REIMAGED, connected, recent=just_heard).outcome is Outcome.REFUSED
    verdict = judge(approved, REIMAGED, frozenset())
    assert verdict.outcome is Outcome.ACCEPTED
    after = change(approved, *verdict.edits)
    same_compute(verdict, before, after, system_id="sys-new", ovs_uuid="uuid-new", teps=("10.0.0.99",))
    assert (after.computes[1].applicants, after.computes[1].successor) == ((), "")


@pytest.mark.parametrize("approved", [False, True])
def test_the_holder_that_comes_back_first_is_let_in_and_who_asked_is_forgotten(approved: bool) -> None:
    before = state(HOLDER)
    asked = change(before, *judge(before, REIMAGED, frozenset()).edits)
    if approved:
        asked = change(asked, *approve(asked, "c1")[1])
    verdict = judge(asked, SAME, frozenset())
    assert (verdict.outcome, verdict.number) == (Outcome.ACCEPTED, 1)
    assert change(asked, *verdict.edits).computes[1] == HOLDER


def test_one_of_several_that_ask_is_approved_by_its_own_name() -> None:
    found = state(HOLDER)
    others = [msgspec.structs.replace(REIMAGED, system_id=f"sys-n{i}", teps=(f"10.0.1.{i}",)) for i in range(20)]
    for claim in others:
        found = change(found, *judge(found, claim, frozenset()).edits)
    assert len(found.computes[1].applicants) == MAX_APPLICANTS
    with pytest.raises(Refused, match=r"sys-n1@10\.0\.1\.1"):
        approve(found, "c1")
    for text in ("sys-n1", "sys-n1@10.0.1.1"):
        approved = change(found, *approve(found, text)[1])
        assert (approved.computes[1].successor, approved.computes[1].applicants) == ("sys-n1@10.0.1.1", ())
        outcomes = [judge(approved, claim, frozenset()).outcome for claim in others]
        assert [i for i, o in enumerate(outcomes) if o is Outcome.ACCEPTED] == [1]


def test_approve_admits_who_waits_and_unbinds_a_certificate() -> None:
    before = state(compute(1, membership=Membership.WAITING), compute(2, certificate="aa"), compute(3))
    for number in (1, 2):
        found, edits = approve(before, f"c{number}")
        assert edits == [Edit(before.computes[number], found)]
        assert (found.membership, found.certificate) == (Membership.MEMBER, "")
    assert approve(before, "c3") == (before.computes[3], [])
    with pytest.raises(NotFound):
        approve(before, "sys-new")
    with pytest.raises(Refused, match="readmit"):
        approve(state(compute(1, membership=Membership.REMOVED)), "c1")


@pytest.mark.parametrize("claim", ["all new", "same DPN id, rest new"])
def test_without_open_admission_a_newcomer_waits_for_approval(claim: str) -> None:
    verdict, _, after = outcome(CLAIMS[claim], "silent", open_admission=False)
    assert verdict.outcome is Outcome.WAITING
    assert "approve" in verdict.reason
    assert after.computes[2].membership is Membership.WAITING


def test_one_that_waits_still_waits_when_it_comes_again() -> None:
    _, _, after = outcome(NEW, "silent", open_admission=False)
    again = judge(after, NEW, frozenset(), open_admission=True)
    assert (again.outcome, again.number, again.edits) == (Outcome.WAITING, 2, ())


def test_a_name_or_address_that_another_has_is_not_taken_from_it_by_a_session() -> None:
    before = state(compute(1), compute(2))
    verdict = judge(before, Claim("c2", "sys-1", "uuid-1", teps=("10.0.0.2",)), frozenset(), session_of=1)
    after = change(before, *verdict.edits)
    assert verdict.outcome is Outcome.ACCEPTED
    assert (after.computes[1].name, after.computes[1].teps) == ("c1", ("10.0.0.1",))
    assert after.computes[2] == before.computes[2]
    assert verdict.reason


def test_an_address_that_the_taken_over_host_brings_is_not_taken_from_a_third() -> None:
    before = state(compute(1), compute(2))
    verdict = judge(before, Claim("c1", "sys-new", "uuid-new", teps=("10.0.0.2",)), frozenset(), open_admission=True)
    after = change(before, *verdict.edits)
    assert after.computes[1].teps == ("10.0.0.1",)
    assert after.computes[2] == before.computes[2]


def test_two_tunnel_addresses_are_refused_with_the_remedy() -> None:
    verdict = judge(state(), msgspec.structs.replace(NEW, teps=("10.0.0.1", "10.0.0.2")), frozenset())
    assert verdict.outcome is Outcome.REFUSED
    assert "one local_ip" in verdict.reason


@pytest.mark.parametrize(
    ("tep", "why"),
    [
        *(
            (text, "no IP address")
            for text in ("eth0", "10.0.0", "10.0.0.256", "10.0.0.1/24", "fd00::1/64", "[fd00::1]")
        ),
        *((text, "unspecified") for text in ("0.0.0.0", "::")),
        *((text, "multicast") for text in ("224.0.0.1", "ff02::1")),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "zone"),
        ("fd00::1%eth0", "zone"),
        ("::ffff:10.0.0.1", "write 10.0.0.1"),
        ("::1", "loopback"),
    ],
)
@pytest.mark.parametrize("session_of", [0, 1])
def test_what_cannot_be_a_tunnel_address_is_refused_with_the_reason(tep: str, why: str, session_of: int) -> None:
    verdict, _, _ = outcome(msgspec.structs.replace(SAME, teps=(tep,)), "silent", session_of=session_of)
    assert (verdict.outcome, verdict.edits) == (Outcome.REFUSED, ())
    assert "local_ip" in verdict.reason
    assert why in verdict.reason
    assert tep in verdict.reason


def test_an_ipv6_address_is_a_tunnel_address_like_any_other() -> None:
    verdict = judge(state(), msgspec.structs.replace(NEW, teps=("fd00::1",)), frozenset(), open_admission=True)
    after = change(state(), *verdict.edits)
    assert (verdict.outcome, after.computes[verdict.number].tep) == (Outcome.ACCEPTED, "fd00::1")
    second = judge(
        after, msgspec.structs.replace(SAME, name="b", ovs_uuid="b", system_id="b", teps=("fd00::1",)), frozenset()
    )
    assert f"its tunnel address fd00::1 is that of {NEW.name}" in second.reason


def test_a_datapath_id_is_not_given_to_another_while_it_is_remembered() -> None:
    gone = compute(1, membership=Membership.REMOVED, dpid=MADE_DPID | 2)
    verdict = judge(state(gone), msgspec.structs.replace(NEW, dpid=0), frozenset(), open_admission=True)
    new = verdict.edits[0].new
    assert isinstance(new, Compute)
    assert new.dpid not in (0, gone.dpid)


def test_a_name_that_a_removed_compute_had_once_may_be_another_hosts_by_now() -> None:
    """compute-7 was renamed old7 and then removed: new hardware may be compute-7; old7 and its system-id stay removed."""
    gone = compute(1, name="old7", membership=Membership.REMOVED, removed_at=5)
    gone = msgspec.structs.replace(gone, past=tuple(sorted({*gone.identities(), "name:compute-7", "system-id:sys-0"})))
    before = state(gone)
    for claim in (msgspec.structs.replace(NEW, name="compute-7"), msgspec.structs.replace(NEW, system_id="sys-0")):
        assert judge(before, claim, frozenset(), open_admission=True).outcome is Outcome.ACCEPTED
    for claim in (msgspec.structs.replace(NEW, name="old7"), msgspec.structs.replace(NEW, system_id="sys-1")):
        verdict = judge(before, claim, frozenset(), open_admission=True)
        assert (verdict.outcome, verdict.number) == (Outcome.QUARANTINED, 1)


def test_of_two_that_share_a_system_id_each_is_known_by_the_rest() -> None:
    """A cloned image that was approved keeps its own number, whichever of the two comes back first, with a new database row."""
    before = state(compute(1), compute(2, system_id="sys-1"))
    for number in (1, 2):
        verdict = judge(
            before, Claim(f"c{number}", "sys-1", "uuid-new", teps=(f"10.0.0.{number}",)), frozenset({3 - number})
        )
        assert (verdict.outcome, verdict.number) == (Outcome.ACCEPTED, number), verdict.reason


@pytest.mark.parametrize(
    "text",
    [
        "c1",
        "sys-1",
        "host-1",
        str(HOLDER.dpid),
        f"openflow:{HOLDER.dpid}",
        "ovsdb://uuid/uuid-1",
        "ovsdb://uuid/uuid-1/bridge/br-int",
    ],
)
@pytest.mark.parametrize("membership", list(Membership))
def test_a_compute_is_found_by_each_of_its_names(text: str, membership: Membership) -> None:
    holder = msgspec.structs.replace(HOLDER, membership=membership)
    assert resolve(state(holder, compute(2)), text) == (holder, "")


@pytest.mark.parametrize("text", ["", "c", "c11", "10.0.0.1", "openflow:", "ovsdb://uuid/", "1"])
def test_nothing_is_found_by_what_is_nobodys_name(text: str) -> None:
    found, reason = resolve(state(compute(1, system_id="", ovs_uuid=""), compute(2)), text)
    assert found is None
    assert "compute list" in reason


def test_an_id_that_two_computes_have_names_neither() -> None:
    found, reason = resolve(state(compute(1, hostname="twin"), compute(2, hostname="twin")), "twin")
    assert found is None
    assert "c1, c2" in reason


def test_what_a_compute_is_called_now_counts_before_what_another_was_called_once() -> None:
    renamed = compute(1, past=("name:old",))
    assert resolve(state(renamed), "old") == (renamed, "")
    for membership in (Membership.MEMBER, Membership.REMOVED):
        named = compute(2, name="old", membership=membership)
        assert resolve(state(renamed, named), "old") == (named, "")


def test_an_edit_is_made_only_where_something_is_new() -> None:
    verdict, _, _ = outcome(SAME, "silent")
    assert verdict.edits == ()
    verdict, before, _ = outcome(msgspec.structs.replace(SAME, hostname="other"), "silent")
    assert verdict.edits == (Edit(before.computes[1], msgspec.structs.replace(before.computes[1], hostname="other")),)


def test_every_mac_that_a_compute_ever_had_is_remembered_and_silence_takes_none_back() -> None:
    at_first = state(msgspec.structs.replace(HOLDER, macs=("02:00:00:00:00:01", "02:00:00:00:00:02")))

    def says(at: State, *macs: str) -> State:
        claim = msgspec.structs.replace(SAME, macs=macs)
        return change(at, *judge(at, claim, frozenset(), session_of=1).edits)

    # A database that has just started names the interfaces one after the other.
    for part in ((), ("02:00:00:00:00:02",)):
        assert says(at_first, *part).computes[1] == at_first.computes[1]
    moved = says(at_first, "02:00:00:00:00:01", "02:00:00:00:00:03")
    assert moved.computes[1].macs == ("02:00:00:00:00:01", "02:00:00:00:00:03")
    assert {f"mac:02:00:00:00:00:0{n}" for n in (1, 2, 3)} <= moved.computes[1].identities()
