"""Options that a drain has for those who move its VMs: of `ebbtide drain`, and of `ebbtide operation set`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ebbtide.openstack.options import BLOCK, BLOCKS, COLD, REMOVE

_F = TypeVar("_F", bound=Callable[..., Any])


def nova_options(command: _F) -> _F:
    """What may be asked of Nova's movers."""
    for option in (
        click.option(
            "--remove-hosts/--keep-hosts",
            default=None,
            help="With nova: remove hosts from Nova, Placement and Neutron too, once they have gone and are down.",
        ),
        click.option("--cold/--no-cold", default=None, help="With nova: move stopped servers too, by cold migration."),
        click.option("--block-migration", type=click.Choice(BLOCKS), help="With nova: whether disks are copied."),
    ):
        command = option(command)
    return command


def asked(block_migration: str | None, cold: bool | None, remove_hosts: bool | None) -> list[str]:
    """The same as a drain's `mover-options`; what was not said is not there."""
    found = [f"{BLOCK}={block_migration}"] if block_migration is not None else []
    for key, is_so in ((COLD, cold), (REMOVE, remove_hosts)):
        if is_so is not None:
            found.append(f"{key}={'yes' if is_so else 'no'}")
    return found
