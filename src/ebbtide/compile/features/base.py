"""What every compute holds whatever it serves: table misses and the meters of punts.

A miss without a flow is a drop (OpenFlow 1.3, 5.4), so only misses that go on are written.
"""

from __future__ import annotations

from ebbtide.compile import ledger
from ebbtide.compile.features import nd
from ebbtide.compile.flow import Bucket, Flow, Group, GroupType, Load, Meter, Move, Resubmit, match
from ebbtide.compile.fragment import Fragment
from ebbtide.compile.ledger import Feature, Kind, Priority, T

#: What every port's classifier row does first: afterwards an output to the port of entry is not the silent drop of OpenFlow 1.3, 5.10.
RECORD_INPUT = (Move("in_port", ledger.INPUT_REG, 16), Load("in_port", 0, 16, 0))
_COOKIE = ledger.cookie(Kind.BASE, Feature.PIPELINE)


def _miss(table: T, goto: T) -> Flow:
    return Flow(table, Priority.MISS, (), goto=goto, cookie=_COOKIE)


BASE = Fragment(
    flows=(
        _miss(T.GATEWAY_MAC, T.ARP_CHECK),
        _miss(T.ARP_CHECK, T.L2_BASE),
        Flow(
            T.ARP_CHECK,
            Priority.ARP_REQUEST,
            match(eth_type=0x0806, arp_op=1),
            goto=T.ARP_RESPONDER,
            cookie=_COOKIE,
        ),
        Flow(T.ARP_RESPONDER, Priority.MISS, (), actions=(Resubmit(T.L2_BASE),), cookie=_COOKIE),
        _miss(T.L2_BASE, T.L2_DMAC),
        _miss(T.L2_DMAC, T.L2_UNKNOWN),
        _miss(T.L2_FILTER, T.EGRESS),
        *nd.BASE,
    ),
    groups=(Group(ledger.ALIVE_GROUP, GroupType.ALL, (Bucket(()),)),),
    meters=(
        Meter(ledger.PROBE_METER, ledger.PROBES_PER_SECOND, burst=ledger.PROBES_PER_SECOND),
        Meter(ledger.EVIDENCE_METER, ledger.PUNTS_PER_SECOND, burst=ledger.PUNTS_PER_SECOND),
        Meter(ledger.NEXT_HOP_METER, ledger.NEXT_HOPS_PER_SECOND, burst=ledger.NEXT_HOPS_PER_SECOND),
        Meter(ledger.EXPIRED_METER, ledger.EXPIRED_PER_SECOND, burst=ledger.EXPIRED_PER_SECOND),
        Meter(ledger.RECORD_METER, ledger.RECORDS_PER_SECOND, burst=ledger.RECORDS_PER_SECOND),
        Meter(ledger.EXHAUSTED_METER, ledger.EXHAUSTED_PER_SECOND, burst=ledger.EXHAUSTED_PER_SECOND),
        Meter(ledger.HIDDEN_METER, ledger.HIDDEN_PER_SECOND, burst=ledger.HIDDEN_PER_SECOND),
        Meter(ledger.ANSWER_METER, ledger.ANSWERS_PER_SECOND, burst=ledger.ANSWERS_PER_SECOND),
        Meter(ledger.CLAIM_METER, ledger.CLAIMS_PER_SECOND, burst=ledger.CLAIMS_PER_SECOND),
        Meter(ledger.DHCP_METER, ledger.DHCP_PER_SECOND, burst=ledger.DHCP_PER_SECOND),
        Meter(ledger.ANNOUNCED_METER, ledger.ANNOUNCED_PER_SECOND, burst=ledger.ANNOUNCED_PER_SECOND),
        Meter(ledger.OUTSIDE_HIDDEN_METER, ledger.OUTSIDE_HIDDEN_PER_SECOND, burst=ledger.OUTSIDE_HIDDEN_PER_SECOND),
        Meter(ledger.ROUTER_ASKED_METER, ledger.ROUTER_ASKED_PER_SECOND, burst=ledger.ROUTER_ASKED_PER_SECOND),
        Meter(ledger.TOO_BIG_METER, ledger.TOO_BIG_PER_SECOND, burst=ledger.TOO_BIG_PER_SECOND),
        Meter(ledger.TOO_BIG_OUTSIDE_METER, ledger.TOO_BIG_PER_SECOND, burst=ledger.TOO_BIG_PER_SECOND),
    ),
)

QUARANTINE = Fragment(
    flows=(
        Flow(
            T.CLASSIFIER,
            Priority.QUARANTINE,
            (),
            cookie=ledger.cookie(Kind.QUARANTINE, Feature.QUARANTINE),
        ),
    )
)
