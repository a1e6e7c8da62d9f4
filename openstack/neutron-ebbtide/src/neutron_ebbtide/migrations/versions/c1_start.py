"""Where steps that take something away begin: there are none yet."""

from __future__ import annotations

from neutron.db.migration import cli

revision = "c1ebb7de0001"
down_revision = "ebb7de000000"
branch_labels = (cli.CONTRACT_BRANCH,)


def upgrade() -> None:
    """Nothing."""
