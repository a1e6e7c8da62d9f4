"""A session read top-down as a conversation; then the same one with cut, changed and hostile bytes.

Some 500 lines: the hostile half replays the transcript of the first, so both stay together.
"""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from ebbtide.errors import LocalProtocolError, RemoteProtocolError
from ebbtide.ovsdb import (
    ZERO_UUID,
    DatabaseSchema,
    LockState,
    Replica,
    RowChange,
    Session,
    State,
    Transaction,
    Uuid,
    Watch,
    eq,
    parse_schema,
)
from ebbtide.ovsdb import events as ev

SCHEMA = {
    "name": "d",
    "version": "1.0.0",
    "tables": {
        "T": {
            "isRoot": True,
            "columns": {
                "name": {"type": "string"},
                "tag": {"type": {"key": "integer", "min": 0}},
                "ids": {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}},
                "refs": {"type": {"key": "uuid", "min": 0, "max": "unlimited"}},
            },
        }
    },
}
A = Uuid("aaaaaaaa-0000-0000-0000-000000000000")
B = Uuid("bbbbbbbb-0000-0000-0000-000000000000")
T1 = "00000000-0000-0000-0000-000000000001"
T2 = "00000000-0000-0000-0000-000000000002"


def schema() -> DatabaseSchema:
    return parse_schema(SCHEMA)


def row(name: str = "", tag: int | None = None, ids: dict[str, str] | None = None, refs: Any = ()) -> dict[str, Any]:
    return {"name": name, "tag": tag, "ids": ids or {}, "refs": frozenset(refs)}


def sent(session: Session) -> list[dict[str, Any]]:
    return msgspec.json.decode(b"[" + session.data_to_send().replace(b'}{"id"', b'},{"id"') + b"]")


def says(session: Session, **message: Any) -> list[ev.Event]:
    return session.receive(msgspec.json.encode(message))


def reply(session: Session, number: int, result: Any) -> list[ev.Event]:
    return says(session, id=number, result=result, error=None)


def monitored(last_id: str = T1) -> tuple[Session, Replica]:
    session, replica = Session(), Replica(schema())
    number = session.monitor(replica)
    contents = {"T": {A: {"initial": {"name": "a", "ids": ["map", [["k", "v"]]]}}, B: {"initial": {}}}}
    reply(session, number, [False, last_id, contents])
    session.data_to_send()
    return session, replica


def update3(session: Session, rows: Any, last_id: str = T2) -> list[ev.Event]:
    return says(session, id=None, method="update3", params=["monitor-1", last_id, {"T": rows}])


# ---- the conversation ---------------------------------------------------------------------------------------------


def test_a_monitor_from_contents_to_changes() -> None:
    session, replica = Session(), Replica(schema(), {"T": Watch(("name", "tag", "ids", "refs"), (eq("tag", 1), True))})
    number = session.monitor(replica)
    (request,) = sent(session)
    assert request == {
        "id": 1,
        "method": "monitor_cond_since",
        "params": [
            "d",
            "monitor-1",
            {"T": [{"columns": ["name", "tag", "ids", "refs"], "where": [["tag", "==", 1], True]}]},
            ZERO_UUID,
        ],
    }
    (synced,) = reply(session, number, [False, T1, {"T": {A: {"initial": {"name": "a", "tag": 4}}}}])
    assert synced == ev.Synced(1, replica, False, [RowChange("T", A, None, row("a", 4))])

    (updated,) = update3(session, {A: {"modify": {"tag": ["set", []], "ids": ["map", [["k", "v"]]]}}})
    assert updated == ev.Updated(replica, [RowChange("T", A, row("a", 4), row("a", None, {"k": "v"}))])

    # In a difference, the pair that is there goes, another value replaces, a new key comes; elements likewise.
    update3(session, {A: {"modify": {"ids": ["map", [["x", "1"]]], "refs": ["set", [["uuid", A], ["uuid", B]]]}}})
    update3(session, {A: {"modify": {"ids": ["map", [["k", "v"], ["x", "2"]]], "refs": ["uuid", A]}}})
    assert replica.row("T", A) == row("a", None, {"x": "2"}, [B])

    (updated,) = update3(session, {A: {"delete": None}, B: {"insert": {"name": "b"}}})
    assert [(change.uuid, change.new) for change in updated.changes] == [(A, None), (B, row("b"))]
    assert replica.last_id == T2


