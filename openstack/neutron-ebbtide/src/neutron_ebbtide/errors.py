"""What goes wrong.

NotServed    Neutron was asked for what the controller does not serve: its client is told
Away         the controller does not answer, or not now: everything waits
Refused      the controller says no to one thing, in its own words: that waits, and hinders nothing else
Lost         another worker sends by now
"""

from __future__ import annotations

from neutron_lib import exceptions


class NotServed(exceptions.BadRequest):
    """What the controller does not serve, and Neutron was asked for."""

    message = "%(what)s is not served by Ebbtide: %(instead)s"


class Away(Exception):
    """The controller does not answer, or cannot now."""


class Refused(Exception):
    """The controller says no, in its own words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Lost(Exception):
    """Somebody else sends by now."""
