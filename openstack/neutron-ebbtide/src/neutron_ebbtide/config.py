"""Options, in the section [ebbtide] of Neutron's configuration."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from oslo_config import cfg

GROUP = "ebbtide"
OPTIONS = [
    cfg.StrOpt("url", default="http://127.0.0.1:8181", help="Where the controller's REST interface is."),
    cfg.StrOpt("username", default="", help="Who Neutron is there; empty: nobody is asked."),
    cfg.StrOpt("password", default="", secret=True, help="The password of that user."),
    cfg.StrOpt("token", default="", secret=True, help="A token of the controller's, instead of user and password."),
    cfg.StrOpt("cacert", default="", help="Certificates that the controller's is checked against, for https."),
    cfg.FloatOpt(
        "timeout",
        default=10.0,
        min=0.5,
        help="Seconds for which an answer is waited for; less than half of the lease, whatever is said here.",
    ),
    cfg.IntOpt("batch", default=500, min=1, max=1000, help="Objects in one call, at most."),
    cfg.FloatOpt(
        "compare_interval", default=600.0, min=10.0, help="Seconds between two comparisons with the controller."
    ),
    cfg.FloatOpt("hosts_interval", default=10.0, min=1.0, help="Seconds between two looks at the controller's hosts."),
    cfg.FloatOpt("status_interval", default=3.0, min=0.2, help="Seconds between two looks at ports that are down."),
    cfg.BoolOpt(
        "dhcp_agents",
        default=False,
        help="Whether networks are given to Neutron's DHCP agents, for their DNS: DHCP itself is answered by the controller's hosts.",
    ),
    cfg.IntOpt("lease", default=30, min=4, help="Seconds after which another worker takes over from a silent one."),
]


def register(conf: Any = cfg.CONF) -> Any:
    """Make the options known; the section."""
    conf.register_opts(OPTIONS, GROUP)
    return conf[GROUP]


def check(options: Any) -> None:
    """Whether the controller can be asked with these.

    Raises:
        ConfigFileValueError: not; Neutron does not start then, and says why.
    """
    try:
        found = urlsplit(options.url)
        is_one = found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise cfg.ConfigFileValueError(f"[{GROUP}] url is no address of a controller: http(s)://ADDRESS:PORT")
    if "@" in options.url:
        raise cfg.ConfigFileValueError(f"[{GROUP}] url has a user in it: username, password and token are options")
    for name in ("token", "username", "password"):
        if not options[name].isprintable() or (name == "token" and not options[name].isascii()):
            raise cfg.ConfigFileValueError(f"[{GROUP}] {name} has a character that cannot be sent")


def patience(options: Any) -> float:
    """Seconds for which an answer is waited for: a worker whose lease is over must not be in the middle of a call."""
    return float(min(options.timeout, options.lease / 2 - 1))


def listed() -> list[tuple[str, list[Any]]]:
    """For oslo-config-generator."""
    return [(GROUP, OPTIONS)]
