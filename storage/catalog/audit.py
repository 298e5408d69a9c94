"""The audit's rows: written as the last thing of the operation that they speak of, and read in their order.

They are only ever inserted, and get their numbers from the database. So do the checkpoints' rows, but for the numbers.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy import BigInteger, bindparam, func, insert, or_, select

from dropoff_tus.audit import Act, Actor, Event, Note, actor, write_row
from storage.catalog.rows import Row
from storage.catalog.schema import audit, checkpoints
from storage.catalog.transaction import ZERO, Engine, Transaction, at_most

T = TypeVar("T")
_after = bindparam("after", type_=BigInteger)

_INSERT = insert(audit).values(record=bindparam("record", type_=audit.c.record.type)).inline()

_END = select(func.coalesce(func.max(audit.c.seq), ZERO).label("last"))

_ROWS = at_most(
    select(audit).where(audit.c.seq > _after, audit.c.seq <= bindparam("to", type_=BigInteger)).order_by(audit.c.seq)
)

_OF_UPLOAD = (
    select(audit.c.record)
    .where(
        or_(
            audit.c.record.contains(bindparam("upload")),
            audit.c.record.like(bindparam("drop")),
            audit.c.record.like(bindparam("check")) & audit.c.record.not_like(bindparam("of_one")),
        )
    )
    .order_by(audit.c.seq)
)

_CHECKPOINTS = at_most(select(checkpoints).where(checkpoints.c.number > _after).order_by(checkpoints.c.number))

_LAST_CHECKPOINT = select(checkpoints).where(
    checkpoints.c.number == select(func.max(checkpoints.c.number)).scalar_subquery()
)

_INSERT_CHECKPOINT = insert(checkpoints)


def append(transaction: Transaction, events: Sequence[Event], by: Actor) -> None:
    """Add rows."""
    at = datetime.now(UTC)
    for event in events:
        transaction.run(_INSERT, record=write_row(event, by, at))


class Recording:
    """Runs operations on a database, and records what they note."""

    def __init__(self, engine: Engine) -> None:
        """Take the database."""
        self._engine = engine

    async def _write(self, work: Callable[[Transaction, Note], T]) -> T:
        """Run an operation, and record what it notes in the same transaction."""
        by = actor()

        def run(transaction: Transaction) -> T:
            events: list[Event] = []
            result = work(transaction, events.append)
            append(transaction, events, by)
            return result

        return await self._engine.write(run)


class SqlAudit(Recording):
    """Implements `ports.catalog.AuditRows`, and has what checkpoints are made of."""

    async def record(self, *events: Event) -> None:
        """Record what changes nothing here."""
        by = actor()
        await self._engine.write(lambda transaction: append(transaction, events, by))

    async def audit_rows(self, after: int, to: int, most: int) -> list[tuple[int, str]]:
        """Return some rows of the audit after a number and up to another: each one's number and text."""
        rows = await self._engine.read_many(lambda each: each.rows(_ROWS, after=after, to=to, most=most))
        return _numbered(rows, "seq", "record")

    async def audit_of(self, upload_id: str, drop_id: str) -> list[str]:
        """Return the texts of the rows about an upload, its drop-off itself, or checks of all. It reads all rows."""
        values = {
            "upload": f'"upload":"{upload_id}"',
            "drop": f'{{"act":"drop.%"drop":"{drop_id}"%',
            "check": f'{{"act":"{Act.STORE_CHECK}"%',
            "of_one": '%"upload":%',
        }
        rows = await self._engine.read_many(lambda each: each.rows(_OF_UPLOAD, **values))
        return [str(row["record"]) for row in rows]

    async def audit_end(self) -> int:
        """Return the greatest number of a row, 0 if there is none; up to it no row comes any more.

        Earlier writers have committed, so their rows are seen here, and later ones get greater numbers.
        """
        found: int = (await self._engine.settled(lambda each: each.rows(_END)))[0]["last"]
        return found

    async def checkpoints(self, after: int, most: int) -> list[tuple[int, str]]:
        """Return some checkpoints after a number: each one's number and signed line."""
        rows = await self._engine.read_many(lambda each: each.rows(_CHECKPOINTS, after=after, most=most))
        return _numbered(rows, "number", "line")

    async def last_checkpoint(self) -> tuple[int, str] | None:
        """Return the checkpoint with the greatest number, or None."""
        found = _numbered(await self._engine.read(lambda each: each.rows(_LAST_CHECKPOINT)), "number", "line")
        return found[0] if found else None

    async def add_checkpoint(self, number: int, line: str) -> None:
        """Add a checkpoint; its number must be free."""
        await self._engine.write(lambda each: each.run(_INSERT_CHECKPOINT, number=number, line=line))


def _numbered(rows: Sequence[Row], number: str, text: str) -> list[tuple[int, str]]:
    # As text, whatever somebody put there: SQLite has no types of columns.
    return [(row[number], str(row[text])) for row in rows]
