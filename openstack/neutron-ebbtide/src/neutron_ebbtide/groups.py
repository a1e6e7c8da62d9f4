"""Security groups and their rules: ML2 tells its drivers nothing of them, so they are heard of as everybody hears."""

from __future__ import annotations

from typing import Any

from neutron_lib.callbacks import events, registry, resources

from neutron_ebbtide import journal
from neutron_ebbtide.errors import NotServed

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


def _group(resource: str, event: str, trigger: Any, payload: Any) -> None:
    """A group, and the rules that come and go with it unsaid."""
    group = payload.resource_id or payload.latest_state["id"]
    journal.note(payload.context, "security-groups", group)
    rules = payload.metadata.get("security_group_rule_ids") or []
    if event == events.PRECOMMIT_CREATE:
        made = payload.latest_state.get("security_group_rules", []) if isinstance(payload.latest_state, dict) else []
        rules = [rule["id"] for rule in made]
    journal.note(payload.context, "security-group-rules", *rules)


def _rule(resource: str, event: str, trigger: Any, payload: Any) -> None:
    if event == events.PRECOMMIT_CREATE and payload.latest_state.get("remote_address_group_id"):
        raise NotServed(what="a rule with an address group", instead="use prefixes, or a remote group")
    journal.note(payload.context, "security-group-rules", payload.resource_id or payload.latest_state["id"])


def _after(resource: str, event: str, trigger: Any, payload: Any) -> None:
    journal.wake()
