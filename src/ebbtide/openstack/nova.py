"""Nova, Placement and Neutron, as far as a drain needs them: calls of openstacksdk, and nothing decided.

Credentials are openstacksdk's: clouds.yaml or the environment. They are never stored nor logged here.
"""

from __future__ import annotations

import datetime
import re
import threading
import time
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

import openstack
from keystoneauth1.exceptions import ClientException
from openstack import exceptions

from ebbtide.errors import BadInput, NotFound, NotReady, Refused, discreet
from ebbtide.openstack.agents import Agent
from ebbtide.openstack.hosts import Service
from ebbtide.openstack.servers import DHCP_OWNER, Port, Server

#: A migration is one of these while it goes on (nova.objects.fields).
_GOES_ON = {
    "accepted",
    "queued",
    "preparing",
    "running",
    "pre-migrating",
    "migrating",
    "post-migrating",
    "finished",
    "confirming",
}
#: Of Neutron's agents, those that stand for our hosts (with our driver, with networking-odl), and those that serve DHCP.
_HOST_AGENTS, _DHCP_AGENT = ("Ebbtide vSwitch", "ODL L2"), "DHCP agent"
#: Neutron's extension by which a network is given to one of these.
_SCHEDULER = "dhcp_agent_scheduler"
#: Seconds for an answer, and for which it is known what Neutron can do.
_TIMEOUT, _KNOWN = 60, 300.0
#: Answers that say nothing about what was asked: who is asked is busy, or does not know us at the moment.
_LATER = {401, 408, 429}
#: What Nova calls whatever a database that is down would know of (microversion 2.69).
_UNKNOWN = "UNKNOWN"
#: Hypervisors in one answer.
_PAGE = 500
#: Bytes of what Nova says that are kept.
_WORDS = 400
#: What Nova is told of disks.
_BLOCK: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}
T = TypeVar("T")


class Busy(Refused):
    """Somebody else is at it, or has just done it (409)."""


class Migration(NamedTuple):
    """A move of a server, as Nova keeps it. `by`: the user who asked for it; `begun`: seconds since the epoch."""

    id: str
    server: str
    kind: str
    status: str
    source: str
    target: str
    by: str
    begun: float = 0.0

    @property
    def goes_on(self) -> bool:
        """Whether it has an effect still."""
        return self.status in _GOES_ON


