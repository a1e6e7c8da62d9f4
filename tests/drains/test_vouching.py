"""Drains whose hosts somebody else knows more of: what movers of Nova's say of them, and what counts of it, and for how long."""

from __future__ import annotations

from typing import Any

import pytest

from ebbtide.lab.commands import wait_until
from tests.drains.test_drains import detail, drain, marks, states, wait_over
from tests.drains.test_plan import plan
from tests.support.cloud import Cloud

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


def say(cloud: Cloud, name: str, state: str, words: str = "", operation: str = "", host: str = "node") -> list[str]:
    """As a mover does; what the controller does not know of it."""
    said = {"compute": name, "host": f"{host}-{name}", "state": state, "words": words}
    body = {"mover": "m", "operation": operation, "hosts": [said]}
    status, told = cloud.http("POST", "/api/v1/movers/nova/hosts", body)
    assert status == 200, told
    return list(told["unknown"])


def wait_reason(cloud: Cloud, begun: dict[str, Any], name: str, words: str) -> None:
    def so() -> bool:
        return any(i["object"] == name and words in i["reason"] for i in detail(cloud, begun)["items"])

    wait_until(so, f"{name} to be kept: {words}", 30, every=0.2)


def test_a_plan_names_the_host_of_each_compute_and_wants_all_of_them(four: Cloud) -> None:
    told = plan(four, "c", "d", vms="nova")
    assert [(p["code"], p["about"]) for p in told["problems"]] == [("no-mover", "c"), ("no-mover", "d")]
    assert say(four, "d", "matched") == []
    told = plan(four, "c", "d", vms="nova")
    assert told["hosts"] == [{"compute": "d", "host": "node-d", "state": "matched", "words": ""}]
    assert [p["about"] for p in told["problems"]] == ["c"]
    say(four, "c", "failed", "no nova-compute is called node-c")
    told = plan(four, "c", "d", vms="nova", force="whatever it takes")
    assert [(p["code"], p["text"]) for p in told["problems"]] == [("host", "c: no nova-compute is called node-c")]
    status, told = four.http("POST", "/api/v1/drains", {"computes": ["c"], "vms": "nova", "force": "whatever it takes"})
    assert status == 409, told
    assert say(four, "nobody", "matched") == ["nobody"]


def test_a_host_goes_when_it_is_called_empty_and_not_before(four: Cloud) -> None:
    say(four, "d", "matched")
    begun = drain(four, "d", vms="nova")
    wait_reason(four, begun, "d", "no mover of kind nova says that d is empty")
    say(four, "d", "emptying", "server web-1 is stopped there", begun["id"])
    wait_reason(four, begun, "d", "server web-1 is stopped there")
    # What was said long ago is no word at all.
    wait_reason(four, begun, "d", "no mover of kind nova says that d is empty")
    with pytest.raises(AssertionError, match="there is no operation another"):
        say(four, "d", "empty", operation="another")
    say(four, "d", "emptying", "a word", operation=begun["id"])
    wait_reason(four, begun, "d", "a word")
    say(four, "c", "empty", operation=begun["id"])
    say(four, "d", "matched")
    # So these two are looked at as well.
    wait_reason(four, begun, "d", "no mover of kind nova says that d is empty")
    assert marks(four)["d"]
    say(four, "d", "empty", operation=begun["id"])
    told = wait_over(four, begun)
    assert told["state"] == "done", told
    assert [(end["state"], end["computes"]) for end in told["ends"]] == [("done", ["d"])]
    assert "d" not in marks(four)
    four.assert_clean()


def test_a_host_that_is_given_up_is_recovered_in_its_movers_words(four: Cloud) -> None:
    say(four, "d", "matched")
    begun = drain(four, "d", vms="nova")
    wait_reason(four, begun, "d", "no mover of kind nova says that d is empty")
    say(four, "d", "failed", "No valid host was found", begun["id"])
    told = wait_over(four, begun)
    assert states(told, "compute") == {"d": "failed"}
    assert "No valid host was found" in next(i["reason"] for i in told["items"] if i["object"] == "d")
    assert not marks(four)["d"]
    four.assert_clean()


