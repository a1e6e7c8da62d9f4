"""What a mover is started with, and what a drain asks of it besides."""

from __future__ import annotations

from ebbtide.decide import drain
from ebbtide.openstack.options import BLOCK, BLOCKS, COLD, REMOVE, Options


def test_what_a_drain_does_not_speak_of_is_as_the_mover_was_started() -> None:
    mover = Options(at_once=3, block="yes", cold=True)
    assert mover.asked([]) == mover
    assert mover.asked(["remove-hosts=yes"]) == mover._replace(remove=True)
    assert mover.asked(["block-migration=no", "cold=yes"]) == mover._replace(block="no")
    assert mover.asked(["cold=no"]) == mover._replace(cold=False)
    assert Options().asked(["cold=yes"]) == Options(cold=True)
    assert Options().asked(["of-tomorrow"]) == Options()


def test_a_mover_says_all_of_it() -> None:
    mover = Options(block="no", cold=True)
    assert mover.words == ["block-migration=no", "cold=yes", "remove-hosts=no"]
    assert Options().asked(mover.words) == mover


def test_both_ends_call_them_the_same() -> None:
    blocks = {f"{BLOCK}={how}" for how in BLOCKS}
    assert drain.MOVER_OPTIONS["nova"] == {f"{key}={how}" for key in (COLD, REMOVE) for how in ("yes", "no")} | blocks
