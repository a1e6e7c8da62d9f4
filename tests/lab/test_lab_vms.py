"""A VM: plugged as Nova plugs it, moved as Nova and QEMU move it."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from ebbtide.errors import BadInput, NotReady, Refused
from ebbtide.lab import Compute, Lab, Vm, packets

pytestmark = pytest.mark.lab


def is_rarp(frame: bytes) -> bool:
    return frame[12:14] == b"\x80\x35"


def test_vms_reach_each_other_across_the_tunnel(shared: Lab) -> None:
    one = shared.vm("vm1")
    for number in (2, 3, 4):
        assert one.reaches(f"10.0.0.{number}")
    result = one.ping("10.0.0.3", count=5, interval=0.02)
    assert (result.sent, result.received, result.lost) == (5, 5, 0)
    assert one.ping("10.0.0.99", deadline=0.1).received == 0


def test_full_size_packets_get_through_whole(shared: Lab) -> None:
    one = shared.vm("vm1")
    assert one.reaches("10.0.0.3", size=one.mtu - 28)


def test_tcp_between_vms(shared: Lab) -> None:
    """Checksums and segments are whole: what a packet socket would not let through as an offload."""
    one, three = shared.vm("vm1"), shared.vm("vm3")
    assert one.reaches("10.0.0.3")
    payload = bytes(range(256)) * 1000
    with three.listen(5001) as listener:
        listener.settimeout(10)
        with one.connect("10.0.0.3", 5001) as sender:
            receiver, _ = listener.accept()
            with receiver:
                receiver.settimeout(10)
                sender.sendall(payload)
                got = b""
                while len(got) < len(payload):
                    piece = receiver.recv(65536)
                    assert piece
                    got += piece
    assert got == payload


def test_a_port_is_marked_as_libvirt_marks_it(shared: Lab) -> None:
    vm, compute = shared.vm("vm1"), shared.compute("a")
    tap = f"tap{vm.iface_id[:11]}"
    assert tap in compute.ports()

    def marked(key: str) -> str:
        return compute.vsctl("get", "Interface", tap, f"external_ids:{key}").strip().strip('"')

    assert marked("iface-id") == vm.iface_id
    assert marked("attached-mac") == vm.mac
    assert marked("iface-status") == "active"
    assert marked("vm-uuid") == vm.uuid


def test_two_ports_whose_ids_begin_alike(lab: Lab, wired: Callable[..., None]) -> None:
    compute = lab.add_compute("a")
    wired([compute])
    lab.add_vm("one", compute, "02:00:00:00:00:01", "10.0.0.1/24", "port-of-tenant-1")
    lab.add_vm("two", compute, "02:00:00:00:00:02", "10.0.0.2/24", "port-of-tenant-2")
    assert len(set(compute.ports())) == 2
    assert lab.vm("one").reaches("10.0.0.2")


def test_a_vm_waits_for_its_bridge_and_says_so(lab: Lab, wired: Callable[..., None]) -> None:
    compute = lab.add_compute("a")
    with pytest.raises(NotReady, match="br-int on a"):
        lab.add_vm("one", compute, "02:00:00:00:00:01", "10.0.0.1/24", "one", deadline=0.2)
    vm = lab.vm("one")
    assert vm.plugged == ()
    wired([compute])
    vm.plug(compute)
    assert vm.plugged == ("a",)


@pytest.mark.parametrize(
    ("mac", "address", "named"),
    [("02:00", "10.0.0.1/24", "MAC"), ("02:00:00:00:00:01", "10.0.0/24", "address"), ("x", "", "MAC")],
)
def test_a_vm_with_a_bad_address_is_refused(shared: Lab, mac: str, address: str, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        shared.add_vm("bad", "a", mac, address, "bad")
    assert "bad" not in [vm.name for vm in shared.vms()]


def test_a_removed_vm_leaves_nothing(lab: Lab, wired: Callable[..., None]) -> None:
    compute = lab.add_compute("a")
    wired([compute])
    lab.add_vm("one", compute, "02:00:00:00:00:01", "10.0.0.1/24", "one")
    before = lab.exec("net", "ip", "-o", "link")
    lab.remove_vm("one")
    assert compute.ports() == []
    assert "t0-0" in before
    after = lab.exec("net", "ip", "-o", "link")
    assert not any(f" {device}" in after for device in ("t0-0", "vm0", "g0"))
    assert lab.vms() == []


def test_frames_are_seen_and_injected(shared: Lab) -> None:
    one, two = shared.vm("vm1"), shared.vm("vm2")
    with one.packets() as left, two.packets() as right:
        left.send(packets.arp_request(one.mac, one.ip, "10.0.0.200"))
        seen = right.receive(lambda frame: frame[12:14] == b"\x08\x06" and frame[38:42] == bytes([10, 0, 0, 200]))
        assert seen[6:12] == packets.mac_bytes(one.mac)
        with pytest.raises(NotReady, match="no such frame"):
            right.receive(is_rarp, deadline=0.05)


def plugged_where(lab: Lab, vm: Vm) -> list[str]:
    return [compute.name for compute in lab.computes() if f"tap{vm.iface_id[:11]}" in compute.ports()]


def test_a_migration_step_by_step(shared: Lab) -> None:
    vm, observer = shared.vm("vm4"), shared.vm("vm1")
    migration = shared.migration("vm4", "a")
    for step in (migration.switch, migration.finish, migration.fail):
        with pytest.raises(Refused, match="the migration is ready"):
            step()
    migration.begin()
    assert (vm.active, plugged_where(shared, vm)) == ("b", ["a", "b"])
    with observer.packets() as card:
        migration.switch()
        assert (vm.active, plugged_where(shared, vm)) == ("a", ["a", "b"])
        announced = card.receive(is_rarp)
        assert announced[6:12] == packets.mac_bytes(vm.mac)
        with pytest.raises(Refused):
            migration.fail()
        migration.finish()
        assert (vm.active, plugged_where(shared, vm)) == ("a", ["a"])
        migration.await_announced()
        rest = [card.receive(is_rarp) for _ in range(4)]
        assert rest == [announced] * 4
        assert not card.waiting(is_rarp)
    assert observer.reaches(vm.ip)
    shared.migrate(vm, "b", overlap=0.0)
    assert (vm.active, plugged_where(shared, vm)) == ("b", ["b"])
    assert observer.reaches(vm.ip)


def test_a_failed_migration_changes_nothing(shared: Lab) -> None:
    vm = shared.vm("vm4")
    migration = shared.migration(vm, "a")
    migration.begin()
    migration.fail()
    assert (vm.active, plugged_where(shared, vm)) == ("b", ["b"])
    assert shared.vm("vm1").reaches(vm.ip)
    with pytest.raises(Refused, match="already runs on b"):
        shared.migration(vm, "b")


def test_the_tap_of_the_destination_is_deaf_and_dumb_before_the_switch(
    lab: Lab, wired: Callable[..., None], numbered_vm: Callable[[Lab, int, str], None]
) -> None:
    """Two computes without a tunnel: the guest is where its frames are, and nowhere else."""
    a, b = lab.add_compute("a"), lab.add_compute("b")
    wired([a])
    wired([b])
    numbered_vm(lab, 1, "a")
    numbered_vm(lab, 2, "b")
    numbered_vm(lab, 3, "a")
    guest, left, right = lab.vm("vm3"), lab.vm("vm1"), lab.vm("vm2")
    migration = lab.migration(guest, b)
    migration.begin()
    with guest.packets() as card, left.packets() as at_a, right.packets() as at_b:

        def reaches_guest(sender: Vm) -> bool:
            frame = packets.ethernet(guest.mac, sender.mac, 0x88B5, sender.name.encode())
            with sender.packets() as out:
                out.send(frame)
            try:
                return bool(card.receive(lambda seen: seen == frame, deadline=0.2))
            except NotReady:
                return False

        def heard(mark: bytes) -> list[str]:
            card.send(packets.ethernet(packets.BROADCAST, guest.mac, 0x88B5, mark))
            found = []
            for name, side in (("a", at_a), ("b", at_b)):
                try:
                    side.receive(lambda seen: seen[14 : 14 + len(mark)] == mark, deadline=0.2)
                    found.append(name)
                except NotReady:
                    pass
            return found

        assert (reaches_guest(left), reaches_guest(right), heard(b"before")) == (True, False, ["a"])
        migration.switch(announce=False)
        assert (reaches_guest(left), reaches_guest(right), heard(b"after")) == (False, True, ["b"])


def test_computes_are_never_joined_by_a_machine(shared: Lab) -> None:
    """A VM plugged on two computes is no path between them: no frame comes back."""
    vm, compute = shared.vm("vm4"), shared.compute("a")
    migration = shared.migration(vm, compute)
    migration.begin()
    try:
        port = shared.exec("net", "bridge", "-d", "link", "show", "dev", f"t{vm.index}-{compute.index}")
        assert "isolated on" in port
        assert "learning off" in port
        assert "locked on" in port
    finally:
        migration.fail()


def test_a_compute_may_be_dead_when_its_vm_goes(lab: Lab, wired: Callable[..., None]) -> None:
    computes: list[Compute] = lab.add_computes(["a", "b"])
    wired(computes)
    vm = lab.add_vm("one", "a", "02:00:00:00:00:01", "10.0.0.1/24", "one")
    computes[0].kill_all()
    vm.unplug(computes[0])
    assert (vm.plugged, vm.active) == ((), "")
    vm.plug(computes[1])
    assert vm.active == "b"


def test_a_device_that_is_gone_leaves_no_socket_behind(shared: Lab) -> None:
    """As when a VM is removed that is still being announced: a socket left open would be a warning, which is an error."""
    with pytest.raises(OSError, match="No such device"):
        packets.PacketSocket(shared.vm("vm1").namespace, "gone")
    gc.collect()
