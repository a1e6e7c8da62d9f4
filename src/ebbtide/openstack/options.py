"""How hosts are emptied: what a mover is started with, and what a drain asks of it besides. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

#: Options of a drain, as they stand in its `mover-options`; that of block migration goes on with how.
COLD, REMOVE, BLOCK = "cold", "remove-hosts", "block-migration="


class Options(NamedTuple):
    """`at_once`: servers at a time, in all drains; `block`: whether disks are copied: auto (Nova finds out), yes or no; `cold`: stopped
    servers are moved too; `remove`: hosts that were drained are removed from Nova, Placement and Neutron."""

    at_once: int = 10
    block: str = "auto"
    cold: bool = False
    remove: bool = False

    def asked(self, words: Collection[str]) -> Options:
        """The same with what a drain asks for: what it does not speak of is as the mover was started."""
        block = next((word.removeprefix(BLOCK) for word in words if word.startswith(BLOCK)), self.block)
        return self._replace(block=block, cold=self.cold or COLD in words, remove=self.remove or REMOVE in words)
