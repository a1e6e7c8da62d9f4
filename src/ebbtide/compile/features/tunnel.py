"""Tunnels: one compute's port to one peer, both ways, and the probes that show it open.

All of a peer's flows here are solely about that peer (cookie kind COMPUTE, its number): they leave by one masked delete.
Rows: see `rows`. RFC 7348 for VXLAN.
"""

from __future__ import annotations

from hashlib import blake2s

from ebbtide.compile import ledger
from ebbtide.compile.features import base
from ebbtide.compile.flow import Flow, Output, ToController, match
from ebbtide.compile.fragment import Fragment, TunnelRow
from ebbtide.compile.ledger import Feature, Kind, Priority, Punt, T
from ebbtide.model.state import State


def towards(peer: int, ofport: int) -> Fragment:
    """One compute's: what comes from the peer, what goes to it, and its probes."""
    cookie = ledger.cookie(Kind.COMPUTE, Feature.TUNNEL, peer)
    return Fragment(
        (
            Flow(
                T.CLASSIFIER,
                Priority.TUNNEL,
                match(in_port=ofport),
                actions=base.RECORD_INPUT,
                metadata=(ledger.SPLIT_HORIZON, ledger.SPLIT_HORIZON),
                goto=T.TUNNEL_TERMINATION,
                cookie=cookie,
            ),
            Flow(
                T.CLASSIFIER,
                Priority.PROBE,
                match(in_port=ofport, tun_id=ledger.PROBE_VNI, eth_type=ledger.PROBE_ETHERTYPE),
                actions=(
                    ToController(max_len=64, userdata=ledger.userdata(Punt.PROBE, peer), meter_id=ledger.PROBE_METER),
                ),
                cookie=cookie,
            ),
            Flow(
                T.EGRESS,
                Priority.TO_COMPUTE,
                match(reg5=peer, metadata=(0, ledger.SPLIT_HORIZON)),
                actions=(Output(ofport),),
                cookie=cookie,
            ),
        )
    )


def name(local: str, remote: str) -> str:
    """Name of the tunnel port: "tun" and 11 hex digits (as NetVirt's) of both addresses.

    Of the addresses only: two rows with one remote_ip cannot live side by side, not even for the length of a transaction (the new
    one gets ofport -1 and stays so), so whoever has an address next inherits the row and is written into it.
    """
    return "tun" + blake2s(f"{local} {remote} vxlan".encode(), digest_size=8).hexdigest()[:11]


def rows(state: State, number: int) -> dict[int, TunnelRow]:
    """The tunnel ports that a compute should have, by the peer's number."""
    owner = state.computes.get(number)
    if owner is None or not owner.tep:
        return {}
    watched = state.relation_peers(number)
    found = {}
    for peer in state.peers(number):
        far = state.computes[peer]
        found[peer] = TunnelRow(peer, name(owner.tep, far.tep), owner.tep, far.tep, bfd=peer in watched)
    return found
