"""Alembic runs this for each command: it migrates on the one connection that `storage.catalog.migration` hands over.

The caller owns the transaction and the lock, so all revisions of one run come together or not at all.
"""

from alembic import context

from storage.catalog.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    on_version_apply=context.config.attributes["on_version_apply"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,  # SQLite alters most things by replacing the table
)
with context.begin_transaction():
    context.run_migrations()
