"""The RPCs in both dialects and both styles, and every bad input that they may get."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from ebbtide.model.facts import Compute, Membership
from tests.north.site import Answer, Site

START, END, RECOVER = (f"scalein-api:scalein-computes-{verb}" for verb in ("start", "end", "recover"))
ROOTS = ("/rests", "/restconf")


def tombstoned(site: Site, compute: Compute) -> bool:
    return site.state.computes[compute.number].tombstoned


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("recover", ["scalein-computes-recover", "scalein-compute-recover"])
def test_start_and_recover(site: Site, root: str, recover: str) -> None:
    a, b = site.compute(), site.compute()
    assert site.rpc(START, [a.name, b.name], root=root)[::2] == (204, b"")
    assert tombstoned(site, a)
    assert tombstoned(site, b)
    assert site.rpc(START, [a.name], root=root).status == 204, "again is already so"
    assert site.rpc(f"scalein-api:{recover}", [a.name], "recover-node-ids", root=root).status == 204
    assert not tombstoned(site, a)
    assert tombstoned(site, b)


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("envelope", ["scalein-api:input", "input"])
def test_both_envelopes(site: Site, root: str, envelope: str) -> None:
    a = site.compute()
    path = f"{root}/operations/{START}"
    assert site.post(path, {envelope: {"scalein-node-ids": [a.name]}}).status == 204
    assert tombstoned(site, a)


def test_every_form_of_id(site: Site) -> None:
    forms: list[Callable[[Compute], str]] = [
        lambda c: c.name,
        lambda c: c.system_id,
        lambda c: str(c.dpid),
        lambda c: c.node_id,
        lambda c: c.bridge_node_id,
    ]
    for form in forms:
        compute = site.compute()
        assert site.rpc(START, [form(compute)]).status == 204
        assert tombstoned(site, compute)


def test_duplicates_are_one(site: Site) -> None:
    a = site.compute()
    assert site.rpc(START, [a.name, a.name, a.node_id]).status == 204
    assert tombstoned(site, a)


def test_the_first_module_name(site: Site) -> None:
    a = site.compute()
    assert site.rpc("scalein-rpc:scalein-computes-start", [a.name]).status == 204
    assert site.rpc("scalein-rpc:scalein-computes-recover", [a.name], "recover-node-ids").status == 204
    assert site.rpc("scalein-rpc:scalein-computes-start", [a.name]).status == 204
    assert site.rpc("scalein-rpc:scalein-computes-end", [a.name]).status == 204
    assert a.number in site.state.removed


def test_end_is_answered_when_it_is_proven(site: Site) -> None:
    a = site.compute(tombstoned=True)
    assert site.rpc(END, [a.name]).status == 204
    assert a.number in site.state.removed
    assert {o.state for o in site.state.operations.values() if a.number in o.computes} == {"done"}
    assert site.rpc(END, [a.name]).status == 204, "again is already so"


def test_end_that_takes_longer_names_its_operation(make_site: Callable[..., Site]) -> None:
    site = make_site(audit_wait=0.0)
    a = site.compute(tombstoned=True)
    answer = site.rpc(END, [a.name])
    assert answer.status == 409
    assert answer.headers["retry-after"] == "2"
    (error,) = answer.errors
    (operation,) = site.state.operations
    assert (error["error-tag"], error["error-app-tag"]) == ("in-use", operation)
    site.wait(lambda: site.state.operations[operation].state == "done")
    assert site.rpc(END, [a.name]).status == 204


# --- refusals: all or nothing, one entry for each id ---


def test_unknown_ids_refuse_the_whole_call(site: Site) -> None:
    a = site.compute()
    answer = site.rpc(START, ["nobody", a.name, "it's me"])
    assert answer.status == 400
    assert [(e["error-tag"], e["error-type"], e["error-path"]) for e in answer.errors] == [
        ("invalid-value", "application", "/scalein-api:input/scalein-node-ids[.='nobody']"),
        ("invalid-value", "application", '/scalein-api:input/scalein-node-ids[.="it\'s me"]'),
    ]
    assert "no compute is known as 'nobody'" in answer.errors[0]["error-message"]
    assert not tombstoned(site, a)


def test_an_ambiguous_id_is_refused(site: Site) -> None:
    a = site.compute(hostname="twin")
    site.compute(hostname="twin")
    answer = site.rpc(START, [a.name, "twin"])
    assert answer.status == 400
    assert "ambiguous" in answer.errors[0]["error-message"]
    assert not tombstoned(site, a)


@pytest.mark.parametrize("body", [{"scalein-node-ids": []}, {}, None])
@pytest.mark.parametrize("root", ROOTS)
def test_no_ids(site: Site, body: Any, root: str) -> None:
    answer = site.post(f"{root}/operations/{START}", {"scalein-api:input": body} if body is not None else None)
    assert answer.status == 400
    (error,) = answer.errors
    assert (error["error-tag"], error["error-path"]) == ("missing-element", "/scalein-api:input/scalein-node-ids")


def test_end_of_what_is_not_tombstoned_or_carries_ports(site: Site) -> None:
    a, b, c = site.compute(), site.compute(tombstoned=True), site.compute(tombstoned=True)
    (port,) = site.port_on(b)
    answer = site.rpc(END, [a.name, b.name, c.name])
    assert answer.status == 409
    first, second = answer.errors
    assert first["error-tag"] == "operation-failed"
    assert "not tombstoned" in first["error-message"]
    assert second["error-tag"] == "in-use"
    assert second["error-info"] == {"remains": [f"port {port.id}"]}
    assert {a.number, b.number, c.number} <= set(site.state.computes)


def test_removed_ones_are_not_started_or_recovered(site: Site) -> None:
    a = site.compute(tombstoned=True)
    assert site.rpc(END, [a.name]).status == 204
    for name, leaf in ((START, "scalein-node-ids"), (RECOVER, "recover-node-ids")):
        answer = site.rpc(name, [a.name], leaf)
        assert answer.status == 409
        assert "readmit" in answer.errors[0]["error-message"]


def test_waiting_ones_are_no_members_yet(site: Site) -> None:
    a = site.compute(membership=Membership.WAITING)
    assert site.rpc(START, [a.name]).status == 409


# --- input that is not what it should be ---


@pytest.mark.parametrize(
    ("given", "tag", "path"),
    [
        ({"scalein-node-ids": "a"}, "invalid-value", "/scalein-api:input/scalein-node-ids"),
        ({"scalein-node-ids": {"a": 1}}, "invalid-value", "/scalein-api:input/scalein-node-ids"),
        ({"scalein-node-ids": ["a", 7]}, "invalid-value", "/scalein-api:input/scalein-node-ids[2]"),
        ({"scalein-node-ids": [None]}, "invalid-value", "/scalein-api:input/scalein-node-ids[1]"),
        ({"scalein-node-ids": [""]}, "invalid-value", "/scalein-api:input/scalein-node-ids[1]"),
        ({"scalein-node-ids": ["x" * 600]}, "invalid-value", "/scalein-api:input/scalein-node-ids[1]"),
        ({"scalein-node-ids": ["a\nb"]}, "invalid-value", "/scalein-api:input/scalein-node-ids[1]"),
        ({"scalein-node-ids": ["a"] * 1025}, "too-big", "/scalein-api:input/scalein-node-ids"),
        ({"scalein-node-ids": ["a"], "force": True}, "unknown-element", "/scalein-api:input/force"),
        ({"recover-node-ids": ["a"]}, "unknown-element", "/scalein-api:input/recover-node-ids"),
        ({"@scalein-node-ids": [1]}, "unknown-attribute", "/scalein-api:input"),
        ([], "invalid-value", "/scalein-api:input"),
        ("a", "invalid-value", "/scalein-api:input"),
        (None, "invalid-value", "/scalein-api:input"),
    ],
)
def test_wrong_input(site: Site, given: Any, tag: str, path: str) -> None:
    revision = site.state.revision
    answer = site.post(f"/rests/operations/{START}", {"scalein-api:input": given})
    assert answer.status == 400
    (error,) = answer.errors
    assert (error["error-tag"], error["error-path"], error["error-type"]) == (tag, path, "protocol")
    assert error["error-message"]
    assert site.state.revision == revision


def test_the_modules_own_prefix_may_be_said(site: Site) -> None:
    a = site.compute()
    assert site.rpc(START, [a.name], "scalein-api:scalein-node-ids").status == 204


@pytest.mark.parametrize(
    ("raw", "tag"),
    [
        (b'{"scalein-api:input": {"scalein-node-ids": ["a"', "malformed-message"),
        (b"", "missing-element"),
        (b"\xff\xfe", "malformed-message"),
        (b"[" * 100_000, "malformed-message"),
        (b'{"a": NaN}', "malformed-message"),
        (b"[]", "malformed-message"),
        (b"{}", "missing-element"),
        (b'{"cloudscaler-rpc:input": {}}', "unknown-element"),
        (b'{"scalein-api:input": {}, "more": 1}', "unknown-element"),
        (b'{"scalein-api:input": {}, "input": {}}', "malformed-message"),
        (b'{"input": {}, "input": {}}', "malformed-message"),
    ],
)
def test_bodies_that_are_no_input(site: Site, raw: bytes, tag: str) -> None:
    revision = site.state.revision
    answer = site.ask("POST", f"/rests/operations/{START}", raw=raw)
    assert (answer.status, answer.errors[0]["error-tag"]) == (400, tag)
    assert site.state.revision == revision


@pytest.mark.parametrize(
    "text",
    [
        '{"input": {"scalein-node-ids": ["A"], "scalein-api:scalein-node-ids": ["B"]}}',
        '{"input": {"scalein-api:scalein-node-ids": ["A"], "scalein-node-ids": ["A"]}}',
        '{"input": {"scalein-node-ids": ["A"], "scalein-node-ids": ["B"]}}',
        '{"input": {"scalein-node-ids": ["A"]}, "scalein-api:input": {"scalein-node-ids": ["B"]}}',
        '{"input": {"scalein-node-ids": ["A"]}, "input": {"scalein-node-ids": ["B"]}}',
    ],
)
def test_what_is_said_twice_is_refused_whole(site: Site, text: str) -> None:
    a, b = site.compute(), site.compute()
    revision = site.state.revision
    raw = text.replace('"A"', f'"{a.name}"').replace('"B"', f'"{b.name}"').encode()
    answer = site.ask("POST", f"/rests/operations/{START}", raw=raw)
    assert (answer.status, answer.errors[0]["error-tag"]) == (400, "malformed-message")
    assert "twice" in answer.errors[0]["error-message"]
    assert site.state.revision == revision


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "application/yang-data+xml", "application/json; charset=latin-1", ""]
)
def test_other_media_types_are_not_read(site: Site, root: str, kind: str) -> None:
    a = site.compute()
    revision = site.state.revision
    raw = json.dumps({"input": {"scalein-node-ids": [a.name]}}).encode()
    answer = site.ask("POST", f"{root}/operations/{START}", raw=raw, headers={"Content-Type": kind})
    assert answer.status == 415
    assert answer.errors[0]["error-message"]
    assert (site.state.revision, tombstoned(site, a)) == (revision, False)


@pytest.mark.parametrize(
    ("root", "kind"),
    [
        ("/rests", "application/yang-data+json"),
        ("/rests", "Application/JSON; charset=UTF-8"),
        ("/restconf", "application/yang.operation+json"),
        ("/restconf", "application/json"),
    ],
)
def test_media_types_that_are_read(site: Site, root: str, kind: str) -> None:
    a = site.compute()
    raw = json.dumps({"input": {"scalein-node-ids": [a.name]}}).encode()
    assert site.ask("POST", f"{root}/operations/{START}", raw=raw, headers={"Content-Type": kind}).status == 204


@pytest.mark.parametrize("declared", [True, False])
def test_ten_megabytes_are_refused(site: Site, declared: bool) -> None:
    a = site.compute()
    revision = site.state.revision
    # What it would do, and then 10 MB of nothing.
    raw = json.dumps({"input": {"scalein-node-ids": [a.name]}}).encode() + b" " * (10 << 20)
    path, headers = f"/rests/operations/{START}", {}
    if not declared:
        pieces = [raw[i : i + 0x10000] for i in range(0, len(raw), 0x10000)]
        raw = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        headers = {"Transfer-Encoding": "chunked"}
    answer = site.ask("POST", path, raw=raw, headers=headers)
    assert (answer.status, answer.errors[0]["error-tag"]) == (413, "too-big")
    assert (site.state.revision, tombstoned(site, a)) == (revision, False)


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_cut_short_does_nothing(site: Site, declared: bool) -> None:
    a = site.compute()
    revision = site.state.revision
    whole = json.dumps({"input": {"scalein-node-ids": [a.name]}}).encode()
    audit = site.state_dir / "audit.log"
    before = audit.read_text().count("\n") if audit.exists() else 0
    head = f"POST /rests/operations/{START} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", site.port)) as connection:
        if declared:
            connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % (len(whole) + 1) + whole)
        else:
            connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
            connection.sendall(b"%x\r\n%s\r\n" % (len(whole), whole))
    site.wait(lambda: audit.exists() and audit.read_text().count("\n") > before)
    line = json.loads(audit.read_text().splitlines()[-1])
    assert (line["status"], line["ids"]) == (400, [])
    assert (site.state.revision, tombstoned(site, a)) == (revision, False)
    assert site.get("/healthz").status == 200


@pytest.mark.parametrize("root", ROOTS)
def test_wrong_methods_and_unknown_operations(site: Site, root: str) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        answer = site.ask(method, f"{root}/operations/{START}")
        assert answer.status == 405
        assert answer.headers["allow"] == "POST, OPTIONS"
        assert answer.errors[0]["error-tag"] == "operation-not-supported"
    assert site.ask("OPTIONS", f"{root}/operations/{START}").headers["allow"] == "POST, OPTIONS"
    for name in ("scalein-api:scalein-computes-stop", "scalein-computes-start", "nothing:at-all"):
        answer = site.rpc(name, ["a"], root=root)
        assert answer.status == 404
        assert START in answer.errors[0]["error-message"]


def test_what_cannot_be_accepted(site: Site) -> None:
    body = {"input": {"scalein-compute-names": ["a"]}}
    path = "/rests/operations/cloudscaler-rpc:scalein-computes-end"
    answer = site.ask("POST", path, body, headers={"Accept": "application/xml, text/html;q=0.5"})
    assert answer.status == 406
    assert answer.headers["content-type"] == "application/yang-data+json"
    assert answer.errors[0]["error-message"]


# --- the dialect that Genius shipped ---


def cloud(site: Site, verb: str, ids: Any, root: str = "/rests") -> Answer:
    leaf = "recover-compute-names" if verb == "recover" else "scalein-compute-names"
    return site.rpc(f"cloudscaler-rpc:scalein-computes-{verb}", ids, leaf, root=root)


@pytest.mark.parametrize(("root", "member"), [("/rests", "cloudscaler-rpc:output"), ("/restconf", "output")])
def test_cloudscaler_from_start_to_done(site: Site, root: str, member: str) -> None:
    a, b = site.compute(), site.compute()
    assert cloud(site, "start", [a.name, b.name], root).status == 204
    assert cloud(site, "recover", [b.name], root).status == 204
    assert cloud(site, "tep-delete", [a.name], root).status == 204
    first = cloud(site, "end", [a.name], root)
    assert (first.status, first.json) == (200, {member: {"status": "INPROGRESS"}})
    site.wait(lambda: all(o.state == "done" for o in site.state.operations.values()))
    last = cloud(site, "end", [a.name], root)
    assert (last.status, last.json) == (200, {member: {"status": "DONE"}})
    assert cloud(site, "tep-delete", [a.name], root).status == 204
    assert not tombstoned(site, b)


def test_cloudscaler_end_of_an_unknown_name_is_not_done(site: Site) -> None:
    answer = cloud(site, "end", ["nobody"])
    assert answer.status == 400
    assert answer.errors[0]["error-path"] == "/cloudscaler-rpc:input/scalein-compute-names[.='nobody']"


def test_cloudscaler_end_with_one_wrong_name_or_one_that_cannot_go_removes_nobody(site: Site) -> None:
    """Wherever it stands in the list, and whatever is asked first: those that could go are where they were."""
    a, b, c = site.compute(tombstoned=True), site.compute(tombstoned=True), site.compute(tombstoned=True)
    site.port_on(b)
    before = site.state
    for names, status in (
        ([a.name, "nobody", c.name], 400),
        (["nobody", a.name], 400),
        ([a.name, c.name, b.name], 409),
        ([b.name, a.name], 409),
    ):
        for _ in range(2):
            answer = cloud(site, "end", names)
            assert (answer.status, len(answer.errors)) == (status, 1)
    assert site.state is before
    assert cloud(site, "end", [a.name, c.name]).json == {"cloudscaler-rpc:output": {"status": "INPROGRESS"}}
    site.wait(lambda: {a.number, c.number} <= set(site.state.removed))
    assert b.number in site.state.computes


def test_tep_delete_refuses(site: Site) -> None:
    a, b, c = site.compute(), site.compute(tombstoned=True), site.compute(tombstoned=True)
    site.port_on(b)
    answer = cloud(site, "tep-delete", [a.name, b.name, c.name])
    assert answer.status == 409
    assert [e["error-tag"] for e in answer.errors] == ["operation-failed", "in-use"]
    answer = cloud(site, "tep-delete", ["x", c.name, "y"])
    assert answer.status == 400
    assert len(answer.errors) == 2
    assert cloud(site, "tep-delete", []).errors[0]["error-tag"] == "missing-element"


def test_names_are_listed(site: Site) -> None:
    answer = site.get("/rests/operations")
    assert answer.json["ietf-restconf:operations"]["scalein-api:scalein-compute-recover"] == [None]
    assert START in site.get("/restconf/operations").json["operations"]


def test_a_store_that_is_away_is_503(make_site: Callable[..., Site]) -> None:
    site = make_site()
    a = site.compute()
    assert site.get("/readyz").status == 200
    site.loop.call_soon_threadsafe(site.app.cluster.store.leading.clear)
    site.wait(lambda: not site.app.cluster.store.leading.is_set())
    answer = site.rpc(START, [a.name])
    assert (answer.status, answer.errors[0]["error-tag"]) == (503, "resource-denied")
    assert answer.headers["retry-after"]
    assert site.get("/readyz").status == 503
    assert site.get("/healthz").status == 200
    assert site.get(f"/api/v1/computes/{a.name}").status == 200, "what is known can still be read"
