"""The journal, and who sends it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from neutron.db.migration import cli

revision = "e1ebb7de0001"
down_revision = "ebb7de000000"
branch_labels = (cli.EXPAND_BRANCH,)


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "ebbtide_journal",
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("object_id", sa.String(36), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.String(500), nullable=False),
        sa.Index("ix_ebbtide_journal_object", "kind", "object_id"),
        sa.Index("ix_ebbtide_journal_not_before", "not_before"),
        mysql_engine="InnoDB",
    )
    op.create_table(
        "ebbtide_lease",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        mysql_engine="InnoDB",
    )