def test_an_update_that_changes_nothing_has_no_changes() -> None:
    session, _ = monitored()
    assert update3(session, {A: {"modify": {"name": "a"}}, B: {"insert": {}}})[0].changes == []


def test_resume_and_full_contents_add_up() -> None:
    _, replica = monitored()
    session = Session()
    number = session.monitor(replica)
    assert sent(session)[0]["params"][3] == T1
    (synced,) = reply(session, number, [True, T2, {"T": {B: {"modify": {"tag": 3}}}}])
    assert synced.found
    assert synced.changes == [RowChange("T", B, row(), row("", 3))]

    session = Session()
    number = session.monitor(replica)
    kept = replica.row("T", B)
    (synced,) = reply(session, number, [False, T1, {"T": {B: {"initial": {"tag": 3}}}}])
    assert not synced.found
    assert synced.changes == [RowChange("T", A, row("a", None, {"k": "v"}), None)]
    assert replica.row("T", B) is kept


@pytest.mark.parametrize("error", ["unknown method", {"error": "unknown method"}])
def test_old_servers_get_old_monitors(error: object) -> None:
    session, replica = Session(), Replica(schema(), {"T": Watch(("name", "tag"), (eq("tag", 1),))})
    number = session.monitor(replica)
    session.data_to_send()
    assert says(session, id=1, error=error) == []
    assert [(r["method"], len(r["params"])) for r in sent(session)] == [("monitor_cond", 3)]
    assert says(session, id=2, error=error) == []
    (request,) = sent(session)
    assert request["method"] == "monitor"
    assert request["params"][2] == {"T": [{"columns": ["name", "tag"]}]}
    name = request["params"][1]
    (synced,) = reply(session, 3, {"T": {A: {"new": {"name": "a", "tag": 1}}}})
    assert (synced.request, synced.found) == (number, False)
    new = {"name": "a", "tag": ["set", []]}
    (updated,) = says(session, id=None, method="update", params=[name, {"T": {A: {"old": {"tag": 1}, "new": new}}}])
    assert updated.changes == [RowChange("T", A, {"name": "a", "tag": 1}, {"name": "a", "tag": None})]
    (updated,) = says(session, id=None, method="update", params=[name, {"T": {A: {"old": new}}}])
    assert replica.rows("T") == {}
    with pytest.raises(LocalProtocolError):
        session.change_where(replica, {"T": []})
    session.monitor(Replica(schema()))
    assert sent(session)[0]["method"] == "monitor"


def test_a_refused_monitor_leaves_the_replica_free() -> None:
    session, replica = Session(), Replica(schema())
    session.monitor(replica)
    (failed,) = says(session, id=1, error={"error": "unknown database", "details": "d"})
    assert (failed.method, failed.error.error) == ("monitor_cond_since", "unknown database")
    session.monitor(replica)


def test_a_monitor_given_up_before_its_contents_is_answered() -> None:
    session, replica = Session(), Replica(schema())
    number = session.monitor(replica)
    with pytest.raises(LocalProtocolError):
        replica.adopt(schema())
    session.monitor_cancel(replica)
    (failed,) = reply(session, number, [False, T1, {"T": {A: {"initial": {}}}}])
    assert (failed.request, failed.error.error) == (number, "canceled")
    assert len(replica) == 0


def test_a_bad_update_changes_nothing_and_asks_for_all_next_time() -> None:
    session, replica = monitored()
    before = dict(replica.rows("T"))
    (broken,) = update3(session, {B: {"modify": {"tag": 3}}, A: {"modify": {"tag": "x"}}})
    assert isinstance(broken, ev.Broken)
    assert "table T, column tag" in str(broken.error)
    assert replica.rows("T") == before
    assert not replica.synced
    assert replica.last_id == ZERO_UUID
    assert session.state is State.BROKEN
    with pytest.raises(RemoteProtocolError):
        session.receive(b"{}")
    with pytest.raises(LocalProtocolError):
        session.echo()


def test_a_change_of_conditions_that_was_not_answered_is_not_resumed() -> None:
    session, replica = monitored()
    session.change_where(replica, {"T": [eq("name", "z")]})
    session.receive_eof()
    session = Session()
    session.monitor(replica)
    params = sent(session)[0]["params"]
    assert params[3] == ZERO_UUID
    assert params[2]["T"][0]["where"] == [["name", "==", "z"]]


