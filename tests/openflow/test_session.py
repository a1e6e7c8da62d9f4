"""A session, read from top to bottom as a conversation with a switch that is only bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.compile.flow import Flow, match
from ebbtide.errors import LocalProtocolError, RemoteProtocolError
from ebbtide.openflow import flows, multipart, session, versions
from ebbtide.openflow import messages as m
from ebbtide.openflow.framing import FrameBuffer, message
from ebbtide.openflow.session import Collected, Event, Ready, Received, Refused, Session, State

FEATURES = m.FeaturesReply(0xAB, 0, 254, 0, 0x4F)


def sent(s: Session) -> list[tuple[int, m.Message]]:
    """What the session wants to send, decoded."""
    return [(frame.xid, m.decode(frame)) for frame in FrameBuffer().feed(s.data_to_send())]


def ready(version: int = 5) -> Session:
    s = Session()
    s.receive(m.encode(m.Hello((version,)), 1, version) + m.encode(FEATURES, 2, version))
    assert s.state is State.READY
    s.data_to_send()
    return s


def test_handshake() -> None:
    s = Session()
    assert s.state is State.HELLO_WAIT
    assert sent(s) == [(1, m.Hello((5, 4)))]
    assert s.receive(m.encode(m.Hello((5, 4, 1)), 9)) == []
    assert (s.state, s.version) == (State.FEATURES_WAIT, 5)
    assert sent(s) == [(2, m.FeaturesRequest())]
    assert s.receive(m.encode(FEATURES, 2)) == [Ready(5, FEATURES)]
    assert (s.state, s.features) == (State.READY, FEATURES)
    assert s.data_to_send() == b""


@pytest.mark.parametrize(
    ("accept", "hello", "version"),
    [
        ((5, 4), m.encode(m.Hello((4, 1)), 1, 4), 4),
        ((4,), m.encode(m.Hello((6, 5, 4, 1)), 1, 6), 4),
        # No bitmap: the header's version and all below it.
        ((5, 4), message(4, 0, 1), 4),
        ((5, 4), message(6, 0, 1), 5),
    ],
)
def test_negotiation(accept: tuple[int, ...], hello: bytes, version: int) -> None:
    s = Session(accept)
    s.receive(hello)
    assert s.version == version


def test_no_version_in_common() -> None:
    s = Session()
    s.data_to_send()
    with pytest.raises(RemoteProtocolError, match="no OpenFlow version in common"):
        s.receive(m.encode(m.Hello((1,)), 1, 1))
    ((_, error),) = sent(s)
    assert isinstance(error, m.Error)
    assert (error.type, error.code) == (0, 0)
    assert s.state is State.ERROR


def test_echo_is_answered() -> None:
    s = ready()
    assert s.receive(m.encode(m.EchoRequest(b"ping"), 77)) == []
    assert sent(s) == [(77, m.EchoReply(b"ping"))]


def test_echo_before_the_hello_is_answered() -> None:
    s = Session()
    s.data_to_send()
    s.receive(m.encode(m.EchoRequest(b"x"), 3, 1))
    assert sent(s) == [(3, m.EchoReply(b"x"))]


def test_echo_flood() -> None:
    s = ready()
    flood = m.encode(m.EchoRequest(b"x" * 60000), 1)
    with pytest.raises(RemoteProtocolError, match="echoes"):
        s.receive(flood * 100)


def test_reply_and_refusal_carry_the_xid() -> None:
    s = ready()
    first, second = s.send(m.BarrierRequest()), s.send(m.RoleRequest(2, 5))
    assert first != second
    assert [xid for xid, _ in sent(s)] == [first, second]
    events = s.receive(m.encode(m.Error(11, 0, b"..."), second) + m.encode(m.BarrierReply(), first))
    assert events == [
        Refused(second, m.Error(11, 0, b"..."), "role_request_failed/stale"),
        Received(first, m.BarrierReply()),
    ]


def test_multipart_is_joined_per_xid() -> None:
    s = ready()
    one, two = s.send(multipart.flow_request()), s.send(multipart.port_desc_request())
    reply = m.MultipartReply
    events = s.receive(
        m.encode(reply(multipart.FLOW, b"a" * 8, multipart.MORE), one)
        + m.encode(reply(multipart.PORT_DESC, b"b" * 8, multipart.MORE), two)
        + m.encode(reply(multipart.FLOW, b"c" * 8), one)
    )
    assert events == [Collected(one, multipart.FLOW, b"a" * 8 + b"c" * 8)]
    assert s.receive(m.encode(reply(multipart.PORT_DESC, b""), two)) == [Collected(two, multipart.PORT_DESC, b"b" * 8)]


def test_refused_multipart_is_forgotten() -> None:
    s = ready()
    xid = s.send(multipart.flow_request())
    assert [type(e) for e in s.receive(m.encode(m.Error(1, 2), xid))] == [Refused]
    with pytest.raises(RemoteProtocolError, match="asked for nothing"):
        s.receive(m.encode(m.MultipartReply(multipart.FLOW, b""), xid))


def test_multipart_nobody_asked_for() -> None:
    with pytest.raises(RemoteProtocolError, match="asked for nothing"):
        ready().receive(m.encode(m.MultipartReply(multipart.FLOW, b""), 999))


def test_multipart_of_another_kind() -> None:
    s = ready()
    xid = s.send(multipart.flow_request())
    with pytest.raises(RemoteProtocolError, match="kind"):
        s.receive(m.encode(m.MultipartReply(multipart.PORT_DESC, b""), xid))


@pytest.mark.parametrize("size", [0, 60000])
def test_multipart_without_end(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_MULTIPART_BYTES", 1_000_000)
    s = ready()
    part = m.encode(m.MultipartReply(multipart.FLOW, b"\0" * size, multipart.MORE), s.send(multipart.flow_request()))
    with pytest.raises(RemoteProtocolError, match="more than"):
        s.receive(part * (20 if size else 20_000))
    assert s.state is State.ERROR


def test_too_many_multiparts() -> None:
    s = ready()
    for _ in range(session.MAX_MULTIPARTS):
        s.send(multipart.flow_request())
    with pytest.raises(LocalProtocolError):
        s.send(multipart.flow_request())


def test_nothing_before_the_hello() -> None:
    s = Session()
    with pytest.raises(RemoteProtocolError, match="before the hello"):
        s.receive(m.encode(FEATURES, 1))


def test_second_hello() -> None:
    with pytest.raises(RemoteProtocolError, match="second hello"):
        ready().receive(m.encode(m.Hello((5,)), 1))


def test_another_version_after_the_hello() -> None:
    with pytest.raises(RemoteProtocolError, match="version 4"):
        ready(5).receive(m.encode(m.BarrierReply(), 1, 4))


def test_hello_refused_by_the_switch() -> None:
    with pytest.raises(RemoteProtocolError, match="hello_failed/incompatible"):
        Session().receive(m.encode(m.Error(0, 0, b"no"), 1, 4))


def test_an_error_lasts() -> None:
    s = ready()
    with pytest.raises(RemoteProtocolError):
        s.receive(b"GET / HTTP/1.1\r\n")
    assert s.state is State.ERROR
    with pytest.raises(RemoteProtocolError):
        s.receive(m.encode(m.BarrierReply(), 1))
    with pytest.raises(LocalProtocolError, match="broke"):
        s.send(m.BarrierRequest())
    s.close()
    assert s.state is State.ERROR


def test_closed() -> None:
    s = ready()
    s.close()
    assert s.state is State.CLOSED
    with pytest.raises(LocalProtocolError):
        s.receive(b"")
    with pytest.raises(LocalProtocolError):
        s.send_bytes(b"")


def test_not_before_ready() -> None:
    with pytest.raises(LocalProtocolError, match="waits for the peer"):
        Session().send(m.BarrierRequest())


def test_versions_we_do_not_speak() -> None:
    for accept in ((), (1,), (6,)):
        with pytest.raises(LocalProtocolError):
            Session(accept)


def test_xids_wrap() -> None:
    s = ready()
    s._next_xid = session.MAX_XID - 5
    assert s.take_xids(3) == session.MAX_XID - 5
    assert s.take_xids(10) == 1


@pytest.mark.parametrize("version", [4, 5])
def test_bundle(version: int) -> None:
    s = ready(version)
    first = s.take_xids(2)
    encoded = flows.encode_flow(Flow(0, 1, match(in_port=1)))
    data = [flows.flow_add_bytes(encoded, first + n, version) for n in range(2)]
    xid = s.send_bundle(7, data)
    assert sent(s) == [
        (xid, m.BundleControl(7, m.BUNDLE_OPEN)),
        (first, m.BundleAdd(7, data[0])),
        (first + 1, m.BundleAdd(7, data[1])),
        (xid, m.BundleControl(7, m.BUNDLE_COMMIT)),
    ]


def conversation(version: int) -> bytes:
    """All that a switch might say, after the handshake and before it."""
    key = flows.encode_flow(Flow(1, 2, match(in_port=1, eth_type=0x800))).match
    port = versions.PortFields(1, 0x020000000001, "p1", 0, 4, 1, 2, 3, 4, 5, 6)
    said: list[m.Message] = [
        m.Hello((version,)),
        FEATURES,
        m.EchoRequest(b"e"),
        m.PortStatus(2, port),
        m.FlowRemoved(1, 2, key, 5, 0, 6, 7, 8.25, 9, 10),
        m.PacketIn(1, 2, 3, match(in_port=1, reg0=(1, 3)), b"packet", 100),
        m.RoleReply(2, 5),
        m.BundleControl(1, m.BUNDLE_OPENED),
        m.Error(4, 9, b"z" * 64),
        m.BarrierReply(),
        m.Other(31, b"table status"),
    ]
    return b"".join(m.encode(message, n, version) for n, message in enumerate(said))


@pytest.mark.parametrize("version", [4, 5])
@given(cuts=st.lists(st.integers(1, 60), max_size=40))
def test_cuts_do_not_matter(version: int, cuts: list[int]) -> None:
    stream = conversation(version)
    whole = Session()
    expected = whole.receive(stream)
    assert len(expected) == 9
    s = Session()
    events: list[Event] = []
    pos = 0
    for cut in [*cuts, *([1] * len(stream))]:
        events += s.receive(stream[pos : pos + cut])
        pos += cut
    assert events == expected
    assert s.data_to_send() == whole.data_to_send()


@given(st.lists(st.binary(max_size=200), max_size=5), st.booleans())
def test_fuzzed_sessions(chunks: list[bytes], valid_start: bool) -> None:
    s = ready() if valid_start else Session()
    for chunk in chunks:
        try:
            s.receive(chunk)
        except RemoteProtocolError:
            assert s.state is State.ERROR


@given(st.integers(0, 35), st.binary(max_size=200))
def test_fuzzed_messages(kind: int, body: bytes) -> None:
    s = ready()
    try:
        s.receive(message(5, kind, 1, body))
    except RemoteProtocolError:
        assert s.state is State.ERROR
