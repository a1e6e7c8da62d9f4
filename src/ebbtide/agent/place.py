"""Where VMs reach the agent: one end of a veth pair in br-int, the other in a network namespace that is the agent's own.

The namespace has no name: it is held by the agent's sockets, and goes with them. So an agent that is killed leaves no device, the switch
calls its port broken, and the controller takes its flows away. Nothing of the host's is touched: neither its routes (it may use
100.64.0.0/10 itself) nor its port 80, its packet filter or its reverse path filter. A pair and not an internal port, which a switch that is
restarted makes anew in the namespace of the host. In there the wire resolves nobody's MAC: the flows write all of them.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import structlog

from ebbtide.compile import ledger
from ebbtide.errors import EbbtideError, NotReady, Refused

BRIDGE = "br-int"
DEVICE = "ebbtide-md"
_INSIDE = "metadata"
_ADDRESS = str(IPv4Address(ledger.METADATA_ADDRESS))
_ASKERS = str(IPv4Network((ledger.AGENT_PREFIX, 32 - (ledger.AGENT_MASK ^ 0xFFFF_FFFF).bit_length())))
_MAC = ":".join(f"{ledger.METADATA_MAC:012x}"[i : i + 2] for i in range(0, 12, 2))
_BACKLOG = 256
#: Seconds between looks at whether the port is there.
LOOK = 5.0
#: How often the kernel repeats what a killed agent's connections had left to say (tcp(7)): they keep the namespace for so long.
_ORPHANS = 3
_COMMAND_DEADLINE = 15.0
_CLONE_NEWNET = 0x40000000
_SIOCETHTOOL, _ETHTOOL_STXCSUM = 0x8946, 0x17
_libc = ctypes.CDLL(None, use_errno=True)
log = structlog.get_logger("metadata")


def run(command: Sequence[str], text: str = "", *, may_fail: bool = False) -> None:
    """A command to its end.

    Raises:
        NotReady: it failed, or is not installed.
    """
    try:
        done = subprocess.run(
            list(command), input=text, capture_output=True, text=True, timeout=_COMMAND_DEADLINE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotReady(f"{command[0]}: {error}") from None
    if done.returncode and not may_fail:
        raise NotReady(f"{command[0]}: {' '.join(done.stderr.split()) or 'no word of why'}")


def alone() -> socket.socket:
    """What one agent on a host has, for as long as it lives (an address of unix(7) that is no file).

    Raises:
        Refused: another agent runs here.
    """
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mark.bind(f"\0{DEVICE}")
    except OSError:
        mark.close()
        raise Refused("another metadata agent runs on this compute: one is enough for all of its VMs") from None
    return mark


def open_place() -> socket.socket:
    """The namespace, the pair, and in it the socket on which VMs are heard. All of it is gone when that is closed.

    Raises:
        NotReady: this needs root, and iproute2.
    """
    found: list[socket.socket | BaseException] = []

    def make() -> None:
        # A thread's own namespace: the rest of the process stays where it is.
        try:
            if _libc.unshare(_CLONE_NEWNET) != 0:
                raise NotReady(f"no network namespace can be made ({os.strerror(ctypes.get_errno())}): run it as root")
            found.append(_listen(os.getpid()))
        except BaseException as error:
            found.append(error)

    # One that was killed may have connections that the kernel is still ending, and its namespace with them.
    run(["ip", "link", "del", DEVICE], may_fail=True)
    thread = threading.Thread(target=make, name="place")
    thread.start()
    thread.join()
    (made,) = found
    if isinstance(made, BaseException):
        raise made
    try:
        run(["ip", "link", "set", DEVICE, "up"])
    except EbbtideError:
        made.close()
        raise
    return made


def _listen(host: int) -> socket.socket:
    """In the new namespace: the wire, whose other end is where process `host` is, and the socket."""
    Path("/proc/sys/net/ipv4/tcp_orphan_retries").write_text(str(_ORPHANS))
    lines = [
        "link set lo up",
        f"link add {_INSIDE} address {_MAC} type veth peer name {DEVICE} netns {host}",
        f"link set {_INSIDE} arp off up",
        f"addr add {_ADDRESS}/32 dev {_INSIDE}",
        f"route add {_ASKERS} dev {_INSIDE} src {_ADDRESS}",
    ]
    run(["ip", "-batch", "-"], "\n".join(lines) + "\n")
    _whole_checksums()
    # With its protocol: asyncio switches Nagle's algorithm off where that is said, and else an answer waits 40 ms for its second half.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind((_ADDRESS, ledger.METADATA_PORT))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _whole_checksums() -> None:
    """Open vSwitch's userspace datapath takes a frame as it is: without this its checksum would be left to a card that there is not."""
    value = (ctypes.c_uint32 * 2)(_ETHTOOL_STXCSUM, 0)
    request = struct.pack("16sP", _INSIDE.encode(), ctypes.addressof(value)).ljust(40, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, _SIOCETHTOOL, request)


class Wire:
    """The agent's port of br-int, which the controller finds by its iface-id. `database`: of Open vSwitch, as ovs-vsctl takes it."""

    def __init__(self, database: str) -> None:
        self._lock, self._over = threading.Lock(), False
        self._vsctl = ["ovs-vsctl", *([f"--db={database}"] if database else []), "--timeout=10"]

    def plug(self, afresh: bool) -> None:
        """Have the port there. `afresh`: as one that was not there before, since its device was not.

        Raises:
            NotReady: the database cannot be reached, or br-int is not there (yet).
        """
        add = ["--may-exist", "add-port", BRIDGE, DEVICE, "--", "set", "Interface", DEVICE]
        with self._lock:
            if afresh and not self._over:
                # Until the switch has let it go: of one name it takes the device of before, and hears nothing.
                run([*self._vsctl, "--if-exists", "del-port", BRIDGE, DEVICE])
            if not self._over:
                run([*self._vsctl, "--no-wait", *add, f'external_ids:iface-id="{ledger.AGENT_IFACE_ID}"'])

    def unplug(self) -> None:
        """Take it away for good: one that is just being plugged too."""
        with self._lock:
            self._over = True
            run([*self._vsctl, "--no-wait", "--if-exists", "del-port", BRIDGE, DEVICE])

    async def keep(self, every: float = LOOK) -> None:
        """Have it there, whatever becomes of br-int and its database; until cancelled."""
        afresh, told = True, ""
        while True:
            try:
                await asyncio.to_thread(self.plug, afresh)
                if afresh:
                    log.info("plugged", bridge=BRIDGE, device=DEVICE)
                afresh, told = False, ""
            except EbbtideError as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("not_plugged", reason=told)
            await asyncio.sleep(every if not told else min(every, 1.0))
