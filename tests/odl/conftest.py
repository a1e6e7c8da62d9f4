"""One cloud for all stories: Neutron, two computes of the lab, and a controller that is a process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ebbtide.decide.documents import CANARY, KINDS
from ebbtide.lab import Lab, wait_until
from tests.odl.neutron import PATHS, VENV, Neutron
from tests.support.certificates import certificate, checked
from tests.support.process import Process

#: Seconds for what networking-odl does in its own time.
LONG = 40.0
#: What has to be the same in what Neutron has and in what the controller was told.
FIELDS = (
    *("name", "admin_state_up", "cidr", "gateway_ip", "enable_dhcp", "mac_address", "fixed_ips", "binding:host_id"),
    *("binding:vif_type", "device_id", "device_owner", "floating_ip_address", "fixed_ip_address", "router_id"),
    *("port_id", "routes", "direction", "ethertype", "port_range_min", "remote_group_id", "remote_ip_prefix"),
    *("networks", "routers", "route_targets", "route_distinguishers", "provider:segmentation_id"),
)


CREDENTIALS = "[[user]]\nname = 'admin'\npassword = 'plain:admin'\nroles = ['force']\n"


class Guarded(Process):
    """A controller that asks for credentials, as networking-odl has them, and speaks TLS alone."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        users = folder / "users.toml"
        users.write_text(CREDENTIALS)
        users.chmod(0o600)
        self.certificate, key = certificate(folder)
        more = ["--credentials", str(users), "--http-cert", str(self.certificate), "--http-key", str(key)]
        super().__init__(lab, folder, more=more)

    def send(self, method: str, path: str, body: object | None = None) -> HTTPConnection:
        connection = HTTPConnection("127.0.0.1", 8181, timeout=60)
        connection.sock = checked(self.lab.connect("127.0.0.1", 8181), self.certificate)
        headers = {"Content-Type": "application/json", "Authorization": "Basic YWRtaW46YWRtaW4="}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return connection


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All in one process, whoever else runs beside it: there is one cloud."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group("odl"))


class Cloud(NamedTuple):
    """All of it."""

    lab: Lab
    controller: Process
    neutron: Neutron

    def add_compute(self, name: str) -> None:
        """A compute, which Neutron calls nova-NAME."""
        compute = self.lab.add_compute(name, physical_network="physnet1")
        compute.vsctl("set", "Open_vSwitch", ".", f"external_ids:odl_os_hostconfig_hostid=nova-{name}")
        compute.register()

    def differences(self) -> dict[str, Any]:
        """Where what Neutron has and what the controller was told differ: ids by kind, and fields."""
        found: dict[str, Any] = {}
        for kind in ("networks", "subnets", "ports", "routers", "floatingips", *PATHS):
            told = {name: each for name, each in self.told(kind).items() if name != CANARY}
            is_so = self.neutron.all(PATHS.get(kind, kind))
            wrong: list[Any] = sorted(told.keys() ^ is_so.keys())
            for name in told.keys() & is_so.keys():
                ours, theirs = told[name], is_so[name]
                wrong += [(name, field) for field in FIELDS if ours.get(field) != theirs.get(field) and field in theirs]
            if wrong:
                found[kind] = wrong
        return found

    def told(self, kind: str) -> dict[str, dict[str, Any]]:
        """What the controller was told of a kind, by id."""
        assert kind in KINDS
        (found,) = self.controller.get(f"/controller/nb/v2/neutron/{kind}").values()
        return {each["id"]: each for each in found}

    def wait_told(self, deadline: float = LONG) -> None:
        """Until networking-odl has nothing left to say, and the controller has all of it."""

        def holds() -> bool:
            return self.neutron.unsent() == 0 and not self.differences()

        try:
            self.controller.wait(holds, "the controller to be told of everything", deadline)
        except Exception:
            raise AssertionError((self.neutron.unsent(), self.differences())) from None

    def wait_status(self, port: str, status: str, deadline: float = LONG) -> None:
        wait_until(lambda: self.neutron.port(port)["status"] == status, f"{port} to be {status}", deadline, every=0.1)

    def wait_seen(self, port: str, status: str, deadline: float = LONG) -> None:
        """Until the controller says so of a port."""
        path = f"/api/v1/neutron/ports?ids={port}"
        self.controller.wait(lambda: self.controller.get(path)["ports"][0]["status"] == status, status, deadline)

    def network(self, name: str, number: int) -> tuple[str, str]:
        """A network with a subnet: their ids."""
        network = self.neutron.make_one("networks", name=name, tenant_id="p1")["id"]
        subnet = self.neutron.make_one(
            "subnets", network_id=network, ip_version=4, cidr=f"10.{number}.0.0/24", tenant_id="p1"
        )
        return network, subnet["id"]

    def bound_port(self, network: str, host: str) -> dict[str, Any]:
        """A port that Nova has asked for on a host."""
        words = {"binding:host_id": host, "device_owner": "compute:nova", "device_id": "i1", "tenant_id": "p1"}
        return self.neutron.make_one("ports", network_id=network, **words)

    def plug(self, port: dict[str, Any], compute: str) -> Any:
        address = port["fixed_ips"][0]["ip_address"]
        name = f"vm{port['id'][:8]}"
        return self.lab.add_vm(name, compute, port["mac_address"], f"{address}/24", port["id"])


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """Neither the controller nor Neutron runs yet."""
    if os.geteuid() != 0 or not (VENV / ".ready").exists():
        pytest.skip("needs root, and .venv-odl: `make test-networking-odl` makes it")
    folder: Path = tmp_path_factory.mktemp("odl")
    with Lab(f"odl{os.getpid()}", folder / "lab") as lab:
        controller = Guarded(lab, folder)
        made = Cloud(lab, controller, Neutron(lab, controller.certificate))
        for name in "ab":
            made.add_compute(name)
        made.neutron.make()
        yield made


@pytest.fixture
def polling(cloud: Cloud) -> Cloud:
    """Neutron reads hosts every now and then."""
    return _started(cloud, websockets=False)


@pytest.fixture
def pushed(cloud: Cloud) -> Cloud:
    """Neutron is told of hosts over a websocket."""
    return _started(cloud, websockets=True)


@pytest.fixture(params=["polling", "pushed"])
def either(cloud: Cloud, request: pytest.FixtureRequest) -> Cloud:
    """The one, then the other."""
    return _started(cloud, websockets=request.param == "pushed")


def _started(cloud: Cloud, websockets: bool) -> Cloud:
    neutron = cloud.neutron
    if cloud.lab.spawned(cloud.controller.name) is None:
        cloud.controller.start()
    if cloud.lab.spawned("neutron") is None or neutron.websockets is not websockets:
        neutron.kill()
        neutron.websockets = websockets
        neutron.start()
    cloud.controller.wait(lambda: set(neutron.agents()) == {"nova-a", "nova-b"}, "Neutron to know both hosts")
    return cloud
