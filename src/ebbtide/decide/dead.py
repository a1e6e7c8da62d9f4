"""Whether a compute may be taken for dead, and removed without its help.

It is the one operation that takes a compute's word away from it: were it alive, its VMs would be cut off. So silence towards the controller
is not enough: somebody must have lost sight of it too, or an operator say why it is dead.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import msgspec


class Sight(msgspec.Struct, frozen=True):
    """What is known of a compute. `silent`: seconds for which it has not been heard in this leadership; `seen_by`, `lost_by`: computes that
    see it by BFD, and that have ceased to."""

    name: str
    connected: bool
    silent: float
    seen_by: tuple[str, ...] = ()
    lost_by: tuple[str, ...] = ()


def doubts(sights: Mapping[int, Sight], numbers: Set[int], after: float, forced: str) -> list[str]:
    """Why some of these may be alive, in words. `sights`: of all members; `after`: seconds of silence that are needed; `forced`: how an
    operator knows that they are dead.

    Several that are silent at the same time may be a part of the network that was cut off: its computes see each other, and nobody on
    this side can tell.
    """
    told = [why for n in sorted(numbers) if (why := _why_not(sights[n], after, forced))]
    silent = sorted(s.name for s in sights.values() if not s.connected)
    if len(silent) > 1 and not forced and not told:
        told.append(
            f"{len(silent)} computes are silent ({', '.join(silent[:5])}): they may be cut off together, and alive; "
            '--force "how you know" if you are sure'
        )
    return told


def _why_not(sight: Sight, after: float, forced: str) -> str:
    name = sight.name
    if sight.connected:
        return f"{name} is connected: it lives, drain it without --dead"
    if sight.seen_by:
        return f"{name} is seen by {', '.join(sight.seen_by[:3])}: its switch carries frames; switch it off, then try again"
    if sight.silent < after:
        return f"{name} has been silent for {sight.silent:.0f} s: after {after:.0f} s it may be taken for dead"
    if not sight.lost_by and not forced:
        return f'nobody has watched {name}, so nobody has seen it die: --force "how you know" if you are sure'
    return ""
