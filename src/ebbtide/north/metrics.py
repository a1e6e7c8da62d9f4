"""/metrics for Prometheus: all names in one table, values read when asked, so that a removed compute leaves no label behind."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ebbtide.north import shapes
from ebbtide.runtime.service import Service

NAMES = {
    "ebbtide_computes": "Computes by phase",
    "ebbtide_revision": "Revision of the State that this controller knows",
    "ebbtide_leading": "Whether this controller leads",
    "ebbtide_store_reachable": "Whether the store can be reached",
    "ebbtide_store_transactions": "Durable transactions that this controller has asked its store for",
    "ebbtide_store_wait_seconds": "Seconds for which it has waited for them",
    "ebbtide_store_held": "Whether the store is held by the brake",
    "ebbtide_networks": "Networks",
    "ebbtide_ports": "Ports",
    "ebbtide_externals": "Networks outside",
    "ebbtide_routers": "Routers",
    "ebbtide_routers_unserved": "Routers with a VM behind them and a network outside, and no compute that serves their NAT",
    "ebbtide_routers_exhausted": "Routers that had no port left for a connection within the last minute",
    "ebbtide_vpns": "L3VPNs",
    "ebbtide_security_groups": "Security groups",
    "ebbtide_ports_secured": "Ports with port security",
    "ebbtide_learnt_changes": "What has become of such addresses in this controller: learnt, moved, withdrawn, conflict, refused",
    "ebbtide_learnt_addresses": "Addresses that no port was given, and that answer",
    "ebbtide_subnets_unserved": "Routed subnets that are present somewhere, and for whose unknown addresses nobody is designated",
    "ebbtide_floating_ips": "Floating IPs",
    "ebbtide_moves": "Moves of a router's NAT that are going on",
    "ebbtide_debts": "Cleanings that unreachable computes owe",
    "ebbtide_operations_running": "Drains, scale-in ends, rebalances, losses and readmissions that are going on",
    "ebbtide_sessions_refused": "Connected switches that were not admitted",
    "ebbtide_neutron_silent_seconds": "Seconds since Neutron has last said something; none while it has not",
    "ebbtide_mover_silent_seconds": "Seconds since a mover of this kind has last said something",
    "ebbtide_flows": "Flows held by a compute, as confirmed by barrier",
    "ebbtide_connected": "Whether both sessions of a compute are up",
    "ebbtide_dirty": "Whether something is left to make or to break on a compute",
    "ebbtide_rejected_fragments": "Fragments that a compute's switch has refused",
    "ebbtide_applied_lag_revisions": "Revisions that a compute is behind",
    "ebbtide_tunnels": "Tunnels of a compute by whether probes came through",
}
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics(Collector):
    """One application's registry."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "ebbtide_http_requests", "HTTP requests by method and status", ("method", "code"), registry=self.registry
        )
        self.registry.register(self)

    def answered(self, method: str, status: int) -> None:
        """A request was answered."""
        known = method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
        self._requests.labels(known, str(status)).inc()

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known at the time of asking."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Everything, as it is now."""
        cluster, state = self._service.cluster, self._service.state
        phases = Tally(str(cluster.phase(c)) for c in [*state.computes.values(), *state.removed.values()])
        yield _labelled("ebbtide_computes", ("phase",), {(k,): v for k, v in phases.items()})
        running = sum(o.open for o in state.operations.values())
        for name, value in (
            ("ebbtide_revision", state.revision),
            ("ebbtide_leading", cluster.store.leading.is_set()),
            ("ebbtide_store_reachable", cluster.store.reachable),
            ("ebbtide_store_transactions", cluster.store.transactions),
            ("ebbtide_store_wait_seconds", cluster.store.waited),
            ("ebbtide_store_held", bool(cluster.store.hold)),
            ("ebbtide_networks", len(state.networks)),
            ("ebbtide_ports", len(state.ports)),
            ("ebbtide_externals", len(state.externals)),
            ("ebbtide_routers", len(state.routers)),
            ("ebbtide_routers_unserved", shapes.unserved(state)),
            ("ebbtide_routers_exhausted", cluster.exhaustions.count()),
            ("ebbtide_vpns", len(state.vpns)),
            ("ebbtide_security_groups", len(state.security_groups)),
            ("ebbtide_ports_secured", sum(port.secured for port in state.ports.values())),
            ("ebbtide_learnt_addresses", sum(map(len, state.learnt.values()))),
            ("ebbtide_subnets_unserved", shapes.subnets_unserved(state)),
            ("ebbtide_floating_ips", len(state.floatings)),
            ("ebbtide_moves", len(state.moves)),
            ("ebbtide_debts", len(state.debts)),
            ("ebbtide_operations_running", running),
            ("ebbtide_sessions_refused", len(cluster.refused)),
        ):
            yield GaugeMetricFamily(name, NAMES[name], value=float(value))
        yield _labelled("ebbtide_learnt_changes", ("what",), {(k,): v for k, v in cluster.hidden.counts.items()})
        told = self._service.neutron_heard
        silent: dict[tuple[str, ...], float] = {} if told is None else {(): cluster.now() - told}
        yield _labelled("ebbtide_neutron_silent_seconds", (), silent)
        movers: dict[tuple[str, ...], float] = {
            (kind,): seconds for kind, seconds in self._service.drains.silences().items()
        }
        yield _labelled("ebbtide_mover_silent_seconds", ("kind",), movers)
        yield from self._by_compute()

    def _by_compute(self) -> Iterable[Metric]:
        cluster, state = self._service.cluster, self._service.state
        found: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in list(NAMES)[-6:]}
        for compute in state.members():
            member = cluster.members.get(compute.number)
            if member is None:
                continue
            label = (compute.name,)
            found["ebbtide_flows"][label] = sum(len(e.flows) for e in list(member.held.values()))
            found["ebbtide_connected"][label] = member.connected
            found["ebbtide_dirty"][label] = not member.clean
            found["ebbtide_rejected_fragments"][label] = len(member.rejected)
            if member.synced:
                found["ebbtide_applied_lag_revisions"][label] = state.revision - member.applied()
            peers = state.partners(compute.number)
            up = sum(cluster.probes.is_open(compute.number, peer) for peer in peers)
            found["ebbtide_tunnels"][(compute.name, "open")] = up
            found["ebbtide_tunnels"][(compute.name, "not_open")] = len(peers) - up
        for name, values in found.items():
            labels = ("compute", "state") if name == "ebbtide_tunnels" else ("compute",)
            yield _labelled(name, labels, values)

    def routes(self) -> list[Route]:
        """The one page."""

        async def page(request: Request) -> Response:
            return Response(generate_latest(self.registry), media_type=CONTENT_TYPE)

        return [Route("/metrics", page)]


def _labelled(name: str, labels: tuple[str, ...], values: dict[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(name, NAMES[name], labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, float(value))
    return family
