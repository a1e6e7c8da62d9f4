"""Network namespaces: making sockets in them, running commands in them, and quieting their links.

A namespace belongs to a lab by the prefix of its name, and by nothing else. A socket keeps the
namespace in which it was made, whoever uses it afterwards; so one process can hold sockets in many
namespaces, as long as each is made by a thread that has entered the right one. Such a thread is made
for each call and ends with it: no thread of the caller's ever changes its namespace.

No address, route or link of the machine itself is ever touched: links are made inside the lab's
namespaces, both ends at once.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ..errors import NotFound, NotReady
from .commands import run

NAMESPACES = Path("/run/netns")
_IPV6 = Path("/proc/sys/net/ipv6/conf")

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_SIOCETHTOOL = 0x8946
# linux/ethtool.h: ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO
_OFFLOADS = (0x17, 0x1F, 0x24, 0x2C)

_libc = ctypes.CDLL(None, use_errno=True)


def path_of(namespace: str) -> Path:
    return NAMESPACES / namespace


def names_with(prefix: str) -> list[str]:
    """The namespaces whose names begin so."""
    if not NAMESPACES.is_dir():
        return []
    return sorted(entry.name for entry in NAMESPACES.iterdir() if entry.name.startswith(prefix))


def inside(namespace: str, function: Callable[[], T]) -> T:
    """Call `function` in a thread of its own that has entered `namespace`."""
    result: list[T] = []
    failure: list[BaseException] = []

    def enter_and_call() -> None:
        try:
            _enter(namespace)
            result.append(function())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=enter_and_call, name=f"in {namespace}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def _enter(namespace: str) -> None:
    try:
        descriptor = os.open(path_of(namespace), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"network namespace {namespace} does not exist: is the lab up, and this its name?") from error
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise NotReady(f"cannot enter network namespace {namespace}: {os.strerror(number)}; the lab needs root")
    finally:
        os.close(descriptor)


# ---- sockets --------------------------------------------------------------------------------------


def make_socket(namespace: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
    return inside(namespace, lambda: socket.socket(family, kind, protocol))


def family_of(host: str) -> int:
    """The family of sockets that speak with an address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def connect(namespace: str, host: str, port: int, deadline: float = 5.0) -> socket.socket:
    """A TCP connection made from inside the namespace. Blocking, with `deadline` as its connection timeout only."""
    connection = make_socket(namespace, family_of(host), socket.SOCK_STREAM)
    try:
        connection.settimeout(deadline)
        connection.connect((host, port))
        connection.settimeout(None)
    except OSError as error:
        connection.close()
        raise NotReady(f"no connection from {namespace} to {host}:{port}: {error}") from error
    return connection


async def connect_async(namespace: str, host: str, port: int, deadline: float = 5.0) -> socket.socket:
    """As `connect`, without blocking the loop; the socket is non-blocking, as asyncio.open_connection(sock=) wants."""
    connection = make_socket(namespace, family_of(host), socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        async with asyncio.timeout(deadline):
            await asyncio.get_running_loop().sock_connect(connection, (host, port))
    except (OSError, TimeoutError) as error:
        connection.close()
        raise NotReady(f"no connection from {namespace} to {host}:{port}: {error or 'timed out'}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def listen(namespace: str, host: str, port: int, backlog: int = 128) -> socket.socket:
    """A listening TCP socket inside the namespace; port 0 lets the kernel choose."""
    listener = make_socket(namespace, family_of(host), socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise NotReady(f"cannot listen in {namespace} on {host}:{port}: {error}") from error
    return listener


# ---- links and settings ---------------------------------------------------------------------------


def command_in(namespace: str, command: Sequence[str]) -> list[str]:
    """The command line that runs `command` inside the namespace."""
    return ["nsenter", f"--net={path_of(namespace)}", "--", *command]


def ip_batch(namespace: str | None, lines: Sequence[str]) -> None:
    """Lines for `ip`, carried out by one process; None is for making and removing namespaces only."""
    where = [] if namespace is None else ["-n", namespace]
    run(["ip", *where, "-batch", "-"], stdin="\n".join(lines) + "\n")


def bridge_batch(namespace: str, lines: Sequence[str]) -> None:
    """Lines for `bridge`, carried out by one process, one netlink message each and microseconds apart."""
    run(["bridge", "-n", namespace, "-batch", "-"], stdin="\n".join(lines) + "\n")


def remove_links(namespace: str, *devices: str) -> None:
    """Remove those of these that exist, with their other ends. Now: those of a removed namespace go when it suits
    the kernel."""
    listing = run(["ip", "-n", namespace, "-o", "link", "show"])
    there = {line.split(":")[1].strip().partition("@")[0] for line in listing.splitlines()}
    gone = [f"link del {device}" for device in devices if device in there]
    if gone:
        ip_batch(namespace, gone)


def quiet(namespace: str) -> None:
    """No IPv6 in the namespace: nothing is sent that a test did not ask for. Before links are made."""

    def write() -> None:
        for scope in ("all", "default"):
            setting = _IPV6 / scope / "disable_ipv6"
            if setting.exists():
                setting.write_text("1")

    inside(namespace, write)


def speak_ipv6(namespace: str, device: str, *, advertised: bool = True) -> None:
    """IPv6 on one device, and `advertised`: what routers say is believed. It makes itself a link-local address and looks for routers."""

    def write() -> None:
        settings = {"accept_ra": int(advertised), "router_solicitation_interval": 1, "disable_ipv6": 0}
        for name, value in settings.items():
            Path(f"/proc/sys/net/ipv6/conf/{device}/{name}").write_text(str(value))

    inside(namespace, write)


def ipv6_on(namespace: str, device: str) -> None:
    """IPv6 on one device of a quiet namespace, with the addresses it is given and no others, and no questions whether these are free.

    Raises:
        NotReady: this machine's kernel has no IPv6.
    """

    def write() -> None:
        settings = _IPV6 / device
        if not settings.exists():
            raise NotReady(f"{device} in {namespace} cannot have IPv6: the kernel has none")
        for setting, value in (("addr_gen_mode", 1), ("accept_dad", 0), ("accept_ra", 0), ("disable_ipv6", 0)):
            (settings / setting).write_text(str(value))

    inside(namespace, write)


def offloads_off(namespace: str, *devices: str) -> None:
    """Whole, checksummed frames on these devices: Open vSwitch's packet sockets would drop or cut others."""

    def switch_off() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
            for device in devices:
                for offload in _OFFLOADS:
                    value = (ctypes.c_uint32 * 2)(offload, 0)
                    request = struct.pack("16sP", device.encode(), ctypes.addressof(value)).ljust(40, b"\0")
                    try:
                        fcntl.ioctl(handle, _SIOCETHTOOL, request)
                    except OSError as error:
                        if offload == _OFFLOADS[0]:
                            raise NotReady(f"checksum offload of {device} in {namespace} stays on: {error}") from error

    inside(namespace, switch_off)
