"""Required by Alembic's layout; migrations run through `storage.catalog.migrate`, which configures the context."""
