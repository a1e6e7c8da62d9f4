"""The metadata service on real switches: an agent on a compute, VMs that ask it, and who they are to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ebbtide.lab import Vm
from tests.support.cloud import Cloud
from tests.support.metadata import (
    ADDRESS,
    Service,
    ask,
    end_agent,
    kill_agent,
    on_link,
    rows,
    service_in,
    start_agent,
)
from tests.support.outside import LAG, settle

pytestmark = pytest.mark.lab


def add_vm(cloud: Cloud, name: str, compute: str, network: str, index: int, **port: object) -> Vm:
    """A VM at 10.1.0.INDEX, whatever network it is in."""
    mac = f"02:00:00:00:{ord(network[0]):02x}:{index:02x}"
    cloud.call(cloud.service.add_port(name, network, mac, [f"10.1.0.{index}"], **port))  # type: ignore[arg-type]
    vm = cloud.lab.add_vm(name, compute, mac=mac, ip_cidr=f"10.1.0.{index}/24", iface_id=name)
    on_link(vm)
    cloud.wait(lambda: cloud.controller.app.cluster.state.active(name) is not None, what=f"{name} bound")
    return vm


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    """a and b; networks blue and red with the same subnet."""
    cloud = make_cloud(lag=LAG, web=True)
    cloud.add_computes("a", "b")
    for name in ("blue", "red"):
        cloud.add_network(name, "10.1.0.0/24")
    return cloud


@pytest.fixture
def service(cloud: Cloud) -> Iterator[Service]:
    with service_in(cloud) as made:
        yield made


def test_two_vms_with_one_address_on_one_compute_get_each_its_own(cloud: Cloud, service: Service) -> None:
    blue = add_vm(cloud, "vm1", "a", "blue", 1, device="instance-1", project="project-1")
    red = add_vm(cloud, "vm2", "a", "red", 1, device="instance-2", project="project-2")
    start_agent(cloud, "a")
    for _ in range(3):
        for vm, number in ((blue, 1), (red, 2)):
            said = ask(vm)
            assert (said.status, said.json["instance"], said.json["project"], said.json["address"]) == (
                *(200, f"instance-{number}", f"project-{number}"),
                "10.1.0.1",
            )
    # From one and the same port too, at the same time.
    both = []
    for vm in (blue, red):
        made = vm.open_socket(kind=1)
        made.bind(("0.0.0.0", 40_000))
        made.settimeout(5)
        made.connect((ADDRESS, 80))
        both.append(made)
    for made in both:
        made.sendall(b"GET /who HTTP/1.0\r\n\r\n")
    told = [b"".join(iter(lambda made=made: made.recv(65536), b"")) for made in both]
    assert b'"instance": "instance-1"' in told[0]
    assert b'"instance": "instance-2"' in told[1]
    for made in both:
        made.close()
    cloud.assert_clean()
