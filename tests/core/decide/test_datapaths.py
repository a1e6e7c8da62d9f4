"""On which datapath a NAT's move is proven, and what is said where it is not."""

from __future__ import annotations

import pytest

from ebbtide.decide import datapaths
from ebbtide.model.observed import Datapath

OURS = Datapath("netdev", "3.1.0")


def test_between_two_userspace_datapaths_a_move_is_proven() -> None:
    assert datapaths.move_proven(OURS, OURS) == (True, "proven on the userspace datapath")


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (Datapath("system", "3.1.0"), "kernel"),
        (Datapath("netdev", "3.1.0", offload=True), "offload"),
        (Datapath("dummy", "3.1.0"), "datapath dummy"),
        (Datapath(), "nobody has seen"),
    ],
)
def test_one_end_of_another_kind_is_enough_for_it_not_to_be(other: Datapath, named: str) -> None:
    for ends in ((OURS, other), (other, OURS)):
        proof = datapaths.move_proven(*ends)
        assert not proof.proven
        assert named in proof.words
        assert "keep their safe order" in proof.words


@pytest.mark.parametrize("other", [Datapath("netdev", "3.10.0"), Datapath("netdev", "3.1.0", dpdk=True)])
def test_what_was_not_measured_of_a_proven_one_is_said(other: Datapath) -> None:
    proof = datapaths.move_proven(OURS, other)
    assert proof.proven
    assert proof.words != datapaths.move_proven(OURS).words


def test_a_datapath_in_words() -> None:
    assert datapaths.words(OURS) == "userspace (netdev), Open vSwitch 3.1.0"
    assert datapaths.words(Datapath("system", offload=True)) == "kernel (system), hardware offload"
    assert datapaths.words(Datapath()) == "not seen yet"
