"""What is answered to each message of DHCPv6, and to what is none: a port is told its own addresses, or nothing."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.compile import ledger
from ebbtide.lab import packets
from ebbtide.model.addresses import link_local as link_local_of
from ebbtide.model.state import State
from ebbtide.runtime import dhcp, dhcp6
from ebbtide.runtime.dhcp import LEASE
from tests.fakes.clouds import leg, network, port, router, state
from tests.support.dhcp6 import (
    ADDRESS,
    ADVERTISE,
    CLIENT_ID,
    CONFIRM,
    DECLINE,
    IA_NA,
    IA_PD,
    IA_TA,
    INFORMATION,
    NO_ADDRESSES,
    NO_BINDING,
    NO_PREFIXES,
    NOT_ON_LINK,
    OWN_ID,
    RAPID,
    REBIND,
    RELAY,
    RELEASE,
    RENEW,
    REPLY,
    REQUEST,
    SERVER_ID,
    SOLICIT,
    SUCCESS,
    Option,
    Told,
    dns,
    frame,
    ia,
    inner,
    message,
    option,
    options,
    unwrap,
)

OWN, SECOND, ANOTHERS, FAR = "fd00:1::1", "fd00:2::1", "fd00:1::2", "2001:db8::1"
NET = network(
    1,
    subnets=("10.1.0.0/24", "fd00:1::/64", "fd00:2::/64"),
    dhcp=True,
    ipv6_mode="dhcpv6-stateful",
    dns="192.0.2.53 2001:db8::53 2001:db8::35",
)
ONE = port(1, 1, addresses=("10.1.0.1", OWN, SECOND, "fd00:3::1", "fe80::1"))
TWO = port(2, 1, addresses=("10.1.0.2", ANOTHERS))
BARE = port(3, 1, addresses=("10.1.0.3",))
CLOUD = state(NET, ONE, TWO, BARE)
MAC = packets.mac_text(ONE.mac.to_bytes(6, "big"))
SERVER: Option = (SERVER_ID, dhcp6.server_id("store"))
STRANGER: Option = (SERVER_ID, b"\0\4" + bytes(16))
OWN_LIVES = {OWN: LEASE, SECOND: LEASE}


def asks(kind: int, *more: Option, by: str = "p1", at: State = CLOUD) -> Told | None:
    """What a port is told; with its own name in the message."""
    own = at.ports[by]
    mac = packets.mac_text(own.mac.to_bytes(6, "big"))
    answer = dhcp6.answer(at, own, frame(mac, message(kind, OWN_ID, *more)))
    return unwrap(answer, mac) if answer is not None else None


def told(kind: int, *more: Option, by: str = "p1", at: State = CLOUD) -> Told:
    found = asks(kind, *more, by=by, at=at)
    assert found is not None
    assert found.options[CLIENT_ID] == OWN_ID[1]
    return found


def test_a_port_is_offered_what_it_was_given_in_subnets_of_its_network_and_then_given_it() -> None:
    offered = told(SOLICIT, ia(IA_NA))
    assert (offered.kind, offered.lives) == (ADVERTISE, OWN_LIVES)
    assert dns(offered) == ["2001:db8::53", "2001:db8::35"], "in the order given, and none of IPv4"
    given = told(REQUEST, offered.server, ia(IA_NA, OWN, SECOND))
    assert (given.kind, given.lives, dns(given)) == (REPLY, OWN_LIVES, dns(offered))
    name, renew, rebind = struct.unpack("!4sII", given.options[IA_NA][:12])
    assert (name, renew, rebind) == (b"eth0", LEASE // 2, LEASE * 4 // 5)
    for held in (RENEW, REBIND):
        more = [offered.server] if held == RENEW else []
        assert told(held, *more, ia(IA_NA, OWN, SECOND)).lives == OWN_LIVES


def test_with_rapid_commit_a_solicitation_is_enough() -> None:
    given = told(SOLICIT, (RAPID, b""), ia(IA_NA))
    assert (given.kind, given.lives, given.options[RAPID]) == (REPLY, OWN_LIVES, b"")
    assert told(SOLICIT, (RAPID, b""), ia(IA_PD)).kind == ADVERTISE, "what is not given is not committed"
    assert told(SOLICIT, (RAPID, b""), ia(IA_NA), by="p3").kind == ADVERTISE


@pytest.mark.parametrize("kind", [SOLICIT, REQUEST, RENEW])
def test_of_temporary_addresses_prefixes_and_second_associations_there_are_none(kind: int) -> None:
    more = [SERVER] if kind != SOLICIT else []
    found = told(kind, *more, ia(IA_TA), ia(IA_PD), ia(IA_NA))
    assert (found.status(IA_TA), found.status(IA_PD), found.status(IA_NA)) == (NO_ADDRESSES, NO_PREFIXES, None)
    assert found.lives == OWN_LIVES
    found = told(kind, *more, ia(IA_NA, name=b"more"), ia(IA_NA, OWN))
    assert found.options[IA_NA][:4] == b"more"
    assert (found.status(IA_NA), found.lives) == (NO_ADDRESSES, OWN_LIVES), "it keeps them where it has them"


def test_who_has_no_address_in_ipv6_is_told_so() -> None:
    assert told(SOLICIT, ia(IA_NA), by="p3").status(IA_NA) == NO_ADDRESSES
    assert told(RENEW, SERVER, ia(IA_NA), by="p3").status(IA_NA) == NO_ADDRESSES
    assert told(RENEW, SERVER, ia(IA_NA, OWN), by="p3").lives == {OWN: 0}
    assert dns(told(INFORMATION, by="p3"))


def test_anothers_address_is_not_given_whatever_is_asked() -> None:
    assert told(SOLICIT, ia(IA_NA, ANOTHERS)).lives == OWN_LIVES, "a hint"
    assert told(REQUEST, SERVER, ia(IA_NA, ANOTHERS)).lives == OWN_LIVES
    refused = told(REQUEST, SERVER, ia(IA_NA, FAR))
    assert (refused.status(IA_NA), refused.lives) == (NOT_ON_LINK, {})
    for kind in (RENEW, REBIND):
        more = [SERVER] if kind == RENEW else []
        assert told(kind, *more, ia(IA_NA, ANOTHERS, FAR)).lives == {**OWN_LIVES, ANOTHERS: 0, FAR: 0}
    many = [f"fd00:1::{n:x}" for n in range(0x100, 0x120)]
    assert len(told(REBIND, ia(IA_NA, *many)).lives) == dhcp6.MOST


def test_what_a_client_has_from_before_is_confirmed_if_it_is_its_own() -> None:
    assert told(CONFIRM, ia(IA_NA, OWN)).status() == SUCCESS
    for strange in (ANOTHERS, FAR):
        assert told(CONFIRM, ia(IA_NA, OWN, strange)).status() == NOT_ON_LINK
    assert asks(CONFIRM, ia(IA_NA)) is None, "there is nothing to confirm"


@pytest.mark.parametrize("kind", [RELEASE, DECLINE])
def test_what_is_given_back_is_heard_and_stays_the_ports(kind: int) -> None:
    found = told(kind, SERVER, ia(IA_NA, OWN))
    assert (found.kind, found.status(), IA_NA in found.options) == (REPLY, SUCCESS, False)
    found = told(kind, SERVER, ia(IA_NA, ANOTHERS))
    assert (found.status(), found.status(IA_NA), found.lives) == (SUCCESS, NO_BINDING, {})
    assert told(SOLICIT, ia(IA_NA)).lives == OWN_LIVES


def test_who_only_asks_for_name_servers_need_not_say_who_it_is() -> None:
    answer = dhcp6.answer(CLOUD, ONE, frame(MAC, message(INFORMATION)))
    assert answer is not None
    found = unwrap(answer, MAC)
    assert (found.kind, dns(found), CLIENT_ID in found.options) == (
        REPLY,
        ["2001:db8::53", "2001:db8::35"],
        False,
    )
    assert dns(told(INFORMATION, SERVER))
    without = msgspec.structs.replace(NET, dns="192.0.2.53")
    assert dns(told(INFORMATION, at=state(without, ONE))) == []


def test_what_another_server_or_nobody_was_asked_is_not_answered() -> None:
    for kind in (REQUEST, RENEW, RELEASE, DECLINE):
        assert asks(kind, STRANGER, ia(IA_NA, OWN)) is None
        assert asks(kind, ia(IA_NA, OWN)) is None, "it does not say whom it asks"
        assert dhcp6.answer(CLOUD, ONE, frame(MAC, message(kind, SERVER, ia(IA_NA, OWN)))) is None, "nor who asks"
    for kind in (SOLICIT, CONFIRM, REBIND):
        assert asks(kind, SERVER, ia(IA_NA, OWN)) is None, "all servers are asked, and one is named"
        assert dhcp6.answer(CLOUD, ONE, frame(MAC, message(kind, ia(IA_NA, OWN)))) is None
    assert asks(INFORMATION, STRANGER) is None
    assert asks(INFORMATION, ia(IA_NA)) is None
    for size in (0, 2, 131):
        named = (CLIENT_ID, bytes(size))
        assert dhcp6.answer(CLOUD, ONE, frame(MAC, message(SOLICIT, named, ia(IA_NA)))) is None
    for kind in (0, ADVERTISE, REPLY, 10, RELAY, 13, 255):
        assert asks(kind, SERVER, ia(IA_NA)) is None


def test_the_server_is_one_whoever_leads_and_another_store_is_another() -> None:
    assert dhcp6.server_id("store") == dhcp6.server_id("store") != dhcp6.server_id("other")
    assert len(dhcp6.server_id("store")) == 18


def test_it_speaks_as_the_router_of_ipv6_in_the_network_if_there_is_one() -> None:
    asked = frame(MAC, message(SOLICIT, OWN_ID, ia(IA_NA)))
    legacy = leg(1, 1, address="10.1.0.254", subnet="10.1.0.0/24")
    own = leg(1, 1, address="fd00:1::fe", subnet="fd00:1::/64", mac=0x02EB_0400_0099)
    nobody = ledger.mac("store", ledger.MacOf.COMPUTE, 0)
    for facts, mac in (((), nobody), ((legacy,), nobody), ((legacy, own), own.mac)):
        answer = dhcp6.answer(state(NET, ONE, router(1), *facts), ONE, asked)
        assert answer is not None
        assert answer[6:12] == mac.to_bytes(6, "big")
        assert answer[22:38] == link_local_of(mac).to_bytes(16, "big")


def test_a_frame_that_is_not_as_clients_send_it_is_not_answered() -> None:
    body = message(SOLICIT, OWN_ID, ia(IA_NA))
    whole = frame(MAC, body)
    assert dhcp6.answer(CLOUD, ONE, whole) is not None
    assert dhcp6.answer(CLOUD, ONE, whole + bytes(9)) is not None, "what fills up a frame does no harm"
    for wrong in (
        frame("02:00:00:00:00:02", body),
        frame(MAC, body, source=OWN),
        frame(MAC, body, source="::"),
        frame(MAC, body, target="ff05::1:3"),
        frame(MAC, body, target="fe80::1"),
        frame(MAC, body, ports=(547, 547)),
        frame(MAC, body, ports=(546, 546)),
        whole[:12] + b"\x81\0\0\7" + whole[12:],
        whole[:12] + b"\x08\0" + whole[14:],
        *(whole[:20] + bytes([following]) + whole[21:] for following in (0, 43, 44, 60, 6)),
        _behind(whole, 60, b"\x11\0\1\4\0\0\0\0"),
        _behind(whole, 44, b"\x11\0\0\0\0\0\0\7"),
    ):
        assert dhcp6.answer(CLOUD, ONE, wrong) is None


def _behind(whole: bytes, following: int, header: bytes) -> bytes:
    """The same packet with an extension header."""
    length = int.from_bytes(whole[18:20], "big") + len(header)
    return whole[:18] + struct.pack("!HB", length, following) + whole[21:54] + header + whole[54:]


def test_a_message_that_is_cut_anywhere_is_not_answered() -> None:
    body = message(REBIND, OWN_ID, ia(IA_NA, OWN, SECOND))
    start = len(message(REBIND, OWN_ID)) + 4
    for end in range(len(body)):
        if end != start - 4:
            assert dhcp6.answer(CLOUD, ONE, frame(MAC, body[:end])) is None, end
    for size in range(len(body) - start):
        cut = message(REBIND, OWN_ID) + option(IA_NA, body[start : start + size])
        whole = size >= 12 and (size - 12) % 28 == 0
        assert (dhcp6.answer(CLOUD, ONE, frame(MAC, cut)) is not None) == whole, size
    for size in range(24):
        short = (IA_NA, b"eth0" + bytes(8) + option(ADDRESS, IPv6Address(OWN).packed.ljust(24, b"\0")[:size]))
        assert asks(REBIND, short) is None, size
    whole = frame(MAC, body)
    for end in range(len(whole)):
        assert dhcp6.answer(CLOUD, ONE, whole[:end]) is None, end


def test_the_most_that_can_be_told_fits_into_the_smallest_packet_of_ipv6() -> None:
    servers = " ".join(f"2001:db8::{n:x}" for n in range(1, 21))
    least = msgspec.structs.replace(NET, mtu=1280, dns=servers)
    many = tuple(f"fd00:1::{n:x}" for n in range(1, 40))
    at = state(least, msgspec.structs.replace(ONE, addresses=many))
    named = (CLIENT_ID, bytes(130))
    answer = dhcp6.answer(at, at.ports["p1"], frame(MAC, message(SOLICIT, named, ia(IA_NA), ia(IA_TA), ia(IA_PD))))
    assert answer is not None
    assert len(answer) <= 1280 + 14
    assert len(unwrap(answer, MAC).lives) == dhcp6.MOST
    crowd = [ia(IA_TA, name=struct.pack("!I", n)) for n in range(140)]
    assert dhcp6.answer(at, at.ports["p1"], frame(MAC, message(SOLICIT, named, *crowd))) is None


KINDS = st.sampled_from([SOLICIT, REQUEST, CONFIRM, RENEW, REBIND, RELEASE, DECLINE, INFORMATION, RELAY, 0, 255])
ADDRESSES = st.sampled_from([OWN, SECOND, ANOTHERS, FAR, "::", "fe80::1"])
ASSOCIATIONS = st.builds(
    lambda kind, held, name: ia(kind, *held, name=name),
    *(st.sampled_from([IA_NA, IA_TA, IA_PD]), st.lists(ADDRESSES, max_size=3), st.sampled_from([b"eth0", b"eth1"])),
)
OPTIONS = st.one_of(
    *(ASSOCIATIONS, st.sampled_from([SERVER, STRANGER, OWN_ID, (RAPID, b"")])),
    st.tuples(st.integers(0, 40), st.binary(max_size=40)),
)
MESSAGES = st.builds(lambda kind, more: message(kind, *more), KINDS, st.lists(OPTIONS, max_size=6))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A frame of a client's, some of its bytes changed, perhaps cut."""
    found = bytearray(frame(MAC, draw(MESSAGES)))
    for _ in range(draw(st.integers(0, 4))):
        found[draw(st.integers(12, len(found) - 1))] = draw(st.integers(0, 255))
    return bytes(found[: draw(st.integers(0, len(found)))] if draw(st.booleans()) else found)


