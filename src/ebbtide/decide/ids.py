"""The one allocator of ids: State in, free ids out, in the transaction that needs them.

An id is looked for after the last one given out (`Cursor`), so that it is re-used as late as its range allows. A removed
compute's number is never re-used while the compute is remembered as removed, and neither tag nor VNI of a deleted network before every
compute has confirmed that it holds nothing of it. (Ports have no such record: their tags come round after a million others.)
"""

from __future__ import annotations

from collections.abc import Callable

from ebbtide.compile import ledger
from ebbtide.errors import Refused
from ebbtide.model.facts import Cursor, Edit, External, Network, Retired, Router, Vpn
from ebbtide.model.state import State

_RANGES: dict[str, tuple[int, int, Callable[[State, int], bool]]] = {
    "compute": (1, ledger.MAX_COMPUTE, lambda s, n: n in s.computes or n in s.removed),
    "network": (1, ledger.MAX_TAG, lambda s, n: n in s.by_tag or n in s.retired),
    "lport": (1, ledger.MAX_LPORT, lambda s, n: n in s.by_lport),
    "router": (1, ledger.MAX_ROUTER, lambda s, n: n in s.by_router_tag or ledger.ROUTER_TAGS | n in s.retired),
    "group": (1, ledger.MAX_GROUP, lambda s, n: n in s.by_group_tag),
    "floating": (1, (1 << 22) - 1, lambda s, n: any(f.mac & 0x3F_FFFF == n for f in s.floatings.values())),
    "vni": (ledger.FIRST_VNI, ledger.LAST_VNI, lambda s, n: n in s.by_vni or n in s.retired_vnis),
}


class Allocator:
    """Hands out ids for one transaction, and the edits that record them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._last: dict[str, int] = {}
        self._taken: set[tuple[str, int]] = set()

    def take(self, kind: str) -> int:
        """A free id of this kind.

        Raises:
            Refused: the range is exhausted.
        """
        low, high, used = _RANGES[kind]
        stored = self._state.cursors.get(kind)
        last = self._last.get(kind, stored.last if stored else low - 1)
        candidate = last
        for _ in range(high - low + 1):
            candidate = candidate + 1 if candidate < high else low
            if (kind, candidate) not in self._taken and not used(self._state, candidate):
                self._last[kind] = candidate
                self._taken.add((kind, candidate))
                return candidate
        raise Refused(f"no free {kind} id is left between {low} and {high}: delete something that is not needed")

    def edits(self) -> list[Edit]:
        """The cursors to store with the transaction."""
        return [Edit(self._state.cursors.get(kind), Cursor(kind, last)) for kind, last in self._last.items()]


def retire(gone: Network | External | Router | Vpn) -> Edit:
    """What is stored when a network, a router or a VPN is deleted, so that nobody gets its ids too soon."""
    if isinstance(gone, Router | Vpn):
        return Edit(None, Retired(ledger.ROUTER_TAGS | gone.tag, ledger.gateway_vni(gone.tag), gone.id))
    return Edit(None, Retired(gone.tag, gone.vni if isinstance(gone, Network) else 0, gone.id))


def released(state: State, through: int) -> list[Edit]:
    """The ids that are free again once every compute has confirmed everything up to revision `through`."""
    return [Edit(retired, None) for retired in state.retired.values() if retired.since <= through]
