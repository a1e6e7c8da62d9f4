"""docs/pipeline.md says what the ledger says: every table, priority, register, cookie field, group id, VNI and bound."""

from __future__ import annotations

from ipaddress import IPv4Network
from itertools import pairwise
from pathlib import Path

from ebbtide.compile import ledger
from ebbtide.compile.ledger import TABLE_JOBS, Feature, Kind, Priority, Punt, T
from ebbtide.model.facts import format_mac
from ebbtide.model.state import LAST_ZONE

PAGE = (Path(__file__).parents[3] / "docs" / "pipeline.md").read_text()


def rows(title: str, first: str) -> list[list[str]]:
    """Cells of the table under a title whose first column is headed `first`."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = section.split(f"| {first} |")[1].splitlines()[2:]
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_every_table_stands_there_with_its_number_name_and_job() -> None:
    told = {(int(number), name): job for number, name, job in rows("Tables", "table")}
    assert list(told) == [(int(t), t.name) for t in T]
    for table in T:
        job = told[int(table), table.name]
        if table in TABLE_JOBS:
            assert job == TABLE_JOBS[table]
        else:
            assert job.startswith("reserved: ")


def test_every_priority_stands_there() -> None:
    told = {name: int(number) for _, name, number, _ in rows("Priorities", "table")}
    assert told == {name: value for name, value in vars(Priority).items() if name.isupper()}


def test_priorities_stand_under_tables_that_hold_flows() -> None:
    tables = {t for table, _, _, _ in rows("Priorities", "table") for t in table.split(", ")} - {"all"}
    assert tables <= {str(int(t)) for t in TABLE_JOBS}


def test_metadata() -> None:
    told = [(bits, int(mask, 16)) for _, bits, mask in rows("Metadata", "field")]
    spans = [
        (ledger.LPORT_SHIFT, ledger.LPORT_BITS, ledger.LPORT_MASK),
        (ledger.NETWORK_SHIFT, ledger.NETWORK_BITS, ledger.NETWORK_MASK),
        (ledger.VRF_SHIFT, ledger.VRF_BITS, ledger.VRF_MASK),
    ]
    assert told == [*((f"{s} to {s + n - 1}", mask) for s, n, mask in spans), ("0", ledger.SPLIT_HORIZON)]


def test_every_register_stands_there() -> None:
    assert dict(rows("Registers", "register")) == ledger.REGISTERS
    roles = {
        "reg5": ledger.TO_COMPUTE_REG,
        "reg6": ledger.TO_LPORT_REG,
        "reg7": ledger.NETWORK_REG,
        "reg10": ledger.INPUT_REG,
        "reg3": ledger.VRF_REG,
        "reg8": ledger.EXPORTED_REG,
        "reg9": ledger.ASKED_REG,
    }
    assert all(name == register for name, register in roles.items())
    assert (ledger.SIZE_REG, ledger.LARGE_BIT, ledger.TOO_BIG_BIT, ledger.MEASURED_BIT) == ("reg8", 1, 2, 3)


def test_cookies() -> None:
    assert [(int(n), name) for n, name, _ in rows("Cookies", "kind")] == [(int(k), k.name) for k in Kind]
    assert [(int(n), name) for n, name in rows("Cookies", "feature")] == [(int(f), f.name) for f in Feature]
    places = ((ledger.KIND_SHIFT, 4), (ledger.FEATURE_SHIFT, 8), (ledger.OWNER_SHIFT, ledger.OWNER_BITS))
    for word, (shift, width) in zip(("kind (bits ", "feature (", "owner ("), places, strict=True):
        assert f"{word}{shift} to {shift + width - 1})" in PAGE
    assert f"low {ledger.HASH_BITS}" in PAGE


def test_groups_meters_vnis_and_bounds() -> None:
    told = [number for _, number in rows("Groups, meters, VNIs, ids", "what")]
    assert told == [
        f"{ledger.local_group(0):#x} + network tag",
        f"{ledger.flood_group(0):#x} + network tag",
        f"{ledger.whole_group(0):#x} + network tag",
        f"{ledger.flood_part(0, 0):#x} + {ledger.flood_part(1, 0) - ledger.flood_part(0, 0)} x network tag + part",
        f"{ledger.gateway_group(0):#x} + router tag",
        f"{ledger.voice_group(0):#x} + router tag",
        f"{ledger.answer_group(0):#x} + router tag",
        f"{ledger.ALIVE_GROUP:#x}",
        str(ledger.MAX_BUCKETS),
        f"1 to {LAST_ZONE}",
        f"{ledger.router_zone(0)} + router tag",
        str(ledger.METADATA_ZONE),
        str(ledger.FLOOD_ZONE),
        str(ledger.PROBE_METER),
        str(ledger.EVIDENCE_METER),
        str(ledger.NEXT_HOP_METER),
        str(ledger.EXPIRED_METER),
        str(ledger.RECORD_METER),
        str(ledger.EXHAUSTED_METER),
        str(ledger.HIDDEN_METER),
        str(ledger.ANSWER_METER),
        str(ledger.CLAIM_METER),
        str(ledger.DHCP_METER),
        str(ledger.ANNOUNCED_METER),
        str(ledger.ROUTER_ASKED_METER),
        str(ledger.OUTSIDE_HIDDEN_METER),
        str(ledger.TOO_BIG_METER),
        str(ledger.TOO_BIG_OUTSIDE_METER),
        f"{ledger.port_meter(0, False)} + {ledger.port_meter(1, False) - ledger.port_meter(0, False)} x its conntrack zone; + 1",
        f"{ledger.metadata_meter(0)} + its conntrack zone",
        f"{ledger.solicit_meter(0)} + its conntrack zone",
        str(ledger.PUNTS_PER_SECOND),
        str(ledger.PROBES_PER_SECOND),
        str(ledger.NEXT_HOPS_PER_SECOND),
        str(ledger.EXPIRED_PER_SECOND),
        str(ledger.RECORDS_PER_SECOND),
        str(ledger.EXHAUSTED_PER_SECOND),
        str(ledger.HIDDEN_PER_SECOND),
        str(ledger.ANSWERS_PER_SECOND),
        str(ledger.CLAIMS_PER_SECOND),
        str(ledger.DHCP_PER_SECOND),
        str(ledger.ANNOUNCED_PER_SECOND),
        str(ledger.ROUTER_ASKED_PER_SECOND),
        str(ledger.OUTSIDE_HIDDEN_PER_SECOND),
        str(ledger.TOO_BIG_PER_SECOND),
        str(ledger.CONNECTIONS_PER_SECOND),
        str(ledger.CONNECTIONS_AT_ONCE),
        str(ledger.CALLS_PER_SECOND),
        str(ledger.CALLS_AT_ONCE),
        str(ledger.ASKED_PER_SECOND),
        str(ledger.ASKED_AT_ONCE),
        f"{ledger.FIRST_VNI} to {ledger.LAST_VNI}",
        f"{ledger.RELATION_VNI} to {ledger.subnet_vni(0) - 1}",
        f"{ledger.gateway_vni(0)} + {ledger.gateway_vni(1) - ledger.gateway_vni(0)} x router tag, "
        f"+ {ledger.ask_vni(0) - ledger.gateway_vni(0)}, + {ledger.answer_vni(0) - ledger.gateway_vni(0)}",
        f"{ledger.subnet_vni(0):#x} + network tag",
        f"{ledger.answered_vni(0):#x} + network tag",
        f"{ledger.unjudged_vni(0):#x} + network tag",
        f"{ledger.DELIVER_VNI:#x} + lport tag",
        f"{ledger.PROBE_VNI:#x}",
        f"{ledger.PROBE_ETHERTYPE:#x}",
        f"{ledger.FIRST_NAT_PORT} to {ledger.LAST_NAT_PORT}",
        f"{ledger.mac('', ledger.MacOf.ROUTER, 0):#014x} + ...",
        format_mac(ledger.METADATA_MAC),
        str(IPv4Network((ledger.AGENT_PREFIX, 32 - ledger.LPORT_BITS))),
        str(ledger.MAX_COMPUTE),
        str(ledger.MAX_LPORT),
        str(ledger.NO_LPORT),
        str(ledger.MAX_TAG),
        str(ledger.MAX_ROUTER),
        str(ledger.MAX_GROUP),
        *(str(int(punt)) for punt in Punt),
    ]


def test_no_two_uses_of_a_number_meet() -> None:
    """Group ids of the highest tags, and VNIs of the highest lports, stay clear of what comes after them."""
    top = ledger.MAX_TAG
    assert ledger.local_group(top) < ledger.flood_group(0) <= ledger.flood_group(top) < ledger.flood_part(0, 0)
    assert ledger.flood_part(top, 4095) < 0xFFFFFF00  # OFPG_MAX
    assert (
        ledger.whole_group(top)
        < ledger.gateway_group(0)
        <= ledger.gateway_group(ledger.MAX_ROUTER)
        < ledger.ALIVE_GROUP
    )
    highest = [ledger.gateway_group, ledger.voice_group, ledger.answer_group]
    assert all(one(ledger.MAX_ROUTER) < two(0) for one, two in pairwise(highest))
    assert ledger.answer_group(ledger.MAX_ROUTER) < ledger.ALIVE_GROUP < ledger.flood_part(0, 0)
    assert ledger.LAST_VNI < ledger.RELATION_VNI < ledger.answer_vni(ledger.MAX_ROUTER) < ledger.subnet_vni(0)
    vnis = [ledger.subnet_vni, ledger.answered_vni, ledger.unjudged_vni]
    assert all(one(top) < two(0) for one, two in pairwise(vnis))
    assert ledger.unjudged_vni(top) < ledger.DELIVER_VNI
    assert ledger.router_zone(0) > LAST_ZONE
    assert ledger.router_zone(1) > ledger.METADATA_ZONE > LAST_ZONE
    assert ledger.metadata_meter(0) > ledger.port_meter(LAST_ZONE, True)
    assert ledger.AGENT_MASK ^ 0xFFFF_FFFF == (1 << ledger.LPORT_BITS) - 1
    assert ledger.router_zone(ledger.MAX_ROUTER) < ledger.FLOOD_ZONE
    assert top < ledger.ROUTER_TAGS
    assert ledger.DELIVER_VNI | ledger.MAX_LPORT < ledger.PROBE_VNI
    assert ledger.DELIVER_VNI & ledger.MAX_LPORT == 0
    assert Priority.ROUTE + 128 < Priority.LARGE <= Priority.LARGE + 128 < Priority.EXPIRED < Priority.OWN_ADDRESS
    assert max(ledger.MAX_COMPUTE, ledger.MAX_LPORT, ledger.MAX_TAG) < 1 << ledger.OWNER_BITS
    assert ledger.LPORT_MASK | ledger.NETWORK_MASK | ledger.VRF_MASK | ledger.SPLIT_HORIZON == (1 << 60) - 1
