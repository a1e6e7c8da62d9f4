"""What a server needs to leave its host."""

from __future__ import annotations

import pytest

from ebbtide.openstack.servers import Server, Way, need


def server(status: str, task: str = "") -> Server:
    return Server("id-1", "web", status, task, "host-a")


@pytest.mark.parametrize(
    ("status", "cold", "own", "way"),
    [
        ("ACTIVE", False, False, Way.LIVE),
        ("PAUSED", False, False, Way.LIVE),
        ("SHUTOFF", True, False, Way.COLD),
        ("SHUTOFF", False, False, Way.WAIT),
        ("VERIFY_RESIZE", True, True, Way.CONFIRM),
        ("VERIFY_RESIZE", True, False, Way.WAIT),
        ("SUSPENDED", True, False, Way.WAIT),
        ("ERROR", True, False, Way.WAIT),
        ("SOMETHING_NEW", True, False, Way.WAIT),
    ],
)
def test_how_a_server_leaves(status: str, cold: bool, own: bool, way: Way) -> None:
    found = need(server(status), cold=cold, own=own)
    assert found.way is way
    assert ("web (id-1)" in found.words) is (way is Way.WAIT), "who waits is named"


def test_who_waits_for_cold_migration_is_told_how_to_have_it() -> None:
    assert "(`ebbtide operation set op1 --cold`)" in need(server("SHUTOFF"), cold=False, own=False, drain="op1").words


@pytest.mark.parametrize("status", ["ACTIVE", "SHUTOFF", "VERIFY_RESIZE"])
def test_a_server_that_nova_is_at_is_left_alone(status: str) -> None:
    found = need(server(status, "migrating"), cold=True, own=True)
    assert (found.way, found.words) == (Way.WAIT, "web (id-1): Nova is at it (migrating)")
