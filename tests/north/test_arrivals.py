"""What is told of ports, on real computes: nothing before the switch has made the interface, and what happened while nobody led."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebbtide.lab import CONTROLLER, Lab, wait_until
from tests.north.site import Site

pytestmark = pytest.mark.lab
PORT = "vm1"


class Told(Site):
    """A controller that Neutron has told of a port."""

    def say(self) -> None:
        made = {"id": "n1", "provider:network_type": "vxlan", "provider:segmentation_id": 70001}
        self.neutron("networks", network=made)
        self.neutron("ports", port={"id": PORT, "network_id": "n1", "mac_address": "02:00:00:00:00:01"})

    def neutron(self, kind: str, **body: Any) -> None:
        assert self.post(f"/controller/nb/v2/neutron/{kind}", body).status == 201

    def listen(self) -> list[tuple[str, list[str]]]:
        """What is told of the port from now on."""
        found: list[tuple[str, list[str]]] = []

        def heard(what: str, facts: dict[str, Any]) -> None:
            if what == "neutron-port" and facts["name"] == PORT:
                found.append((facts["status"], facts["hosts"]))

        self.app.cluster.listeners.append(heard)
        return found

    def status(self) -> str:
        return str(self.get(f"/api/v1/neutron/ports?ids={PORT}").json["ports"][0]["status"])


def following(lab: Lab, directory: Path) -> Told:
    """A controller of the lab, with the store in there."""
    listeners = [lab.listen(CONTROLLER, number) for number in (6640, 6653)]
    return Told(directory / "state", *listeners, admission="open", lag=0.2)


@pytest.fixture
def told(lab: Lab, tmp_path: Path) -> Iterator[Told]:
    """A controller and compute a of the lab; Neutron has a port."""
    site = following(lab, tmp_path)
    try:
        lab.add_compute("a").register()
        site.wait(lambda: site.ready(1))
        site.say()
        yield site
    finally:
        site.stop()


def test_a_port_whose_tap_is_not_there_yet_is_not_active(lab: Lab, told: Told) -> None:
    """As os-vif plugs it: Open vSwitch's rows first, and the device when the machine starts."""
    heard = told.listen()
    compute = lab.compute("a")
    names = f"external_ids:iface-id={PORT}", "external_ids:attached-mac=02:00:00:00:00:01"
    compute.vsctl("add-port", "br-int", "tap-late", "--", "set", "Interface", "tap-late", *names, wait=False)
    wait_until(lambda: "ap-late" in compute.vsctl("get", "Interface", "tap-late", "error"), "the switch to look", 10)
    told.wait(lambda: told.ready(1))
    assert (told.status(), heard) in (("BUILD", []), ("DOWN", []))
    compute.exec("ip", "link", "add", "tap-late", "type", "veth", "peer", "name", "tap-other")
    told.wait(lambda: heard == [("ACTIVE", ["a"])])
    assert any("02:00:00:00:00:01" in flow for flow in compute.dump_flows())


def test_a_port_that_went_while_nobody_led_is_told_to_be_down(lab: Lab, told: Told, tmp_path: Path) -> None:
    heard = told.listen()
    lab.add_vm(PORT, "a", mac="02:00:00:00:00:01", ip_cidr="10.1.0.1/24", iface_id=PORT)
    told.wait(lambda: heard == [("ACTIVE", ["a"])])
    told.stop()
    lab.remove_vm(PORT)
    again = following(lab, tmp_path)
    try:
        heard = again.listen()
        again.wait(lambda: heard == [("DOWN", [])])
        assert PORT not in again.state.bindings
    finally:
        again.stop()
