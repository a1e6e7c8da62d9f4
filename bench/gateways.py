"""Two systems that translate addresses for VMs over the same kind of lab, with the same verbs: ours, and OVN for comparison.

Router number N has one network, 10.N.0.0/24, and one address outside, 203.0.113.(10 + N), into which it translates; the host outside is
203.0.113.1. Computes that may be gateways have the provider network, the others have not. Userspace datapath everywhere.

Both run as in `clusters`; OVN over Geneve, its own default.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

from ebbtide.errors import NotReady
from ebbtide.lab import Compute, Lab, Vm
from ebbtide.lab.commands import wait_until
from ebbtide.lab.processes import is_running

from .clusters import Ours, Ovn

PHYSICAL, OUTSIDE, HOST = "physnet1", "203.0.113", "203.0.113.1"
#: Room for Geneve's header within the lab's 1500 bytes.
MTU = 1400


def router_name(number: int) -> str:
    """Of a router, by its number."""
    return f"r{number}"


def number_of(router: str) -> int:
    """The number of a router, by its name."""
    return int(router.removeprefix("r"))


def address_of(number: int) -> str:
    """The address outside of a router."""
    return f"{OUTSIDE}.{10 + number}"


def floating_of(number: int) -> str:
    """The floating IP behind a router."""
    return f"{OUTSIDE}.{110 + number}"


def vm_name(router: int, index: int) -> str:
    """Of the `index`-th VM behind a router."""
    return f"vm{router}-{index}"


def inside(router: int, index: int) -> str:
    """The address of the `index`-th VM behind a router; the 254th is the router's."""
    return f"10.{router}.0.{index}"


def mac_of(router: int, index: int) -> str:
    """The MAC of the `index`-th VM behind a router."""
    return f"02:00:00:10:{router:02x}:{index:02x}"


class Gateways(Protocol):
    """What both can do."""

    lab: Lab
    title: str

    def join(self, names: Sequence[str], able: bool) -> list[Compute]:
        """Computes that have just joined; `able`: they may be gateways."""

    def add_router(self, number: int, order: Sequence[str]) -> None:
        """A router with its network. `order`: where it would be best, for those who have to be told."""

    def add_vm(self, router: int, index: int, compute: str) -> Vm:
        """A VM behind a router."""

    def add_floating(self, router: int, index: int) -> None:
        """The router's floating IP leads to this VM."""

    def owner(self, router: int) -> str:
        """The compute that translates now."""

    def owners(self) -> dict[int, str]:
        """Of all routers."""

    def settle(self) -> None:
        """Wait until everybody knows everything, and every router has an owner and somebody who stands by."""

    def drain(self, names: Sequence[str]) -> None:
        """A planned move of all routers away from these computes; returns at once."""

    def drained(self, names: Sequence[str]) -> bool:
        """Whether the controller says that it is over."""

    def put_back(self, names: Sequence[str]) -> None:
        """These may have routers again."""

    def kill(self, name: str) -> None:
        """The gateway dies."""

    def revive(self, name: str) -> None:
        """It is back; returns when it could take over from another."""


def _add_vm(lab: Lab, router: int, index: int, compute: str) -> Vm:
    name = vm_name(router, index)
    own, gateway = inside(router, index), inside(router, 254)
    return lab.add_vm(name, compute, mac_of(router, index), f"{own}/24", name, MTU, gateway=gateway)


