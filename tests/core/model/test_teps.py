"""Tunnel end points: one spelling each, and between which of them there can be a tunnel."""

from __future__ import annotations

import pytest

from ebbtide.model import teps
from ebbtide.model.facts import Binding, Edit, Relation
from tests.fakes.clouds import ACTIVE, change, compute, network, port, state

HIGH, LOW = "fd00::1", "10.0.0.2"


@pytest.mark.parametrize("text", ["fd00::1", "FD00::1", "fd00:0:0::1", "fd00:0000:0:0:0:0:0:0001", "fd00::0.0.0.1"])
def test_all_spellings_of_an_address_are_one(text: str) -> None:
    assert teps.canonical(text) == "fd00::1"
    assert teps.trouble(text) == ""


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        # RFC 5952, section 4.2: "::" for the longest run, for the first of two, and never for one group alone.
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"),
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
        ("10.0.0.1", "10.0.0.1"),
        ("nonsense", "nonsense"),
        ("", ""),
    ],
)
def test_the_one_spelling_is_that_of_rfc_5952(text: str, canonical: str) -> None:
    assert teps.canonical(text) == canonical


def test_a_tunnel_is_between_two_addresses_of_one_version() -> None:
    assert teps.joined(HIGH, "fd00::2")
    assert teps.joined("10.0.0.1", LOW)
    assert not teps.joined(HIGH, LOW)
    assert not teps.joined("", LOW)
    assert not teps.joined(HIGH, "")


def test_computes_of_two_versions_are_partners_but_no_peers() -> None:
    ports = [port(n, 1) for n in (1, 2, 3)]
    computes = [compute(1, teps=(HIGH,)), compute(2, teps=(LOW,)), compute(3, teps=("fd00::3",))]
    cloud = state(*computes, network(1), *ports, *(Binding(f"p{n}", n, ACTIVE) for n in (1, 2, 3)))
    assert {n: cloud.peers(n) for n in (1, 2, 3)} == {1: {3}, 2: set(), 3: {1}}
    assert {n: cloud.partners(n) for n in (1, 2, 3)} == {1: {2, 3}, 2: {1, 3}, 3: {1, 2}}
    assert cloud.needs_tunnel(1, 3)
    assert not cloud.needs_tunnel(1, 2)
    moved = change(cloud, Edit(computes[1], compute(2, teps=("fd00::2",))))
    assert moved.peers(1) == {2, 3}
    assert moved.needs_tunnel(2, 1)


def test_a_gateway_relation_makes_no_tunnel_between_two_versions() -> None:
    cloud = state(compute(1, teps=(HIGH,)), compute(2, teps=(LOW,)), Relation(1, 2))
    assert (cloud.partners(1), cloud.peers(1), cloud.peers(2)) == ({2}, set(), set())
