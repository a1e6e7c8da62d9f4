"""What a compute holds, read by Open vSwitch's own tools and by nothing of ours: for byte-for-byte comparisons and a second search."""

from __future__ import annotations

import re

from ebbtide.lab import Compute

_COUNTERS = re.compile(r"(duration|n_packets|n_bytes|idle_age|hard_age)=[^, ]+,? ?")


def flows(compute: Compute) -> list[str]:
    """Every flow of br-int, cookies included, counters not."""
    lines = compute.ofctl("dump-flows", "br-int").splitlines()
    return sorted(_COUNTERS.sub("", line).strip() for line in lines if "cookie=" in line)


def groups(compute: Compute) -> list[str]:
    """Every group of br-int."""
    return sorted(line.strip() for line in compute.ofctl("dump-groups", "br-int").splitlines() if "group_id=" in line)


def tunnels(compute: Compute) -> list[str]:
    """Every tunnel port: its name and where it leads."""
    text = compute.vsctl("--format=csv", "--no-headings", "--columns=name,options,type", "list", "interface")
    return sorted(line for line in text.splitlines() if "vxlan" in line)


def bridge_ids(compute: Compute) -> dict[str, str]:
    """br-int's external_ids, less what grows with every revision."""
    text = compute.vsctl("br-get-external-id", "br-int") if compute.has_bridge("br-int") else ""
    pairs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {k: v for k, v in pairs.items() if k not in ("ebbtide-revision", "ebbtide-term")}


def snapshot(compute: Compute) -> dict[str, object]:
    """All of it."""
    return {
        "flows": flows(compute),
        "groups": groups(compute),
        "tunnels": tunnels(compute),
        "ids": bridge_ids(compute),
    }


def search(compute: Compute, *words: str) -> list[str]:
    """Lines of ovs-ofctl's and ovs-vsctl's output that hold any of these words."""
    text = [
        *compute.ofctl("dump-flows", "br-int").splitlines(),
        *compute.ofctl("dump-groups", "br-int").splitlines(),
        *compute.ofctl("show", "br-int").splitlines(),
        *compute.vsctl("show").splitlines(),
        *compute.vsctl("--format=csv", "list", "interface").splitlines(),
        *compute.vsctl("--format=csv", "list", "bridge").splitlines(),
    ]
    return [line for line in text if any(word in line for word in words)]
