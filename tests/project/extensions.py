"""What docs/openstack.md says of Neutron's extensions: a row for each, and what becomes of it with either driver."""

from __future__ import annotations

import re

from .documents import ROOT, table_rows

PAGE = ROOT / "docs" / "openstack.md"
#: Columns of the table.
WITH_THE_DRIVER, WITH_NETWORKING_ODL = 1, 2
VERDICTS = ("served", "Neutron's own", "ignored", "refused", "not announced")


def table() -> dict[str, tuple[str, str]]:
    """Of each extension, by its alias, what becomes of it with neutron-ebbtide and with networking-odl."""
    found = {}
    for names, *cells in table_rows(PAGE, "## Neutron's extensions"):
        for name in re.findall(r"`([^`]+)`", names):
            assert name not in found, f"{name} has two rows"
            found[name] = (cells[0], cells[1])
    return found


def announced(column: int) -> set[str]:
    """Those that Neutron announces."""
    return {name for name, cells in table().items() if cells[column - 1] != "not announced"}
