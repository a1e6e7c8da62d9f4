"""What docs/openstack.md says of kinds is so."""

from __future__ import annotations

import re

from ebbtide.decide.documents import CANARY, KINDS, MAX_BODY

from . import extensions
from .documents import ROOT, table_rows

PAGE = ROOT / "docs" / "openstack.md"


def test_the_kinds_are_those_that_are_taken() -> None:
    told = [name for row in table_rows(PAGE, "## Kinds") for name in re.findall(r"`([^`]+)`", row[0])]
    assert told == list(KINDS)


def test_canary_and_limit_are_those_of_the_code() -> None:
    text = PAGE.read_text()
    assert f"`{CANARY}`" in text
    assert f"{MAX_BODY >> 10} KiB" in text


def test_each_extension_has_a_row_and_a_verdict() -> None:
    assert {verdict for cells in extensions.table().values() for verdict in cells} == set(extensions.VERDICTS)
