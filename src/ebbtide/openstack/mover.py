"""Empties Nova's hosts for drains of kind "nova".

    a drain begins     its computes' services are disabled, for a reason that names operation and compute
    while it goes on   servers leave: live, at most as many at a time as the drain allows; networks of DHCP agents are given to others;
                       whether a host is empty is said to the controller
    a compute stays    its service is enabled again, if it was disabled by us
    a compute went     its service, resource provider and agents are removed, if that is asked for

All that has to be known at the next start is in Nova and with the controller: killed anywhere, it goes on. Two of these at a time do the
same work once, since a server that Nova is at is not begun again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import structlog

from ebbtide.errors import EbbtideError, NotFound, NotReady, Refused
from ebbtide.openstack import agents, hosts, servers
from ebbtide.openstack.hosts import Compute, Service
from ebbtide.openstack.jobs import Ground, Job, NetworkJob, ServerJob
from ebbtide.openstack.nova import Cloud
from ebbtide.openstack.options import Options
from ebbtide.openstack.servers import DHCP_OWNER, Need, Port, Server, Way

log = structlog.get_logger("nova")
KIND = "nova"
#: Seconds between two rounds while a drain goes on, and else, and between two at which Nova is asked then; between two words on a
#: migration, and on which host is which.
BUSY, IDLE, QUIET, BEAT, TOLD = 0.5, 0.5, 5.0, 5.0, 45.0
#: Between two rounds once the last port has left, and for how long.
LAST, SOON = 0.1, 10.0
#: Seconds without an answer after which a claim is somebody else's; between two looks at what is at work.
LEASE, LOOK = 28.0, 0.3
#: So many calls of the cloud at a time, for what is at work.
WORKERS = 4
#: How the owners of servers' ports begin.
_SERVERS = "compute:"
#: How often a server without a claim is tried, and seconds between.
TRIES, PAUSES = 3, (5.0, 30.0)
#: Seconds until a server that has left is unplugged, at most.
UNPLUGGED = 60.0
#: Seconds for which a scheduler may still send a server to a host that was disabled meanwhile; and for which a nova-compute is down before
#: its host is removed: all are for a moment when Nova's queue hangs.
STRADDLE, DOWN = 10.0, 30.0
#: Seconds for which a round may take before others are told that we are stuck; between two looks for confirmations that were forgotten, and
#: for which a drain that has ended is remembered there; after which what is still so is said again.
STUCK, FORGOTTEN, REMEMBERED, SAID = 120.0, 30.0, 86_400.0, 600.0
_OPEN = ("pending", "moving")
Ask = Callable[..., Any]


class Mover:
    """`ask(method, path, body)`: a call of the controller's REST interface, below /api/v1."""

    def __init__(self, ask: Ask, cloud: Cloud, name: str, options: Options) -> None:
        self._ask, self._cloud, self._name, self._options = ask, cloud, name, options
        self._jobs: dict[str, Job] = {}
        # Nova's and Neutron's apart: one that hangs keeps the other's from nothing.
        self._workers = ThreadPoolExecutor(min(WORKERS, options.at_once), "move")
        self._others = ThreadPoolExecutor(2, "neutron")
        self._ground = Ground(cloud, self._once)
        #: By host, what is bound there or was met there.
        self._ports: dict[str, dict[str, Port]] = {}
        #: Of servers without a claim: how often they have failed, when, and Nova's words.
        self._failed: dict[str, tuple[int, float, str]] = {}
        #: When it was last said which hosts these are, and what.
        self._matched = float("-inf")
        self._matches: list[dict[str, str]] = []
        self._said: dict[str, float] = {}
        self._saying = threading.Lock()
        #: Since when ports have been claimed here whose servers are elsewhere for Nova.
        self._gone: dict[str, float] = {}
        #: When the round at hand began.
        self._round = time.monotonic()
        self._looked = self._agents_looked = float("-inf")
        #: When Nova was last asked whether anything is to be done; whether a drain went on then.
        self._asked, self._was_busy = float("-inf"), False
        #: Since when services have been seen to be disabled; and to be down, of those whose compute has gone.
        self._off: dict[str, float] = {}
        self._down: dict[str, float] = {}
        #: Whether ports of drains were plugged in the last round; since none is, and nothing but Nova's own word is waited for, rounds are
        #: short until then.
        self._plugged, self._soon = False, float("-inf")
        self._ended = False

    def run(self, over: Callable[[], bool]) -> None:
        """Until `over` says so; migrations that have begun go on in Nova, and the next start finds them."""
        for does in (self._beat, self._pump):
            threading.Thread(target=does, name=does.__name__, daemon=True).start()
        try:
            self._run(over)
        finally:
            self._ended = True
            for pool in (self._workers, self._others):
                pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, over: Callable[[], bool]) -> None:
        while not over():
            busy = False
            self._round = time.monotonic()
            try:
                busy = self.round()
            except EbbtideError as error:
                self._once(str(error))
            except Exception:
                # Whatever it was: hosts that are held off need somebody who goes on.
                log.exception("nova_fault")
            time.sleep(LAST if busy and time.monotonic() < self._soon else BUSY if busy else IDLE)

    def _once(self, words: str) -> None:
        """Say what is waited for; and again, if it is so for long."""
        now = time.monotonic()
        with self._saying:
            self._said = {said: at for said, at in self._said.items() if now - at < SAID}
            is_new = words not in self._said
            self._said.setdefault(words, now)
        if is_new:
            log.warning("nova_waits", reason=words)

    # --- a round ---

    def round(self) -> bool:
        """Do what is to be done now; whether a drain goes on."""
        # Drains before marks: a mark and the drain that needs it begin at once, so a mark that is missing here was taken away.
        drains = self._ask("GET", "/drains")["operations"]
        quiet = not (self._jobs or self._was_busy or any(each["state"] == "running" for each in drains))
        if quiet and time.monotonic() - self._asked < QUIET:
            return False
        self._asked = time.monotonic()
        found = (self._ask("GET", f"/operations/{each['id']}") for each in drains if each["state"] == "running")
        told = {operation["id"]: operation for operation in found if operation["vms"] == KIND}
        computes = self._computes()
        services = self._cloud.services()
        matched, wrong = hosts.match(computes.values(), services)
        self._tell_matches(computes, wrong, hosts.notes(services))
        self._ground.staying = {each.host for each in computes.values() if each.ready and not each.tombstoned}
        self._was_busy = bool(told)
        was_plugged, self._plugged = self._plugged, any(map(_open_vms, told.values()))
        if was_plugged and not self._plugged:
            self._soon = time.monotonic() + SOON
        if not told:
            self._ports.clear()
            self._failed.clear()
            self._gone.clear()
            self._ground.forget()
        for operation in told.values():
            for name in _emptied(operation):
                self._apart(self._hold_off, operation, name, matched.get(name))
        self._go_on(told, matched, computes)
        self._apart(self._confirm, drains, matched)
        for operation in told.values():
            self._vouch(operation, matched, wrong)
        for service in hosts.to_enable(services, computes):
            self._apart(self._give_back, service)
        self._apart(self._give_agents_back, computes)
        self._apart(self._remove, services, computes, drains)
        return bool(told) or bool(self._jobs)

    def _computes(self) -> dict[str, Compute]:
        found = self._ask("GET", "/neutron/hosts")["hosts"]
        return {h["compute"]: Compute(h["compute"], h["host"], h["tombstoned"], h["ready"]) for h in found}

    def _tell_matches(
        self, computes: Mapping[str, Compute], wrong: Mapping[str, str], notes: Mapping[str, str]
    ) -> None:
        said = [
            {
                "compute": name,
                "host": compute.host,
                "state": "failed" if name in wrong else "matched",
                "words": wrong.get(name, "") or notes.get(compute.host, ""),
            }
            for name, compute in sorted(computes.items())
        ]
        if said == self._matches and time.monotonic() - self._matched < TOLD:
            return
        body = {"mover": self._name, "hosts": said, "options": self._options.words}
        self._ask("POST", f"/movers/{KIND}/hosts", body)
        self._matched, self._matches = time.monotonic(), said

    def _apart(self, does: Callable[..., None], *about: Any) -> None:
        """What goes wrong with one host keeps no other waiting."""
        try:
            does(*about)
        except EbbtideError as error:
            self._once(str(error))

    def _hold_off(self, operation: Mapping[str, Any], name: str, service: Service | None) -> None:
        """Nothing new is scheduled to a host that is to be empty. One that somebody else has disabled is theirs, and stays so; one of an
        earlier drain of ours is this one's now."""
        if service is None:
            return
        mine = hosts.ours(service)
        if service.enabled or (mine is not None and mine.operation != operation["id"]):
            if self._cloud.service(service.host) != service:
                return  # somebody has just changed it: looked at in the next round
            if service.enabled:
                self._off.pop(service.id, None)
            self._cloud.disable(service, hosts.reason(operation["id"], name))
            # Whether it is empty is found out with this; it takes long, and need not wait until then.
            self._others.submit(self._apart, self._cloud.find_providers, service.host)
            log.info("nova_host_disabled", host=service.host, operation=operation["id"])
        else:
            self._off.setdefault(service.id, time.monotonic())

    def _give_back(self, service: Service) -> None:
        if self._cloud.service(service.host) != service:
            return  # somebody has just disabled it for a reason of their own
        self._cloud.enable(service)
        log.info("nova_host_enabled", host=service.host, reason=service.reason)
        self._agents_looked = float("-inf")

    def _remove(
        self, services: Iterable[Service], computes: Mapping[str, Compute], drains: Iterable[Mapping[str, Any]]
    ) -> None:
        """Hosts whose computes have gone, where their drain asks for that."""
        left = {each.id: each for each in hosts.leftovers(services, computes)}
        now = time.monotonic()
        self._down = {id_: self._down.get(id_, now) for id_ in left}
        asking = {each["id"] for each in drains if hosts.wants(each, KIND, self._options)}
        for service in left.values():
            mine = hosts.ours(service)
            if mine is not None and mine.operation in asking and now - self._down[service.id] > DOWN:
                self._down[service.id] = now - DOWN + QUIET  # what keeps it is looked at again by then
                self._apart(self._remove_one, service, mine)

    def _remove_one(self, service: Service, mine: hosts.Ours) -> None:
        left = self._cloud.allocations(service.host) or [s.id for s in self._cloud.servers(service.host)]
        if left:
            self._once(
                f"host {service.host} is not removed: {', '.join(left[:3])} are still there for Nova or Placement"
            )
            return
        # Asked last: what was looked at before may have been taken back since.
        operation = self._ask("GET", f"/operations/{mine.operation}")
        if (
            self._cloud.service(service.host) != service
            or not hosts.leftovers([service], self._computes())
            or self._ask("GET", f"/computes/{quote(mine.compute, safe='')}?removed=1")["membership"] != "removed"
            or not hosts.wants(operation, KIND, self._options)
            or not hosts.has_gone(operation, mine.compute)
        ):
            return
        self._cloud.remove(service)
        log.info("nova_host_removed", host=service.host, reason=service.reason)

    # --- servers ---

    def _go_on(
        self,
        told: Mapping[str, Mapping[str, Any]],
        matched: Mapping[str, Service],
        computes: Mapping[str, Compute],
    ) -> None:
        turns = {(operation["id"], name) for operation in told.values() for name in _in_turn(operation)}
        for job in list(self._jobs.values()):
            if job.over:
                self._end(job)
            elif not job.claims and job.about not in turns:
                job.wanted = False
        self._claim(computes)
        for operation in told.values():
            self._apart(self._begin_unclaimed, operation, matched)

    def _pump(self) -> None:
        """Whatever there is goes on, however long a round takes."""
        while not self._ended:
            try:
                for job in list(self._jobs.values()):
                    job.go_on(self._others if isinstance(job, NetworkJob) else self._workers)
            except Exception:
                if not self._ended:
                    log.exception("nova_fault")
            time.sleep(LOOK)

    def _beat(self) -> None:
        """Say that we are at it, however long a round takes."""
        while not self._ended:
            for job in list(self._jobs.values()):
                stuck = time.monotonic() - self._round > STUCK
                if job.claims and not job.over and not stuck:
                    with suppress(EbbtideError):
                        self._tell(job)
                if job.claims and time.monotonic() - job.heard > LEASE:
                    job.claims.clear()
                    job.wanted = False
            time.sleep(BEAT)

    def _end(self, job: Job) -> None:
        was_claimed = bool(job.claims)
        if job.failure and not self._tell(job, job.failure):
            return  # the controller does not answer: said again
        del self._jobs[job.key]
        # It is listed there as it was, and would be taken for one that is to leave.
        self._ground.forget(job.host)
        if isinstance(job, NetworkJob):
            self._ports.pop(job.host, None)
        if not job.failure:
            self._failed.pop(job.key, None)
        elif not was_claimed:
            tries = self._failed.get(job.key, (0, 0.0, ""))[0] + 1
            self._failed[job.key] = (tries, time.monotonic(), job.failure)

    def _tell(self, job: Job, failure: str = "") -> bool:
        """Report on the claims of a job; whether the controller has heard it."""
        told = time.monotonic()
        for port, claim in list(job.claims.items()):
            try:
                self._report(claim, failure)
            except (Refused, NotFound):
                if job.claims.get(port) is claim:  # it may have been given again meanwhile
                    del job.claims[port]
                job.wanted = bool(job.claims)
            except (NotReady, OSError):
                return False
        job.heard = told
        return True

    def _claim(self, computes: Mapping[str, Compute]) -> None:
        """Take VMs that are plugged, as many as there is room for: the controller says which, and paces them."""
        free = max(0, self._options.at_once - len(self._jobs))
        holding = sorted(port for job in self._jobs.values() for port in list(job.claims))
        body = {"mover": self._name, "free": free, "holding": holding}
        for claim in self._ask("POST", f"/movers/{KIND}/claim", body)["claims"]:
            self._apart(self._take, claim, computes)

    def _ports_of(self, host: str) -> dict[str, Port]:
        """Ports that are bound to a host, listed once a drain."""
        if host not in self._ports:
            self._ports[host] = {each.id: each for each in self._cloud.ports(host)}
        return self._ports[host]

    def _port(self, port: str, host: str) -> Port:
        """A port that is plugged on a host, wherever it is bound."""
        there = self._ports_of(host)
        if port not in there:
            there[port] = self._cloud.port(port)
        return there[port]

    def _take(self, claim: Mapping[str, Any], computes: Mapping[str, Compute]) -> None:
        source = computes.get(claim["source"])
        if source is None:
            return  # nobody's any more
        port = self._port(claim["vm"], source.host)
        about = (claim["operation"], claim["source"])
        job = self._job_of_port(port, source, about, claim)
        if job is not None:
            job.heard = time.monotonic()
            job.claims[claim["vm"]] = claim
            job.wanted = True

    def _job_of_port(self, port: Port, source: Compute, about: tuple[str, str], claim: Mapping[str, Any]) -> Job | None:
        """What has it leave; None: there is nothing to be done, or nothing that could."""
        if port.owner.startswith(_SERVERS):
            return self._job_of_server(port, source, about, claim)
        if port.owner != DHCP_OWNER or not self._cloud.schedules_dhcp:
            self._give_up(claim, servers.unowned(port))
        elif port.host != source.host:
            self._give_up(claim, f"is left here, and Neutron has it on {port.host}: delete its interface from br-int")
        else:
            return self._jobs.get(port.id) or self._start(NetworkJob(self._ground, port, about))
        return None

    def _job_of_server(
        self, port: Port, source: Compute, about: tuple[str, str], claim: Mapping[str, Any]
    ) -> Job | None:
        found, options = self._ground.there(source.host).get(port.device), self._options.asked(claim.get("options", ()))
        if found is None or _need(found, options, claim["operation"]).way is not Way.LIVE:
            # What was listed is too old to say that it cannot leave, or only another way.
            found = self._cloud.server(port.device)
        if found is None:
            self._give_up(claim, servers.unowned(port))
            return None
        if found.id in self._jobs:
            return self._jobs[found.id]
        if found.host != source.host:
            # It has left: Nova unplugs it here, and those who send to it follow.
            if time.monotonic() - self._gone.setdefault(port.id, time.monotonic()) > UNPLUGGED:
                self._give_up(
                    claim, f"{found.called} is on {found.host} for Nova: delete its interface here from br-int"
                )
            return None
        self._gone.pop(port.id, None)
        need = _need(found, options, claim["operation"])
        if need.way is Way.WAIT and not found.task:
            self._give_up(claim, need.words)
            return None
        # What Nova is doing with it is waited for: a snapshot is no failure, and a migration may be ours of before.
        return self._start_server(found, about, Way.LIVE if need.way is Way.WAIT else need.way, options.block)

    def _give_up(self, claim: Mapping[str, Any], words: str) -> None:
        self._forget_port(claim["vm"])  # whose it is may change
        with suppress(Refused, NotFound):
            self._report(claim, words)

    def _forget_port(self, port: str) -> None:
        for there in self._ports.values():
            there.pop(port, None)

    def _report(self, claim: Mapping[str, Any], failure: str) -> None:
        body = {"operation": claim["operation"], "vm": claim["vm"], "claim": claim["claim"], "mover": self._name}
        self._ask("POST", f"/movers/{KIND}/report", {**body, "failure": failure})

    def _begin_unclaimed(self, operation: Mapping[str, Any], matched: Mapping[str, Service]) -> None:
        """What no claim speaks of: servers that are stopped or have no port, and ports that nobody has."""
        turn = {name: matched[name] for name in _in_turn(operation) if name in matched}
        there = ((i["object"], turn[i["compute"]]) for i in _open_vms(operation) if i["compute"] in turn)
        plugged = {self._port(port, service.host).device for port, service in there}
        for name, service in turn.items():
            self._apart(self._begin_unplugged, operation, name, service, plugged)
            if self._cloud.schedules_dhcp:
                self._apart(self._begin_networks, operation, name, service)

    def _begin_networks(self, operation: Mapping[str, Any], name: str, service: Service) -> None:
        """DHCP's ports that are bound to a host, plugged or not: some are left there if a mover is killed, or by Neutron's own failover."""
        for port in list(self._ports_of(service.host).values()):
            if (port.owner, port.host) != (DHCP_OWNER, service.host) or not self._may_begin(operation, port.id):
                continue
            self._start(NetworkJob(self._ground, port, (operation["id"], name)))

    def _may_begin(self, operation: Mapping[str, Any], key: str) -> bool:
        """Whether there is room for something that no claim speaks of, and it is (again) its turn."""
        room = min(operation["at-once"], self._options.at_once) - len(self._jobs)
        return key not in self._jobs and room > 0 and self._may_try(key)

    def _begin_unplugged(
        self, operation: Mapping[str, Any], name: str, service: Service, plugged: Container[str]
    ) -> None:
        options = hosts.options(operation, self._options)
        for server in self._ground.there(service.host).values():
            need = _need(server, options, operation["id"])
            if need.way is Way.LIVE and server.id in plugged:
                continue  # the controller gives it, in its turn
            if need.way is not Way.WAIT and self._may_begin(operation, server.id):
                self._start_server(server, (operation["id"], name), need.way, options.block)

    def _may_try(self, server: str) -> bool:
        """Whether a server that no claim speaks of is tried (again) now."""
        tries, at, _ = self._failed.get(server, (0, 0.0, ""))
        early = tries and time.monotonic() - at < PAUSES[min(tries, len(PAUSES)) - 1]
        return tries < TRIES and not early

    def _confirm(self, drains: Iterable[Mapping[str, Any]], matched: Mapping[str, Service]) -> None:
        """Cold migrations that a mover has begun for a drain, which was killed before they arrived; also where that has ended since."""
        if time.monotonic() - self._looked < FORGOTTEN:
            return
        since = time.time() - REMEMBERED
        began: dict[str, tuple[float, tuple[str, str]]] = {}
        for operation in drains:
            if operation["state"] == "running" or operation["over"] > since:
                for name in (n for n in operation["computes"] if n in matched):
                    began.setdefault(matched[name].host, (operation["began"], (operation["id"], name)))
        moves = self._cloud.migrations(status="finished", migration_type="migration") if began else []
        for move in moves:
            at, about = began.get(move.source, (float("inf"), ("", "")))
            if (
                move.by != self._cloud.user
                or move.begun < at
                or move.server in self._jobs
                or not self._may_try(move.server)
            ):
                continue
            server = self._cloud.server(move.server)
            if server is not None and servers.need(server, cold=True, own=True).way is Way.CONFIRM:
                self._start_server(server, about, Way.CONFIRM, self._options.block)
        self._looked = time.monotonic()

    def _start(self, job: Job) -> Job:
        self._jobs[job.key] = job
        return job

    def _start_server(self, server: Server, about: tuple[str, str], way: Way, block: str) -> Job:
        log.info("nova_moves", server=server.id, name=server.name, host=server.host, way=str(way), operation=about[0])
        return self._start(ServerJob(self._ground, server, way, about, block))

    # --- what is said of hosts ---

    def _vouch(self, operation: Mapping[str, Any], matched: Mapping[str, Service], wrong: Mapping[str, str]) -> None:
        said = []
        plugged = {i["compute"] for i in _open_vms(operation)}
        for name in _emptied(operation):
            service = matched.get(name)
            if service is None and name not in wrong:
                continue  # it is removed
            if service is None:
                said.append({"compute": name, "host": "", "state": "emptying", "words": wrong[name]})
                continue
            try:
                state, words = self._state_of(service, operation, plugged=name in plugged)
                if state == "empty" and self._cloud.schedules_dhcp:
                    state, words = self._let_agent_go(service, operation["id"], name)
            except EbbtideError as error:
                state, words = "emptying", str(error)
            said.append({"compute": name, "host": service.host, "state": state, "words": words})
        if said:
            body = {"mover": self._name, "operation": operation["id"], "hosts": said}
            with suppress(Refused, NotFound):
                self._ask("POST", f"/movers/{KIND}/hosts", body)
            for each in said:
                log.debug("nova_host", operation=operation["id"], **each)

    def _state_of(self, service: Service, operation: Mapping[str, Any], *, plugged: bool) -> tuple[str, str]:
        """Whether a host is empty for Nova and for Placement, and no server is on its way there; else what keeps it. `plugged`: for the
        controller it is not."""
        if time.monotonic() - self._off.get(service.id, float("inf")) < STRADDLE:
            return "emptying", f"nova-compute of {service.host} has just been disabled"
        # What was listed some time ago is good enough to say who is there; that nobody is has to be so now.
        there = self._ground.there(service.host) if plugged else {}
        there = there or self._ground.list(service.host).servers
        if there:
            return self._of_servers(there.values(), operation)
        coming = [m for m in self._cloud.migrations(host=service.host) if m.goes_on]
        if coming:
            return "emptying", f"Nova has not ended {len(coming)} migrations of {service.host} yet"
        left = self._cloud.allocations(service.host)
        if left:
            found = ((each, self._cloud.server(each)) for each in left[:3])
            named = ", ".join(server.called if server is not None else each for each, server in found)
            return "emptying", f"Placement still counts {named} on {service.host}, and Nova lists no server there"
        return "empty", ""

    def _let_agent_go(self, service: Service, operation: str, compute: str) -> tuple[str, str]:
        """A DHCP agent that has no network any more is given none: switched off earlier, it would have let go of all at once."""
        known = self._cloud.dhcp_agents()
        for agent in known:
            if agent.host != service.host or not agent.on:
                continue
            for network in self._cloud.networks_of(agent.id) if agent.alive else ():
                if any(port.host == agent.host for port in self._cloud.dhcp_ports(network)):
                    return "emptying", f"the DHCP agent of {agent.host} has network {network} still"
                # It has no port there, so nobody is served.
                heir = agents.heir(agent.host, self._ground.staying, known, self._cloud.serving(network))
                if heir is not None:
                    self._cloud.give_network(network, heir.id)
                self._cloud.take_network(network, agent.id)
            self._cloud.switch_agent(agent.id, hosts.reason(operation, compute))
            log.info("nova_dhcp_agent_off", host=agent.host, operation=operation)
        return "empty", ""

    def _give_agents_back(self, computes: Mapping[str, Compute]) -> None:
        """DHCP agents of hosts that stay, if a drain has switched them off."""
        if time.monotonic() - self._agents_looked < FORGOTTEN:
            return
        self._agents_looked = time.monotonic()
        if not self._cloud.schedules_dhcp:
            return
        known = [Service(a.id, a.host, a.on, a.alive, a.reason) for a in self._cloud.dhcp_agents()]
        for each in hosts.to_enable(known, computes):
            self._cloud.switch_agent(each.id, "")
            log.info("nova_dhcp_agent_on", host=each.host, reason=each.reason)

    def _of_servers(self, there: Collection[Server], operation: Mapping[str, Any]) -> tuple[str, str]:
        kept, options = [], hosts.options(operation, self._options)
        for server in there:
            tries, _, words = self._failed.get(server.id, (0, 0.0, ""))
            if tries >= TRIES:
                return "failed", words
            need = _need(server, options, operation["id"])
            if need.way is Way.WAIT and server.id not in self._jobs:
                kept.append(need.words)
        count = f"{len(there)} server{'s' if len(there) != 1 else ''} to go"
        return "emptying", "; ".join([count, *kept[:3]])


def _need(server: Server, options: Options, drain: str) -> Need:
    return servers.need(server, cold=options.cold, own=False, drain=drain)


def _open_vms(operation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Items of ports that have not left."""
    return [i for i in operation["items"] if i["kind"] == "vm" and i["state"] in _OPEN]


def _emptied(operation: Mapping[str, Any], states: Container[str] = _OPEN) -> list[str]:
    """Computes of a drain that are not given up; one that is removed has no host any more."""
    return [i["object"] for i in operation["items"] if i["kind"] == "compute" and i["state"] in states]


def _in_turn(operation: Mapping[str, Any]) -> list[str]:
    """Those whose turn it is."""
    return _emptied(operation, ("moving",))
