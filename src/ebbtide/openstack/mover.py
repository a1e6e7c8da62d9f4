"""Empties Nova's hosts for drains of kind "nova".

    a drain begins     its computes' services are disabled, for a reason that names operation and compute
    while it goes on   servers leave: live, at most as many at a time as the drain allows; whether a host is empty is said to the controller
    a compute stays    its service is enabled again, if it was disabled by us
    a compute went     its service, resource provider and agents are removed, if that is asked for

All that has to be known at the next start is in Nova and with the controller: killed anywhere, it goes on. Two of these at a time do the
same work once, since a server that Nova is at is not begun again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import structlog

from ebbtide.errors import EbbtideError, NotFound, NotReady, Refused
from ebbtide.openstack import hosts, servers
from ebbtide.openstack.hosts import Compute, Service
from ebbtide.openstack.moves import Act, Move
from ebbtide.openstack.nova import Cloud
from ebbtide.openstack.servers import Need, Server, Way

log = structlog.get_logger("nova")
KIND = "nova"
#: Seconds between two rounds while a drain goes on, and else, and between two at which Nova is asked then; between two words on a
#: migration, and on which host is which.
BUSY, IDLE, QUIET, BEAT, TOLD = 0.5, 0.5, 5.0, 5.0, 45.0
#: Seconds without an answer after which a claim is somebody else's; between two looks at a migration, and at most until it is asked for by
#: itself: who asks Nova much keeps it from migrating.
LEASE, LOOK, ALONE = 28.0, 0.5, 4.0
#: How often a server without a claim is tried, and seconds between.
TRIES, PAUSES = 3, (5.0, 30.0)
#: Seconds for which a scheduler may still send a server to a host that was disabled meanwhile.
STRADDLE = 10.0
#: Seconds for which a round may take before others are told that we are stuck; between two looks for confirmations that were forgotten, and
#: for which a drain that has ended is remembered there; after which what is still so is said again.
STUCK, FORGOTTEN, REMEMBERED, AGAIN = 120.0, 30.0, 86_400.0, 600.0
_OPEN = ("pending", "moving")
Ask = Callable[..., Any]
_ACTIONS = {Way.LIVE: ("live-migration",), Way.COLD: ("migrate",), Way.CONFIRM: ("confirmResize",)}


class Options:
    """`at_once`: servers at a time, in all drains; `block`: see `Cloud.migrate_live`; `cold`: move stopped servers too; `remove`: hosts
    that were drained are removed from Nova, Placement and Neutron."""

    def __init__(
        self, at_once: int = 10, block: bool | str = "auto", *, cold: bool = False, remove: bool = False
    ) -> None:
        self.at_once, self.block, self.cold, self.remove = at_once, block, cold, remove


class Job:
    """One server that leaves its host. `about`: operation and compute for which; `claims`: those of its ports, by port; `wanted`: the drain
    goes on; `failure`: why it has not left, at its end."""

    def __init__(self, server: Server, way: Way, about: tuple[str, str]) -> None:
        self.server, self.move, self.about = server, Move(server, way), about
        self.claims: dict[str, Mapping[str, Any]] = {}
        self.wanted = True
        self.failure = ""
        self.looked = float("-inf")
        self.work: Future[None] | None = None
        self.heard = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether its work has ended."""
        return self.work is not None and self.work.done()


