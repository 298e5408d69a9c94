"""What the operator has to hear of a catalog that cannot be used as it is."""


class CatalogError(Exception):
    """The catalog cannot be opened or migrated; the text is a sentence that says what to do."""
