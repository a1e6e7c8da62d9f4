"""How hosts are emptied: what a mover is started with, and what a drain asks of it besides. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: Options of a drain, as they stand in its `mover-options`: KEY=HOW.
COLD, REMOVE, BLOCK = "cold", "remove-hosts", "block-migration"
#: Whether disks are copied: Nova finds out, they are, or they are not.
BLOCKS = ("auto", "yes", "no")


class Options(NamedTuple):
    """`at_once`: servers at a time, in all drains; `block`: one of `BLOCKS`; `cold`: stopped servers are moved too; `remove`: hosts that
    were drained are removed from Nova, Placement and Neutron."""

    at_once: int = 10
    block: str = "auto"
    cold: bool = False
    remove: bool = False

    def asked(self, options: Iterable[str]) -> Options:
        """The same with what a drain asks for: of what it does not speak of, as the mover was started."""
        told = dict(option.split("=", 1) for option in options if "=" in option)
        cold, remove = told.get(COLD, ""), told.get(REMOVE, "")
        return self._replace(
            block=told.get(BLOCK, self.block),
            cold=cold == "yes" if cold else self.cold,
            remove=remove == "yes" if remove else self.remove,
        )

    @property
    def words(self) -> list[str]:
        """The same as a drain says it."""
        told = {BLOCK: self.block, COLD: "yes" if self.cold else "no", REMOVE: "yes" if self.remove else "no"}
        return [f"{key}={how}" for key, how in told.items()]
