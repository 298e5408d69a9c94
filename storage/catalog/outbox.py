"""The outbox: events written with the change that they tell of, and claimed by whoever delivers them.

A claim is a deadline in the row. `attempts` fences: a slow worker, whose row was claimed again, changes it no more.

Source: dropoff_tus.ports.catalog.Outbox.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol, TypeVar

from dropoff_tus.audit import Act, Actor, Event, actor
from dropoff_tus.ids import PROBE_DROP_ID
from dropoff_tus.model import Role, UploadRow
from dropoff_tus.outbox import Backlog, EventKind, OutboxRow, SinkName, Sinks, event_id
from storage.catalog import audit, statements
from storage.catalog.rows import read_backlog, read_event, to_micros
from storage.catalog.transaction import Transaction

T = TypeVar("T")


def note(transaction: Transaction, sinks: Sinks, kind: EventKind, upload: UploadRow, at: datetime) -> None:
    """Write an event for each sink that wants it. One that waits already is not written twice."""
    if upload.role is Role.PARTIAL or upload.drop_id == PROBE_DROP_ID:
        return
    found = event_id(upload.id, kind)
    for name, sink in sinks.items():
        if kind not in sink.kinds:
            continue
        transaction.run(
            statements.INSERT_NOTIFIED_EVENT if sink.notified_only else statements.INSERT_EVENT,
            event_id=found,
            sink=name.value,
            kind=kind.value,
            drop_id=upload.drop_id,
            upload_id=upload.id,
            at=to_micros(at),
            next_at=to_micros(sink.due_at(at)),
            attempts=0,
            dead=0,
            problem=None,
        )


def is_due(transaction: Transaction, sink: SinkName, now: datetime) -> bool:
    """Tell whether anything is due."""
    return bool(transaction.rows(statements.DUE, sink=sink.value, now=to_micros(now), most=1))


def claim(transaction: Transaction, sink: SinkName, now: datetime, until: datetime, limit: int) -> list[OutboxRow]:
    """Take what is due."""
    found = transaction.rows(statements.FREE_DUE, sink=sink.value, now=to_micros(now), most=limit)
    due = [read_event(row) for row in found]
    for row in due:
        transaction.run(statements.HOLD_EVENT, until=to_micros(until), **_claimed(row))
    return [replace(row, attempts=row.attempts + 1) for row in due]


def delivered(transaction: Transaction, rows: Sequence[OutboxRow]) -> None:
    """Forget rows."""
    for row in rows:
        transaction.run(statements.DELETE_EVENT, **_claimed(row))


def failed(
    transaction: Transaction,
    rows: Sequence[OutboxRow],
    problem: str,
    next_at: datetime,
    max_attempts: int,
    by: Actor,
) -> None:
    """Keep rows for later, or as dead, which the audit tells."""
    given_up: list[Event] = []
    for row in rows:
        dead = row.attempts >= max_attempts
        kept = transaction.run(
            statements.FAIL_EVENT, until=to_micros(next_at), now_dead=int(dead), why=problem, **_claimed(row)
        )
        if dead and kept:
            given_up.append(
                Event(
                    Act.EVENT_DEAD, row.drop_id, row.upload_id, f"{row.sink.value} {row.kind.value}", count=row.attempts
                )
            )
    audit.append(transaction, given_up, by)


def release(transaction: Transaction, rows: Sequence[OutboxRow], now: datetime) -> None:
    """Give rows back."""
    for row in rows:
        transaction.run(statements.RELEASE_EVENT, until=to_micros(now), **_claimed(row))


def backlog(transaction: Transaction) -> list[Backlog]:
    """Return what waits at each sink."""
    return [read_backlog(row) for row in transaction.rows(statements.BACKLOG)]


def events(transaction: Transaction, *, dead_only: bool) -> list[OutboxRow]:
    """Return what waits."""
    return [read_event(row) for row in transaction.rows(statements.DEAD_EVENTS if dead_only else statements.EVENTS)]


def resend(transaction: Transaction, event_ids: Sequence[str] | None, now: datetime, by: Actor) -> int:
    """Begin again."""
    until = to_micros(now)
    if event_ids is None:
        count = transaction.run(statements.RESEND_DEAD, until=until)
    else:
        count = sum(transaction.run(statements.RESEND_EVENT, held_id=found, until=until) for found in event_ids)
    if count:
        audit.append(transaction, [Event(Act.EVENT_RESEND, count=count)], by)
    return count


def _claimed(row: OutboxRow) -> dict[str, object]:
    return {"held_id": row.event_id, "held_sink": row.sink.value, "held_attempts": row.attempts}


class _Engine(Protocol):
    async def write(self, work: Callable[[Transaction], T]) -> T: ...
    async def read(self, work: Callable[[Transaction], T]) -> T: ...
    async def read_many(self, work: Callable[[Transaction], T]) -> T: ...


class SqlOutbox:
    """Implements `dropoff_tus.ports.catalog.Outbox`."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine

    async def is_due(self, sink: SinkName, now: datetime) -> bool:
        """Tell whether anything is due."""
        return await self._engine.read(lambda transaction: is_due(transaction, sink, now))

    async def claim(self, sink: SinkName, now: datetime, until: datetime, limit: int) -> list[OutboxRow]:
        """Take what is due."""
        return await self._engine.write(lambda transaction: claim(transaction, sink, now, until, limit))

    async def delivered(self, rows: Sequence[OutboxRow]) -> None:
        """Forget rows."""
        await self._engine.write(lambda transaction: delivered(transaction, rows))

    async def failed(self, rows: Sequence[OutboxRow], problem: str, next_at: datetime, *, max_attempts: int) -> None:
        """Keep rows for later, or as dead."""
        by = actor()
        await self._engine.write(lambda transaction: failed(transaction, rows, problem, next_at, max_attempts, by))

    async def release(self, rows: Sequence[OutboxRow], now: datetime) -> None:
        """Give rows back."""
        await self._engine.write(lambda transaction: release(transaction, rows, now))

    async def backlog(self) -> list[Backlog]:
        """Return what waits at each sink."""
        return await self._engine.read_many(backlog)

    async def rows(self, *, dead_only: bool = False) -> list[OutboxRow]:
        """Return what waits."""
        return await self._engine.read_many(lambda transaction: events(transaction, dead_only=dead_only))

    async def resend(self, event_ids: Sequence[str] | None, now: datetime) -> int:
        """Begin again."""
        by = actor()
        return await self._engine.write(lambda transaction: resend(transaction, event_ids, now, by))
