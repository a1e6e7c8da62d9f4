"""Where labs are kept, and the way into one. A lab is named by its name, or by its directory if it stands elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ebbtide.errors import NotFound, NotReady

if TYPE_CHECKING:
    import socket

    from ebbtide.lab import Lab

DEFAULT_NAME = "lab"


def labs_root() -> Path:
    """The directory in which labs stand, each in a directory of its name."""
    if os.geteuid() == 0 and Path("/run").is_dir():
        return Path("/run/ebbtide-lab")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "ebbtide-lab" if runtime else Path(f"/tmp/ebbtide-lab-{os.getuid()}")


def lab_directory(text: str) -> Path:
    """The directory of a lab, by name or by directory."""
    return Path(text) if "/" in text or text in (".", "..") else labs_root() / text


def leave_root() -> None:
    """Take the root away when no lab is left in it."""
    try:
        labs_root().rmdir()
    except OSError:
        pass  # there is another lab in it, or it was never made


def labs_there() -> list[Path]:
    """The directories of the labs under the root."""
    try:
        return sorted(entry for entry in labs_root().iterdir() if (entry / "lab.json").exists())
    except OSError:
        return []


def found_lab(text: str) -> Lab:
    """The lab named, or the only one there is.

    Raises:
        NotFound: there is none, or there are several and none is named.
    """
    from ebbtide.lab import Lab

    if text:
        return Lab.found_in(lab_directory(text))
    there = labs_there()
    if len(there) > 1:
        raise NotFound(f"there are {len(there)} labs: say which with --lab: {', '.join(d.name for d in there)}")
    if not there:
        raise NotFound("there is no lab: `ebbtide lab up` makes one (--lab DIR if it stands elsewhere)")
    return Lab.found_in(there[0])


def connect_in_lab(text: str, host: str, port: int, timeout: float | None) -> socket.socket:
    """A connection made inside the lab's control namespace.

    Raises:
        NotFound: there is no such lab.
        NotReady: nobody answers there.
    """
    import json
    import socket

    # Not by a `Lab`: this is on the way of every quick verb, and needs no more than a name.
    from ebbtide.lab import namespace
    from ebbtide.lab.site import Site

    directory = lab_directory(text)
    try:
        name = str(json.loads((directory / "lab.json").read_bytes())["name"])
    except FileNotFoundError:
        raise NotFound(f"no lab in {directory}: make one with `ebbtide lab up`") from None
    try:
        made = namespace.connect(Site(name, directory).control, "127.0.0.1" if host == "localhost" else host, port)
    except NotReady as error:
        raise NotReady(f"{error}; `ebbtide lab start ctl` starts the controller of lab {name}") from None
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.settimeout(timeout)
    return made
