"""Rates of the OpenFlow codec per second of CPU, beside os-ken's where os-ken has the same step.

Run it with ``python -m bench.codec``. The simple flow has 3 match fields and 2 actions; nothing is cached between
rounds, and every flow differs from the others. os-ken wraps a message object and not bytes, so its bundle rate includes
building a flow-mod with neither instructions nor content to speak of; compare it with encode and wrap together.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any

from ebbtide.compile.flow import Ct, Flow, Move, Nat, Output, Resubmit, SetField, match
from ebbtide.openflow import flows, versions

from .rows import Options, Row

N = 20_000
STATS = Struct("!HBxIIHHHHHxxQQQ")


def simple(n: int) -> Flow:
    return Flow(0, 100, match(in_port=1, eth_type=0x0800, ipv4_dst=n), (SetField("tun_id", n), Output(3)))


def rich(n: int) -> Flow:
    found = match(
        in_port=1, eth_type=0x0800, ipv4_dst=(n, 0xFFFFFFFF), ip_proto=6, tcp_dst=n & 0xFFFF, metadata=(n, 0xFFFF),
        reg6=n, ct_state=(0x21, 0x21),
    )  # fmt: skip
    actions = (
        SetField("reg1", 5, 0xFF),
        Move("reg0", "reg2", 16),
        Ct(5, commit=True, table=9, nat=Nat(src=True, ip_min=n)),
        Resubmit(7),
    )
    return Flow(0, 100, found, actions, goto=9)


def rate(work: Callable[[], Any], count: int, rounds: int = 5) -> float:
    """The best of some rounds, per CPU second."""
    best = 0.0
    for _ in range(rounds):
        start = time.process_time()
        work()
        best = max(best, count / (time.process_time() - start))
    return best


def os_ken_rates() -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from os_ken.ofproto import ofproto_protocol
        from os_ken.ofproto import ofproto_v1_4_parser as p
    protocol = ofproto_protocol.ProtocolDesc(version=5)
    count = 2000

    def build() -> list[Any]:
        out = []
        for n in range(count):
            found = p.OFPMatch(in_port=1, eth_type=0x0800, ipv4_dst=n)
            actions = [p.OFPActionSetField(tunnel_id=n), p.OFPActionOutput(3)]
            inst = [p.OFPInstructionActions(4, actions)]
            mod = p.OFPFlowMod(protocol, 1, 0, 0, 0, 0, 0, 100, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, found, inst)
            mod.set_xid(n)
            mod.serialize()
            out.append(mod)
        return out

    def bundle() -> None:
        for n in range(count):
            found = p.OFPMatch(in_port=1, eth_type=0x0800, ipv4_dst=n)
            mod = p.OFPFlowMod(protocol, 1, 0, 0, 0, 0, 0, 100, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, found, [])
            add = p.OFPBundleAddMsg(protocol, 1, 3, mod, [])
            add.set_xid(n)
            add.serialize()

    body = dump_body(count)

    def dump() -> None:
        pos = 0
        while pos < len(body):
            entry = p.OFPFlowStats.parser(body, pos)
            pos += entry.length

    return {
        "encode simple flow": rate(build, count, 2),
        "wrap in a bundle": rate(bundle, count, 2),
        "decode flow dump": rate(dump, count, 2),
    }


def dump_body(count: int) -> bytes:
    out = []
    for n in range(count):
        encoded = flows.encode_flow(simple(n))
        length = STATS.size + len(encoded.match) + len(encoded.instructions)
        out.append(STATS.pack(length, 0, 1, 2, 100, 0, 0, 0, 0, encoded.cookie, 3, 4))
        out.append(encoded.match + encoded.instructions)
    return b"".join(out)


def measure() -> tuple[dict[str, float], dict[str, float]]:
    """Rates by step: ours, and os-ken's where it has the same step."""
    simples, riches = [simple(n) for n in range(N)], [rich(n) for n in range(N)]
    encoded = [flows.encode_flow(flow) for flow in simples]
    messages = [flows.flow_add_bytes(flow, n) for n, flow in enumerate(encoded)][:5000]
    body = dump_body(N)
    ours = {
        "encode simple flow": rate(lambda: [flows.encode_flow(flow) for flow in simples], N),
        "encode rich flow": rate(lambda: [flows.encode_flow(flow) for flow in riches], N),
        "flow-mod of encoded": rate(lambda: [flows.flow_add_bytes(flow, n) for n, flow in enumerate(encoded)], N),
        "wrap in a bundle": rate(lambda: versions.bundle_bytes(1, messages, 1), len(messages)),
        "wrap in a bundle, 1.3": rate(lambda: versions.bundle_bytes(1, messages, 1, 4), len(messages)),
        "decode flow dump": rate(lambda: flows.iter_flow_stats(body), N),
    }
    return ours, os_ken_rates()


def run(options: Options) -> Iterator[Row]:
    """Rows, for `python -m bench codec`: microseconds of CPU time, so that less is better, as everywhere else."""
    ours, theirs = measure()
    for name, value in ours.items():
        reference = theirs.get(name)
        yield Row(f"codec: {name}, against os-ken", 1e6 / value, "us", 1e6 / reference if reference else None)


def main() -> None:
    ours, theirs = measure()
    print(f"{'per CPU second':<24}{'ebbtide':>12}{'os-ken':>12}{'ratio':>8}")
    for name, value in ours.items():
        other = theirs.get(name)
        tail = f"{other:>12,.0f}{value / other:>8.1f}" if other else ""
        print(f"{name:<24}{value:>12,.0f}{tail}")


if __name__ == "__main__":
    main()