@given(st.one_of(mutated(), st.binary(max_size=200), MESSAGES.map(lambda body: frame(MAC, body))))
def test_whatever_is_sent_nobody_is_given_what_is_anothers(data: bytes) -> None:
    assert dhcp.answer(CLOUD, ONE, data) is None
    answer = dhcp6.answer(CLOUD, ONE, data)
    if answer is None:
        return
    assert answer[:6] == ONE.mac.to_bytes(6, "big")
    assert packets.checksum(answer[22:54] + struct.pack("!II", len(answer) - 54, 17) + answer[54:]) == 0
    told = message(answer[62]) + answer[66:]
    found = _lives(told)
    assert {address for address, life in found if life} <= set(OWN_LIVES)
    assert all(IPv6Address(address).packed in data for address, life in found if not life), "only what it has named"


def _lives(told: bytes) -> list[tuple[str, int]]:
    """All addresses that stand anywhere in an answer, with their lifetimes."""
    held = [one for n, data in options(told[4:]) if n in (IA_NA, IA_TA, IA_PD) for one in inner(n, data)]
    values = [value for number, value in held if number == ADDRESS]
    return [(str(IPv6Address(value[:16])), int.from_bytes(value[20:24], "big")) for value in values]


@given(MESSAGES, st.sampled_from(["p1", "p2", "p3"]))
def test_nobody_is_answered_who_speaks_with_anothers_mac(body: bytes, by: str) -> None:
    answer = dhcp6.answer(CLOUD, CLOUD.ports[by], frame(MAC, body))
    assert answer is None or by == "p1"
