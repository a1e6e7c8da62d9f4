"""The brake: a reconcile that no change of the cloud explains is not carried out until an operator approves it.

Four questions, the first that finds fault stops (docs/decisions.md, section 9):

1. Does the switch carry another store's id, or is our store marked as restored? The store is not the one that made it.
2. Does the switch carry a revision above ours? The store is older than what it has made.
3. Would more than a fifth of the switch's flows go, though nothing was changed since its stamp?
4. Would flows go, be they few, from more than a fifth of all computes, though nothing was changed since their stamps?

What a stop holds back is everything for 1 and 2, and what breaks for 3 and 4. It never lapses by itself.
"""

from __future__ import annotations

import msgspec

SHARE = 0.20
FEW = 50
FEW_COMPUTES = 3


class Stamp(msgspec.Struct, frozen=True):
    """What a switch carries of us in br-int's external_ids. `store` "": never written by any Ebbtide."""

    store: str = ""
    revision: int = 0
    term: int = 0


def wrong_store(stamp: Stamp, store_id: str, revision: int) -> str:
    """Why this store may not rule this switch, or ""."""
    if stamp.store and stamp.store != store_id:
        return (
            f"the switch was programmed from store {stamp.store[:8]}, this is store {store_id[:8]}: the store was replaced "
            "or restored. If that was meant: `ebbtide reconcile --approve`"
        )
    if stamp.revision > revision:
        return (
            f"the switch carries revision {stamp.revision}, the store is at {revision}: the store is older than the switch. "
            "Restore the newest store, or `ebbtide reconcile --approve`"
        )
    return ""


def unexplained(stamp: Stamp, revision: int, installed: int, deletes: int) -> str:
    """Why this many deletions may not be sent, or "". `installed`: flows of ours that the switch holds."""
    if deletes <= FEW or deletes <= SHARE * installed or not stamp.store or revision > stamp.revision:
        return ""
    return (
        f"{deletes} of {installed} flows would be deleted though nothing was changed since revision {stamp.revision}. "
        "If that was meant: `ebbtide reconcile --approve`"
    )


def widespread(computes: int, members: int) -> str:
    """Why flows may not go from so many computes of so many, each for no reason that the store knows, or ""."""
    if computes <= FEW_COMPUTES or computes <= SHARE * members:
        return ""
    return (
        f"flows would be deleted on {computes} of {members} computes though nothing was changed since they were stamped. "
        "If that was meant: `ebbtide reconcile --approve`"
    )


def is_unexplained(stamp: Stamp, revision: int, deletes: int) -> bool:
    """Whether flows would go from a switch that nothing in the store has concerned since its stamp."""
    return bool(deletes and stamp.store and revision <= stamp.revision)