class OursGateways:
    """ebbtide, over its REST interface."""

    title = "ebbtide"

    def __init__(self, lab: Lab, *flags: str) -> None:
        self.lab = lab
        lab.add_host("out", f"{HOST}/24")
        self.ours = Ours(lab, *flags)
        outside = {"physical": PHYSICAL, "subnet": f"{OUTSIDE}.0/24", "gateway": HOST}
        self.ours.ask("PUT", "/api/v1/externals/outside", outside)

    def join(self, names: Sequence[str], able: bool) -> list[Compute]:
        """Registered, and ready."""
        return self.ours.join(names, PHYSICAL if able else "")

    def add_router(self, number: int, order: Sequence[str]) -> None:
        """It elects by itself."""
        name = router_name(number)
        self.ours.ask("POST", "/api/v1/networks", {"id": name, "subnets": [f"10.{number}.0.0/24"]})
        self.ours.ask("PUT", f"/api/v1/routers/{name}", {"external": "outside", "addresses": [address_of(number)]})
        self.ours.ask("POST", f"/api/v1/routers/{name}/attach", {"network": name, "address": inside(number, 254)})

    def add_vm(self, router: int, index: int, compute: str) -> Vm:
        """A port, and who plugs it."""
        port = {"id": vm_name(router, index), "network": router_name(router), "mac": mac_of(router, index)}
        self.ours.ask("POST", "/api/v1/ports", {**port, "addresses": [inside(router, index)]})
        return _add_vm(self.lab, router, index, compute)

    def add_floating(self, router: int, index: int) -> None:
        """A floating IP."""
        path = f"/api/v1/floating-ips/outside/{floating_of(router)}"
        self.ours.ask("PUT", path, {"port": vm_name(router, index)})

    def routers(self) -> dict[str, dict[str, Any]]:
        """All that is shown of each."""
        return {router["id"]: router for router in self.ours.ask("GET", "/api/v1/routers")["routers"]}

    def owner(self, router: int) -> str:
        """The designated compute."""
        return str(self.routers()[router_name(router)]["designated"])

    def owners(self) -> dict[int, str]:
        """All of them, by one question."""
        return {number_of(name): router["designated"] for name, router in self.routers().items()}

    def settle(self) -> None:
        """All computes are ready and have applied everything, all routers are designated and stood by, nothing moves."""
        waits: list[str] = []

        def settled() -> bool:
            computes, revision = self.ours.ask("GET", "/api/v1/computes")["computes"], self._revision()
            waits[:] = [
                f"{c['name']}: {c['phase']}, applied {c['applied']} of {revision}"
                for c in computes
                if c["phase"] != "ready" or c["applied"] < revision
            ]
            waits.extend(
                f"{name}: by {router['designated']}, {router['standby']} stands by, move {router['move']}"
                for name, router in self.routers().items()
                if router["move"] or not router["designated"] or not router["standby"]
            )
            return not waits

        try:
            wait_until(settled, "all to be ready, designated and at rest", 120, every=0.05)
        except NotReady as error:
            raise NotReady(f"{error}; {'; '.join(waits[:5])}") from None

    def _revision(self) -> int:
        return int(self.ours.ask("GET", "/api/v1/status")["revision"])

    def drain(self, names: Sequence[str]) -> None:
        """scalein-computes-start."""
        self.ours.ask("POST", "/api/v1/scale-in/start", {"computes": list(names)})

    def drained(self, names: Sequence[str]) -> bool:
        """No move is under way, and nothing is designated there."""
        return not any(router["move"] or router["designated"] in names for router in self.routers().values())

    def put_back(self, names: Sequence[str]) -> None:
        """scalein-computes-recover."""
        self.ours.ask("POST", "/api/v1/scale-in/recover", {"computes": list(names)})

    def kill(self, name: str) -> None:
        """Its switch."""
        self.lab.compute(name).kill_switch()

    def revive(self, name: str) -> None:
        """Its switch, and then all that it should hold."""
        self.lab.compute(name).start_switch()
        self.settle()


class DarkGateways(OursGateways):
    """Gateways that lose their power: nothing comes from them any more, and no connection of theirs is closed."""

    def kill(self, name: str) -> None:
        """All of its cables."""
        compute = self.lab.compute(name)
        for cut in (compute.cut_outside, compute.cut_data, compute.cut_control):
            cut()

    def revive(self, name: str) -> None:
        """All of them again."""
        compute = self.lab.compute(name)
        for heal in (compute.heal_control, compute.heal_data, compute.heal_outside):
            heal()
        self.settle()


