"""What is refused."""

from __future__ import annotations

from neutron_lib import exceptions


class NotServed(exceptions.BadRequest):  # type: ignore[misc]
    """What the controller does not serve, and Neutron was asked for."""

    message = "%(what)s is not served by Ebbtide: %(instead)s"
