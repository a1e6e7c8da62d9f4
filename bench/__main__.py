"""`python -m bench [NAME...] [--quick]`: run the benchmarks, print a table, write bench/out/results.json.

Exit code 0 if every limit holds, 1 if one does not (or could not be measured). Needs root, for the lab's namespaces.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import signal
import sys
import time
import traceback

import structlog

from . import rows
from .rows import Options, Row, say

#: In this order: name, and what it measures.
BENCHES = {
    "install": "100,000 flows on one switch, and a reconnect to it",
    "change": "one change, as the cluster grows",
    "memory": "resident memory of the controller",
    "commands": "start of the command line",
    "plug": "first answered ping of a VM that was plugged in, against OVN",
    "removal": "tunnels gone after a compute was removed, against OVN",
    "drain": "a plan for 50 of 1,000 computes; what the journal of a drain costs",
    "neutron": "ports that Neutron makes: the controller's own share",
    "vpn": "a large VPN compiled; hidden addresses when their designated compute is scaled in or killed",
    "security": "a large security group compiled; one member more; what a packet costs with port security",
    "ipv6": "a routed packet, an answer to a neighbour and a dual-stack network, beside IPv4",
    "nat": "a NAT gateway moved, killed, scaled in: what breaks, against OVN; the price of the record",
    "codec": "OpenFlow codec against os-ken",
    "ovsdb": "OVSDB client against ovs.db.idl",
}


def main() -> int:
    """All of them, or those named."""
    listed = "\n".join(f"  {name:<10} {words}" for name, words in BENCHES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="How fast and how small.",
        epilog=f"benchmarks:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="fewer repetitions, smaller sizes where size does not matter"
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHES]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    options = Options(quick=arguments.quick)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # labs are taken down on the way out
    found: list[Row] = []
    begun = time.monotonic()
    for name in arguments.names or BENCHES:
        say(f"{name}: {BENCHES[name]}")
        try:
            found += importlib.import_module(f"bench.{name}").run(options)
        except KeyboardInterrupt:
            raise
        except Exception as error:
            traceback.print_exc()
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            found.append(Row(f"{name}: failed", None, "", None, 0.0, reason))
        rows.write(found)
    rows.print_table(found)
    print(f"\n{time.monotonic() - begun:.0f} s; written to {rows.OUT.relative_to(rows.OUT.parents[2])}")
    return 1 if any(row.passed is False for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
