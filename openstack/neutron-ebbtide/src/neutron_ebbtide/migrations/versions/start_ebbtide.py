"""The beginning."""

from __future__ import annotations

revision = "ebb7de000000"
down_revision = None


def upgrade() -> None:
    """Nothing."""