class Cloud:
    """One cloud, for threads too. `name`: in clouds.yaml ("": of the environment)."""

    def __init__(self, name: str = "") -> None:
        self._name = name
        self._connecting = threading.Lock()
        self._connected: Any = None
        self._scheduling = float("-inf"), False
        self._finding = threading.Lock()
        self._providers: dict[str, set[str]] = {}

    def check(self) -> None:
        """Whether it is known where it is.

        Raises:
            BadInput: clouds.yaml has no such cloud, or neither it nor the environment says enough.
        """
        try:
            self._connection  # noqa: B018
        except (exceptions.SDKException, ClientException) as error:
            told = _plain(str(error)).splitlines()[0].rstrip(".")
            raise BadInput(f"it is not known where the cloud is: {told}: see clouds.yaml, OS_CLOUD, OS_...") from None

    @property
    def _connection(self) -> Any:
        # One for all threads, since each would log in by itself: what Keystone and those who ask it take for that is more than what a
        # migration takes.
        with self._connecting:
            if self._connected is None:
                self._connected = openstack.connect(cloud=self._name or None, app_name="ebbtide", api_timeout=_TIMEOUT)
            return self._connected

    def _ask(self, what: str, call: Callable[[Any], T]) -> T:
        """One call, its errors in our words.

        Raises:
            NotFound, Busy, Refused: the cloud says no.
            NotReady: it does not answer, or has trouble of its own.
        """
        try:
            return call(self._connection)
        except exceptions.HttpException as error:
            words, code = f"{what}: {_said(error)}", error.status_code or 500
            kind = NotReady if code >= 500 or code in _LATER else {404: NotFound, 409: Busy}.get(code, Refused)
            raise kind(words) from None
        except (exceptions.SDKException, ClientException, OSError) as error:
            raise NotReady(f"{what}: {_plain(str(error))}") from None

    @cached_property
    def user(self) -> str:
        """Who we are there."""
        return str(self._ask("who we are", lambda c: c.current_user_id))

    # --- hosts ---

    def services(self) -> list[Service]:
        """Every nova-compute."""
        return self._services()

    def service(self, host: str) -> Service | None:
        """The one of a host, as it is now."""
        return next(iter(self._services(host=host)), None)

    def _services(self, **query: str) -> list[Service]:
        found = self._ask("nova-compute services", lambda c: list(c.compute.services(binary="nova-compute", **query)))
        return [
            Service(s.id or "", s.host, s.status == "enabled", s.state == "up", s.disabled_reason or "") for s in found
        ]

    def disable(self, service: Service, reason: str) -> None:
        """Let nothing new be scheduled there; what runs there is not touched."""
        self._ask(f"disable {service.host}", lambda c: c.compute.disable_service(service.id, disabled_reason=reason))

    def enable(self, service: Service) -> None:
        """Take a `disable` back."""
        self._ask(f"enable {service.host}", lambda c: c.compute.enable_service(service.id))

    def remove(self, service: Service) -> None:
        """Forget a host that is down and empty: our agent of Neutron's there, and DHCP's that is down, the service, and with it Nova's
        provider in Placement.

        Raises:
            NotReady: its DHCP agent is not down; or the provider is still there: Nova only logs that, and it would keep a new host from
                that name.
        """
        agents: list[Any] = self._ask("agents", lambda c: list(c.network.agents(host=service.host)))
        dhcp = [agent for agent in agents if agent.agent_type == _DHCP_AGENT]
        if any(agent.is_alive for agent in dhcp):
            raise NotReady(f"host {service.host} is not removed: its DHCP agent runs still")
        # Of one that has networks Neutron would forget who is to have them.
        idle = [agent for agent in dhcp if not self.networks_of(agent.id)]
        for agent in [*(a for a in agents if a.agent_type in _HOST_AGENTS), *idle]:
            self._ask(f"delete agent {agent.id}", partial(_delete_agent, agent.id))
        self._ask(f"delete service {service.host}", lambda c: c.compute.delete_service(service.id, ignore_missing=True))
        for provider in self._providers.pop(service.host, ()):
            if self._ask("provider", partial(_is_provider, provider)):
                raise NotReady(f"Placement still has the provider {provider} of {service.host}: delete it by hand")

    def find_providers(self, host: str) -> None:
        """Find out who a host is for Placement, unless it is known."""
        with self._finding:
            if host in self._providers:
                return
            for its_host, provider in self._ask("hypervisors", _hypervisors):
                self._providers.setdefault(its_host, set()).add(provider)

    def allocations(self, host: str) -> list[str]:
        """Who holds anything of a host in Placement: ids of servers and migrations.

        Raises:
            NotReady: nobody knows which provider it is, so nobody knows that it is empty.
        """
        self.find_providers(host)
        consumers: set[str] = set()
        if not self._providers.get(host):
            raise NotReady(f"Nova tells of no hypervisor on {host}, so Placement cannot be asked")
        try:
            for provider in self._providers[host]:
                consumers.update(self._ask(f"allocations of {host}", partial(_allocations, provider)))
        except NotFound as error:
            del self._providers[host]  # it has another one by now
            raise NotReady(str(error)) from None
        return sorted(consumers)

    # --- servers ---

    def servers(self, host: str) -> list[Server]:
        """Servers on a host, of all projects and in all states."""

        def ask(c: Any) -> list[Any]:
            return list(c.compute.servers(details=True, all_projects=True, compute_host=host))

        return [_server(found) for found in self._ask(f"servers of {host}", ask)]

    def server(self, server: str) -> Server | None:
        """One server; None: it is deleted."""
        try:
            return _server(self._ask(f"server {server}", lambda c: c.compute.get_server(server)))
        except NotFound:
            return None

    def migrations(self, **query: str) -> list[Migration]:
        """Moves, newest first."""
        found = self._ask("migrations", lambda c: list(c.compute.migrations(**query)))
        return [
            Migration(
                str(m.uuid or m.id),
                m.server_id or "",
                m.migration_type or "",
                m.status or "",
                m.source_compute or "",
                m.dest_compute or "",
                m.user_id or "",
                _instant(m.created_at),
            )
            for m in sorted(found, key=lambda m: m.created_at or "", reverse=True)
        ]

    def migrate_live(self, server: str, block: str) -> None:
        """Begin a live migration, to where Nova's scheduler likes. `block`: whether disks are copied: auto (Nova finds out), yes or no."""

        def ask(c: Any) -> None:
            c.compute.live_migrate_server(server, host=None, block_migration=_BLOCK[block])

        self._ask(f"live migration of {server}", ask)

    def migrate_cold(self, server: str) -> None:
        """Begin the move of a stopped server; it is to be confirmed when it has arrived."""
        self._ask(f"migration of {server}", lambda c: c.compute.migrate_server(server))

    def confirm(self, server: str) -> None:
        """Confirm such a move."""
        self._ask(f"confirmation of {server}", lambda c: c.compute.confirm_server_resize(server))

    def last_words(self, server: str, actions: Iterable[str]) -> str:
        """What Nova says of the last of these actions on a server that went wrong: its events, its fault, or its migration's state."""

        def ask(c: Any) -> str:
            for action in c.compute.server_actions(server):
                if action.action not in actions:
                    continue
                whole = c.compute.get_server_action(action.request_id, server)
                for event in reversed(whole.events or []):
                    if (event.get("result") or "").lower() == "error":
                        told = event.get("details") or (event.get("traceback") or "").strip().rpartition("\n")[2]
                        return str(told or whole.message or f"{event.get('event')} failed")
                return str(whole.message or "")
            return ""

        words = self._ask(f"actions of {server}", ask) or self._ask(f"fault of {server}", partial(_fault, server))
        if not words:
            last = next(iter(self.migrations(instance_uuid=server)), None)
            words = f"its {last.kind} from {last.source} to {last.target or 'nowhere'} is {last.status}" if last else ""
        return words[:_WORDS]

    # --- ports ---

    def port(self, port: str) -> Port:
        """One of Neutron's; one that is not there is nobody's."""
        try:
            return _port(self._ask(f"port {port}", lambda c: c.network.get_port(port)))
        except NotFound:
            return Port(port, "", "")

    def ports(self, host: str) -> list[Port]:
        """Those that are bound to a host."""
        return self._ports(**{"binding:host_id": host})

    def _ports(self, **query: str) -> list[Port]:
        return [_port(found) for found in self._ask("ports", lambda c: list(c.network.ports(**query)))]

    def delete_port(self, port: Port) -> None:
        """Have Neutron forget it, unless somebody has changed it since."""
        self._ask(f"delete port {port.id}", partial(_delete_port, port))

    # --- DHCP agents ---

    @property
    def schedules_dhcp(self) -> bool:
        """Whether Neutron gives networks to DHCP agents, and takes them away again."""
        at, so = self._scheduling
        if time.monotonic() > at + _KNOWN:
            found: list[Any] = self._ask("extensions", lambda c: list(c.network.extensions()))
            so = any(each.alias == _SCHEDULER for each in found)
            self._scheduling = time.monotonic(), so
        return so

    def dhcp_agents(self) -> list[Agent]:
        """All of the cloud."""
        found: list[Any] = self._ask("DHCP agents", lambda c: list(c.network.agents(agent_type=_DHCP_AGENT)))
        return [_agent(each) for each in found]

    def networks_of(self, agent: str) -> list[str]:
        """Ids of the networks that an agent has."""

        def ask(c: Any) -> list[str]:
            return [each.id for each in c.network.dhcp_agent_hosting_networks(agent)]

        return self._ask(f"networks of DHCP agent {agent}", ask)

    def switch_agent(self, agent: str, reason: str) -> None:
        """Switch an agent off for a reason, or on again (""); off, it lets go of all that it has, and is given nothing."""
        wishes = {"is_admin_state_up": not reason, "description": reason}
        self._ask(f"switch DHCP agent {agent}", lambda c: c.network.update_agent(agent, **wishes))

    def serving(self, network: str) -> set[str]:
        """Ids of the agents that have a network."""

        def ask(c: Any) -> set[str]:
            return {each.id for each in c.network.network_hosting_dhcp_agents(network)}

        return self._ask(f"DHCP agents of {network}", ask)

    def dhcp_ports(self, network: str) -> list[Port]:
        """Those that agents have there."""
        return self._ports(network_id=network, device_owner=DHCP_OWNER)

    def give_network(self, network: str, agent: str) -> None:
        """Let an agent serve it too."""
        self._ask(f"give network {network} to DHCP agent {agent}", partial(_give, network, agent))

    def take_network(self, network: str, agent: str) -> None:
        """Let an agent serve it no more."""
        self._ask(f"take network {network} from DHCP agent {agent}", partial(_take, network, agent))


