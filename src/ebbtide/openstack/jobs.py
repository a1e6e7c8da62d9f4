"""What a mover has at work: a server that leaves its host, or a network's DHCP. Each goes step by step, in whatever thread is free."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor, Future
from types import MappingProxyType
from typing import Any, NamedTuple

import structlog

from ebbtide.errors import EbbtideError, NotFound, NotReady, Refused
from ebbtide.openstack import agents
from ebbtide.openstack.moves import Act, Move
from ebbtide.openstack.nova import Busy, Cloud
from ebbtide.openstack.servers import Port, Server, Way

log = structlog.get_logger("nova")
#: Seconds until a server that is in no new list is asked for by itself, and how many times those of a list at least: who asks Nova much
#: keeps it from migrating.
ALONE, RARELY = 4.0, 8.0
#: Between two lists of a host's servers, so many times what one takes.
PAUSE = 4
#: Seconds until somebody who does not answer is asked again.
LATER = 5.0
#: Seconds between two looks at a network, for which an agent's new port is waited for until another one is tried, and for all of it.
AGAIN, SERVED, PATIENCE = 1.0, 60.0, 300.0
_ACTIONS = {Way.LIVE: ("live-migration",), Way.COLD: ("migrate",), Way.CONFIRM: ("confirmResize",)}
#: What is not done for a drain that is over.
_OPTIONAL = (agents.Act.ADD, agents.Act.WAIT, agents.Act.REMOVE, agents.Act.FAILED)
_NEVER = float("-inf")


class Listed(NamedTuple):
    """Servers of a host, by id; `at`: when that was asked, and `took`: how long, in seconds."""

    at: float = _NEVER
    servers: Mapping[str, Server] = MappingProxyType({})
    took: float = 0.0


class Ground:
    """What all of them stand on. `once`: says what is waited for."""

    def __init__(self, cloud: Cloud, once: Callable[[str], None]) -> None:
        self.cloud, self.once = cloud, once
        self._listed: dict[str, Listed] = {}
        #: How many networks agents were given by us: what they say of themselves is some time old.
        self.given = Counter[str]()
        #: Hosts where ports are served and go on to be, as Nova and Neutron call them.
        self.staying: Collection[str] = ()

    def forget(self, host: str = "") -> None:
        """What was listed there ("": anywhere) is so no more."""
        for each in [host] if host else list(self._listed):
            self._listed.pop(each, None)

    def listed(self, host: str) -> Listed:
        """What was last listed there."""
        return self._listed.get(host, Listed())

    def list(self, host: str) -> Listed:
        """Servers on a host, as they are now; those who watch them look here."""
        at, found = time.monotonic(), self.cloud.servers(host)
        self._listed[host] = made = Listed(at, {each.id: each for each in found}, time.monotonic() - at)
        return made

    def there(self, host: str) -> Mapping[str, Server]:
        """Servers on a host, as they are listed now and then: Nova has better to do than to answer us."""
        last = self.listed(host)
        again = time.monotonic() > last.at + (1 + PAUSE) * last.took
        return (self.list(host) if again else last).servers


class Job:
    """Something that leaves `host`. `key`: what nobody else has; `about`: operation and compute for which; `claims`: of its ports, by port;
    `wanted`: the drain goes on; `over`: it has ended; `failure`: why it has not left, then."""

    def __init__(self, ground: Ground, key: str, host: str, about: tuple[str, str]) -> None:
        self.ground, self.key, self.host, self.about = ground, key, host, about
        self.claims: dict[str, Mapping[str, Any]] = {}
        self.wanted = True
        self.over = False
        self.failure = ""
        self.heard = time.monotonic()
        self._work: Future[None] | None = None
        self._after = _NEVER

    def go_on(self, workers: Executor) -> None:
        """Have a step done, if there is one to be done now."""
        done = self._work is None or self._work.done()
        if done and not self.over and time.monotonic() >= self._after and self._is_due():
            self._work = workers.submit(self._one)

    def _one(self) -> None:
        try:
            words = self._step()
        except NotReady as error:
            # Whether it was done nobody knows: it is looked at, and done again if it was not. That is no failure of what leaves.
            self.ground.once(str(error))
            self._after = time.monotonic() + LATER
            return
        except EbbtideError as error:
            words = str(error)
        except Exception as error:
            log.exception("nova_fault", **self._named)
            words = repr(error)
        if words is None:
            return
        if words:
            log.warning("nova_not_moved", **self._named, reason=words)
        self.failure, self.over = words, True

    def _is_due(self) -> bool:
        """Whether there may be something new."""
        return True

    def _step(self) -> str | None:
        """Look, and do what is to be done; why it has not left ("": it has, or need not any more; None: it goes on)."""
        raise NotImplementedError

    @property
    def _named(self) -> dict[str, str]:
        return {"key": self.key}


class ServerJob(Job):
    """A server that leaves, as it was seen just now. `block`: see `Cloud.migrate_live`."""

    def __init__(self, ground: Ground, server: Server, way: Way, about: tuple[str, str], block: str) -> None:
        super().__init__(ground, server.id, server.host, about)
        self.server, self.move, self._block = server, Move(server, way), block
        self._looked = _NEVER

    @property
    def _named(self) -> dict[str, str]:
        return {"server": self.server.id, "name": self.server.name, "host": self.server.host}

    def _step(self) -> str | None:
        now = self._look()
        match self.move.step(now, time.monotonic(), wanted=self.wanted):
            case Act.LEFT:
                return ""
            case Act.DROPPED:
                log.info("nova_let_go", **self._named)
                return ""
            case Act.STRANDED if now is not None:
                return f"{now.called}: it has come to {now.host}, and is in ERROR there"
            case Act.FAILED if now is not None:
                words = self.ground.cloud.last_words(now.id, _ACTIONS[self.move.way])
                return f"{now.called}: {words or f'it is {now.status} on {now.host}, and Nova does not say why'}"
            case Act.BEGIN:
                return self._asked()
        return None

    def _asked(self) -> str | None:
        """Have Nova begin."""
        try:
            self._begin()
            self.move.asked(time.monotonic())
        except NotFound:
            return ""  # it was deleted
        except Busy:
            now = self.ground.cloud.server(self.server.id)
            if now is not None and not now.task:
                raise
        finally:
            # What was listed before does not show it, even if there was no answer.
            self._looked = time.monotonic()
        return None

    def _is_due(self) -> bool:
        """Whether its host has been listed since the last look; it is looked at by itself else, but not so often."""
        last = self.ground.listed(self.move.source)
        return last.at > self._looked or time.monotonic() - self._looked > max(ALONE, RARELY * last.took)

    def _look(self) -> Server | None:
        """The server as it is; once it moves, as the list of its host has it, as long as it is in there."""
        last, before = self.ground.listed(self.move.source), self._looked
        self._looked = time.monotonic()
        if self.move.begun and last.at > before and self.server.id in last.servers:
            return last.servers[self.server.id]
        # What was listed is too old to act upon: its owner may have started it, or somebody have moved it.
        return self.ground.cloud.server(self.server.id)

    def _begin(self) -> None:
        cloud, server = self.ground.cloud, self.server.id
        match self.move.way:
            case Way.LIVE:
                cloud.migrate_live(server, self._block)
            case Way.COLD:
                cloud.migrate_cold(server)
            case Way.CONFIRM:
                cloud.confirm(server)


class NetworkJob(Job):
    """DHCP of a network, which moves from the agent on `port`'s host to another one."""

    def __init__(self, ground: Ground, port: Port, about: tuple[str, str]) -> None:
        super().__init__(ground, port.id, port.host, about)
        self.port = port
        #: The agent that was given the network by us, and which were waited for in vain.
        self._given, self._slow = "", set[str]()
        self._began = self._since = time.monotonic()

    @property
    def _named(self) -> dict[str, str]:
        return {"port": self.port.id, "network": self.port.network, "host": self.port.host}

    def _step(self) -> str | None:
        cloud, network, now = self.ground.cloud, self.port.network, time.monotonic()
        self._after = now + AGAIN
        try:
            serving = cloud.serving(network)
        except NotFound:
            return ""  # the network has gone, and its ports with it
        ports = cloud.dhcp_ports(network)
        known = [a._replace(networks=a.networks + self.ground.given[a.id]) for a in cloud.dhcp_agents()]
        done = agents.step(self.host, self.ground.staying, known, serving, ports, self._slow)
        try:
            if not self.wanted and done.act in _OPTIONAL:
                self._take_back(serving)
                log.info("nova_let_go", **self._named)
                return ""
            match done.act:
                case agents.Act.DONE:
                    return ""
                case agents.Act.ADD:
                    cloud.give_network(network, done.about)
                    self._given, self._since = done.about, now
                    self.ground.given[done.about] += 1
                    log.info("nova_dhcp_given", agent=done.about, **self._named)
                case agents.Act.REMOVE:
                    self._given = ""  # it is all that has it from now on
                    cloud.take_network(network, done.about)
                    log.info("nova_dhcp_taken", agent=done.about, **self._named)
                case agents.Act.CLEAN:
                    cloud.delete_port(next(each for each in ports if each.id == done.about))
                case agents.Act.WAIT if now - self._since > SERVED:
                    # Another one, if there is any.
                    self._slow |= serving
                    self._since = now
                    self._take_back(serving)
        except (Refused, NotFound) as error:
            # Neutron has done it by itself, or somebody else has: looked at again.
            self.ground.once(str(error))
        if done.act is agents.Act.FAILED or time.monotonic() - self._began > PATIENCE:
            return f"DHCP of network {network}: {done.about}"
        return None

    def _take_back(self, serving: Collection[str]) -> None:
        if self._given in serving:
            self.ground.cloud.take_network(self.port.network, self._given)
            self._given = ""