def test_a_session_that_was_replaced_does_not_feed_the_replica() -> None:
    old, replica = monitored()
    Session().monitor(replica)
    (event,) = update3(old, {A: {"delete": None}})
    assert isinstance(event, ev.Ignored)
    assert len(replica) == 2
    old.receive_eof()


def test_events_before_garbage_come_out() -> None:
    session, replica = monitored()
    message = {"id": None, "method": "update3", "params": ["monitor-1", T2, {"T": {A: {"delete": None}}}]}
    events = session.receive(msgspec.json.encode(message) + b"{garbage}")
    assert [type(event) for event in events] == [ev.Updated, ev.Broken]
    assert len(replica) == 1


def test_echo_is_answered_and_unknown_requests_are_refused() -> None:
    session = Session()
    assert says(session, id="echo", method="echo", params=[1, {"a": None}]) == []
    assert sent(session) == [{"id": "echo", "result": [1, {"a": None}], "error": None}]
    assert isinstance(says(session, id=0, method="steal_everything", params=[])[0], ev.Ignored)
    (refusal,) = sent(session)
    assert refusal["error"]["error"] == "unknown method"
    assert session.ignored == 1
    number = session.echo()
    assert reply(session, number, []) == [ev.EchoReplied(number)]


def test_late_and_unknown_things_are_ignored_and_counted() -> None:
    session, _ = monitored()
    for message in (
        {"id": 99, "result": {}, "error": None},
        {"id": True, "result": {}, "error": None},
        {"id": 1.0, "result": {}, "error": None},
        {"id": ["x"], "result": {}, "error": None},
        {"id": None, "method": "update3", "params": ["other", T1, {}]},
        {"id": None, "method": "update2", "params": [["other"], {}]},
        {"id": None, "method": "monitor_canceled", "params": [{}]},
        {"id": None, "method": "news", "params": []},
    ):
        (event,) = says(session, **message)
        assert isinstance(event, ev.Ignored)
    assert session.ignored == 8
    assert session.state is State.OPEN


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"id": None, "result": 1},
        {"id": 1, "method": "echo"},
        {"id": 1, "method": "echo", "params": {}},
        {"id": 1, "method": "echo", "params": [], "result": 1},
        {"id": 2, "result": 1, "error": "x"},
        {"id": 2, "error": 5},
        {"id": 2, "result": {"locked": 1}},
        {"id": None, "method": "stolen", "params": ["l"]},
        {"id": None, "method": "locked", "params": ["l"]},
        {"id": None, "method": "locked", "params": []},
        {"id": None, "method": "update3", "params": ["monitor-1", T1]},
        {"id": None, "method": "update3", "params": ["monitor-1", "x", {}]},
        {"id": None, "method": "update3", "params": ["monitor-1", T1, []]},
        {"id": None, "method": "update3", "params": ["monitor-1", T1, {"U": {}}]},
        {"id": None, "method": "update3", "params": ["monitor-1", T1, {"T": {"x": {"insert": {}}}}]},
        {"id": None, "method": "update3", "params": ["monitor-1", T1, {"T": {A: {}}}]},
        {"id": None, "method": "update3", "params": ["monitor-1", T1, {"T": {A: {"modify": {"no": 1}}}}]},
        {"id": None, "method": "update3", "params": ["monitor-1", T1, {"T": {ZERO_UUID: {"delete": None}}}]},
    ],
)
def test_wrong_messages_break_the_session(message: dict[str, Any]) -> None:
    session, replica = monitored()
    session.lock("l")
    (event,) = says(session, **message)
    assert isinstance(event, ev.Broken)
    assert not replica.synced


def test_locks_by_their_table() -> None:
    session = Session()
    number = session.lock("l")
    with pytest.raises(LocalProtocolError):
        session.lock("l")
    with pytest.raises(LocalProtocolError):
        session.lock("not an id")
    assert reply(session, number, {"locked": False}) == [ev.LockAnswered(number, "l", False)]
    assert says(session, id=None, method="locked", params=["l"]) == [ev.Locked("l")]
    assert says(session, id=None, method="stolen", params=["l"]) == [ev.Stolen("l")]
    assert session.lock_state("l") is LockState.WAITING
    number = session.unlock("l")
    # It crossed our unlock on the wire.
    assert isinstance(says(session, id=None, method="locked", params=["l"])[0], ev.Ignored)
    assert reply(session, number, {}) == [ev.Done(number)]
    assert session.lock_state("l") is LockState.FREE


