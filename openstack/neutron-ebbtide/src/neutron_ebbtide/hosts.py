"""The controller's hosts, as agents in Neutron's database."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from oslo_log import log
from oslo_utils import timeutils

LOG = log.getLogger(__name__)
AGENT_TYPE, BINARY = "Ebbtide vSwitch", "ebbtide"
#: So many hosts, or else a third of them, may be gone at once without having been tombstoned first.
_FEW, _SHARE = 3, 3
#: Characters of a host's name that Neutron keeps.
_NAME = 255
#: Hosts that are said to live in one go; characters of a configuration that Neutron keeps.
_BEATS, _ROOM = 50, 4000


def bindable(agents: Iterable[dict[str, Any]], *, leaving: bool) -> dict[str, Any] | None:
    """The configuration of a host on which a port may be bound; None: there is none. `leaving`: one that leaves is one, too.

    Whether the agent is alive is no matter: it is not when the controller is away, and its hosts are there all the same.
    """
    for agent in agents:
        found = agent.get("configurations") or {}
        if agent.get("admin_state_up", True) and (found.get("bindable") or (leaving and found.get("known"))):
            return dict(found)
    return None


def take(context: Any, found: list[dict[str, Any]], beat: float | None = None) -> bool:
    """Bring agents in line with what the controller says. `beat`: those that are ready and were not said to live for so many seconds are
    (None: none), as many as have room in one go; gives whether there are more of them."""
    plugin = directory.get_plugin()
    agents = {a["host"]: a for a in plugin.get_agents(context, filters={"agent_type": [AGENT_TYPE]})}
    named = Counter(host["host"] for host in found)
    silent: dict[str, dict[str, Any]] = {}
    for host in found:
        name = host["host"]
        if named[name] > 1:
            LOG.error("ebbtide: several computes say that they are host %s: nothing more is bound there", name)
            host = {**host, "tombstoned": True, "ready": False}
        if len(name) > _NAME:
            LOG.error("ebbtide: host %s... has a name that Neutron cannot keep: nothing is bound there", name[:40])
            continue
        known = agents.get(name)
        before = _decoded(known["configurations"]) if known is not None else {}
        if known is None and not host["ready"]:
            continue
        now = _fitting(_configuration(host, before))
        if before != now:
            _tell(context, name, now, new=known is None)
        elif host["ready"] and known is not None and beat is not None and _age(known) >= beat:
            silent[name] = now
    for name in sorted(silent, key=lambda each: -_age(agents[each]))[:_BEATS]:
        _tell(context, name, silent[name], new=False)
    for name in gone({name: _decoded(agent["configurations"]) for name, agent in agents.items()}, set(named)):
        plugin.delete_agent(context, agents[name]["id"])
        LOG.info("ebbtide: host %s was removed, and its agent is", name)
    return len(silent) > _BEATS


def gone(agents: Mapping[str, Mapping[str, Any]], hosts: set[str]) -> list[str]:
    """Agents, by host, whose hosts were removed. A controller that has lost its computes, or is another one, has removed none."""
    away = sorted(agents.keys() - hosts)
    if not hosts:
        return []
    left = [name for name in away if agents[name].get("leaving")]
    lost = [name for name in away if not agents[name].get("leaving")]
    if len(lost) > _FEW and len(lost) * _SHARE > len(agents):
        LOG.error(
            "ebbtide: %d of %d hosts are gone at once, and their agents stay: if that is right, `openstack network agent delete`",
            len(lost),
            len(agents),
        )
        return left
    return left + lost


def _configuration(host: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a host. One that has been ready stays it while it is away: a controller that has just started knows nobody yet."""
    known = bool(host["ready"] or before.get("known"))
    return {
        "known": known,
        "bindable": known and not host["tombstoned"],
        "compute": host["compute"],
        "datapath_type": host["datapath"],
        "bridge_mappings": host["bridge-mappings"],
        "leaving": host["tombstoned"],
    }


def _fitting(configuration: dict[str, Any]) -> dict[str, Any]:
    """As much of it as Neutron keeps: what does not fit would keep all hosts behind this one from being known."""
    if len(json.dumps(configuration)) <= _ROOM:
        return configuration
    return {**configuration, "bridge_mappings": {}}


def _age(agent: Mapping[str, Any]) -> float:
    """Seconds since an agent was last said to live."""
    found: float = timeutils.delta_seconds(agent["heartbeat_timestamp"], timeutils.utcnow())
    return found


@db_api.retry_db_errors
def _tell(context: Any, host: str, configuration: dict[str, Any], *, new: bool) -> None:
    state: dict[str, Any] = {
        "agent_type": AGENT_TYPE,
        "binary": BINARY,
        "host": host,
        "topic": "N/A",
        "configurations": configuration,
    }
    if new:
        state["start_flag"] = True
    directory.get_plugin().create_or_update_agent(context, state)


def _decoded(found: Any) -> dict[str, Any]:
    return dict(json.loads(found) if isinstance(found, str) else found or {})
