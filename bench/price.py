"""What a packet costs a switch: the CPU time of ovs-vswitchd for each of many, sent as fast as the kernel takes them."""

from __future__ import annotations

import ctypes
import json
import os
import time
from pathlib import Path

from ebbtide.lab import Compute, Vm


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Message(ctypes.Structure):
    _fields_ = [  # struct mmsghdr: a struct msghdr (socket.h), and what was sent of it
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vector", ctypes.c_void_p),
        ("vector_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint32),
    ]


class _Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]


def flood(sender: Vm, frame: bytes, count: int, batch: int = 64) -> None:
    """The frame, so many times, as fast as the kernel takes it."""
    send = ctypes.CDLL(None, use_errno=True).sendmmsg
    vector = _Vector(frame, len(frame))
    messages = (_Message * batch)(*(_Message(vector=ctypes.addressof(vector), vector_length=1) for _ in range(batch)))
    with sender.packets() as out:
        fd, left = out.fileno(), count
        while left > 0:
            sent = send(fd, messages, min(batch, left), 0)
            if sent < 0:
                os.sched_yield()
                continue
            left -= sent


def _received(vm: Vm) -> int:
    told = json.loads(vm.exec(["ip", "-s", "-j", "link", "show", "eth0"]))
    return int(told[0]["stats64"]["rx"]["packets"])


def price_of(compute: Compute, sender: Vm, receiver: Vm, frame: bytes, count: int) -> tuple[float, float]:
    """Microseconds of the switch's CPU for each packet that arrived, and how many of all did. `receiver` may be the sender: for answers."""
    pid = compute.switch_pid
    assert pid is not None
    flood(sender, frame, 2000)
    time.sleep(0.3)
    before, begun = _received(receiver), _cpu(pid)
    flood(sender, frame, count)
    arrived, settled = _received(receiver), -1
    while arrived != settled:
        settled = arrived
        time.sleep(0.2)
        arrived = _received(receiver)
    got = arrived - before
    assert got > count // 10, f"{got} of {count} arrived"
    return (_cpu(pid) - begun) * 1e6 / got, got / count
