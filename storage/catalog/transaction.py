"""The database as operations see it: statements, run in a transaction, on either engine; and the pages of lists."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeAlias, TypeVar

from sqlalchemy import BigInteger, Column, ColumnElement, Select, Text, UpdateBase, bindparam, literal_column, tuple_

from storage.catalog.rows import Row, to_micros

T = TypeVar("T")
Statement: TypeAlias = Select[*tuple[Any, ...]] | UpdateBase
"""A statement of SQLAlchemy Core, one for every database.

Each is built once and never changed: a database compiles it once and finds it again by identity. Values are bound by
name; where that is not a column's, it is given beside the statement.
"""
ZERO: ColumnElement[int] = literal_column("0")
ONE: ColumnElement[int] = literal_column("1")


class Transaction(Protocol):
    """One transaction of either database."""

    def rows(self, statement: Statement, **values: object) -> Sequence[Row]:
        """Run a statement and return its rows."""
        ...

    def run(self, statement: Statement, **values: object) -> int:
        """Run a statement and return how many rows it changed."""
        ...


class Engine(Protocol):
    """Runs operations on one database. Each call is a transaction of its own.

    An operation may run in the database's own thread, and more than once: it must neither block nor touch what belongs
    to the event loop, nor keep anything.

    Raises:
        CatalogUnavailableError: From every call, when the database does not answer.
    """

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run an operation and commit; an exception undoes it and comes out here."""
        ...

    async def settled(self, work: Callable[[Transaction], T]) -> T:
        """Run a question when all who began to write have committed or gave up, and nobody begins meanwhile."""
        ...

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run an operation that changes nothing and touches few rows."""
        ...

    async def read_many(self, work: Callable[[Transaction], T]) -> T:
        """Run an operation that changes nothing and may take long, without standing in the way of `read`."""
        ...

    async def close(self) -> None:
        """Take nothing more; finish what was asked and close."""
        ...


def at_most(found: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    """Return the first rows of a statement, as many as the value `most` says."""
    # Without an offset SQLite's dialect still writes one, as a value under a name of its own.
    return found.limit(bindparam("most", type_=BigInteger)).offset(ZERO)


def paged(found: Select[*tuple[Any, ...]], *order: Column[Any], after: bool, limited: bool) -> Select[*tuple[Any, ...]]:
    """Return a page of a list in the order of creations and ids. Values: those of `page_values`."""
    found = found.order_by(*order)
    if after:
        place = bindparam("after_at", type_=BigInteger), bindparam("after_id", type_=Text)
        found = found.where(tuple_(*order) > tuple_(*place))
    return at_most(found) if limited else found


def page_values(after: tuple[datetime, str] | None, limit: int | None) -> dict[str, object]:
    """Return the values of a list's page."""
    values: dict[str, object] = {}
    if after is not None:
        values |= {"after_at": to_micros(after[0]), "after_id": after[1]}
    if limit is not None:
        values["most"] = limit
    return values
