"""Neutron's own DHCP agents, where a cloud has them: what they serve moves to another host before theirs leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ebbtide.lab import wait_until
from ebbtide.lab.cloud.cloud import AGENTS
from tests.openstack.cloud import LONG, MARKS, Cloud, Tenant
from tests.openstack.leaving import Leaving, add_hosts, give_back, moving, wait_matched

pytestmark = [*MARKS[:1], *MARKS[2:], pytest.mark.timeout(420)]


class Agents:
    """DHCP agents of hosts."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud, self.hosts = cloud, list[str]()

    def start(self, host: str) -> None:
        """One that works when this returns."""
        self.hosts.append(host)
        self.cloud.services.services.start(f"dhcp-{host}")
        wait_until(lambda: self.of(host) is not None, f"the DHCP agent of {host} to be alive", LONG, every=0.5)

    def of(self, host: str) -> Any:
        """The one of a host, if it is alive."""
        known = self.cloud.sdk.network.agents(agent_type="DHCP agent", host=host)
        return next((each for each in known if each.is_alive), None)

    def ports(self, network: Any) -> dict[str, Any]:
        """Those that they have in a network, by host."""
        found = self.cloud.sdk.network.ports(network_id=network.id, device_owner="network:dhcp")
        return {each.binding_host_id: each for each in found}

    def stop(self, host: str) -> None:
        """End one, and whatever it has started."""
        self.cloud.lab.kill_spawned(f"cloud-dhcp-{host}")


@contextmanager
def serving(cloud: Cloud) -> Iterator[Agents]:
    """Neutron gives networks to DHCP agents."""
    whole, made = cloud.services, Agents(cloud)
    whole.services.let_agents(serve=True)
    whole.restart("neutron")
    whole.start(AGENTS)
    try:
        yield made
    finally:
        for host in made.hosts:
            made.stop(host)
        whole.stop(AGENTS)
        whole.services.let_agents(serve=False)
        whole.restart("neutron")
        for agent in cloud.sdk.network.agents(agent_type="DHCP agent"):
            cloud.sdk.network.delete_agent(agent)


def test_what_a_dhcp_agent_serves_moves_to_another_one_before_its_host_leaves(
    cloud: Cloud, tenant: Tenant, leaving: Leaving
) -> None:
    (name,) = add_hosts(cloud, 1)
    (guest,) = tenant.boot("c2")
    with serving(cloud) as agents:
        agents.start(name)

        def made(host: str) -> bool:
            port = agents.ports(tenant.network).get(host)
            return port is not None and port.status == "ACTIVE" and guest.reaches(port.fixed_ips[0]["ip_address"])

        cloud.sdk.network.add_dhcp_agent_to_network(agents.of(name), tenant.network)
        wait_until(lambda: made(name), "it to serve the network", LONG, every=0.5)
        agents.start("c1")
        with moving(cloud):
            wait_matched(leaving, name)
            operation = leaving.begin(name)
            seen: list[list[str]] = []

            def over() -> bool:
                there = agents.ports(tenant.network)
                answers = [h for h, p in there.items() if guest.reaches(p.fixed_ips[0]["ip_address"], deadline=0.5)]
                seen.append(answers)
                return leaving.told(operation)["state"] != "running"

            wait_until(over, "the host to leave", 120, every=0.2)
        assert leaving.told(operation)["state"] == "done"
        assert all(seen), "somebody serves it at any time"
        assert name in seen[0]
        assert list(agents.ports(tenant.network)) == ["c1"]
        # They are kept for their DNS. It knows no name here, since dnsmasq may not read what the lab keeps for root alone; but it answers.
        server = agents.ports(tenant.network)["c1"].fixed_ips[0]["ip_address"]
        assert "REFUSED" in guest.exec(["sh", "-c", f"busybox nslookup name.example {server} 2>&1 || true"])
        off = agents.of(name)
        assert (off.is_admin_state_up, off.description) == (False, f"ebbtide drain {operation} of {name}")
        with moving(cloud):
            leaving.ask("POST", f"/api/v1/computes/{name}/readmit")
            wait_until(
                lambda: agents.of(name).is_admin_state_up, "its agent to be on, since it is back", LONG, every=0.5
            )
        assert agents.of(name).description == ""
        agents.stop(name)
        give_back(cloud, [name])
        cloud.sdk.network.delete_port(agents.ports(tenant.network)["c1"])
