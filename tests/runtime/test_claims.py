"""Which changes of a compute's database have its claim read again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.lab.compute import SCHEMA
from ebbtide.ovsdb.schema import parse_schema
from ebbtide.runtime import vswitch

SWITCH = parse_schema(msgspec.json.decode(SCHEMA.read_bytes()))
ROOT = "00000000-0000-4000-8000-000000000001"
_MAPS = {"external_ids", "other_config"}


def uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-0000000001{number:02d}"


NAMES = st.sampled_from(["br-int", "tap1"])
MACS = st.sampled_from(["02:00:00:00:00:01", "02:00:00:00:00:02"])
BRIDGES = st.fixed_dictionaries(
    {"name": NAMES, "datapath_id": st.sampled_from(["0000000000000001", "0000000000000002"])},
    optional={"other_config": st.fixed_dictionaries({"dp-desc": st.sampled_from(["c1", "c2"])})},
)
INTERFACES = st.fixed_dictionaries({"name": NAMES, "mac_in_use": MACS}, optional={"ofport": st.integers(1, 3)})
ROOTS = st.fixed_dictionaries(
    {"cur_cfg": st.integers(0, 2)},
    optional={
        "external_ids": st.fixed_dictionaries({"system-id": st.sampled_from(["s1", "s2"])}),
        "other_config": st.fixed_dictionaries({"local_ip": st.sampled_from(["192.0.2.1", "192.0.2.2"])}),
    },
)
#: A database, as its rows: the root's, bridges and interfaces by number.
CONTENTS = st.tuples(
    ROOTS,
    st.dictionaries(st.integers(0, 1), BRIDGES, max_size=2),
    st.dictionaries(st.integers(10, 11), INTERFACES, max_size=2),
)
Contents = tuple[dict[str, Any], dict[int, dict[str, Any]], dict[int, dict[str, Any]]]


def json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row in the notation of RFC 7047."""
    return {
        column: ["map", [list(pair) for pair in value.items()]] if column in _MAPS else value
        for column, value in row.items()
    }


def whole(contents: tuple[Any, ...]) -> dict[str, Any]:
    """The answer to "monitor", which is all that there is."""
    root, bridges, interfaces = contents
    tables = {
        "Open_vSwitch": {ROOT: root},
        "Bridge": {uuid(number): row for number, row in bridges.items()},
        "Interface": {uuid(number): row for number, row in interfaces.items()},
    }
    return {table: {key: {"new": json(row)} for key, row in rows.items()} for table, rows in tables.items()}


@given(CONTENTS, CONTENTS, st.sampled_from([0, 1, 2]))
def test_no_change_of_what_a_compute_says_of_itself_is_passed_over(
    before: Contents, after: Contents, table: int
) -> None:
    tables = vswitch.replica(SWITCH)
    tables.take_reply("monitor", whole(before))
    said = vswitch.claim(tables)
    changed = *before[:table], after[table], *before[table + 1 :]
    _, changes = tables.take_reply("monitor", whole(changed))
    assert vswitch.claim(tables) == said or vswitch.concerns_claim(tables, changes)


def test_a_vm_that_is_plugged_does_not_have_it_read_again() -> None:
    tables = vswitch.replica(SWITCH)
    bridge = {0: {"name": "br-int", "datapath_id": "0000000000000001"}}
    own = {10: {"name": "br-int", "mac_in_use": "02:00:00:00:00:01"}}
    tables.take_reply("monitor", whole(({"cur_cfg": 1}, bridge, own)))
    plugged = {**own, 11: {"name": "tap1", "mac_in_use": "02:00:00:00:00:02", "ofport": 1}}
    _, changes = tables.take_reply("monitor", whole(({"cur_cfg": 2}, bridge, plugged)))
    assert changes
    assert not vswitch.concerns_claim(tables, changes)
