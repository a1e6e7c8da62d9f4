"""What has been proven on which datapath (docs/support.md). A room of its own, so that a plan and an explanation say the same."""

from __future__ import annotations

from typing import NamedTuple

from ebbtide.model.observed import Datapath

#: The Open vSwitch on which everything was tested.
TESTED = "3.1"


class Proof(NamedTuple):
    """Whether it is proven, and why (not), as a clause for a sentence."""

    proven: bool
    words: str


def words(found: Datapath) -> str:
    """A datapath for people: "userspace (netdev), Open vSwitch 3.1.0"."""
    kind = {"netdev": "userspace (netdev)", "system": "kernel (system)", "": "not seen yet"}.get(found.kind, found.kind)
    version = f", Open vSwitch {found.version}" if found.version else ""
    extras = (", DPDK" if found.dpdk else "") + (", hardware offload" if found.offload else "")
    return f"{kind}{version}{extras}"


def move_proven(*ends: Datapath) -> Proof:
    """Whether a NAT's move without a broken connection is proven on the datapaths of both its ends; the words are of the first that
    it is not proven on. Not proven is no refusal: the steps and their order are the same, that of import, flip and reply rows too
    (docs/decisions.md, section 17), which a conntrack that drops what is out of its window needs.
    """
    for found in ends:
        if found.offload:
            return Proof(False, f"not proven with hardware offload; {_SAFE}")
        if found.kind == "system":
            return Proof(False, f"not proven on the kernel datapath; {_SAFE}")
        if found.kind != "netdev":
            named = f"datapath {found.kind}" if found.kind else "a datapath that nobody has seen yet"
            return Proof(False, f"not proven on {named}; {_SAFE}")
    if any(found.dpdk for found in ends):
        return Proof(True, "proven on the userspace datapath (measured without DPDK)")
    other = next((x.version for x in ends if x.version and not x.version.startswith(f"{TESTED}.")), "")
    if other:
        return Proof(True, f"proven on the userspace datapath of Open vSwitch {TESTED} (here: {other})")
    return Proof(True, "proven on the userspace datapath")


_SAFE = "import, flip and reply rows keep their safe order"
