"""Errors for the operator about a catalog that cannot be used as it is."""


class CatalogError(Exception):
    """The catalog cannot be opened or migrated; the text says what to do."""
