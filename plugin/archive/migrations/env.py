"""Run by Alembic; the connection comes from `plugin.archive.index`, which is the only caller."""

from alembic import context

from plugin.archive.tables import Base

# SQLite takes DDL back with the rest of a transaction: a kill half way leaves the index as it was.
context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, transactional_ddl=True
)
with context.begin_transaction():
    context.run_migrations()