def _instant(text: str | None) -> float:
    """Nova's times are UTC, and do not say so."""
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp() if text else 0.0


def _server(found: Any) -> Server:
    if found.status == _UNKNOWN:
        raise NotReady(f"Nova does not know what becomes of server {found.id}: a database of its is down")
    return Server(found.id, found.name or "", found.status or "", found.task_state or "", found.compute_host or "")


def _port(found: Any) -> Port:
    return Port(
        found.id,
        found.device_owner or "",
        found.device_id or "",
        found.network_id or "",
        found.binding_host_id or "",
        found.status == "ACTIVE",
        found.revision_number or 0,
    )


def _agent(found: Any) -> Agent:
    networks = int((found.configuration or {}).get("networks") or 0)
    return Agent(
        found.id, found.host, bool(found.is_alive), bool(found.is_admin_state_up), networks, found.description or ""
    )


def _fault(server: str, connection: Any) -> str:
    found = connection.compute.get_server(server)
    return str((found.fault or {}).get("message", "")) if found.status == "ERROR" else ""


def _hypervisors(connection: Any) -> list[tuple[str, str]]:
    """Each one's host and id. Asked as of before microversion 2.88: from that on Nova asks each host how long it has been up, and waits a
    minute for one that hangs."""
    found: list[tuple[str, str]] = []
    after = ""
    while True:
        answer = connection.compute.get(f"/os-hypervisors/detail?limit={_PAGE}{after}", microversion="2.53")
        exceptions.raise_from_response(answer)
        told = answer.json()
        found += [(each["service"]["host"], each["id"]) for each in told["hypervisors"]]
        if not told["hypervisors"] or not told.get("hypervisors_links"):
            return found
        after = f"&marker={told['hypervisors'][-1]['id']}"


