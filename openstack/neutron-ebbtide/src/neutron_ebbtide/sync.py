"""`neutron-ebbtide-sync --check|--repair`: compare Neutron with the controller by hand.

    neutron-ebbtide-sync --config-file /etc/neutron/neutron.conf --config-file /etc/neutron/plugins/ml2/ml2_conf.ini --check

Exit code 0: nothing differs (or it is repaired); 1: something does; 2: the controller does not answer.
"""

from __future__ import annotations

import sys

from neutron import manager
from neutron.common import config as neutron_config
from neutron_lib import context as contexts
from oslo_config import cfg

from neutron_ebbtide import compare, config, journal
from neutron_ebbtide.client import Away, Client, Refused

_VERBS = [
    cfg.BoolOpt("check", default=False, help="Say what differs."),
    cfg.BoolOpt("repair", default=False, help="Note what differs in the journal: the worker sends it."),
]


def main() -> int:
    """The command."""
    cfg.CONF.register_cli_opts(_VERBS)
    neutron_config.register_common_config_options()
    neutron_config.init(sys.argv[1:])
    if cfg.CONF.check == cfg.CONF.repair:
        print("say --check or --repair", file=sys.stderr)
        return 2
    manager.init()
    context = contexts.get_admin_context()
    client = Client(config.register(cfg.CONF))
    try:
        found = (compare.repair if cfg.CONF.repair else compare.differences)(context, client)
    except (Away, Refused) as error:
        print(f"the controller does not answer: {error}", file=sys.stderr)
        return 2
    for each in found:
        print(f"{each.kind:<22} {each.id:<38} {each.what}")
    waits, refused = journal.length(context)
    print(
        f"{len(found)} differ; {waits} wait in the journal" + (f", {len(refused)} of them refused:" if refused else "")
    )
    for kind, name, tries, words in refused:
        print(f"{kind:<22} {name:<38} {tries} times: {words}")
    return 1 if found and not cfg.CONF.repair else 0