class OvnGateways:
    """OVN: a gateway chassis group for each router. Who is best of a group is for the operator to say, by priorities."""

    title = "OVN"

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.add_host("out", f"{HOST}/24")
        self._ovn = Ovn(lab, "geneve")
        self._orders: dict[int, list[str]] = {}
        localnet = ("lsp-set-type", "wire", "localnet", "--", "lsp-set-options", "wire", f"network_name={PHYSICAL}")
        addresses = ("lsp-set-addresses", "wire", "unknown")
        self._ovn.nbctl("ls-add", "outside", "--", "lsp-add", "outside", "wire", "--", *localnet, "--", *addresses)

    def join(self, names: Sequence[str], able: bool) -> list[Compute]:
        """Chassis, and every ovn-controller up to date; routers that are there have them as the last of their groups."""
        made = self._ovn.join(names, PHYSICAL if able else "")
        for number, order in self._orders.items():
            if able:
                self._order(number, [*order, *names])
        return made

    def add_router(self, number: int, order: Sequence[str]) -> None:
        """Two switches around a logical router, and its group of chassis."""
        name, nbctl = router_name(number), self._ovn.nbctl
        nbctl("ls-add", name, "--", "lr-add", name)
        self._connect(name, name, f"in{number}", f"02:00:00:20:00:{number:02x}", f"{inside(number, 254)}/24")
        self._connect(name, "outside", f"out{number}", f"02:00:00:30:00:{number:02x}", f"{address_of(number)}/24")
        nbctl("lr-nat-add", name, "snat", address_of(number), f"10.{number}.0.0/24")
        nbctl("ha-chassis-group-add", name)
        group = nbctl("--bare", "--columns=_uuid", "find", "HA_Chassis_Group", f"name={name}").strip()
        self._order(number, list(order))
        nbctl("set", "Logical_Router_Port", f"out{number}", f"ha_chassis_group={group}")

    def _connect(self, router: str, switch: str, port: str, mac: str, address: str) -> None:
        there = f"{port}-there"
        kind = ("lsp-set-type", there, "router", "--", "lsp-set-options", there, f"router-port={port}")
        made = ("lrp-add", router, port, mac, address, "--", "lsp-add", switch, there, "--", *kind)
        self._ovn.nbctl(*made, "--", "lsp-set-addresses", there, "router")

    def _order(self, number: int, names: list[str]) -> None:
        """Priorities in one transaction, the first of the names the highest."""
        self._orders[number] = names
        words: list[str] = []
        for rank, name in enumerate(names):
            chassis = self.lab.compute(name).system_id
            more = ["ha-chassis-group-add-chassis", router_name(number), chassis, str(100 - rank)]
            words += ["--", *more] if words else more
        self._ovn.nbctl(*words)

    def add_vm(self, router: int, index: int, compute: str) -> Vm:
        """A logical switch port, and who plugs it."""
        name = vm_name(router, index)
        addresses = f"{mac_of(router, index)} {inside(router, index)}"
        self._ovn.nbctl("lsp-add", router_name(router), name, "--", "lsp-set-addresses", name, addresses)
        return _add_vm(self.lab, router, index, compute)

    def add_floating(self, router: int, index: int) -> None:
        """Translated at the gateway, as no compute with VMs has the provider network."""
        self._ovn.nbctl("lr-nat-add", router_name(router), "dnat_and_snat", floating_of(router), inside(router, index))

    def owner(self, router: int) -> str:
        """The chassis that has claimed the router's gateway port."""
        return self.owners()[router]

    def owners(self) -> dict[int, str]:
        """All of them, by two questions."""
        chassis = dict(self._rows("Chassis", "_uuid,name"))
        bound = {port: chassis.get(uuid, "") for port, uuid in self._rows("Port_Binding", "logical_port,chassis")}
        names = {compute.system_id: compute.name for compute in self.lab.computes()}
        return {number: names.get(bound.get(f"cr-out{number}", ""), "") for number in self._orders}

    def _rows(self, table: str, columns: str) -> list[list[str]]:
        text = self._ovn.sbctl("--format=csv", "--no-headings", "--data=bare", f"--columns={columns}", "list", table)
        return [line.split(",") for line in text.splitlines()]

    def settle(self) -> None:
        """The best of each group has claimed it, and all chassis are up to date."""
        best = {number: order[0] for number, order in self._orders.items()}
        wait_until(lambda: self.owners() == best, "the gateway ports to be claimed", 60, every=0.05)
        self._ovn.sync()

    def drain(self, names: Sequence[str]) -> None:
        """What an operator can do: let others be better. Routers of these are dealt out to the rest in turn."""
        rest = cycle(sorted({n for order in self._orders.values() for n in order} - set(names)))
        for number, order in self._orders.items():
            if order[0] in names:
                first = next(rest)
                others = [name for name in order if name != first]
                self._order(number, [first, *sorted(others, key=lambda name: name in names)])

    def drained(self, names: Sequence[str]) -> bool:
        """Whether none of these has a gateway port any more."""
        return not any(owner in names for owner in self.owners().values())

    def put_back(self, names: Sequence[str]) -> None:
        """Nothing: they are in the groups still."""

    def kill(self, name: str) -> None:
        """Its switch and its ovn-controller, at once."""
        compute = self.lab.compute(name)
        pid = int((compute.directory / "ovn.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        compute.kill_switch()
        wait_until(lambda: not is_running(pid), "the end of ovn-controller")

    def revive(self, name: str) -> None:
        """Both; it takes back what it had."""
        compute = self.lab.compute(name)
        compute.start_switch()
        Path(compute.directory / "ovn.pid").unlink(missing_ok=True)
        self._ovn.start(compute)
        self.settle()