def _allocations(provider: str, connection: Any) -> list[str]:
    answer = connection.placement.get(f"/resource_providers/{provider}/allocations")
    exceptions.raise_from_response(answer)
    return list(answer.json()["allocations"])


def _is_provider(provider: str, connection: Any) -> bool:
    answer = connection.placement.get(f"/resource_providers/{provider}")
    if answer.status_code == 404:
        return False
    exceptions.raise_from_response(answer)
    return True


def _delete_agent(agent: str, connection: Any) -> None:
    connection.network.delete_agent(agent, ignore_missing=True)


def _delete_port(port: Port, connection: Any) -> None:
    same = {"If-Match": f"revision_number={port.revision}"}
    answer = connection.network.delete(f"/ports/{port.id}", headers=same)
    if answer.status_code != 404:
        exceptions.raise_from_response(answer)


def _give(network: str, agent: str, connection: Any) -> None:
    # openstacksdk has a call for it, and for the other one, which takes every answer for a good one.
    answer = connection.network.post(f"/agents/{agent}/dhcp-networks", json={"network_id": network})
    exceptions.raise_from_response(answer)


def _take(network: str, agent: str, connection: Any) -> None:
    answer = connection.network.delete(f"/agents/{agent}/dhcp-networks/{network}")
    exceptions.raise_from_response(answer)


def _said(error: exceptions.HttpException) -> str:
    """The cloud's own words, without the address that they came from."""
    return _plain(str(getattr(error, "details", "") or getattr(error, "message", "") or error))


def _plain(words: str) -> str:
    """Without the number of a request, by which the same would be something else each time, and without credentials."""
    return discreet(re.sub(r" ?\(Request-ID: [^)]*\)", "", words[: 4 * _WORDS]))[:_WORDS]
