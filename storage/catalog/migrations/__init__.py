"""Alembic's folder: `storage.catalog.migration` runs it, on the connection it is given."""
