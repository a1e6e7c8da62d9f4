"""A cloud as its users see it: what they make by openstacksdk, and what their servers can do in it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import pytest

from ebbtide.lab import Lab, Vm, wait_until
from ebbtide.lab.cloud import cloud as lab_cloud
from ebbtide.lab.cloud import whole
from ebbtide.lab.cloud.files import FAILING
from ebbtide.lab.cloud.services import PHYSICAL
from tests.openstack.client import connect

#: openstacksdk warns of ways of its own.
MARKS = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    *(
        pytest.mark.filterwarnings(f"ignore::{kind}:openstack")
        for kind in ("DeprecationWarning", "PendingDeprecationWarning")
    ),
]
#: Seconds for a server to be up, or moved.
LONG = 90.0


class End:
    """Who can send and hear: a server's guest, or the host outside."""

    ping, reaches, exec = Vm.ping, Vm.reaches, Vm.exec
    open_socket, connect, listen = Vm.open_socket, Vm.connect, Vm.listen

    def __init__(self, name: str, namespace: str, ip: str) -> None:
        self.name, self.namespace, self.ip = name, namespace, ip


class Server(End):
    """A server, by what Nova calls it. `ip`: what Neutron gave it."""

    def __init__(self, cloud: Cloud, id_: str, name: str) -> None:
        self.cloud, self.id = cloud, id_
        (port,) = cloud.sdk.network.ports(device_id=id_)
        self.port, self.mac = port.id, port.mac_address
        super().__init__(name, cloud.lab.site.vm_namespace(id_), port.fixed_ips[0]["ip_address"])

    # --- what Nova says ---

    @property
    def shown(self) -> Any:
        return self.cloud.sdk.compute.get_server(self.id)

    @property
    def host(self) -> str:
        return str(self.shown.compute_host)

    def wait(self, status: str, deadline: float = LONG) -> None:
        """Until Nova says so, and is at nothing else."""

        def so() -> bool:
            found = self.shown
            return found.status == status and not found.task_state

        wait_until(so, f"{self.name} to be {status}", deadline, every=0.3)

    def migrations(self) -> list[Any]:
        """The last first."""
        found = self.cloud.sdk.compute.migrations(instance_uuid=self.id)
        return sorted(found, key=lambda each: each.created_at, reverse=True)

    def migrate(self, host: str | None = None, deadline: float = LONG) -> Any:
        """Live; the migration, when it is over."""
        before = {each.id for each in self.migrations()}
        self.cloud.sdk.compute.live_migrate_server(self.id, host=host, block_migration="auto")

        def over() -> bool:
            new = [each for each in self.migrations() if each.id not in before]
            return (
                bool(new)
                and new[0].status in ("completed", "error", "failed", "cancelled")
                and not self.shown.task_state
            )

        wait_until(over, f"{self.name} to be moved", deadline, every=0.3)
        return self.migrations()[0]

    # --- what its guest says ---

    def addresses(self) -> list[str]:
        """With their prefixes, as its DHCP client has set them."""
        return re.findall(r"inet (\S+)", self.exec(["ip", "-o", "-4", "addr", "show", "eth0"]))

    def wait_address(self, deadline: float = 15.0) -> None:
        """Until its DHCP client has one."""
        wait_until(lambda: bool(self.addresses()), f"{self.name} to have an address", deadline, every=0.05)

    @property
    def asked(self) -> int:
        """How many times its DHCP client has had to ask whether there is a server."""
        log = self.cloud.lab.site.run_directory / f"vm-{self.id}.log"
        return log.read_text().count("broadcasting discover")

    @property
    def plugged(self) -> tuple[str, ...]:
        """The hosts where it has a port on br-int."""
        return self.cloud.lab.vm(self.id).plugged


