"""What a mover is started with, and what a drain asks of it besides."""

from __future__ import annotations

from ebbtide.decide import drain
from ebbtide.openstack import options
from ebbtide.openstack.options import Options


def test_what_a_drain_does_not_speak_of_is_as_the_mover_was_started() -> None:
    mover = Options(at_once=3, block="yes", cold=True)
    assert mover.asked([]) == mover
    assert mover.asked(["remove-hosts"]) == mover._replace(remove=True)
    assert mover.asked(["block-migration=no", "cold"]) == mover._replace(block="no")
    assert Options().asked(["cold"]) == Options(cold=True)


def test_both_ends_call_them_the_same() -> None:
    blocks = {f"{options.BLOCK}{how}" for how in ("auto", "yes", "no")}
    assert drain.MOVER_OPTIONS["nova"] == {options.COLD, options.REMOVE, *blocks}
