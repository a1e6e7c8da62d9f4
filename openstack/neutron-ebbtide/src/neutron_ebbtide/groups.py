"""Security groups and their rules, and what goes with a subnet: ML2 tells its drivers nothing of these, so they are heard of as everybody
hears."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.models import securitygroup
from neutron_lib.callbacks import events, registry, resources

from neutron_ebbtide import journal, served

_BEFORE = (events.PRECOMMIT_CREATE, events.PRECOMMIT_UPDATE, events.PRECOMMIT_DELETE)
_AFTER = (events.AFTER_CREATE, events.AFTER_UPDATE, events.AFTER_DELETE)


def listen() -> None:
    """From now on."""
    for event in _BEFORE:
        registry.subscribe(_group, resources.SECURITY_GROUP, event)
        registry.subscribe(_rule, resources.SECURITY_GROUP_RULE, event)
    for event in _AFTER:
        registry.subscribe(_after, resources.SECURITY_GROUP, event)
        registry.subscribe(_after, resources.SECURITY_GROUP_RULE, event)
    registry.subscribe(_subnet_goes, resources.SUBNET, events.PRECOMMIT_DELETE_ASSOCIATIONS)


def _group(resource: str, event: str, trigger: Any, payload: Any) -> None:
    """A group, and the rules that come and go with it unsaid: its own, and those of others that let it in."""
    state = payload.desired_state or payload.latest_state
    group = payload.resource_id or state["id"]
    journal.note(payload.context, "security-groups", group)
    rules = list(payload.metadata.get("security_group_rule_ids") or [])
    if event == events.PRECOMMIT_CREATE:
        made = state.get("security_group_rules", []) if isinstance(state, dict) else []
        rules = [rule["id"] for rule in made]
    if event == events.PRECOMMIT_DELETE:
        rule = securitygroup.SecurityGroupRule
        found = payload.context.session.execute(sa.select(rule.id).where(rule.remote_group_id == group))
        rules += [each for each in found.scalars() if each not in rules]
    journal.note(payload.context, "security-group-rules", *rules)


def _rule(resource: str, event: str, trigger: Any, payload: Any) -> None:
    if event == events.PRECOMMIT_CREATE:
        served.check_rule(payload.latest_state)
    journal.note(payload.context, "security-group-rules", payload.resource_id or payload.latest_state["id"])


def _subnet_goes(resource: str, event: str, trigger: Any, payload: Any) -> None:
    """Ports lose addresses that they had of it by themselves (IPv6), and nobody is told of that."""
    taken = models_v2.IPAllocation
    found = payload.context.session.execute(
        sa.select(taken.port_id).where(taken.subnet_id == payload.resource_id, taken.port_id.is_not(None)).distinct()
    )
    journal.note(payload.context, "ports", *found.scalars())


def _after(resource: str, event: str, trigger: Any, payload: Any) -> None:
    journal.wake()
