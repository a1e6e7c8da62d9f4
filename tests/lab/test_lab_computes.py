"""A compute: its daemons, its cables, its way to the controller."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from ebbtide.errors import NotReady
from ebbtide.lab import CONTROLLER, CommandFailed, Compute, Lab, wait_until

pytestmark = pytest.mark.lab


def routed_by_phy(compute: Compute) -> bool:
    return f"User: 172.31.0.0/16 dev br-phy SRC {compute.tep}" in compute.appctl("ovs/route/show")


def has_carrier(compute: Compute, device: str) -> bool:
    return "LOWER_UP" in compute.exec("ip", "-o", "link", "show", device)


def test_the_machine_is_prepared_and_nothing_more(lab: Lab) -> None:
    compute = lab.add_compute("a", physical_network="physnet1")
    assert compute.vsctl("list-br").split() == ["br-ex", "br-phy"]
    assert not compute.has_bridge()
    assert compute.vsctl("get", "Open_vSwitch", ".", "external_ids:hostname").strip() == "a"
    assert compute.vsctl("get", "Open_vSwitch", ".", "external_ids:system-id").strip().strip('"') == compute.system_id
    assert compute.vsctl("get", "Open_vSwitch", ".", "other_config:local_ip").strip().strip('"') == compute.tep
    mappings = compute.vsctl("get", "Open_vSwitch", ".", "other_config:provider_mappings")
    assert mappings.strip().strip('"') == "physnet1:br-ex"
    assert compute.vsctl("get-manager") == ""
    assert compute.vsctl("get", "Open_vSwitch", ".", "datapath_types").strip() == "[netdev]"
    assert routed_by_phy(compute)


def test_any_process_has_a_handle(lab: Lab) -> None:
    made = lab.add_compute("a")
    found = Lab(lab.name, lab.site.directory).compute("a")
    assert (found.switch_pid, found.tep, found.system_id) == (made.switch_pid, made.tep, made.system_id)


def test_a_failing_command_says_why(shared: Lab) -> None:
    with pytest.raises(CommandFailed, match="no bridge named br-none"):
        shared.compute("a").vsctl("list-ports", "br-none")


def test_a_compute_registers_with_a_controller_in_this_process(lab: Lab) -> None:
    compute = lab.add_compute("a")
    with lab.listen(CONTROLLER, 6640) as listener:
        listener.settimeout(10)
        compute.register()
        connection, peer = listener.accept()
        with connection:
            connection.settimeout(10)
            assert peer[0] == compute.control_address
            connection.sendall(json.dumps({"method": "list_dbs", "params": [], "id": 1}).encode())
            answer = json.loads(connection.recv(65536))
    assert "Open_vSwitch" in answer["result"]


def test_a_client_in_this_process_reaches_the_controllers_loopback(lab: Lab) -> None:
    with lab.listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with lab.connect("127.0.0.1", port):
            pass

        async def ask() -> None:
            connection = await lab.connect_async("127.0.0.1", port)
            _, writer = await asyncio.open_connection(sock=connection)
            writer.close()
            await writer.wait_closed()

        asyncio.run(ask())
    with pytest.raises(NotReady, match="refused"):
        lab.connect("127.0.0.1", port)
    with pytest.raises(NotReady, match="no connection"):
        asyncio.run(ask())
    with pytest.raises(OSError, match="refused"), socket.socket() as outside:
        outside.connect(("127.0.0.1", port))


def test_a_killed_switch_comes_back_with_its_tunnel_address(lab: Lab) -> None:
    compute = lab.add_compute("a")
    first = compute.switch_pid
    compute.kill_switch()
    assert compute.switch_pid is None
    assert compute.database_pid is not None
    compute.kill_switch()
    compute.start_switch()
    assert compute.switch_pid not in (None, first)
    assert routed_by_phy(compute)
    compute.restart_switch(graceful=True)
    assert routed_by_phy(compute)
    compute.kill_all()
    assert compute.database_pid is None
    compute.start_all()
    assert routed_by_phy(compute)
    assert compute.vsctl("list-br").split() == ["br-phy"]


def test_a_stopped_switch_answers_again_when_continued(lab: Lab) -> None:
    compute = lab.add_compute("a")
    compute.stop(database=False)
    try:
        assert "br-phy" in compute.vsctl("list-br", wait=False)
        with pytest.raises(CommandFailed):
            compute.vsctl("add-br", "br-late", deadline=1)
    finally:
        compute.cont()
    assert compute.appctl("version").startswith("ovs-vswitchd")
    compute.stop()
    compute.cont()
    compute.kill_all()
    with pytest.raises(NotReady, match="no running daemon"):
        compute.stop()


def test_the_control_cable_is_not_the_data_cable(shared: Lab) -> None:
    compute, vm = shared.compute("a"), shared.vm("vm1")
    assert vm.reaches("10.0.0.3")
    compute.cut_control()
    try:
        wait_until(lambda: not has_carrier(compute, "eth-mgmt"), "the management cable to be out")
        assert vm.ping("10.0.0.3").lost == 0
    finally:
        compute.heal_control()
    wait_until(lambda: has_carrier(compute, "eth-mgmt"), "the management cable to be in")
    compute.cut_data()
    try:
        wait_until(lambda: not has_carrier(compute, "eth-data"), "the underlay cable to be out")
        assert vm.ping("10.0.0.3", deadline=0.3).received == 0
        assert vm.ping("10.0.0.2").lost == 0
    finally:
        compute.heal_data()
    assert vm.reaches("10.0.0.3")


def test_hosts_outside_are_reached_through_the_provider_bridge(lab: Lab) -> None:
    compute = lab.add_compute("a", physical_network="physnet1")
    lab.add_host("outside", "192.0.2.10/24")
    lab.add_host("router", "192.0.2.1/24")
    compute.exec("ip", "addr", "add", "192.0.2.2/24", "dev", "br-ex")
    compute.exec("ip", "link", "set", "br-ex", "up")
    with lab.listen("192.0.2.10", 80, lab.namespace_of("outside")):
        lab.connect("192.0.2.10", 80, compute.namespace).close()
        lab.connect("192.0.2.10", 80, lab.namespace_of("router")).close()


def test_what_a_compute_uses(shared: Lab) -> None:
    compute = shared.compute("a")
    assert compute.cpu_time() > 0
    assert 5_000_000 < compute.rss() < 200_000_000


def test_the_pipeline_can_be_asked(shared: Lab) -> None:
    compute = shared.compute("b")
    assert compute.dump_flows() == ["priority=0 actions=NORMAL"]
    assert "Datapath actions" in compute.trace("in_port=LOCAL,dl_dst=ff:ff:ff:ff:ff:ff")
    assert compute.dump_groups() == []
    assert "Bridge" in compute.ovsdb_client("list-tables", "Open_vSwitch")
