"""Run by Alembic; the connection comes from `plugin.archive.index`, which is the only caller."""

from alembic import context

from plugin.archive.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
