"""How one server leaves its host, as Nova shows it look by look."""

from __future__ import annotations

from ebbtide.openstack.moves import BEGINS, Act, Move
from ebbtide.openstack.servers import Server, Way


def seen(status: str = "ACTIVE", task: str = "", host: str = "a") -> Server:
    return Server("id-1", "web", status, task, host)


def steps(move: Move, *looks: Server | None, wanted: bool = True) -> list[str]:
    """What is done at each look, a second apart; Nova takes each call."""
    found = []
    for at, now in enumerate(looks):
        act = move.step(now, float(at), wanted=wanted)
        if act is Act.BEGIN:
            move.asked(float(at))
        found.append(str(act))
    return found


def test_a_server_leaves_live() -> None:
    move = Move(seen(), Way.LIVE)
    looks = seen(), seen(task="migrating"), seen(task="migrating", host="b"), seen(host="b")
    assert steps(move, *looks) == ["begin", "wait", "wait", "left"]


def test_a_stopped_server_leaves_and_its_move_is_confirmed() -> None:
    move = Move(seen("SHUTOFF"), Way.COLD)
    looks = (
        seen("SHUTOFF"),
        seen("SHUTOFF", "resize_migrating"),
        seen("VERIFY_RESIZE", host="b"),
        seen("VERIFY_RESIZE", "resize_confirming", "b"),
        seen("SHUTOFF", host="b"),
    )
    assert steps(move, *looks) == ["begin", "wait", "begin", "wait", "left"]
    assert move.way is Way.CONFIRM


def test_what_fails_has_novas_words_even_if_nobody_saw_nova_at_it() -> None:
    assert steps(Move(seen(), Way.LIVE), seen(), seen()) == ["begin", "failed"]
    assert steps(Move(seen(), Way.LIVE), seen(), seen(task="migrating"), seen()) == ["begin", "wait", "failed"]
    assert steps(Move(seen(), Way.LIVE), seen(), seen("ERROR", host="b")) == ["begin", "stranded"]


def test_a_migration_that_was_begun_before_is_watched_and_not_begun_again() -> None:
    before = Move(seen(task="migrating"), Way.LIVE)
    assert steps(before, seen(task="migrating"), seen(host="b")) == ["wait", "left"]
    failed = Move(seen(task="migrating"), Way.LIVE)
    assert steps(failed, seen(task="migrating"), seen()) == ["wait", "failed"]


def test_a_server_that_nova_is_at_is_waited_for() -> None:
    move = Move(seen(task="image_snapshot"), Way.LIVE)
    assert steps(move, seen(task="image_snapshot"), seen(), seen(host="b")) == ["wait", "begin", "left"]


def test_nothing_is_begun_once_the_drain_is_over_and_what_has_begun_is_ended() -> None:
    waits = Move(seen(task="image_snapshot"), Way.LIVE)
    assert steps(waits, seen(task="image_snapshot"), wanted=False) == ["dropped"]
    begun = Move(seen("SHUTOFF"), Way.COLD)
    assert steps(begun, seen("SHUTOFF")) == ["begin"]
    looks = seen("SHUTOFF", "resize_migrating"), seen("VERIFY_RESIZE", host="b"), seen("SHUTOFF", host="b")
    assert steps(begun, *looks, wanted=False) == ["wait", "begin", "left"]


def test_a_server_that_was_started_meanwhile_is_not_migrated_cold_nor_one_that_was_stopped_live() -> None:
    started = Move(seen("SHUTOFF", "powering-on"), Way.COLD)
    assert steps(started, seen("SHUTOFF", "powering-on"), seen("ACTIVE")) == ["wait", "dropped"]
    assert steps(Move(seen(), Way.LIVE), seen("SHUTOFF")) == ["dropped"]


def test_a_confirmation_that_nova_forgot_is_asked_for_again() -> None:
    move = Move(seen("VERIFY_RESIZE", host="b"), Way.CONFIRM)
    waiting = seen("VERIFY_RESIZE", host="b")
    assert move.step(waiting, 0.0, wanted=False) is Act.BEGIN, "whoever began it is to end it"
    move.asked(0.0)
    assert move.step(waiting, BEGINS, wanted=True) is Act.WAIT
    assert move.step(waiting, BEGINS + 1, wanted=True) is Act.BEGIN
    assert move.step(None, BEGINS + 2, wanted=True) is Act.LEFT
