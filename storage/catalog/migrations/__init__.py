"""Alembic migrations, run by `storage.catalog.migrate`."""
