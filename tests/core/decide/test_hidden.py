"""Addresses that nobody was given: what may be learnt, and where they go when somebody is given them."""

from __future__ import annotations

import msgspec
import pytest

from ebbtide.decide import hidden, routing
from ebbtide.model.facts import Binding, Edit, Fact, Learnt
from ebbtide.model.state import State
from tests.fakes.clouds import ACTIVE, PENDING, change, compute, leg, network, port, router, state

RED = network(1, subnets=("10.1.0.0/24", "10.2.0.0/24"))
ONE, TWO = port(1, 1, addresses=("10.1.0.1",)), port(2, 1, addresses=("10.1.0.2",))
VIRTUAL, OTHER = "10.1.0.100", "10.1.0.101"
OWN_MAC = 0x0A_0000_000001


def cloud(*more: Fact) -> State:
    """p1 on c1 and p2 on c2, in n1; r1 has a place in the first of its two subnets."""
    place = leg(1, 1, address="10.1.0.254", subnet="10.1.0.0/24")
    bound = (Binding("p1", 1, ACTIVE), Binding("p2", 2, ACTIVE))
    return state(compute(1), compute(2), RED, router(1), place, ONE, TWO, *bound, *more)


def learnt(found: State, address: str = VIRTUAL, mac: int = ONE.mac, port_id: str = "p1") -> State:
    return change(found, *hidden.learn(found, "n1", address, mac, port_id))


def test_it_is_learnt_moves_and_is_withdrawn() -> None:
    found = learnt(cloud())
    assert found.learnt_in("n1")[VIRTUAL] == Learnt("n1", VIRTUAL, ONE.mac, "p1")
    assert hidden.learn(found, "n1", VIRTUAL, ONE.mac, "p1") == []
    moved = learnt(found, mac=TWO.mac, port_id="p2")
    assert (moved.learnt_in("n1")[VIRTUAL].port, set(moved.learnt_of)) == ("p2", {"p2"})
    gone = change(moved, *hidden.withdraw(moved, [("n1", VIRTUAL), ("n1", "10.1.0.200"), ("nowhere", VIRTUAL)]))
    assert not gone.learnt
    assert not gone.learnt_of


@pytest.mark.parametrize(
    ("address", "mac", "port_id", "words"),
    [
        (VIRTUAL, ONE.mac, "none", "the port is not there"),
        (VIRTUAL, 0, "p1", "its MAC is not one host's"),
        (VIRTUAL, 0x01_0000_000001, "p1", "its MAC is not one host's"),
        ("10.1.0.0", ONE.mac, "p1", "no router has a place in its subnet"),
        ("10.1.0.255", ONE.mac, "p1", "no router has a place in its subnet"),
        ("10.2.0.100", ONE.mac, "p1", "no router has a place in its subnet"),
        ("10.9.0.1", ONE.mac, "p1", "no router has a place in its subnet"),
        ("fd00::1", ONE.mac, "p1", "no router has a place in its subnet"),
        ("10.1.0.254", ONE.mac, "p1", "it is r1's own"),
        (VIRTUAL, leg(1, 1).mac, "p1", "it is r1's own"),
        ("10.1.0.2", ONE.mac, "p1", "it was given to port p2"),
        ("10.1.0.1", ONE.mac, "p1", "it was given to port p1"),
        (VIRTUAL, TWO.mac, "p1", "its MAC is another port's"),
    ],
)
def test_what_may_not_be_learnt(address: str, mac: int, port_id: str, words: str) -> None:
    found = cloud()
    assert hidden.why_not(found, "n1", address, mac, port_id) == words
    assert hidden.learn(found, "n1", address, mac, port_id) == []


def test_a_port_of_another_network_or_that_is_only_about_to_come_learns_nothing() -> None:
    found = cloud(network(2), port(3, 2), Binding("p3", 1, ACTIVE), port(4, 1), Binding("p4", 1, PENDING))
    assert hidden.why_not(found, "n1", VIRTUAL, OWN_MAC, "p3") == "the port is not there"
    assert hidden.why_not(found, "n1", VIRTUAL, OWN_MAC, "p4") == "the port is not there"