class Mover:
    """`ask(method, path, body)`: a call of the controller's REST interface, below /api/v1."""

    def __init__(self, ask: Ask, cloud: Cloud, name: str, options: Options) -> None:
        self._ask, self._cloud, self._name, self._options = ask, cloud, name, options
        self._jobs: dict[str, Job] = {}
        # Each of its threads has a connection, and keeps it.
        self._workers = ThreadPoolExecutor(options.at_once, "move")
        self._devices: dict[str, tuple[str, str]] = {}
        #: Of servers without a claim: how often they have failed, when, and Nova's words.
        self._failed: dict[str, tuple[int, float, str]] = {}
        self._matched = float("-inf")
        self._said: dict[str, float] = {}
        #: When the round at hand began.
        self._round = time.monotonic()
        self._looked = float("-inf")
        #: When Nova was last asked whether anything is to be done; whether a drain went on then.
        self._asked, self._was_busy = float("-inf"), False
        #: Servers of hosts, by id, and when they were listed.
        self._listed: dict[str, tuple[float, dict[str, Server]]] = {}
        #: Since when services have been seen to be disabled.
        self._off: dict[str, float] = {}
        self._ended = False

    def run(self, over: Callable[[], bool]) -> None:
        """Until `over` says so; migrations that have begun go on in Nova, and the next start finds them."""
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        try:
            self._run(over)
        finally:
            self._ended = True
            self._workers.shutdown(wait=False, cancel_futures=True)

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
            time.sleep(BUSY if busy else IDLE)

    def _once(self, words: str) -> None:
        """Say what is waited for; and again, if it is so for long."""
        now = time.monotonic()
        self._said = {said: at for said, at in self._said.items() if now - at < AGAIN}
        if words not in self._said:
            self._said[words] = now
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
        self._tell_matches(computes, matched, wrong)
        self._was_busy = bool(told)
        if not told:
            self._devices.clear()
            self._listed.clear()
        for operation in told.values():
            for name in _emptied(operation):
                self._apart(self._hold_off, operation, name, matched.get(name))
        self._go_on(told, matched, computes)
        self._apart(self._confirm, drains, matched)
        for operation in told.values():
            self._vouch(operation, matched, wrong)
        for service in hosts.to_enable(services, computes):
            self._apart(self._give_back, service)
        if self._options.remove:
            self._apart(self._remove, services, computes)
        return bool(told) or bool(self._jobs)

    def _computes(self) -> dict[str, Compute]:
        found = self._ask("GET", "/neutron/hosts")["hosts"]
        return {h["compute"]: Compute(h["compute"], h["host"], h["tombstoned"]) for h in found}

    def _tell_matches(
        self, computes: Mapping[str, Compute], matched: Mapping[str, Service], wrong: Mapping[str, str]
    ) -> None:
        if time.monotonic() - self._matched < TOLD:
            return
        said = [
            {
                "compute": name,
                "host": compute.host,
                "state": "failed" if name in wrong else "matched",
                "words": wrong.get(name, ""),
            }
            for name, compute in sorted(computes.items())
        ]
        self._ask("POST", f"/movers/{KIND}/hosts", {"mover": self._name, "hosts": said})
        self._matched = time.monotonic()

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
            log.info("nova_host_disabled", host=service.host, operation=operation["id"])
        else:
            self._off.setdefault(service.id, time.monotonic())

    def _give_back(self, service: Service) -> None:
        if self._cloud.service(service.host) != service:
            return  # somebody has just disabled it for a reason of their own
        self._cloud.enable(service)
        log.info("nova_host_enabled", host=service.host, reason=service.reason)

    def _remove(self, services: Iterable[Service], computes: Mapping[str, Compute]) -> None:
        known = [s for s in services if hosts.ours(s) is not None and not s.up]
        removed: dict[str, set[str]] = {}
        for operation in {mine.operation for s in known if (mine := hosts.ours(s)) is not None}:
            with suppress(NotFound):
                items = self._ask("GET", f"/operations/{operation}")["items"]
                removed[operation] = {i["object"] for i in items if (i["kind"], i["state"]) == ("compute", "done")}
        for service in hosts.to_remove(known, computes, removed):
            self._apart(self._remove_one, service)

    def _remove_one(self, service: Service) -> None:
        left = self._cloud.allocations(service.host) or [s.id for s in self._cloud.servers(service.host)]
        if left:
            self._once(
                f"host {service.host} is not removed: {', '.join(left[:3])} are still there for Nova or Placement"
            )
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
        if job.failure and not self._tell(job, job.failure):
            return  # the controller does not answer: said again
        del self._jobs[job.server.id]
        if not job.failure:
            self._failed.pop(job.server.id, None)
        elif not job.claims:
            tries = self._failed.get(job.server.id, (0, 0.0, ""))[0] + 1
            self._failed[job.server.id] = (tries, time.monotonic(), job.failure)

    def _tell(self, job: Job, failure: str = "") -> bool:
        """Report on the claims of a server; whether the controller has heard it."""
        told = time.monotonic()
        for port, claim in list(job.claims.items()):
            try:
                self._report(claim, failure)
            except (Refused, NotFound):
                job.claims.pop(port, None)
                job.wanted = bool(job.claims)
            except (NotReady, OSError):
                return False
        job.heard = told
        return True

    def _claim(self, computes: Mapping[str, Compute]) -> None:
        """Take VMs that are plugged, as many as there is room for: the controller says which, and paces them."""
        free = max(0, self._options.at_once - len(self._jobs))
        holding = sorted(port for job in self._jobs.values() for port in job.claims)
        body = {"mover": self._name, "free": free, "holding": holding}
        for claim in self._ask("POST", f"/movers/{KIND}/claim", body)["claims"]:
            self._apart(self._take, claim, computes)

    def _owner(self, port: str) -> tuple[str, str]:
        """Who a port is of, asked once a drain."""
        if port not in self._devices:
            self._devices[port] = self._cloud.owner(port)
        return self._devices[port]

    def _take(self, claim: Mapping[str, Any], computes: Mapping[str, Compute]) -> None:
        owner, device = self._owner(claim["vm"])
        server = self._cloud.server(device) if owner.startswith("compute:") else None
        if server is None:
            self._give_up(claim, servers.unowned(owner, device))
            return
        source = computes.get(claim["source"])
        job = self._jobs.get(server.id)
        if job is None:
            if source is None or server.host != source.host:
                return  # it has left, and is on no host of ours to move: those who send to it follow
            need = self._need(server)
            if need.way is Way.WAIT and not server.task:
                self._give_up(claim, need.words)
                return
            # What Nova is doing with it is waited for: a snapshot is no failure, and a migration may be ours of before.
            way = Way.LIVE if need.way is Way.WAIT else need.way
            job = self._start(server, (claim["operation"], claim["source"]), way)
        job.claims[claim["vm"]] = claim
        job.wanted = True

    def _give_up(self, claim: Mapping[str, Any], words: str) -> None:
        with suppress(Refused, NotFound):
            self._report(claim, words)

    def _report(self, claim: Mapping[str, Any], failure: str) -> None:
        body = {"operation": claim["operation"], "vm": claim["vm"], "claim": claim["claim"], "mover": self._name}
        self._ask("POST", f"/movers/{KIND}/report", {**body, "failure": failure})

    def _need(self, server: Server) -> Need:
        return servers.need(server, cold=self._options.cold, own=False)

    def _begin_unclaimed(self, operation: Mapping[str, Any], matched: Mapping[str, Service]) -> None:
        """Servers that no claim speaks of: stopped ones, and those without a port."""
        open_ports = (i["object"] for i in operation["items"] if i["kind"] == "vm" and i["state"] in _OPEN)
        plugged = {self._owner(port)[1] for port in open_ports}
        for name in _in_turn(operation):
            if name in matched:
                self._apart(self._begin_unplugged, operation, name, matched[name], plugged)

    def _begin_unplugged(
        self, operation: Mapping[str, Any], name: str, service: Service, plugged: Container[str]
    ) -> None:
        for server in self._list(service.host):
            if server.id in self._jobs or len(self._jobs) >= min(operation["at-once"], self._options.at_once):
                continue
            need = self._need(server)
            if need.way is Way.LIVE and server.id in plugged:
                continue  # the controller gives it, in its turn
            if need.way is not Way.WAIT and self._may_try(server.id):
                self._start(server, (operation["id"], name), need.way)

    def _list(self, host: str) -> list[Server]:
        """Servers on a host; those who watch them look here."""
        at, found = time.monotonic(), self._cloud.servers(host)
        self._listed[host] = at, {each.id: each for each in found}
        return found

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
                self._start(server, about, Way.CONFIRM)
        self._looked = time.monotonic()

    def _start(self, server: Server, about: tuple[str, str], way: Way) -> Job:
        job = self._jobs[server.id] = Job(server, way, about)
        job.work = self._workers.submit(self._move, job)
        log.info("nova_moves", server=server.id, name=server.name, host=server.host, way=str(way), operation=about[0])
        return job

    def _move(self, job: Job) -> None:
        try:
            job.failure = self._moved(job)
        except EbbtideError as error:
            job.failure = str(error)
        except Exception as error:
            log.exception("nova_fault", server=job.server.id)
            job.failure = repr(error)
        if job.failure:
            log.warning("nova_not_moved", server=job.server.id, host=job.server.host, reason=job.failure)

    def _moved(self, job: Job) -> str:
        """Have a server leave; why it has not ("": it has, or need not any more)."""
        server, cloud, move = job.server, self._cloud, job.move
        while not self._ended:
            try:
                now = self._look(job)
                match move.step(now, time.monotonic(), wanted=job.wanted):
                    case Act.LEFT:
                        return ""
                    case Act.DROPPED:
                        log.info("nova_let_go", server=server.id, name=server.name, host=server.host)
                        return ""
                    case Act.STRANDED if now is not None:
                        return f"{_called(now)}: it has come to {now.host}, and is in ERROR there"
                    case Act.FAILED if now is not None:
                        words = cloud.last_words(server.id, _ACTIONS[move.way])
                        return (
                            f"{_called(now)}: {words or f'it is {now.status} on {now.host}, and Nova does not say why'}"
                        )
                    case Act.BEGIN:
                        self._begin(job)
                        # What was listed before that does not show it.
                        job.looked = time.monotonic()
                        move.asked(job.looked)
            except NotReady as error:
                # Whether it has begun nobody knows: it is looked at, and asked for again if it has not. That is no failure of the server's.
                self._once(str(error))
                time.sleep(BEAT)
            time.sleep(LOOK)
        return "its mover ends"

    def _look(self, job: Job) -> Server | None:
        """A server as it is: once it moves, as the list of its host has it, as long as it is in there."""
        while job.move.begun and not self._ended:
            at, known = self._listed.get(job.move.source, (float("-inf"), {}))
            if at > job.looked:
                job.looked = at
                if job.server.id in known:
                    return known[job.server.id]
                break
            if time.monotonic() - job.looked > ALONE:
                break
            time.sleep(LOOK)
        job.looked = time.monotonic()
        return self._cloud.server(job.server.id)

    def _begin(self, job: Job) -> None:
        match job.move.way:
            case Way.LIVE:
                self._cloud.migrate_live(job.server.id, self._options.block)
            case Way.COLD:
                self._cloud.migrate_cold(job.server.id)
            case Way.CONFIRM:
                self._cloud.confirm(job.server.id)

    # --- what is said of hosts ---

    def _vouch(self, operation: Mapping[str, Any], matched: Mapping[str, Service], wrong: Mapping[str, str]) -> None:
        said = []
        for name in _emptied(operation):
            service = matched.get(name)
            if service is None and name not in wrong:
                continue  # it is removed
            if service is None:
                said.append({"compute": name, "host": "", "state": "emptying", "words": wrong[name]})
                continue
            try:
                state, words = self._state_of(service)
            except EbbtideError as error:
                state, words = "emptying", str(error)
            said.append({"compute": name, "host": service.host, "state": state, "words": words})
        if said:
            body = {"mover": self._name, "operation": operation["id"], "hosts": said}
            with suppress(Refused, NotFound):
                self._ask("POST", f"/movers/{KIND}/hosts", body)

    def _state_of(self, service: Service) -> tuple[str, str]:
        """Whether a host is empty for Nova and for Placement, and no server is on its way there; else what keeps it."""
        if time.monotonic() - self._off.get(service.id, float("inf")) < STRADDLE:
            return "emptying", f"nova-compute of {service.host} has just been disabled"
        at, known = self._listed.get(service.host, (float("-inf"), {}))
        # What was listed in this round is new enough to say who is there; that nobody is has to be so now.
        there = list(known.values()) if at >= self._round else []
        there = there or self._list(service.host)
        if there:
            return self._of_servers(there)
        coming = [m for m in self._cloud.migrations(host=service.host) if m.goes_on]
        if coming:
            return "emptying", f"Nova has not ended {len(coming)} migrations of {service.host} yet"
        left = self._cloud.allocations(service.host)
        if left:
            found = ((each, self._cloud.server(each)) for each in left[:3])
            named = ", ".join(_called(server) if server is not None else each for each, server in found)
            return "emptying", f"Placement still counts {named} on {service.host}, and Nova lists no server there"
        return "empty", ""

    def _of_servers(self, there: list[Server]) -> tuple[str, str]:
        kept = []
        for server in there:
            tries, _, words = self._failed.get(server.id, (0, 0.0, ""))
            if tries >= TRIES:
                return "failed", words
            need = self._need(server)
            if need.way is Way.WAIT and server.id not in self._jobs:
                kept.append(need.words)
        count = f"{len(there)} server{'s' if len(there) != 1 else ''} to go"
        return "emptying", "; ".join([count, *kept[:3]])


def _called(server: Server) -> str:
    return f"{server.name} ({server.id})"


def _emptied(operation: Mapping[str, Any], states: Container[str] = _OPEN) -> list[str]:
    """Computes of a drain that are not given up; one that is removed has no host any more."""
    return [i["object"] for i in operation["items"] if i["kind"] == "compute" and i["state"] in states]


def _in_turn(operation: Mapping[str, Any]) -> list[str]:
    """Those whose turn it is."""
    return _emptied(operation, ("moving",))
