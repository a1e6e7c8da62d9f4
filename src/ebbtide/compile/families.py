"""IPv4 and IPv6 as the pipeline's rows name them: what is the same in both is written once, over one of these."""

from __future__ import annotations

from typing import NamedTuple

from ebbtide.compile.flow import M


class Family(NamedTuple):
    """A family of addresses: its ethertype, the width of an address in bits, the names of its fields, and its ICMP."""

    version: int
    ethertype: int
    bits: int
    src: str
    dst: str
    icmp: int
    icmp_type: str
    echo_request: int
    echo_reply: int

    @property
    def all_ones(self) -> int:
        """A mask of a whole address."""
        return (1 << self.bits) - 1

    def to(self, value: int, mask: int | None = None) -> dict[str, int | tuple[int, int]]:
        """What matches packets to a prefix (no mask: to an address)."""
        whole = mask is None or mask == self.all_ones
        # A prefix of no bits matches all; a field under an empty mask is not written.
        kept = {} if mask == 0 else {self.dst: value if whole or mask is None else (value, mask)}
        return {"eth_type": self.ethertype, **kept}

    def target(self, value: int, mask: int | None = None) -> M:
        """The same as one field of a match."""
        return M(self.dst, value, None if mask == self.all_ones else mask)


IPV4 = Family(4, 0x0800, 32, "ipv4_src", "ipv4_dst", 1, "icmpv4_type", 8, 0)
IPV6 = Family(6, 0x86DD, 128, "ipv6_src", "ipv6_dst", 58, "icmpv6_type", 128, 129)


def of(text: str) -> Family:
    """The family of a stored address or prefix."""
    return IPV6 if ":" in text else IPV4
