"""The controller's hosts, as agents in Neutron's database."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from oslo_log import log

LOG = log.getLogger(__name__)
AGENT_TYPE, BINARY = "Ebbtide vSwitch", "ebbtide"


def bindable(agents: Iterable[dict[str, Any]], *, leaving: bool) -> dict[str, Any] | None:
    """The configuration of a host on which a port may be bound; None: there is none. `leaving`: one that leaves is one, too.

    Whether the agent is alive is no matter: it is not when the controller is away, and its hosts are there all the same.
    """
    for agent in agents:
        found = agent.get("configurations") or {}
        if agent.get("admin_state_up", True) and (found.get("bindable") or (leaving and found.get("known"))):
            return dict(found)
    return None


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


@db_api.retry_db_errors
def _tell(context: Any, host: str, configuration: dict[str, Any], *, new: bool) -> None:
    state = {
        "agent_type": AGENT_TYPE,
        "binary": BINARY,
        "host": host,
        "topic": "N/A",
        "configurations": configuration,
    }
    if new:
        state["start_flag"] = True
    directory.get_plugin().create_or_update_agent(context, state)


def take(context: Any, found: list[dict[str, Any]]) -> None:
    """Bring agents in line with what the controller says: it has answered, so who is not among its hosts was removed."""
    plugin = directory.get_plugin()
    agents = {a["host"]: a for a in plugin.get_agents(context, filters={"agent_type": [AGENT_TYPE]})}
    names = [host["host"] for host in found]
    for host in found:
        if names.count(host["host"]) > 1:
            LOG.error("ebbtide: several computes say that they are host %s: nothing is bound there", host["host"])
            continue
        known = agents.get(host["host"])
        before = _decoded(known["configurations"]) if known is not None else {}
        if known is None and not host["ready"]:
            continue
        if host["ready"] or before != _configuration(host, before):
            _tell(context, host["host"], _configuration(host, before), new=known is None)
    for name in agents.keys() - set(names):
        plugin.delete_agent(context, agents[name]["id"])
        LOG.info("ebbtide: host %s was removed, and its agent is", name)


def _decoded(found: Any) -> dict[str, Any]:
    return dict(json.loads(found) if isinstance(found, str) else found or {})
