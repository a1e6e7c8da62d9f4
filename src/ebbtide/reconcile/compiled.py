"""The cache in front of the compiler: shared fragments are compiled and encoded once per State, not once per compute.

`Compiled.get(key)` gives the same bytes as compiling anew; `forget` drops the keys that a change has touched. One port's
change in a network of 20 computes is then one compilation and 20 sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from immutables import Map

from ebbtide.compile import compiler
from ebbtide.compile.fragment import Key
from ebbtide.model.observed import View
from ebbtide.model.state import State
from ebbtide.reconcile.delta import Encoded, encode


class Compiled:
    """Encoded shared fragments of the newest State that it was asked about."""

    def __init__(self) -> None:
        self._shared: dict[Key, Encoded | None] = {}
        #: Of whole networks, until something changes: by VRF and the identity of their ports, what there is to say. All computes start at
        #: once, and most of what they get is the same (measured: 200 computes in one VPN with 10,000 ports).
        self._whole: dict[tuple[str, int], tuple[Map[str, None], dict[Key, Encoded]]] = {}

    def get(self, state: State, key: Key, view: View) -> Encoded | None:
        """The encoded fragment, or None where there is nothing to say."""
        if key.compute:
            return self.once(state, key, view)
        if key not in self._shared:
            self._shared[key] = self.once(state, key, view)
        return self._shared[key]

    def once(self, state: State, key: Key, view: View) -> Encoded | None:
        """The same of a State that may not be the newest any more: nothing is looked up, and nothing kept."""
        made = compiler.fragment(state, key, view)
        return encode(made) if made is not None else None

    def forget(self, keys: Iterable[Key]) -> None:
        """Drop what a change of State has touched."""
        self._whole.clear()
        for key in keys:
            self._shared.pop(key, None)

    def clear(self) -> None:
        """Drop everything."""
        self._whole.clear()
        self._shared.clear()

    def desired(self, state: State, compute: int, view: View) -> dict[Key, Encoded]:
        """All that a member should hold."""
        found: dict[Key, Encoded] = {}
        for vrf, ports in compiler.wholes(state, compute):
            found.update(self._of_whole(state, vrf, ports, view))
        for key in compiler.own_keys(state, compute, view):
            made = self.get(state, key, view)
            if made is not None:
                found[key] = made
        return found

    def _of_whole(self, state: State, vrf: str, ports: Map[str, None], view: View) -> dict[Key, Encoded]:
        known = self._whole.get((vrf, id(ports)))
        if known is None or known[0] is not ports:
            made = ((key, self.get(state, key, view)) for key in compiler.whole_keys(vrf, ports))
            known = self._whole[vrf, id(ports)] = ports, {key: one for key, one in made if one is not None}
        return known[1]

    def wanted(self, state: State, compute: int, view: View, keys: Iterable[Key]) -> Mapping[Key, Encoded | None]:
        """The fragments of these keys as this compute should hold them: None if it is not in their audience."""
        return {key: self.get(state, key, view) if compiler.concerns(state, key, compute) else None for key in keys}
