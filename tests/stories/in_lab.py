"""A story told to a lab: real switches, real packets."""

from __future__ import annotations

from collections.abc import Sequence

from ebbtide.decide import designation, duties
from ebbtide.model.observed import Phase
from ebbtide.model.state import State
from tests.support.cloud import Cloud
from tests.support.outside import GATEWAY, settle


class InLab:
    """See above."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    @property
    def state(self) -> State:
        return self.cloud.controller.app.cluster.state

    def rest(self) -> None:
        """Until nobody wants to elect anybody, nothing is to be sent, no port is between two places, and the cached flows follow."""
        cluster = self.cloud.controller.app.cluster

        def at_rest() -> bool:
            state, standings = cluster.state, cluster.designations.standings()
            wanted = designation.judge(state, standings) or duties.judge(state, standings)
            owing = any(d.compute in cluster.owing_nothing() for d in state.debts.values())
            return not wanted and not state.moves and not owing

        self.cloud.wait(at_rest, what="everything at rest")
        settle(self.cloud)

    def join(self, name: str) -> None:
        self.cloud.add_computes(name)
        self.rest()

    def network(self, name: str, subnet: str) -> None:
        self.cloud.add_network(name, subnet)

    def vm(self, name: str, compute: str, network: str, address: str) -> None:
        self.cloud.add_vm(name, compute, network, int(address.rpartition(".")[2]), gateway=GATEWAY)
        self.rest()

    def migrate(self, vm: str, to: str) -> None:
        self.cloud.migrate(vm, to)
        self.rest()

    def delete(self, vm: str) -> None:
        self.cloud.lab.remove_vm(vm)
        self.cloud.call(self.cloud.service.delete_port(vm))
        self.rest()

    def hide(self, vm: str, address: str) -> None:
        self.cloud.lab.vm(vm).exec(["ip", "addr", "add", f"{address}/32", "dev", "eth0"])

    def router(self, name: str, places: Sequence[tuple[str, str]]) -> None:
        self.cloud.call(self.cloud.service.add_router(name))
        for network, address in places:
            self.cloud.call(self.cloud.service.attach(name, network, address))
            self.rest()

    def vpn(self, name: str, places: Sequence[tuple[str, str]], imports: Sequence[str], exports: Sequence[str]) -> None:
        service = self.cloud.service
        if name in self.state.vpns:
            self.cloud.call(service.set_vpn(name, imports, exports))
        else:
            self.cloud.call(service.add_vpn(name, f"100:{len(self.state.vpns) + 1}", imports, exports))
        for network, address in places:
            self.cloud.call(service.associate_network(name, network, address))
            self.rest()
        self.rest()

    def scale_in(self, verb: str, names: Sequence[str]) -> str:
        service, said = self.cloud.service, ""
        if verb == "end":
            self.cloud.call(service.end(names))
        else:
            decision = self.cloud.call({"start": service.start, "recover": service.recover}[verb](names))
            said = "; ".join(v.message for v in decision.verdicts)
        self.rest()
        return said

    def silence(self, name: str) -> None:
        member = self.cloud.controller.member(name)
        self.cloud.lab.compute(name).cut_control()
        self.cloud.wait(lambda: not member.connected, what=f"{name} silent")
        self.rest()

    def hear(self, name: str) -> None:
        """One that was removed is quarantined and wiped."""
        self.cloud.lab.compute(name).heal_control()
        cluster = self.cloud.controller.app.cluster
        number = self.state.by_name.get(name) or next(c.number for c in self.state.removed.values() if c.name == name)

        def back() -> bool:
            member = cluster.members[number]
            phase = Phase.QUARANTINED if number in cluster.state.removed else Phase.READY
            return member.connected and member.phase is phase and (number, number) not in cluster.state.debts

        self.cloud.wait(back, 30, f"{name} back")
        self.rest()

    def reaches(self, vm: str, address: str, wanted: bool) -> bool:
        own = self.cloud.lab.vm(vm)
        return own.reaches(address) if wanted else bool(own.ping(address, deadline=0.3).received)
