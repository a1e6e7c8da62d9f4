"""Which nova-compute a compute is, and what has to become of the service. Pure.

What has been done is in Nova alone: the reason for which a service is disabled names the operation and the compute, so whoever starts next,
here or elsewhere, knows what is ours. A service that somebody else has disabled is not ours, and is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ebbtide.openstack.options import Options

#: As it stands in Nova.
_REASON = re.compile(r"ebbtide drain (?P<operation>\S+) of (?P<compute>\S+)")


class Compute(NamedTuple):
    """A member of the cluster, as the controller tells of it. `host`: what Nova has to call it; `ready`: ports are served there."""

    name: str
    host: str
    tombstoned: bool
    ready: bool = True


class Service(NamedTuple):
    """A nova-compute. `id`: "" where Nova does not know more than its host, since a database of its is down; `reason`: why it is disabled
    ("": it is not, or nobody says why)."""

    id: str
    host: str
    enabled: bool
    up: bool
    reason: str = ""


class Ours(NamedTuple):
    """What a reason of ours names."""

    operation: str
    compute: str


def reason(operation: str, compute: str) -> str:
    """For what a service is disabled. Nova keeps up to 255 characters."""
    return f"ebbtide drain {operation} of {compute}"


def ours(service: Service) -> Ours | None:
    """What a drain of ours has disabled it for; None: none has."""
    found = _REASON.fullmatch(service.reason) if not service.enabled else None
    return Ours(found["operation"], found["compute"]) if found is not None else None


def match(computes: Iterable[Compute], services: Iterable[Service]) -> tuple[dict[str, Service], dict[str, str]]:
    """The service of each compute, by its name; and, of those without one that is up, why, in words.

    Names are compared as they are: a short name that happens to begin a long one may be another host.
    """
    by_host: dict[str, list[Service]] = {}
    for service in services:
        by_host.setdefault(service.host, []).append(service)
    claimed: dict[str, list[str]] = {}
    known = sorted(computes)
    for compute in known:
        claimed.setdefault(compute.host, []).append(compute.name)
    found: dict[str, Service] = {}
    wrong: dict[str, str] = {}
    for compute in known:
        services_there = by_host.get(compute.host, [])
        rivals = claimed[compute.host]
        if len(rivals) > 1:
            wrong[compute.name] = f"{' and '.join(rivals)} all say that they are host {compute.host}"
        elif len(services_there) == 1 and not services_there[0].id:
            wrong[compute.name] = f"Nova does not know how nova-compute of {compute.host} is: a database of its is down"
        elif len(services_there) == 1:
            found[compute.name] = services_there[0]
            if not services_there[0].up:
                wrong[compute.name] = (
                    f"nova-compute of {compute.host} is down: nothing can leave it; start it, or evacuate its servers"
                )
        elif services_there:
            wrong[compute.name] = f"{len(services_there)} nova-compute services are called {compute.host}"
        else:
            near = sorted(h for h in by_host if h.partition(".")[0] == compute.host.partition(".")[0])
            hint = f"; there is {', '.join(near[:3])}" if near else ""
            wrong[compute.name] = (
                f"no nova-compute is called {compute.host}{hint}: set external_ids:odl_os_hostconfig_hostid there to what Nova calls it"
            )
    return found, wrong


def to_enable(services: Iterable[Service], computes: Mapping[str, Compute]) -> list[Service]:
    """Services that a drain of ours has disabled, and whose compute stays: it was recovered, or the drain aborted, or it has come back.

    `computes`: the members by name, read after the drains: a mark and the drain that needs it begin at once.
    """
    found = []
    for service in services:
        mine = ours(service)
        compute = computes.get(mine.compute) if mine is not None else None
        if compute is not None and not compute.tombstoned and compute.host == service.host:
            found.append(service)
    return found


def notes(services: Iterable[Service]) -> dict[str, str]:
    """What an operator should know of services before a drain, by host."""
    off = (each for each in services if not each.enabled and ours(each) is None)
    return {
        each.host: f"is disabled by somebody else ({each.reason or 'no reason is given'}): no drain enables it, nor removes it from Nova"
        for each in off
    }


def leftovers(services: Iterable[Service], computes: Mapping[str, Compute]) -> list[Service]:
    """Services that a drain of ours has disabled, whose nova-compute is down, and whose host is no member any more."""
    taken = {compute.host for compute in computes.values()}
    return [
        each
        for each in services
        if not each.up and each.host not in taken and (mine := ours(each)) is not None and mine.compute not in computes
    ]


def options(operation: Mapping[str, Any], mover: Options) -> Options:
    """What holds in a drain, as the controller tells of it, with a mover that was started with `mover`."""
    return mover.asked(operation.get("mover-options", ()))


def wants(operation: Mapping[str, Any], kind: str, mover: Options) -> bool:
    """Whether the hosts of a drain are to be removed with its computes; see `options`."""
    return operation.get("vms") == kind and options(operation, mover).remove


def has_gone(operation: Mapping[str, Any], compute: str) -> bool:
    """Whether a drain has removed a compute, the end proven. It is in no item of one that was resumed after that, but in an end of it."""
    items = {i["object"]: i["state"] for i in operation["items"] if i["kind"] == "compute"}
    ended = {name for end in operation["ends"] if end["state"] == "done" for name in end["computes"]}
    return items.get(compute) == "done" or (compute not in items and compute in ended)
