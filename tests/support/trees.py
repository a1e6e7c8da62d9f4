"""Where a compute is seen by RESTCONF: every entry of every tree that is about it, in both styles, config and nonconfig."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from ebbtide.compile.features import tunnel
from ebbtide.model.facts import Compute

_VXLAN = "odl-interface:tunnel-type-vxlan"
BOTH, CONFIG, NONCONFIG = ("config", "nonconfig"), ("config",), ("nonconfig",)


def entries(compute: Compute, peer: Compute) -> list[str]:
    """Paths that answer while the compute is a connected member with a tunnel to `peer`, and not once it is removed."""
    topology: list[str | list[str]] = ["network-topology:network-topology"]
    there, back = tunnel.name(compute.tep, peer.tep), tunnel.name(peer.tep, compute.tep)
    ovsdb, flow = [*topology, ["topology", "ovsdb:1"]], [*topology, ["topology", "flow:1"]]
    found: list[tuple[list[str | list[str]], tuple[str, ...]]] = [
        (["opendaylight-inventory:nodes", ["node", compute.node_id]], BOTH),
        ([*ovsdb, ["node", compute.ovsdb_node_id]], BOTH),
        ([*ovsdb, ["node", compute.bridge_node_id]], BOTH),
        ([*flow, ["node", compute.node_id]], NONCONFIG),
        (["itm:transport-zones", ["transport-zone", compute.zone], ["vteps", str(compute.dpid)]], CONFIG),
        (["itm-state:dpn-endpoints", ["DPN-TEPs-info", str(compute.dpid)]], CONFIG),
        (["itm-state:tunnel-list", ["internal-tunnel", str(compute.dpid), str(peer.dpid), _VXLAN]], CONFIG),
        (["itm-state:tunnel-list", ["internal-tunnel", str(peer.dpid), str(compute.dpid), _VXLAN]], CONFIG),
        (["itm-state:tunnels_state", ["state-tunnel-list", there]], NONCONFIG),
        (["itm-state:tunnels_state", ["state-tunnel-list", back]], NONCONFIG),
        (["cloudscaler-rpc:compute-nodes", ["compute-node", compute.name]], CONFIG),
    ]
    paths = []
    for steps, contents in found:
        new = "/".join(f"{s[0]}={','.join(map(_quoted, s[1:]))}" if isinstance(s, list) else s for s in steps)
        old = "/".join("/".join([s[0], *map(_quoted, s[1:])]) if isinstance(s, list) else s for s in steps)
        paths += [f"/rests/data/{new}", *(f"/rests/data/{new}?content={content}" for content in contents)]
        paths += [f"/restconf/{'config' if content == 'config' else 'operational'}/{old}" for content in contents]
    return paths


def _quoted(key: str) -> str:
    return quote(key, safe="")


def tags(body: Any) -> list[str]:
    """The error tags of an answer, whichever style's."""
    (errors,) = body.values()
    return [error["error-tag"] for error in errors["error"]]
