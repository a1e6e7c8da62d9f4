"""`ebbtide mover nova`: run one where Nova and the controller can be reached, until SIGTERM or SIGINT."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

import click

from ebbtide.cli.session import Session, connection_options, log_options, pass_session
from ebbtide.errors import BadInput, NotFound, NotReady, Refused
from ebbtide.openstack.options import BLOCKS, Options

#: Servers at the same time, at most.
_MOST = 100


@click.command("mover")
@click.argument("kind", type=click.Choice(["nova"]))
@click.option("--cloud", metavar="NAME", default="", help="The cloud in clouds.yaml [OS_CLOUD, or OS_... variables].")
@click.option("--name", metavar="NAME", default="", help="What it is called; no two have one name [the host's].")
@click.option("--at-once", type=int, default=10, show_default=True, help="So many servers move at the same time.")
@click.option(
    "--block-migration",
    type=click.Choice(BLOCKS),
    default="auto",
    show_default=True,
    help="Whether disks are copied: auto lets Nova find out.",
)
@click.option("--cold", is_flag=True, help="Move stopped servers too, by cold migration, and confirm it.")
@click.option(
    "--remove-hosts",
    is_flag=True,
    help="Remove drained hosts from Nova, Placement and Neutron once their nova-compute is down.",
)
@log_options
@connection_options(hidden=False)
@pass_session
def mover(
    session: Session,
    kind: str,
    cloud: str,
    name: str,
    at_once: int,
    block_migration: str,
    cold: bool,
    remove_hosts: bool,
    log_format: str,
    log_level: str,
) -> None:
    """Move VMs for drains: empty the Nova hosts that `ebbtide drain --vms nova` takes out.

    It disables their nova-compute, live-migrates their servers, says when Nova and Placement call a host empty, and enables again what it
    has disabled where a drain is aborted or a compute recovered. Killed at any time, the next start goes on. What it is started with holds
    for all drains that do not say otherwise (`ebbtide drain --cold`).

    \b
    Examples:
      OS_CLOUD=mycloud ebbtide mover nova --url https://192.0.2.1:8181 --cacert /etc/ebbtide/ca.pem
      ebbtide mover nova --cloud mycloud --at-once 4 --cold --remove-hosts
    """
    if not 1 <= at_once <= _MOST:
        raise BadInput(f"--at-once {at_once}: 1 to {_MOST} servers")
    try:
        from ebbtide.openstack.mover import Mover
        from ebbtide.openstack.nova import Cloud
    except ModuleNotFoundError as error:
        raise BadInput(f"{error.name} is missing: install it with `make setup-mover`, or ebbtide[openstack]") from None
    from ebbtide import log

    log.configure(log_format, log_level)
    log.hear_libraries()
    session.client.check()
    its_cloud = Cloud(cloud)
    its_cloud.check()
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    options = Options(at_once, block_migration, cold=cold, remove=remove_hosts)
    one = Mover(_asking(session), its_cloud, name or f"{kind}@{socket.gethostname()}", options)
    one.run(over.is_set)


def _asking(session: Session) -> Callable[..., Any]:
    """Calls of the controller, whose errors are those of the whole program."""
    from ebbtide.cli.client import Answered

    kinds = {404: NotFound, 400: Refused, 409: Refused}

    def ask(method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            return session.client.call(method, path, body)
        except Answered as error:
            raise kinds.get(error.status, NotReady)(str(error)) from None

    return ask