def test_a_plan_names_what_is_plugged_nowhere_and_would_be_waited_for(four: Cloud) -> None:
    say(four, "d", "matched")
    host, root = four.fact("d").host, "/controller/nb/v2/neutron"
    network = {"id": "n1", "provider:network_type": "vxlan", "provider:segmentation_id": 70_001}
    assert four.http("POST", f"{root}/networks", {"network": network})[0] == 201
    body = {
        "network_id": "n1",
        "mac_address": "02:00:00:00:00:77",
        "device_owner": "compute:nova",
        "binding:host_id": host,
    }
    status, told = four.http("POST", f"{root}/ports", {"port": {"id": "stopped-1", **body}})
    assert status == 201, told
    (kept,) = plan(four, "d", vms="nova")["waits"]
    assert "stopped-1" in kept["text"]
    assert "keep it without --cold" in kept["text"]
    (kept,) = plan(four, "d", vms="nova", **{"mover-options": ["cold=yes"]})["waits"]
    assert "are moved cold; others keep it" in kept["text"]
    # A mover that was started with it moves them, too, unless the drain says otherwise.
    said = {"compute": "d", "host": "node-d", "state": "matched"}
    started = {"mover": "m", "hosts": [said], "options": ["cold=yes", "remove-hosts=yes"]}
    assert four.http("POST", "/api/v1/movers/nova/hosts", started)[0] == 200
    assert "are moved cold" in plan(four, "d", vms="nova")["waits"][0]["text"]
    shown = plan(four, "d", vms="nova", **{"mover-options": ["cold=no"]})
    assert (shown["mover-options"], "keep it" in shown["waits"][0]["text"]) == (["cold=no", "remove-hosts=yes"], True)
    assert plan(four, "d", vms="nova", dead=True)["mover-options"] == [], "who has died is emptied by nobody"
    assert four.http("POST", "/api/v1/movers/nova/hosts", {**started, "options": ["cold"]})[0] == 400
    (kept,) = plan(four, "d")["waits"]
    assert "drain with --vms nova" in kept["text"]
    assert plan(four, "d", force="Nova is done with it")["waits"] == []


def test_what_a_drain_asks_of_movers_is_told_to_them_until_it_asks_for_something_else(four: Cloud) -> None:
    def told(options: list[str]) -> list[list[str]]:
        wish = {"computes": ["c"], "vms": "ours", "mover-options": options}
        status, begun = four.http("POST", "/api/v1/drains", wish)
        assert (status, begun["operation"]["mover-options"]) == (202, options)
        holding = {"mover": "m", "free": 9, "holding": []}
        return [c["options"] for c in four.http("POST", "/api/v1/movers/ours/claim", holding)[1]["claims"]]

    assert four.http("POST", "/api/v1/movers/ours/claim", {"mover": "m", "free": 0})[0] == 200
    status, refused = four.http("POST", "/api/v1/drains", {"computes": ["c"], "mover-options": ["disks=copy"]})
    assert status == 400, refused
    assert not marks(four)["c"]
    assert told(["disks=copy"]) == [["disks=copy"]]
    assert told(["disks=keep"]) == [["disks=keep"]]
    (begun,) = four.http("GET", "/api/v1/drains")[1]["operations"]
    path = f"/api/v1/operations/{begun['id']}/options"
    for wish, changed in (({"mover-options": ["speed=full"], "at-once": 2}, True), ({"at-once": 2}, False)):
        status, set_so = four.http("POST", path, wish)
        assert (status, set_so["changed"]) == (202, changed)
        assert set_so["operation"]["mover-options"] == ["disks=keep", "speed=full"]
        assert set_so["operation"]["at-once"] == 2
    assert four.http("POST", path, {"at-once": 0})[0] == 400
    assert four.http("POST", path, {"mover-options": ["Speed"]})[0] == 400
    assert four.http("POST", "/api/v1/operations/nobody/options", {"at-once": 2})[0] == 404
    assert four.http("POST", f"/api/v1/operations/{begun['id']}/abort", {})[0] == 202
    wait_over(four, begun)
    # Of one that is over too: hosts may be left to be removed.
    status, set_so = four.http("POST", path, {"mover-options": ["speed=low"]})
    assert (status, set_so["operation"]["state"]) == (200, "aborted")
    assert set_so["operation"]["mover-options"] == ["disks=keep", "speed=low"]
    status, again = four.http("POST", f"/api/v1/operations/{begun['id']}/resume", {})
    assert (status, again["operation"]["mover-options"]) == (202, ["disks=keep", "speed=low"])
    assert again["operation"]["at-once"] == 2
    # Who asks for it again changes it: nothing of what goes on speaks against that.
    shown = plan(four, "c", vms="ours", **{"mover-options": ["speed=full"]})
    assert (shown["problems"], shown["mover-options"]) == ([], ["disks=keep", "speed=full"])
    status, told_why = four.http(
        "POST", "/api/v1/drains", {"computes": ["c"], "vms": "nova", "dead": True, "mover-options": ["cold=yes"]}
    )
    assert status == 400, told_why


def test_a_kind_of_mover_that_nobody_has_heard_of_is_refused(four: Cloud) -> None:
    (problem,) = plan(four, "d", vms="Nova")["problems"]
    assert "no mover of kind Nova has spoken" in problem["text"]
    assert plan(four, "d", vms="lab")["problems"] == []
    assert four.http("POST", "/api/v1/movers/ours/claim", {"mover": "m", "free": 0})[0] == 200
    assert plan(four, "d", vms="ours")["problems"] == []
