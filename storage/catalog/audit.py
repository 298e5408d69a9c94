"""The audit's rows: written as the last thing of the operation that they speak of, and read in their order.

They are only ever inserted, and get their numbers from the database. So do the checkpoints' rows, but for the numbers.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from dropoff_tus.audit import Actor, Event, write_row
from storage.catalog import statements
from storage.catalog.rows import Row
from storage.catalog.transaction import Transaction


def append(transaction: Transaction, events: Sequence[Event], by: Actor) -> None:
    """Add rows."""
    at = datetime.now(UTC)
    for event in events:
        transaction.run(statements.INSERT_AUDIT, record=write_row(event, by, at))


def rows_between(transaction: Transaction, after: int, to: int, most: int) -> list[tuple[int, str]]:
    """Return some of the rows after a number and up to another, in their order."""
    return _numbered(transaction.rows(statements.AUDIT_ROWS, after=after, to=to, most=most), "seq", "record")


def end(transaction: Transaction) -> int:
    """Return the greatest number of a row. While nobody else writes, no row with a smaller one comes any more.

    Earlier writers have committed, so their rows are seen here, and later ones get greater numbers.
    """
    found: int = transaction.rows(statements.AUDIT_END)[0]["last"]
    return found


def checkpoints(transaction: Transaction, after: int, most: int) -> list[tuple[int, str]]:
    """Return some of the checkpoints after a number, in their order."""
    return _numbered(transaction.rows(statements.CHECKPOINTS, after=after, most=most), "number", "line")


def last_checkpoint(transaction: Transaction) -> tuple[int, str] | None:
    """Return the checkpoint with the greatest number, or None."""
    found = _numbered(transaction.rows(statements.LAST_CHECKPOINT), "number", "line")
    return found[0] if found else None


def add_checkpoint(transaction: Transaction, number: int, line: str) -> None:
    """Add a checkpoint; its number must be free."""
    transaction.run(statements.INSERT_CHECKPOINT, number=number, line=line)


def _numbered(rows: Sequence[Row], number: str, text: str) -> list[tuple[int, str]]:
    # As text, whatever somebody put there: SQLite has no types of columns.
    return [(row[number], str(row[text])) for row in rows]
