"""A leader that was overtaken writes nowhere: not to a compute's rows, not to its switch."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable

import pytest

from ebbtide.openflow import messages as m
from ebbtide.runtime import vswitch
from ebbtide.runtime.switch import SwitchLink
from tests.support.cloud import Cloud
from tests.support.hostile import FakeSwitch
from tests.support.rows import database


@pytest.mark.lab
def test_rows_of_an_older_term_are_refused_by_the_computes_own_database(make_cloud: Callable[..., Cloud]) -> None:
    cloud = make_cloud()
    cloud.add_computes("a")
    member, compute = cloud.controller.member("a"), cloud.lab.compute("a")
    cloud.wait_clean()
    assert member.tables is not None
    assert member.link is not None
    rows = vswitch.Rows(member.tables, cloud.controller.app.cluster.store.own_term)
    rows.set_ids({"written-by": "the old leader"})
    transaction = rows.transaction
    assert transaction is not None
    # A newer leader has been here: a controller that has just heard of it has still made up its transaction before.
    cloud.controller.stop()
    compute.vsctl("set", "bridge", "br-int", "external_ids:ebbtide-term=99")
    before = database(compute)
    answer = compute.ovsdb_client("transact", json.dumps(transaction.params()))
    assert "timed out" in answer
    assert database(compute) == before


def test_a_session_ends_when_another_controller_becomes_the_switchs_master() -> None:
    async def story() -> str:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        link = SwitchLink(reader, writer, lambda switch, packet: None)
        task = asyncio.create_task(link.run())
        with theirs:
            switch = FakeSwitch(theirs)
            await asyncio.to_thread(switch.shake, 7)
            async with asyncio.timeout(5):
                await link.ready.wait()
            switch.say(m.RoleStatus(role=3, reason=0, generation_id=9), 0)
            async with asyncio.timeout(5):
                await task
        return link.reason

    assert asyncio.run(story()) == "another controller has become the switch's master"
