"""How hosts leave a cloud: drains, movers, and hosts that nobody minds to lose."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ebbtide.errors import NotReady
from ebbtide.lab import wait_until
from ebbtide.lab.cloud import cloud as lab_cloud
from ebbtide.lab.cloud import whole
from ebbtide.lab.rest import Api
from tests.openstack.cloud import Cloud


class Leaving:
    """Drains of a cloud, as an operator begins and watches them."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.ask = Api(cloud.lab).ask

    def begin(self, *hosts: str, **wishes: Any) -> str:
        """A drain by Nova's movers: its id."""
        body = {"computes": list(hosts), "vms": "nova", "at-once": 10, **wishes}
        return str(self.ask("POST", "/api/v1/drains", body)["operation"]["id"])

    def set(self, operation: str, *options: str) -> None:
        """Other options for a drain."""
        assert self.ask("POST", f"/api/v1/operations/{operation}/options", {"mover-options": options})["changed"]

    def plan(self, *hosts: str) -> Any:
        return self.ask("POST", "/api/v1/drains", {"computes": list(hosts), "vms": "nova", "plan": True})

    def told(self, operation: str) -> Any:
        return self.ask("GET", f"/api/v1/operations/{operation}")

    def item(self, operation: str, host: str) -> Any:
        return next(i for i in self.told(operation)["items"] if (i["kind"], i["object"]) == ("compute", host))

    def designated(self, service: str, object_: str) -> str:
        """The compute that has a duty; "": none."""
        listed = self.ask("GET", "/api/v1/designations")["designations"]
        return next((d["compute"] for d in listed if (d["service"], d["object"]) == (service, object_)), "")

    def wait_over(self, operation: str, deadline: float = 240.0) -> Any:
        """Until it is over: what has become of it. What it waited for is said if it does not end."""
        try:
            wait_until(
                lambda: self.told(operation)["state"] not in ("running", "aborting"), "it to end", deadline, every=0.3
            )
        except NotReady:
            raise NotReady(f"a drain has not ended in {deadline:g} s: {self.report(operation)}") from None
        return self.told(operation)

    def report(self, operation: str) -> str:
        """What keeps it, for the controller and for Nova, and whether a mover runs."""
        told, compute = self.told(operation), self.cloud.sdk.compute
        lines = [f"{told['state']}; mover {self.cloud.lab.spawned('mover') or 'does not run'}"]
        for item in (i for i in told["items"] if i["state"] in ("pending", "moving")):
            lines.append(" ".join(str(item[key]) for key in ("kind", "object", "compute", "state", "reason")))
            if item["kind"] == "compute":
                there = compute.servers(all_projects=True, compute_host=item["object"])
                lines += [f"  server {s.id} {s.status} {s.task_state}" for s in there]
                lines += [f"  migration {m.server_id} {m.status}" for m in compute.migrations(host=item["object"])]
        return "\n".join(lines)

    def wait_said(self, operation: str, host: str, words: str) -> None:
        """Until what keeps a host has these words in it."""
        wait_until(lambda: words in self.item(operation, host)["reason"], f"{host}: {words}", 60, every=0.5)


@contextmanager
def moving(cloud: Cloud, *options: str) -> Iterator[Callable[[], None]]:
    """A mover of Nova's is at work; gives what kills it and starts it anew."""
    env = {"OS_CLIENT_CONFIG_FILE": str(cloud.services.credentials), "OS_CLOUD": lab_cloud.NAME}
    command = [
        sys.executable,
        "-m",
        "ebbtide",
        "mover",
        "nova",
        "--log-format",
        "json",
        "--log-level",
        "debug",
        *options,
    ]

    def start() -> None:
        cloud.lab.spawn("mover", command, env=env)

    def anew() -> None:
        cloud.lab.kill_spawned("mover")
        start()

    start()
    try:
        yield anew
    finally:
        cloud.lab.end_spawned("mover")


def new_number(cloud: Cloud) -> int:
    """Of a host that nobody has been: a new machine under a removed one's name is held at the door."""
    return cloud.lab.site.read().next_compute + 1


def add_hosts(cloud: Cloud, count: int) -> list[str]:
    """Hosts that nobody minds to lose."""
    first = new_number(cloud)
    names = [f"c{number}" for number in range(first, first + count)]
    whole.add_computes(cloud.lab, names)
    cloud.services.add_hosts(names)
    wait_until(lambda: set(names) <= cloud.agents().keys(), "Neutron to know them", 30, every=0.2)
    return names


def wait_matched(leaving: Leaving, *hosts: str) -> None:
    """Until the mover has said which hosts these are."""
    wait_until(lambda: len(leaving.plan(*hosts)["hosts"]) == len(hosts), "the mover to know them", 60, every=0.5)


def give_back(cloud: Cloud, names: Sequence[str]) -> None:
    """Their machines are thrown away."""
    for name in names:
        cloud.services.stop(f"compute-{name}")
        cloud.lab.remove_compute(name)
