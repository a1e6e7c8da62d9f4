"""`neutron-ebbtide-sync --check|--repair [--force]`: compare Neutron with the controller by hand.

    neutron-ebbtide-sync --config-file /etc/neutron/neutron.conf --config-file /etc/neutron/plugins/ml2/ml2_conf.ini --check

Exit code 0: nothing differs, or the worker was told to send all that does; 1: something does, and is left; 2: it cannot be
found out. What differs, and why --force may be needed, is told in `compare`.
"""

from __future__ import annotations

import sys
import traceback

from neutron import manager
from neutron.common import config as neutron_config
from neutron.conf.plugins.ml2 import config as ml2
from neutron_lib import context as contexts
from oslo_config import cfg

from neutron_ebbtide import compare, config, journal
from neutron_ebbtide.client import Client
from neutron_ebbtide.errors import Away, Refused

_VERBS = [
    cfg.BoolOpt("check", default=False, help="Say what differs."),
    cfg.BoolOpt("repair", default=False, help="Note what differs in the journal: the worker sends it."),
    cfg.BoolOpt("force", default=False, help="Repair what else is left: see the documentation first."),
]


def main() -> int:
    """The command. 1 says that something differs; whatever keeps that from being found out is 2."""
    try:
        return _main()
    except Exception as error:
        if getattr(cfg.CONF, "debug", False):
            traceback.print_exc()
        print(f"it cannot be compared: {error}", file=sys.stderr)
        return 2


def _main() -> int:
    cfg.CONF.register_cli_opts(_VERBS)
    neutron_config.register_common_config_options()
    neutron_config.init(sys.argv[1:])
    if cfg.CONF.check == cfg.CONF.repair:
        print("say --check or --repair", file=sys.stderr)
        return 2
    ml2.register_ml2_plugin_opts()
    if "ebbtide" not in cfg.CONF.ml2.mechanism_drivers:
        print(
            "none of these files has ebbtide among [ml2] mechanism_drivers: give all that Neutron's server is started with "
            "(--config-file /etc/neutron/neutron.conf --config-file /etc/neutron/plugins/ml2/ml2_conf.ini)",
            file=sys.stderr,
        )
        return 2
    manager.init()
    context = contexts.get_admin_context()
    options = config.register(cfg.CONF)
    config.check(options)
    client = Client(options)
    repairs = cfg.CONF.repair
    try:
        found = compare.lasting(context, client)
        noted = compare.repair(context, client, force=cfg.CONF.force) if repairs and found else []
    except (Away, Refused) as error:
        print(f"the controller does not answer: {error}", file=sys.stderr)
        return 2
    for each in found:
        print(f"{each.kind:<22} {each.id:<38} {each.what}{', and left so' if repairs and each not in noted else ''}")
    waits, refused = journal.length(context)
    also = f", {len(refused)} of them refused:" if refused else ""
    print(f"{len(found)} differ; {waits} wait in the journal{also}")
    for kind, name, tries, words in refused:
        print(f"{kind:<22} {name:<38} {tries} times: {words}")
    return 1 if set(found) - set(noted) else 0
