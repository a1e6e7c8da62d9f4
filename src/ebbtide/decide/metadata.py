"""Whose interface a port is, as the metadata agent tells it."""

from __future__ import annotations

import msgspec

from ebbtide.compile import ledger
from ebbtide.decide import routing
from ebbtide.errors import BadInput
from ebbtide.model.facts import Port

#: Nova's are UUIDs, of 36 characters or of 32.
MAX_OWNER = 255


def check_port_name(name: str) -> None:
    """A port's name is what an interface has as iface-id; those of our own interfaces are nobody's.

    Raises:
        BadInput: it is no name, or one of those.
    """
    routing.check_name("port", name)
    if name.startswith(ledger.OWN_IFACE_ID):
        raise BadInput(
            f"port name {name[:40]!r}: names that begin with {ledger.OWN_IFACE_ID!r} are the controller's own", "id"
        )


def owned(port: Port, device: str | None, project: str | None) -> Port:
    """The port of that instance and project; None: as it is, "": of none.

    Raises:
        BadInput: one of them could not stand in a header of HTTP.
    """
    for what, text in (("device", device), ("project", project)):
        if text and (len(text) > MAX_OWNER or not text.isascii() or not text.isprintable() or " " in text):
            raise BadInput(f"{what} {text[:40]!r}: up to {MAX_OWNER} printable ASCII characters without spaces", what)
    device, project = port.device if device is None else device, port.project if project is None else project
    return msgspec.structs.replace(port, device=device, project=project)