def test_the_end_of_the_connection_names_what_is_unknown() -> None:
    session, replica = monitored()
    number = session.transact(Transaction(schema()))
    assert session.receive_eof() == (number,)
    assert not replica.synced
    assert session.state is State.CLOSED


def test_a_transaction_is_answered_operation_by_operation() -> None:
    transaction = Transaction(schema())
    made = transaction.insert("T", {"name": "a", "refs": [A]}, name="x", uuid=B)
    transaction.update("T", [eq("refs", {made})], {"tag": None})
    chosen = transaction.select("T")
    assert list(transaction.operations) == [
        {
            "op": "insert",
            "table": "T",
            "row": {"name": "a", "refs": ["set", [["uuid", A]]]},
            "uuid-name": "x",
            "uuid": B,
        },
        {
            "op": "update",
            "table": "T",
            "where": [["refs", "==", ["set", [["named-uuid", "x"]]]]],
            "row": {"tag": ["set", []]},
        },
        {"op": "select", "table": "T", "where": []},
    ]
    session = Session()
    found = {"_uuid": ["uuid", B], "_version": ["uuid", A], "name": "a"}
    number = session.transact(transaction)
    (event,) = reply(session, number, [{"uuid": ["uuid", B]}, {"count": 1}, {"rows": [found]}])
    assert event.outcome.uuid_of(made) == B
    assert event.outcome.count(1) == 1
    assert event.outcome.rows(chosen) == ({"_uuid": B, "_version": A, "name": "a"},)

    number = session.transact(transaction)
    (event,) = reply(session, number, [{}, {}, {}, {"error": "constraint violation", "details": "why"}])
    assert str(event.outcome.error) == "operation 3: constraint violation (why)"


@pytest.mark.parametrize(
    "result",
    [
        None,
        {},
        [],
        [{}, {}],
        [None, None, None],
        [{"uuid": 1}, {"count": 1}, {"rows": []}],
        [{"uuid": ["uuid", A]}, {"count": True}, {"rows": []}],
        [{"uuid": ["uuid", A]}, {"count": 1}, {"rows": {}}],
        [{"uuid": ["uuid", A]}, {"count": 1}, {"rows": [{"name": 1}]}],
        [{"error": 5}, None, None],
        [{}, {}, {}, {}, {}],
    ],
)
def test_wrong_replies_to_a_transaction(result: object) -> None:
    transaction = Transaction(schema())
    transaction.insert("T", {})
    transaction.delete("T", [])
    transaction.select("T")
    session = Session()
    (event,) = reply(session, session.transact(transaction), result)
    assert isinstance(event, ev.Broken)


# ---- cut and changed bytes ----------------------------------------------------------------------------------------


def transcript() -> tuple[Session, Replica, bytes]:
    """A session that has asked for much, and all that a server would answer."""
    session, replica = Session(), Replica(schema())
    session.list_dbs()
    session.get_schema("d")
    session.monitor(replica)
    session.lock("l")
    transaction = Transaction(schema())
    transaction.insert("T", {})
    transaction.select("T")
    session.transact(transaction)
    contents = {"T": {A: {"initial": {"name": 'q"}{\\', "tag": 4, "ids": ["map", [["k", "v"]]]}}, B: {"initial": {}}}}
    modified = {"tag": 7, "ids": ["map", [["é", "}{"]]], "refs": ["uuid", A]}
    messages = [
        {"id": 1, "result": ["d", "_Server"], "error": None},
        {"id": 2, "result": SCHEMA, "error": None},
        {"id": "e", "method": "echo", "params": ["{"]},
        {"id": 3, "result": [False, T1, contents], "error": None},
        {"id": 4, "result": {"locked": True}, "error": None},
        {"id": None, "method": "stolen", "params": ["l"]},
        {"id": None, "method": "update3", "params": ["monitor-3", T2, {"T": {A: {"modify": modified}}}]},
        {"id": 5, "result": [{"uuid": ["uuid", B]}, {"rows": [{"name": "x"}]}], "error": None},
        {"id": None, "method": "monitor_canceled", "params": ["monitor-3"]},
    ]
    return session, replica, b"".join(map(msgspec.json.encode, messages))


