"""What passes the wires has names that repeat, and a controller dies where it is told to; the next one brings all to the same end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ebbtide.compile import ledger
from ebbtide.model.facts import MovePhase
from ebbtide.openflow import flows, versions
from ebbtide.openflow import messages as m
from ebbtide.openflow.framing import FrameBuffer
from tests.sweep import choice, dumps, points
from tests.sweep.scenario import Outcome, run
from tests.sweep.wires import AFTER, BEFORE, JsonStream, Strike


def on_switches(test: Any) -> Any:
    """A test that runs the fleet: all of these have the first run in common."""
    return pytest.mark.lab(pytest.mark.timeout(120)(pytest.mark.xdist_group("sweep")(test)))


#: Of a hundred points of flows so many may be in one run alone: one more or less of what is done again, since two changes were one step.
FEW = 3


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run in which nobody is killed."""
    return run(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.alone  # a machine that is kept busy joins two changes into one
@on_switches
def test_a_run_has_the_points_of_another(undisturbed: Outcome, tmp_path: Path) -> None:
    one, other = (choice.places(each.passed) for each in (undisturbed, run(tmp_path)))
    assert len(one) > 500
    assert sorted(undisturbed.dump) == ["c", "c rows", "d", "d rows", "e", "e rows"]
    assert undisturbed.left["a"] == undisturbed.left["b"] == []
    assert dumps.is_let_go(undisturbed.left)
    assert not undisturbed.stale
    differ = one ^ other
    assert len(differ) * 100 <= FEW * len(one | other), sorted(differ)
    moves = {f"update Move[r1] phase={phase} since" for phase in list(MovePhase)[1:]}
    assert moves <= {place.name for place in one & other}
    # Of eleven and eight runs none had another transaction; a machine that is kept busy may join two in one.
    transactions = {place for place in differ if place.wire != "openflow"}
    assert len(transactions) <= FEW, sorted(transactions)


@on_switches
def test_strikes_are_chosen_among_common_points(undisturbed: Outcome) -> None:
    mark = undisturbed.marks["start"]
    found = choice.strikes([undisturbed.passed], mark)
    assert {s.wire for s in found} == {"store", "ovsdb", "openflow"}
    assert Strike("store", "update Move[r1] phase=flip since", when=AFTER) in found
    assert len(found) == len(set(found)) > 100
    assert len(choice.strikes([undisturbed.passed])) > len(found), "less after the start than from the begin"


@on_switches
@pytest.mark.parametrize(
    "strike",
    [
        Strike("store", "update Move[r1] phase=flip since", when=BEFORE),
        Strike("store", "update Move[r1] phase=flip since", when=AFTER),
        Strike("ovsdb", "Bridge br-int external_ids +tombstoned=true", "a", when=BEFORE),
        Strike("ovsdb", "Bridge br-int external_ids +tombstoned=true", "a", when=AFTER),
        Strike("openflow", "add ROUTER/NAT/1", "c", 6, when=BEFORE),
        Strike("openflow", "delete all flows", "b", when=AFTER),
    ],
    ids=lambda s: f"{s.wire}-{s.when}",
)
def test_a_controller_dies_at_a_point_and_the_next_ends_what_it_began(
    strike: Strike, undisturbed: Outcome, tmp_path: Path
) -> None:
    found = run(tmp_path, [strike])
    (blow,) = [index for index, line in enumerate(found.passed) if "struck" in line]
    assert found.passed[blow]["gone"]
    assert found.revived == 1
    named = [
        place for place in choice.places(found.passed[blow:]) if place[:3] == (strike.wire, strike.at, strike.name)
    ]
    if strike.when == BEFORE:
        assert named, "what was held back is done by the next"
    elif strike.wire != "openflow":
        assert not named, "what was passed on is done"
    assert not dumps.differences(dumps.without_leases(undisturbed.dump), dumps.without_leases(found.dump))
    assert dumps.is_let_go(found.left)
    assert not found.stale


# --- names ---


def test_json_texts_are_found_byte_by_byte() -> None:
    texts = [{"method": "echo", "params": [], "id": 'a"}{'}, {"id": 1, "result": {}, "error": None}]
    data = b"\n ".join(json.dumps(text).encode() for text in texts)
    stream = JsonStream()
    found = [pair for at in range(len(data)) for pair in stream.feed(data[at : at + 1])]
    assert [value for value, _ in found] == texts
    assert [json.loads(whole) for _, whole in found] == texts


def test_a_transaction_is_named_by_what_it_changes() -> None:
    def find(table: str, uuid: str) -> dict[str, object] | None:
        return {"router": "r1"} if (table, uuid) == ("Move", "u1") else None

    where = [["_uuid", "==", ["uuid", "u1"]]]
    move = {"op": "update", "table": "Move", "where": where, "row": {"phase": "flip", "since": 7}}
    text = {"op": "update", "table": "Move", "where": where, "row": {"reason": "b is behind"}}
    more = [
        {"op": "assert", "lock": "x"},
        {"op": "mutate", "table": "Global", "where": [], "mutations": [["revision", "+=", 1]]},
    ]
    request = {"method": "transact", "id": 4, "params": ["Ebbtide", *more, move]}
    found = points.of_store(request, find)
    assert found == points.Batch((points.Point("state", "update Move[r1] phase=flip since"),), 4)
    assert points.of_store({**request, "params": ["Ebbtide", *more, text]}, find).kind == points.NOISE


def test_messages_up_to_a_barrier_are_a_batch_and_a_bundle_is_done_by_its_commit() -> None:
    cookie = ledger.cookie(ledger.Kind.PORT, ledger.Feature.L2, 3)
    flow = flows.flow_delete_bytes(8, versions.OF14, 50, cookie, ledger.UPPER_COOKIE_MASK)
    barrier = m.encode(m.BarrierRequest(), 9)

    def take(*parts: bytes) -> list[points.Batch]:
        taken = (cutter.take(frame) for frame in FrameBuffer().feed(b"".join(parts)))
        return [batch for batch in taken if batch is not None]

    cutter = points.FlowBatches()
    assert take(flow, barrier) == [points.Batch((points.Point("state", "delete all PORT/L2/3"),), 9)]
    filled = take(versions.bundle_bytes(1, [flow], 5, versions.OF14, commit=False), barrier)
    assert [batch.kind for batch in filled] == [points.FILL]
    done = take(m.encode(m.BundleControl(1, m.BUNDLE_COMMIT), 10), barrier)
    assert [(p.kind, p.name) for batch in done for p in batch.points] == [("state", "delete all PORT/L2/3")]
    assert take(m.encode(m.EchoRequest(), 11)) == [points.Batch((points.Point("noise", "EchoRequest"),))]