def test_an_address_reserved_by_a_port_that_is_plugged_nowhere_may_answer_behind_another() -> None:
    reserved = port(3, 1, addresses=(VIRTUAL,))
    found = learnt(cloud(reserved))
    assert VIRTUAL in found.learnt_in("n1")
    there = change(found, Edit(None, Binding("p3", 2, ACTIVE)))
    assert hidden.why_not(there, "n1", VIRTUAL, TWO.mac, "p2") == "it was given to port p3"


def test_no_more_than_a_bounded_number_behind_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden, "MAX_OF_PORT", 1)
    found = learnt(cloud())
    assert "1 addresses are learnt behind port p1: no more" in hidden.why_not(found, "n1", OTHER, ONE.mac, "p1")
    assert hidden.why_not(found, "n1", VIRTUAL, OWN_MAC, "p1") == ""
    monkeypatch.setattr(hidden, "MAX_OF_NETWORK", 1)
    assert "1 addresses are learnt in network n1: no more" in hidden.why_not(found, "n1", OTHER, TWO.mac, "p2")


def test_a_virtual_routers_mac_brings_its_other_addresses_along() -> None:
    found = learnt(learnt(cloud(), VIRTUAL, OWN_MAC), OTHER, OWN_MAC)
    found = learnt(found, "10.1.0.102")
    moved = learnt(found, VIRTUAL, OWN_MAC, "p2")
    ports = {address: x.port for address, x in moved.learnt_in("n1").items()}
    assert ports == {VIRTUAL: "p2", OTHER: "p2", "10.1.0.102": "p1"}


def test_a_new_address_is_no_way_to_take_a_virtual_routers_mac() -> None:
    found = learnt(cloud(), VIRTUAL, OWN_MAC)
    assert hidden.why_not(found, "n1", OTHER, OWN_MAC, "p2") == "its MAC answers behind port p1"
    assert hidden.learn(found, "n1", OTHER, OWN_MAC, "p2") == []
    own = learnt(found, OTHER)
    assert hidden.why_not(own, "n1", OTHER, OWN_MAC, "p2") == "its MAC answers behind port p1", (
        "nor is one under another MAC"
    )
    assert hidden.why_not(found, "n1", VIRTUAL, OWN_MAC, "p2") == ""


def test_of_several_at_once_each_sees_what_those_before_it_lead_to(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {("n1", VIRTUAL): (OWN_MAC, "p1"), ("n1", OTHER): (OWN_MAC, "p2")}
    found = change(cloud(), *hidden.outcome(cloud(), both, []))
    assert {address: x.port for address, x in found.learnt_in("n1").items()} == {VIRTUAL: "p1"}, (
        "one MAC is at one place"
    )
    again = hidden.outcome(found, {("n1", VIRTUAL): (TWO.mac, "p2")}, [("n1", VIRTUAL)])
    assert [(e.old, e.new) for e in again] == [(found.learnt_in("n1")[VIRTUAL], Learnt("n1", VIRTUAL, TWO.mac, "p2"))]
    assert hidden.outcome(found, {("n1", VIRTUAL): (OWN_MAC, "p1")}, [("n1", VIRTUAL)]) == []
    monkeypatch.setattr(hidden, "MAX_OF_PORT", 1)
    many = {("n1", f"10.1.0.{n}"): (ONE.mac, "p1") for n in range(100, 105)}
    assert len(hidden.outcome(cloud(), many, [])) == 1


def test_who_is_given_the_address_or_the_mac_has_it_and_a_port_that_goes_takes_its_own_along() -> None:
    found = learnt(learnt(cloud(), VIRTUAL, OWN_MAC), OTHER)
    assert [e.old for e in hidden.release(found, "n1", (OTHER,), 0)] == [found.learnt_in("n1")[OTHER]]
    assert [e.old for e in hidden.release(found, "n1", (), OWN_MAC)] == [found.learnt_in("n1")[VIRTUAL]]
    assert len(hidden.of_port(found, "p1")) == 2
    assert hidden.of_port(found, "none") == []
    bare = msgspec.structs.replace(router(2))
    edits, _ = routing.attach(change(found, Edit(None, bare)), "r2", "n1", "10.2.0.1")
    assert [e for e in edits if isinstance(e.old, Learnt)] == []
    edits, _ = routing.attach(change(found, Edit(None, bare)), "r2", "n1", OTHER)
    assert [e.old.address for e in edits if isinstance(e.old, Learnt)] == [OTHER]
