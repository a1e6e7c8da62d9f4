"""Options, in the section [ebbtide] of Neutron's configuration."""

from __future__ import annotations

from typing import Any

from oslo_config import cfg

GROUP = "ebbtide"
OPTIONS = [
    cfg.StrOpt("url", default="http://127.0.0.1:8181", help="Where the controller's REST interface is."),
    cfg.StrOpt("username", default="", help="Who Neutron is there; empty: nobody is asked."),
    cfg.StrOpt("password", default="", secret=True, help="The password of that user."),
    cfg.StrOpt("cacert", default="", help="Certificates that the controller's is checked against, for https."),
    cfg.FloatOpt("timeout", default=30.0, min=1.0, help="Seconds for which an answer is waited for."),
    cfg.IntOpt("batch", default=200, min=1, max=1000, help="Objects in one call."),
    cfg.FloatOpt(
        "compare_interval", default=600.0, min=10.0, help="Seconds between two comparisons with the controller."
    ),
    cfg.FloatOpt("hosts_interval", default=20.0, min=1.0, help="Seconds between two looks at the controller's hosts."),
    cfg.FloatOpt(
        "lease", default=15.0, min=3.0, help="Seconds after which another worker takes over from one that is silent."
    ),
]


def register(conf: Any = cfg.CONF) -> Any:
    """Make the options known; the section."""
    conf.register_opts(OPTIONS, GROUP)
    return conf[GROUP]


def listed() -> list[tuple[str, list[Any]]]:
    """For oslo-config-generator."""
    return [(GROUP, OPTIONS)]