def shown(events: list[ev.Event]) -> list[str]:
    names = [type(event).__name__ for event in events]
    changes = [str(event.changes) for event in events if isinstance(event, (ev.Synced, ev.Updated))]
    return names + changes


def test_one_byte_at_a_time_equals_the_whole() -> None:
    session, replica, data = transcript()
    whole = session.receive(data)
    answer = session.data_to_send()
    assert [type(event).__name__ for event in whole] == [
        "DatabasesListed",
        "SchemaReceived",
        "Synced",
        "LockAnswered",
        "Stolen",
        "Updated",
        "Transacted",
        "MonitorCanceled",
    ]
    slow_session, slow_replica, _ = transcript()
    slow = [event for byte in data for event in slow_session.receive(bytes([byte]))]
    assert shown(slow) == shown(whole)
    assert slow_replica.rows("T") == replica.rows("T")
    assert slow_session.data_to_send() == answer


VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    2**63,
    10**25,
    "",
    "x",
    [],
    {},
    [[]],
    ["set", []],
    ["uuid", "x"],
    ["map", []],
]


def mutated(value: Any, dice: random.Random) -> Any:
    """One place of a JSON value replaced by something else."""
    if isinstance(value, (dict, list)) and value and dice.random() < 0.85:
        if isinstance(value, dict):
            key = dice.choice(list(value))
            changed = dict(value)
            if dice.random() < 0.1:
                changed[dice.choice(["x", "T", "set", A])] = changed.pop(key)
            else:
                changed[key] = mutated(value[key], dice)
            return changed
        index = dice.randrange(len(value))
        return [*value[:index], mutated(value[index], dice), *value[index + 1 :]]
    return dice.choice(VALUES)


def survives(data: bytes) -> None:
    """Nothing but events; after a Broken one, nothing but RemoteProtocolError; changes add up to the contents."""
    session, replica, _ = transcript()
    events = session.receive(data)
    assert all(not isinstance(event, ev.Broken) for event in events[:-1])
    seen = {}
    for event in events:
        for change in event.changes if isinstance(event, (ev.Synced, ev.Updated)) else ():
            assert seen.get(change.uuid) == change.old
            seen[change.uuid] = change.new
    assert {uuid: new for uuid, new in seen.items() if new is not None} == replica.rows("T")
    session.data_to_send()
    session.receive_eof()


@pytest.mark.parametrize("seed", range(8))
def test_messages_with_one_wrong_place(seed: int) -> None:
    dice = random.Random(seed)
    _, _, data = transcript()
    messages = split(data)
    for _ in range(400):
        index = dice.randrange(len(messages))
        changed = [*messages[:index], mutated(messages[index], dice), *messages[index + 1 :]]
        survives(b"".join(map(msgspec.json.encode, changed)))


def split(data: bytes) -> list[Any]:
    decoder, text, found = json.JSONDecoder(), data.decode(), []
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


@pytest.mark.parametrize("seed", range(4))
def test_bytes_changed_cut_and_put_in(seed: int) -> None:
    dice = random.Random(seed)
    _, _, data = transcript()
    for _ in range(400):
        changed = bytearray(data)
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(len(changed))
            match dice.randrange(3):
                case 0:
                    changed[at] = dice.randrange(256)
                case 1:
                    del changed[at : at + dice.randrange(1, 30)]
                case _:
                    changed[at:at] = dice.choice([b"{", b"}", b'"', b"\\", b"[" * 5000, b'{"a":' * 70, b"\0", b"1e400"])
        survives(bytes(changed))


def test_deep_and_huge_things_do_not_leak() -> None:
    for params in (b"[" * 900 + b"]" * 900, b"[" + b"1" * 400 + b"]", b"[" + b"1" * 4000 + b"]"):
        session = Session()
        events = session.receive(b'{"id":1,"method":"echo","params":' + params + b"}")
        assert [type(event) for event in events] in ([], [ev.Broken])
    deep = b'{"a":' * 60 + b"1" + b"}" * 60
    session, _ = monitored()
    session.receive(b'{"id":null,"method":"update3","params":["monitor-1","' + T1.encode() + b'",' + deep + b"]}")
    assert session.state is State.BROKEN