class Cloud:
    """One cloud, and those who work in it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.services = lab_cloud.Cloud(lab)
        self.sdk = connect(lab, self.services.credentials, lab_cloud.NAME)
        self._numbers = itertools.count(1)
        self.outside = End(whole.OUTSIDE_NAME, lab.site.host_namespace(whole.OUTSIDE_NAME), whole.OUTSIDE_HOST)

    # --- what all share ---

    @cached_property
    def image(self) -> str:
        found = self.sdk.image.find_image("tiny")
        if found is None:
            # The hypervisor starts none.
            found = self.sdk.create_image("tiny", data=b"x", disk_format="raw", container_format="bare", wait=True)
        return str(found.id)

    @cached_property
    def flavor(self) -> str:
        return self._flavor("tiny", 64)

    def _flavor(self, name: str, ram: int) -> str:
        compute = self.sdk.compute
        return str((compute.find_flavor(name) or compute.create_flavor(name=name, ram=ram, vcpus=1, disk=1)).id)

    @cached_property
    def external(self) -> str:
        """The network outside, which is a provider network of Neutron's."""
        network = self.sdk.network
        found = network.find_network("outside")
        if found is None:
            wishes = {"router:external": True, "provider:network_type": "flat", "provider:physical_network": PHYSICAL}
            found = network.create_network(name="outside", **wishes)
            pool = [{"start": "203.0.113.10", "end": "203.0.113.250"}]
            words = {"cidr": whole.OUTSIDE, "gateway_ip": whole.OUTSIDE_HOST, "allocation_pools": pool}
            network.create_subnet(network_id=found.id, ip_version=4, is_dhcp_enabled=False, **words)
        return str(found.id)

    # --- hosts ---

    def service_of(self, host: str) -> Any:
        """The nova-compute of a host, as Nova shows it."""
        return next(self.sdk.compute.services(binary="nova-compute", host=host))

    def agents(self) -> dict[str, Any]:
        """Hosts on which Neutron may bind ports."""
        return {each.host: each for each in self.sdk.network.agents() if each.agent_type == "Ebbtide vSwitch"}

    @contextmanager
    def failing(self, *servers: Server) -> Iterator[None]:
        """Their live migrations fail, in what libvirt does."""
        file = self.lab.site.directory / FAILING
        file.write_text("".join(f"{each.id}\n" for each in servers))
        try:
            yield
        finally:
            file.unlink()

    @contextmanager
    def tenant(self, name: str) -> Iterator[Tenant]:
        """Somebody with a network, a router and a group; gone with all servers afterwards."""
        made = Tenant(self, name, next(self._numbers))
        try:
            yield made
        finally:
            made.leave()


class Tenant:
    """Somebody's network, and what stands in it."""

    def __init__(self, cloud: Cloud, name: str, number: int) -> None:
        self.cloud, self.name = cloud, name
        network = cloud.sdk.network
        self.network = network.create_network(name=name)
        self.subnet = network.create_subnet(network_id=self.network.id, ip_version=4, cidr=f"10.{number}.0.0/24")
        self.group = network.create_security_group(name=name)
        for protocol in ("icmp", "tcp", "udp"):
            self.allow(protocol)
        self.router = network.create_router(name=name, external_gateway_info={"network_id": cloud.external})
        network.add_interface_to_router(self.router, subnet=self.subnet.id)
        self.servers: list[Server] = []

    def allow(self, protocol: str, group: Any = None) -> None:
        """Let it in, from everywhere."""
        self.cloud.sdk.network.create_security_group_rule(
            security_group_id=(group or self.group).id, direction="ingress", protocol=protocol
        )

    @property
    def address_outside(self) -> str:
        """The router's, of which those without a floating IP are seen."""
        found = self.cloud.sdk.network.get_router(self.router.id).external_gateway_info
        return str(found["external_fixed_ips"][0]["ip_address"])

    # --- servers ---

    def ask(self, name: str, host: str = "", group: Any = None) -> Any:
        """Have a server built on a host ("": on any), and wait for nothing."""
        cloud = self.cloud
        return cloud.sdk.compute.create_server(
            name=name,
            image_id=cloud.image,
            flavor_id=cloud.flavor,
            networks=[{"uuid": self.network.id}],
            security_groups=[{"name": (group or self.group).id}],
            **({"availability_zone": f"nova:{host}"} if host else {}),
        )

    def boot(self, *hosts: str, group: Any = None) -> list[Server]:
        """A server on each of these hosts, all at once; they are up and have their addresses when this returns."""
        asked = [self.ask(f"{self.name}-{len(self.servers) + n}", host, group) for n, host in enumerate(hosts)]
        made = []
        for each in asked:
            found = self.cloud.sdk.compute.wait_for_server(each, wait=LONG, interval=0.5)
            made.append(Server(self.cloud, found.id, found.name))
        self.servers += made
        for server in made:
            server.wait_address()
        return made

    def floating(self, server: Server) -> Any:
        """A floating IP for it."""
        return self.cloud.sdk.network.create_ip(floating_network_id=self.cloud.external, port_id=server.port)

    def delete(self, servers: Sequence[Any]) -> None:
        """Until they are gone."""
        compute = self.cloud.sdk.compute
        for server in servers:
            compute.delete_server(server.id)
        gone = {server.id for server in servers}
        wait_until(
            lambda: not gone & {s.id for s in compute.servers()}, f"{self.name}'s servers to go", LONG, every=0.3
        )

    def leave(self) -> None:
        """Take away all that is left of it."""
        network = self.cloud.sdk.network
        self.delete([s for s in self.cloud.sdk.compute.servers() if s.name.startswith(f"{self.name}-")])
        for address in network.ips(router_id=self.router.id):
            network.delete_ip(address)
        network.remove_interface_from_router(self.router, subnet=self.subnet.id)
        network.delete_router(self.router)
        network.delete_network(self.network)
        network.delete_security_group(self.group)
