"""Which routers count as unserved: those whose NAT some compute would have to serve, and none does."""

from __future__ import annotations

import pytest

from ebbtide.model.facts import Binding, BindingPhase, Designation, Fact, Membership
from ebbtide.model.state import NAT
from ebbtide.north import shapes
from tests.fakes.clouds import compute, external, leg, network, port, router, state

OUT, R1, BLUE, PLACE = external(9, id="out"), router(1, external="out"), network(1), leg(1, 1)
VM: list[Fact] = [compute(1), port(1, 1), Binding("p1", 1, BindingPhase.ACTIVE)]


@pytest.mark.parametrize(
    ("more", "count"),
    [
        pytest.param([], 0, id="in no network"),
        pytest.param([PLACE], 0, id="its network is on no compute"),
        pytest.param([PLACE, *VM], 1, id="a VM is behind it"),
        pytest.param([*VM], 0, id="a VM is in a network that it is not in"),
        pytest.param([PLACE, compute(1, gateway=True)], 1, id="a gateway has every network"),
        pytest.param([compute(1, gateway=True)], 0, id="in no network, and there is a gateway"),
        pytest.param([PLACE, compute(1, gateway=True, membership=Membership.WAITING)], 0, id="a gateway waits"),
        pytest.param([PLACE, *VM, Designation(NAT, "r1", 1)], 0, id="it is served"),
    ],
)
def test_who_is_unserved(more: list[Fact], count: int) -> None:
    assert shapes.unserved(state(OUT, R1, BLUE, router(2), *more)) == count
