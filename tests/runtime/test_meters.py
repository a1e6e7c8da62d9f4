"""A switch is told of meters together with the flows that name them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ebbtide.compile.flow import Flow, Meter, match
from ebbtide.compile.ledger import Feature, Kind, cookie
from ebbtide.openflow.flows import encode_flow
from ebbtide.reconcile.delta import Work
from ebbtide.runtime.switch import Rejected, SwitchLink
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab
NUMBER = 77_777


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    cloud = make_cloud()
    cloud.add_computes("a")
    cloud.wait_clean()
    return cloud


def switch(cloud: Cloud) -> SwitchLink:
    found = cloud.controller.member("a").switch
    assert found is not None
    return found


def limited(rate: int, *, flow: bool = True) -> Work:
    """A meter, and a flow of a table of its own that is limited by it."""
    made = encode_flow(Flow(251, 1, match(), meter=NUMBER, cookie=cookie(Kind.BASE, Feature.PIPELINE)))
    return Work(meters=[Meter(NUMBER, rate)], flows=[made] if flow else [])


def test_one_that_is_there_is_changed_with_the_flows_that_name_it_and_without(cloud: Cloud) -> None:
    for rate, flow in ((100, True), (200, True), (300, False)):
        cloud.call(switch(cloud).make(limited(rate, flow=flow)))
        # The switch has said that it is done: nothing is waited for.
        shown = cloud.lab.compute("a").ofctl("dump-meters", "br-int")
        assert f"rate={rate}" in shown.partition(f"meter={NUMBER} ")[2].partition("meter=")[0]
    assert cloud.lab.compute("a").dump_flows("br-int", "table=251")


def test_no_flow_is_there_without_its_limit_and_one_that_cannot_be_had_keeps_nothing_else(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    work = limited(100)
    work.meters = [Meter(0xFFFFFF00, 100)]
    with pytest.raises(Rejected):
        cloud.call(switch(cloud).make(work))
    assert not cloud.lab.compute("a").dump_flows("br-int", "table=251")
    work.flows = []
    cloud.call(switch(cloud).make(work))
    assert capsys.readouterr().out.count("meter_refused") == 1
