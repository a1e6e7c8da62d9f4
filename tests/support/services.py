"""What users of OpenDaylight see and do of VPNs, NAT and subnet routes, over REST; and where their flows are on the switches.

Computes are told by name here: a datapath id or a tunnel end point that is nobody's is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from ebbtide.model.state import State, subnet_name
from tests.support import snapshots
from tests.support.cloud import Cloud

Route = tuple[str, tuple[str, ...]]


def state_of(cloud: Cloud) -> State:
    return cloud.controller.app.cluster.state


def rest(cloud: Cloud, path: str, content: str = "all") -> Any:
    """What stands at a path of the data trees, without its envelope; None: nothing does."""
    status, body = cloud.http("GET", f"/rests/data/{path}?content={content}")
    if status == 404:
        return None
    assert status == 200, body
    (found,) = body.values()
    return found


# --- VPNs ---


def add_vpn(
    cloud: Cloud,
    name: str,
    rd: str,
    networks: Sequence[str] = (),
    routers: Sequence[str] = (),
    imports: Sequence[str] = (),
) -> None:
    """By the RPC of NetVirt: a VPN that exports by its route distinguisher, and imports the same and these."""
    wish = {
        "id": name,
        "route-distinguisher": [rd],
        "import-RT": [rd, *imports],
        "export-RT": [rd],
        "network-ids": list(networks),
        "router-ids": [{"router-id": router} for router in routers],
    }
    status, body = cloud.http(
        "POST", "/rests/operations/neutronvpn:createL3VPN", {"neutronvpn:input": {"l3vpn": [wish]}}
    )
    assert status == 200, body


def associate(cloud: Cloud, vpn: str, network: str) -> None:
    """By the RPC of NetVirt: a network comes into a VPN."""
    wish = {"vpn-id": vpn, "network-id": [network]}
    status, body = cloud.http("POST", "/rests/operations/neutronvpn:associateNetworks", {"neutronvpn:input": wish})
    assert status == 200, body


def present(cloud: Cloud, rd: str) -> list[str]:
    """The computes on which a VPN is."""
    entry = rest(cloud, f"odl-l3vpn:vpn-instance-op-data/vpn-instance-op-data-entry={quote(rd, safe='')}")
    return sorted(_by_dpid(cloud, x["dpnId"]) for x in entry[0].get("vpn-to-dpn-list", []))


def routes(cloud: Cloud, rd: str) -> dict[str, Route]:
    """A VPN's routes: where each is from (c, l, s, si), and by which computes it goes."""
    (table,) = rest(cloud, f"odl-fib:fibEntries/vrfTables={quote(rd, safe='')}")
    return {
        x["destPrefix"]: (x["origin"], tuple(_by_tep(cloud, p["nexthop-address"]) for p in x.get("route-paths", [])))
        for x in table.get("vrfEntry", [])
    }


# --- who is designated ---


def subnet_entry(cloud: Cloud, network: str, subnet: str) -> dict[str, Any]:
    (found,) = rest(
        cloud, f"odl-l3vpn:subnet-op-data/subnet-op-data-entry={quote(subnet_name(network, subnet), safe='')}"
    )
    return dict(found)


def asks_for(cloud: Cloud, network: str, subnet: str) -> str:
    """The compute that is designated for a subnet route ("": none is, and then it is not advertised either)."""
    entry = subnet_entry(cloud, network, subnet)
    assert (entry["route-adv-state"] == "advertised") == ("nh-dpnId" in entry), entry
    return _by_dpid(cloud, entry["nh-dpnId"]) if "nh-dpnId" in entry else ""


def translates(cloud: Cloud, router: str) -> str:
    """The compute that is designated for a router's NAT ("": none is)."""
    found = rest(cloud, f"odl-nat:napt-switches/router-to-napt-switch={router}", "config")
    return _by_dpid(cloud, found[0]["primary-switch-id"]) if found is not None else ""


def wait_asks(cloud: Cloud, network: str, subnet: str, *names: str) -> str:
    """Until one of these is designated for a subnet route, and all is applied."""
    cloud.wait(
        lambda: ("subnet", subnet_name(network, subnet)) in state_of(cloud).designations, what="a designated compute"
    )
    cloud.wait(lambda: _designated(cloud, network, subnet) in names, what=f"one of {names} designated for {subnet}")
    cloud.wait_clean()
    return asks_for(cloud, network, subnet)


def _designated(cloud: Cloud, network: str, subnet: str) -> str:
    state = state_of(cloud)
    found = state.designations.get(("subnet", subnet_name(network, subnet)))
    return state.computes[found.compute].name if found is not None else ""


def stands_by(cloud: Cloud, network: str, subnet: str) -> str:
    """The compute that would ask in place of the designated one."""
    state = state_of(cloud)
    found = state.designations["subnet", subnet_name(network, subnet)]
    return state.computes[found.standby].name if found.standby else ""


# --- addresses that nobody was given ---


def hide(cloud: Cloud, vm: str, address: str) -> None:
    """A second address in a VM, of which nobody is told."""
    cloud.lab.vm(vm).exec(["ip", "addr", "add", f"{address}/32", "dev", "eth0"])


def learnt(cloud: Cloud) -> dict[str, str]:
    """What was learnt, in all VPNs: address -> port."""
    found = rest(cloud, "odl-l3vpn:learnt-vpn-vip-to-port-data") or {}
    return {x["port-fixedip"]: x["port-name"] for x in found.get("learnt-vpn-vip-to-port", [])}


# --- flows ---


def asking(cloud: Cloud, name: str, network: str, subnet: str) -> list[str]:
    """A compute's flows by which it asks for what nobody is known to have in a subnet, because it is designated for it."""
    return [x for x in serving(cloud, name, network, subnet) if "/0xffff000000," in x]


def serving(cloud: Cloud, name: str, network: str, subnet: str) -> list[str]:
    """The same, and of who stands by: it asks for what others send it (one bit more in the mask), and for nothing else."""
    return [x for x in _of_subnet(cloud, name, network, subnet) if "controller(" in x]


def towards(cloud: Cloud, name: str, network: str, subnet: str) -> str:
    """The compute to which a compute's flows send what nobody is known to have in a subnet."""
    (line,) = [x for x in _of_subnet(cloud, name, network, subnet) if "->reg5" in x]
    number = int(line.partition("->reg5")[0].rpartition("set_field:")[2], 0)
    return state_of(cloud).computes[number].name


def _of_subnet(cloud: Cloud, name: str, network: str, subnet: str) -> list[str]:
    tag = state_of(cloud).networks[network].tag
    lines = snapshots.flows(cloud.lab.compute(name))
    return [x for x in lines if f"cookie=0x30b{tag:05x}" in x and "table=22," in x and f"nw_dst={subnet} " in x]


def vpn_flows(cloud: Cloud, name: str, tag: int) -> list[str]:
    """A compute's flows that route in a VRF; `tag`: the VRF's."""
    return [x for x in snapshots.flows(cloud.lab.compute(name)) if f"metadata=0x{tag << 1:x}/0xfffffe" in x]


def _by_dpid(cloud: Cloud, dpid: str) -> str:
    (found,) = [c.name for c in state_of(cloud).members() if str(c.dpid) == dpid]
    return found


def _by_tep(cloud: Cloud, tep: str) -> str:
    (found,) = [c.name for c in state_of(cloud).members() if c.tep == tep]
    return found
