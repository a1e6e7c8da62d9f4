"""A story told to a cloud without wires. Guests are played: they answer ARP and echoes, and have addresses of which nobody is told."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from ebbtide.compile import ledger
from ebbtide.compile.ledger import Punt
from ebbtide.decide import hidden, routing, vpns
from ebbtide.model.facts import Port
from ebbtide.model.state import State
from tests.fakes.conntrack import ECHO_REPLY, ECHO_REQUEST, ICMP
from tests.fakes.core_cloud import CoreCloud, Host, Life
from tests.fakes.flow_table import Packet, Walk, arp_request
from tests.stories.story import gateway


class InCore:
    """See above."""

    def __init__(self) -> None:
        self.cloud = CoreCloud()
        self._hosts: dict[str, Host] = {}
        self._hidden: dict[str, set[str]] = {}

    @property
    def state(self) -> State:
        return self.cloud.state

    def join(self, name: str) -> None:
        self._hosts[name] = Host(name, len(self._hosts) + 1)
        self.cloud.connect(self._hosts[name])

    def network(self, name: str, subnet: str) -> None:
        self.cloud.add_network(name, subnet)

    def vm(self, name: str, compute: str, network: str, address: str) -> None:
        tag, last = self.state.networks[network].tag, int(address.rpartition(".")[2])
        self.cloud.add_port(name, network, 0x02 << 40 | tag << 8 | last, address)
        self.cloud.run(name, self.cloud.number(compute))

    def migrate(self, vm: str, to: str) -> None:
        self.cloud.migrate(vm, self.cloud.number(to))

    def delete(self, vm: str) -> None:
        self.cloud.delete_port(vm)

    def hide(self, vm: str, address: str) -> None:
        self._hidden.setdefault(vm, set()).add(address)

    def router(self, name: str, places: Sequence[tuple[str, str]]) -> None:
        self.cloud.decide(lambda s: routing.add_router(s, name))
        for network, address in places:
            self.cloud.decide(lambda s, n=network, a=address: routing.attach(s, name, n, a))

    def vpn(self, name: str, places: Sequence[tuple[str, str]], imports: Sequence[str], exports: Sequence[str]) -> None:
        if name in self.state.vpns:
            self.cloud.decide(lambda s: vpns.change(s, name, imports, exports))
        else:
            rd = f"100:{len(self.state.vpns) + 1}"
            self.cloud.decide(lambda s: vpns.add(s, name, rd, imports, exports))
        for network, address in places:
            self.cloud.decide(lambda s, n=network, a=address: vpns.associate_network(s, name, n, a))

    def scale_in(self, verb: str, names: Sequence[str]) -> str:
        decision = {"start": self.cloud.start, "end": self.cloud.end, "recover": self.cloud.recover}[verb](names)
        return "; ".join(v.message for v in decision.verdicts)

    def silence(self, name: str) -> None:
        self.cloud.lose(self.cloud.number(name), Life.SILENT)

    def hear(self, name: str) -> None:
        self.cloud.connect(self._hosts[name])

    # --- guests ---

    def reaches(self, vm: str, address: str, wanted: bool) -> bool:
        """The first packet to an address that nobody was given has the network asked; whoever has it answers, and then it goes on."""
        if self._echoes(vm, address):
            return True
        return self._is_asked_for(vm, address) and self._echoes(vm, address)

    def _echoes(self, vm: str, address: str) -> bool:
        own = self.state.ports[vm].addresses[0]
        there = self._send(vm, own, address, ECHO_REQUEST)
        holders = [name for name in self._holders(address) if there is not None and self._has_it(there, name)]
        if not holders:
            return False
        back = self._send(holders[0], address, own, ECHO_REPLY)
        return back is not None and self._has_it(back, vm)

    def _has_it(self, walk: Walk, vm: str) -> bool:
        """Whether a guest has got a frame that is for it."""
        frames = [frame for at, name, frame in walk.delivered if (at, name) == (self.cloud.guest[vm], vm)]
        return any(frame["eth_dst"] == self.state.ports[vm].mac for frame in frames)

    def _holders(self, address: str) -> list[str]:
        given = [p.id for p in self.state.ports.values() if address in p.addresses]
        return given + [vm for vm, held in self._hidden.items() if address in held]

    def _send(self, vm: str, own: str, address: str, kind: int) -> Walk | None:
        """An echo, to who has the address or to the gateway; None: neither has answered ARP."""
        port = self.state.ports[vm]
        subnet = self.state.networks[port.network].subnets[0]
        near = IPv4Address(address) in IPv4Network(subnet)
        mac = self._resolve(port, own, address if near else gateway(subnet))
        if mac is None:
            return None
        ends = {"ipv4_src": int(IPv4Address(own)), "ipv4_dst": int(IPv4Address(address))}
        echo: Packet = {"eth_type": 0x0800, "nw_ttl": 64, "ip_proto": ICMP, "icmpv4_type": kind, "icmp_id": 7}
        return self.cloud.send(vm, {"eth_src": port.mac, "eth_dst": mac, **echo, **ends})

    def _resolve(self, port: Port, own: str, address: str) -> int | None:
        walk = self.cloud.send(port.id, arp_request(port.mac, int(IPv4Address(own)), int(IPv4Address(address))))
        for at, name, frame in walk.delivered:
            if name == port.id and frame["arp_op"] == 2:
                return frame["arp_sha"]
            if name in self._holders(address) and at == self.cloud.guest[name]:
                return self.state.ports[name].mac
        return None

    def _is_asked_for(self, vm: str, address: str) -> bool:
        """The designated compute has sent the packet up, and somebody answers where the controller asks."""
        walk = self._send(vm, self.state.ports[vm].addresses[0], address, ECHO_REQUEST)
        asked = {why for at, why, _ in walk.punts if at in self.cloud.heard()} if walk is not None else set()
        for holder in (name for name, held in self._hidden.items() if address in held and self.cloud.guest[name]):
            port = self.state.ports[holder]
            if ledger.userdata(Punt.HIDDEN, self.state.networks[port.network].tag) in asked:
                self.cloud.decide(lambda s, p=port: hidden.learn(s, p.network, address, p.mac, p.id))
                return True
        return False
