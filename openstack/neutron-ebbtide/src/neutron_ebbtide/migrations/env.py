"""How alembic runs our tables' steps: in Neutron's database, with a version table of our own."""

from __future__ import annotations

from alembic import context
from neutron.db.migration.connection import DBConnection
from neutron_lib.db import model_base

import neutron_ebbtide.journal  # noqa: F401 - its tables

VERSIONS = "ebbtide_alembic_version"
config = context.config
neutron_config = config.neutron_config


def offline() -> None:
    """As a script of SQL."""
    context.configure(url=neutron_config.database.connection, version_table=VERSIONS)
    with context.begin_transaction():
        context.run_migrations()


def online() -> None:
    """In the database."""
    with DBConnection(neutron_config.database.connection, config.attributes.get("connection")) as connection:
        context.configure(connection=connection, target_metadata=model_base.BASEV2.metadata, version_table=VERSIONS)
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    offline()
else:
    online()
