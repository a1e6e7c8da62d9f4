"""What networking-odl is told without asking: a port that is served, a host that goes; and who may listen."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebbtide.lab import CONTROLLER, Lab
from ebbtide.model.facts import Membership
from ebbtide.north import odl_streams
from ebbtide.north.odl_streams import HOSTS, PORTS, STREAM, SUBSCRIBE, Listener
from tests.north.site import Site
from tests.support.websocket import Refused, Websocket

ROOT = "/controller/nb/v2/neutron"


def asked(path: str, **more: str) -> dict[str, Any]:
    """A subscription as networking-odl asks for it."""
    words = {"datastore": "OPERATIONAL", "scope": "SUBTREE", "notification-output-type": "JSON", **more}
    return {"input": {"path": path, **{f"sal-remote-augment:{name}": word for name, word in words.items()}}}


def subscribed(site: Site, path: str, **headers: str) -> str:
    answer = site.ask("POST", SUBSCRIBE, asked(path), headers=headers)
    assert answer.status == 200, answer.raw
    return str(answer.json["output"]["stream-name"])


def located(site: Site, name: str, **headers: str) -> str:
    """The path of a stream, from where its Location says it is."""
    answer = site.get(f"{STREAM}{name}?odl-leaf-nodes-only=true", **headers)
    assert answer.status == 200, answer.raw
    begin = f"ws://127.0.0.1:{site.port}"
    assert answer.headers["location"].startswith(f"{begin}/")
    return answer.headers["location"].removeprefix(begin)


def listen(site: Site, path: str, **more: int) -> Websocket:
    """As networking-odl does: with an Origin, and without credentials."""
    return Websocket(
        site.port, located(site, subscribed(site, path)), {"Origin": f"http://127.0.0.1:{site.port}"}, **more
    )


def event(told: Any) -> dict[str, Any]:
    (found,) = told["notification"]["data-changed-notification"]["data-change-event"]
    return dict(found)


def status_of(name: str, status: str) -> dict[str, Any]:
    """The event of a port's status, as it was recorded from OpenDaylight's client."""
    path = f"/neutron:neutron/neutron:ports/neutron:port[neutron:uuid='{name}']/neutron:status"
    return {"path": path, "operation": "updated", "data": {"status": {"content": status}}}


def host_gone(name: str) -> dict[str, Any]:
    keys = f"[neutron:host-id='{name}'][neutron:host-type='ODL L2']"
    return {"path": f"/neutron:neutron/neutron:hostconfigs/neutron:hostconfig{keys}", "operation": "deleted"}


class Ports:
    """Ports that Neutron speaks of, in one network, and VMs that are plugged on a real compute."""

    def __init__(self, lab: Lab, site: Site) -> None:
        self.lab, self.site = lab, site
        lab.add_compute("a").register()
        site.wait(lambda: site.ready(1))
        self.host = site.state.computes[site.state.by_name["a"]].host
        segment = {"provider:network_type": "vxlan", "provider:segmentation_id": 70001}
        self._said("networks", {"network": {"id": "n1", **segment}})
        self._made = 0

    def _said(self, kind: str, body: Any) -> None:
        answer = self.site.post(f"{ROOT}/{kind}", body)
        assert answer.status == 201, answer.raw

    def say(self, name: str, **more: Any) -> str:
        """Its MAC."""
        self._made += 1
        mac = f"02:00:00:00:00:{self._made:02x}"
        self._said("ports", {"port": {"id": name, "network_id": "n1", "mac_address": mac, **more}})
        return mac

    def bind(self, name: str, host: str) -> None:
        answer = self.site.ask("PUT", f"{ROOT}/ports/{name}", {"port": {"binding:host_id": host}})
        assert answer.status == 200, answer.raw

    def plug(self, name: str, mac: str) -> None:
        self.lab.add_vm(name, "a", mac, "", name)
        self.site.wait(lambda: next(self.site.app.service.arrivals.told(name))[0] == "ACTIVE")

    def forget(self, *names: str) -> None:
        for name in names:
            self.lab.remove_vm(name)
            self.site.wait(lambda name=name: name not in self.site.state.bindings)
            assert self.site.ask("DELETE", f"{ROOT}/ports/{name}").status == 204


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    folder = tmp_path_factory.mktemp("cloud")
    with Lab(f"os{os.getpid()}", folder / "lab") as lab:
        listeners = [lab.listen(CONTROLLER, port) for port in (6640, 6653)]
        site = Site(folder / "state", *listeners, admission="open", lag=0.2)
        try:
            yield Ports(lab, site)
        finally:
            site.stop()


@pytest.mark.lab
def test_a_port_is_told_of_when_it_is_served_and_when_it_is_no_more(cloud: Ports) -> None:
    one, two = cloud.say("p1"), cloud.say("p2", **{"binding:host_id": cloud.host})
    with listen(cloud.site, PORTS) as stream:
        cloud.plug("p1", one)
        assert event(stream.told()) == status_of("p1", "ACTIVE")
        cloud.plug("p2", two)
        assert event(stream.told()) == status_of("p2", "ACTIVE")
        with listen(cloud.site, PORTS) as late:
            told = [event(late.told()) for _ in range(2)]
            assert told == [status_of("p2", "ACTIVE"), status_of("p1", "ACTIVE")], (
                "who comes is told of all, newest first"
            )
        cloud.lab.remove_vm("p1")
        assert event(stream.told()) == status_of("p1", "DOWN")
        cloud.lab.add_vm("p1", "a", one, "", "p1")
        assert event(stream.told()) == status_of("p1", "ACTIVE")
    cloud.forget("p1", "p2")


@pytest.mark.lab
def test_it_is_told_again_when_neutron_has_bound_it(cloud: Ports) -> None:
    read = "/restconf/operational/neutron:neutron/ports/port/p1"
    cloud.plug("p1", cloud.say("p1", **{"binding:host_id": "elsewhere"}))
    cloud.plug("p2", cloud.say("p2", **{"binding:host_id": cloud.host}))
    with listen(cloud.site, PORTS) as stream:
        assert event(stream.told()) == status_of("p2", "ACTIVE"), "and nothing of p1: Neutron has it somewhere else"
        assert cloud.site.get(read).json == {"port": [{"uuid": "p1", "status": "DOWN"}]}
        cloud.bind("p1", cloud.host)
        assert event(stream.told()) == status_of("p1", "ACTIVE")
        cloud.bind("p1", "")
        cloud.bind("p1", cloud.host)
        assert event(stream.told()) == status_of("p1", "ACTIVE")
        assert cloud.site.get(read).json == {"port": [{"uuid": "p1", "status": "ACTIVE"}]}
    cloud.forget("p1", "p2")


def test_what_is_new_does_not_wait_for_what_was_there_before() -> None:
    listener = Listener(PORTS, ["old", "older", "oldest"])
    listener.add("older", changed=True, at_once=False)
    listener.add("new", changed=False, at_once=True)
    listener.add("oldest", changed=True, at_once=True)
    listener.add("new", changed=True, at_once=False)
    assert listener.now == {"new": True, "oldest": True}
    assert listener.later == {"old": False, "older": True}
    assert listener.take(listener.now) == ("new", True)


@pytest.mark.lab
def test_whoever_does_not_read_is_behind_by_its_ports_at_most_and_is_let_go(
    cloud: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(odl_streams, "PATIENCE", 0.5)
    cloud.plug("p1", cloud.say("p1"))
    listeners = cloud.site.app.cluster.listeners
    owners = (getattr(each, "__self__", None) for each in listeners)
    streams = next(each for each in owners if isinstance(each, odl_streams.Streams))

    async def push_until_it_is_let_go() -> None:
        async with asyncio.timeout(20):
            while streams._listeners:
                for each in streams._listeners:
                    each.add("p1", changed=True, at_once=True)
                    assert len(each.now) == 1
                await asyncio.sleep(0)

    with listen(cloud.site, PORTS, room=4096) as stream:
        assert event(stream.told()) == status_of("p1", "ACTIVE")
        assert len(streams._listeners) == 1
        cloud.site.call(push_until_it_is_let_go())
    cloud.forget("p1")


def test_a_host_that_leaves_is_told_of_to_who_comes(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.compute(hostname="host-1")
    site.compute(hostname="host-2", tombstoned=True)
    site.compute(hostname="host-3", membership=Membership.REMOVED)
    site.compute(hostname="host-4", membership=Membership.REMOVED)
    site.compute(hostname="host-4")
    with listen(site, HOSTS) as stream:
        stream.say("what is said here is heard by nobody")
        assert [event(stream.told()) for _ in range(2)] == [host_gone("host-2"), host_gone("host-3")]


@pytest.mark.lab
def test_real_hosts_come_and_go(lab: Lab, tmp_path: Path) -> None:
    site = Site(tmp_path / "state", *(lab.listen(CONTROLLER, port) for port in (6640, 6653)), admission="open", lag=0.2)
    read = "/restconf/operational/neutron:neutron/hostconfigs"
    try:
        lab.add_compute("a").register()
        site.wait(lambda: site.ready(1))
        (first,) = (each["host-id"] for each in site.get(read).json["hostconfigs"]["hostconfig"])
        with listen(site, HOSTS) as stream:
            lab.add_compute("b").register()
            site.wait(lambda: site.ready(2))
            assert stream.told() == 1012, "a host has come: the list is to be read again"
        assert len(site.get(read).json["hostconfigs"]["hostconfig"]) == 2
        with listen(site, HOSTS) as stream:
            assert site.rpc("scalein-api:scalein-computes-start", ["a"]).status == 204
            assert event(stream.told()) == host_gone(first)
            lab.compute("b").kill_switch()
            site.wait(lambda: not site.app.cluster.members[site.state.by_name["b"]].connected)
            lab.compute("b").start_switch()
            site.wait(lambda: site.ready(2))
            assert site.rpc("scalein-api:scalein-computes-recover", ["a"], "recover-node-ids").status == 204
            assert stream.told() == 1012, "and nothing of b, which was away and has never left"
    finally:
        site.stop()


# --- who may listen ---


def refused(site: Site, path: str, headers: dict[str, str] | None = None, host: str = "") -> Refused:
    with pytest.raises(Refused) as caught:
        Websocket(site.port, path, headers, host=host)
    return caught.value


def test_a_stream_is_opened_once(site: Site) -> None:
    name = subscribed(site, PORTS)
    path = located(site, name)
    with Websocket(site.port, path):
        assert refused(site, path).status == 410
        assert site.get(path).status == 410, "after 404 networking-odl would never subscribe again"
    assert refused(site, f"{STREAM}nobody").status == 410
    assert refused(site, "/api/v1/events").status == 403, "no other path is a websocket"


def test_a_stream_that_nobody_opens_is_void_after_a_minute_and_many_make_room(site: Site) -> None:
    now = [0.0]
    streams = odl_streams.Streams(site.app.service, lambda number: pytest.fail("no host is asked for"), lambda: now[0])
    try:
        first = streams._subscribe(PORTS, "somebody")  # type: ignore[arg-type]
        assert streams.holder(STREAM + first) == "somebody"
        now[0] = odl_streams.OPENED_WITHIN
        assert streams.holder(STREAM + first) is None
        names = [streams._subscribe(PORTS, "somebody") for _ in range(odl_streams.LISTENERS + 1)]  # type: ignore[arg-type]
        held = [streams.holder(STREAM + name) is not None for name in names]
        assert held == [False] + [True] * odl_streams.LISTENERS
    finally:
        site.app.cluster.listeners.remove(streams._heard_of)
        site.app.cluster.edited.remove(streams._edited)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": None},
        {"input": {}},
        [],
        asked("/neutron:neutron/neutron:networks"),
        asked(PORTS, scope="ONE"),
        asked(PORTS, datastore="CONFIGURATION"),
        asked(PORTS, **{"notification-output-type": "XML"}),
    ],
)
def test_a_subscription_to_something_else_is_refused(site: Site, body: Any) -> None:
    assert site.post(SUBSCRIBE, body).status == 400


def test_a_page_of_another_origin_and_a_rebound_name_open_nothing(site: Site) -> None:
    path = located(site, subscribed(site, PORTS))
    assert refused(site, path, {"Origin": "http://evil.example"}).status == 403
    assert refused(site, path, {"Origin": "null"}).status == 403
    assert refused(site, path, host="evil.example").status == 403
    with Websocket(site.port, path, {"Origin": f"http://127.0.0.1:{site.port}"}):
        pass


CREDENTIALS = """
[[user]]
name = "neutron"
password = "plain:secret"
roles = ["operate"]

