"""The database as operations see it."""

from collections.abc import Sequence
from typing import Protocol

from storage.catalog.rows import Row
from storage.catalog.statements import Statement


class Transaction(Protocol):
    """One transaction of either database. Values are bound by name."""

    def rows(self, statement: Statement, **values: object) -> Sequence[Row]:
        """Run a statement and return its rows."""
        ...

    def run(self, statement: Statement, **values: object) -> int:
        """Run a statement and return how many rows it changed."""
        ...
