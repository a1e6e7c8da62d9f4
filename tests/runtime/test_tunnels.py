"""Which tunnels there are, how they come, and what else of br-int is fixed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ebbtide.lab.commands import CommandFailed, wait_until
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab


def ends(cloud: Cloud, name: str) -> set[str]:
    """Where the tunnels of a compute lead."""
    found = cloud.lab.compute(name).vsctl("--bare", "--columns=options", "find", "interface", "type=vxlan")
    teps = {c.tep: c.name for c in cloud.lab.computes()}
    return {teps[word.removeprefix("remote_ip=")] for word in found.split() if word.startswith("remote_ip=")}


def tunnel_transactions(cloud: Cloud, name: str) -> list[int]:
    """How many tunnel ports each transaction made that made any, as the compute's own database has logged them."""
    log = cloud.lab.compute(name).exec(
        "ovsdb-tool", "-m", "-m", "show-log", str(cloud.lab.compute(name).directory / "conf.db")
    )
    records = log.split("\nrecord ")
    made = [
        sum("insert" in line and "table Interface" in line and "tun" in line for line in r.splitlines())
        for r in records
    ]
    return [count for count in made if count]


def test_only_computes_that_share_a_network_have_tunnels_to_each_other(make_cloud: Callable[..., Cloud]) -> None:
    cloud = make_cloud()
    cloud.add_computes("a", "b", "c", "d")
    cloud.add_network("blue", "10.1.0.0/24")
    cloud.add_network("green", "10.2.0.0/24")
    for index, (name, network) in enumerate((("a", "blue"), ("b", "blue"), ("c", "green"), ("d", "green")), 1):
        cloud.add_vm(f"vm{index}", name, network, index)
    cloud.wait_clean()
    assert {name: ends(cloud, name) for name in "abcd"} == {"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"c"}}
    cloud.add_vm("vm5", "b", "green", 5)
    cloud.wait_clean()
    assert {name: ends(cloud, name) for name in "abcd"} == {
        "a": {"b"},
        "b": {"a", "c", "d"},
        "c": {"b", "d"},
        "d": {"b", "c"},
    }
    cloud.call(cloud.service.delete_port("vm5"))
    alone = {"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"c"}}
    wait_until(lambda: {n: ends(cloud, n) for n in "abcd"} == alone, "the tunnels that nobody shares to go")
    cloud.assert_clean()


def test_a_compute_that_comes_to_a_network_gets_its_tunnels_in_one_transaction(
    make_cloud: Callable[..., Cloud],
) -> None:
    cloud = make_cloud()
    names = ["a", "b", "c", "d", "e"]
    cloud.add_computes(*names)
    cloud.add_network("blue", "10.1.0.0/24")
    for index, name in enumerate(names[:-1], 1):
        cloud.add_vm(f"vm{index}", name, "blue", index)
    cloud.wait_clean()
    assert tunnel_transactions(cloud, "e") == []
    cloud.add_vm("vm5", "e", "blue", 5)
    cloud.wait_clean()
    assert ends(cloud, "e") == set(names[:-1])
    assert tunnel_transactions(cloud, "e") == [4]


def br_int(cloud: Cloud, name: str) -> dict[str, str]:
    """What the controller fixes of a br-int and its Controller row."""
    vsctl = cloud.lab.compute(name).vsctl
    own = {
        column: vsctl("get", "bridge", "br-int", column).strip() for column in ("fail_mode", "protocols", "datapath_id")
    }
    own["disable-in-band"] = vsctl("get", "bridge", "br-int", "other_config:disable-in-band").strip()
    columns = ("target", "max_backoff", "inactivity_probe", "connection_mode")
    values = vsctl("--bare", f"--columns={','.join(columns)}", "list", "controller").split()
    return own | dict(zip(columns, values, strict=True))


def test_br_int_is_fixed_as_stated_and_put_back_when_it_was_edited_by_hand(make_cloud: Callable[..., Cloud]) -> None:
    cloud = make_cloud()
    cloud.add_computes("a")
    dpid = f"{cloud.controller.member('a').compute.dpid:016x}"  # type: ignore[union-attr]
    wanted = {
        "fail_mode": "secure",
        "protocols": "[OpenFlow10, OpenFlow13, OpenFlow14]",
        "datapath_id": f'"{dpid}"',
        "disable-in-band": '"true"',
        "target": "tcp:10.255.0.1:6653",
        "max_backoff": "1000",
        "inactivity_probe": "5000",
        "connection_mode": "out-of-band",
    }
    assert br_int(cloud, "a") == wanted
    vsctl = cloud.lab.compute("a").vsctl
    for edit in (
        ("set", "bridge", "br-int", "fail_mode=standalone"),
        ("set", "bridge", "br-int", "protocols=OpenFlow13"),
        ("set", "bridge", "br-int", "other_config:datapath-id=00000000000000ff"),
        ("remove", "bridge", "br-int", "other_config", "disable-in-band"),
        ("set", "controller", "br-int", "max_backoff=8000"),
        ("set", "controller", "br-int", "inactivity_probe=0"),
        ("set", "controller", "br-int", "connection_mode=in-band"),
        ("set-controller", "br-int", "tcp:10.255.0.1:6653", "tcp:127.0.0.1:6699"),
    ):
        vsctl(*edit, wait=False)
        wait_until(lambda: br_int_or_nothing(cloud) == wanted, f"{edit} to be put back")
    cloud.wait_ready("a", deadline=30)
    cloud.assert_clean()


def br_int_or_nothing(cloud: Cloud) -> dict[str, str]:
    """While a key is missing or two Controller rows are there, it is not what is wanted."""
    try:
        return br_int(cloud, "a")
    except (CommandFailed, ValueError):
        return {}