[[user]]
name = "reader"
password = "plain:secret"
roles = ["read"]
"""
WRITER, READER = "Basic bmV1dHJvbjpzZWNyZXQ=", "Basic cmVhZGVyOnNlY3JldA=="


def test_with_credentials_the_name_of_a_stream_is_what_opens_it(make_site: Callable[..., Site], tmp_path: Path) -> None:
    (tmp_path / "users.toml").write_text(CREDENTIALS)
    site = make_site(credentials=str(tmp_path / "users.toml"))
    assert site.post(SUBSCRIBE, asked(PORTS)).status == 401
    assert site.ask("POST", SUBSCRIBE, asked(PORTS), headers={"Authorization": READER}).status == 403
    name = subscribed(site, PORTS, Authorization=WRITER)
    assert site.get(f"{STREAM}{name}").status == 401
    path = located(site, name, Authorization=WRITER)
    nobody = refused(site, f"{STREAM}nobody")
    assert nobody.status == 401
    assert "Basic" in nobody.headers["www-authenticate"]
    assert json.loads(nobody.body)["errors"]["error"][0]["error-tag"] == "access-denied"
    assert refused(site, path, {"Origin": "http://evil.example"}).status == 403
    with Websocket(site.port, path):
        assert refused(site, path).status == 401, "it has been opened"
    lines = [json.loads(line) for line in (site.state_dir / "audit.log").read_text().splitlines()]
    assert not any(name in json.dumps(line) for line in lines), "what opens a stream is written down nowhere"


# --- what goes wrong ---


def test_streams_end_when_the_controller_stops(make_site: Callable[..., Site]) -> None:
    site = make_site()
    with listen(site, PORTS) as stream:
        site.stop()
        assert stream.told() == 1012
