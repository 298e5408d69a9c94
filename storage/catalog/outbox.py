"""The outbox: events written with the change that they tell of, and claimed by whoever delivers them.

A claim is a deadline in the row. `attempts` fences: a slow worker, whose row was claimed again, changes it no more.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import BigInteger, bindparam, case, delete, exists, func, insert, literal_column, select, update

from dropoff_tus.audit import Act, Event, actor
from dropoff_tus.ids import PROBE_DROP_ID
from dropoff_tus.model import Role, UploadRow
from dropoff_tus.outbox import Backlog, EventKind, OutboxRow, SinkName, Sinks, event_id
from storage.catalog import audit
from storage.catalog.rows import Row, from_micros, moment_or_none, to_micros
from storage.catalog.schema import dropoffs, outbox
from storage.catalog.transaction import ONE, ZERO, Engine, Transaction, at_most

_sink = bindparam("sink", type_=outbox.c.sink.type)
_held_id = bindparam("held_id", type_=outbox.c.event_id.type)
_until = bindparam("until", type_=BigInteger)
_held = (outbox.c.event_id == _held_id) & (outbox.c.sink == bindparam("held_sink", type_=outbox.c.sink.type))
_claimed = _held & (outbox.c.attempts == bindparam("held_attempts", type_=BigInteger))

_event = {name: bindparam(name, type_=kept.type) for name, kept in outbox.c.items()}
_waits = exists().where(outbox.c.event_id == _event["event_id"], outbox.c.sink == _event["sink"])
# The terms are canonical JSON, in which nothing but an empty list is written so: within a text the quotes are escaped.
_names_nobody = dropoffs.c.terms.like(literal_column("""'%"notify":[]%'"""))
_notifies = exists().where(dropoffs.c.id == _event["drop_id"], ~_names_nobody)
_new_event = select(*_event.values()).where(~_waits)

_INSERT = insert(outbox).from_select(list(_event), _new_event)
"""Unless it waits already. Values: every column."""

_INSERT_NOTIFIED = insert(outbox).from_select(list(_event), _new_event.where(_notifies))
"""The same, if its drop-off names someone to notify."""

_DUE = at_most(
    select(outbox)
    .where(outbox.c.sink == _sink, outbox.c.dead == ZERO, outbox.c.next_at <= bindparam("now", type_=BigInteger))
    .order_by(outbox.c.next_at, outbox.c.drop_id, outbox.c.at, outbox.c.event_id)
)
"""Values: sink, now, most."""

_FREE_DUE = _DUE.with_for_update(skip_locked=True)
"""The same, but for those that somebody claims at this moment; locks them."""

_HOLD = update(outbox).where(_claimed).values(next_at=_until, attempts=outbox.c.attempts + ONE)
"""Values: as _DELETE, until."""

_DELETE = delete(outbox).where(_claimed)
"""Values: held_id, held_sink, held_attempts."""

_FAIL = (
    update(outbox)
    .where(_claimed)
    .values(
        next_at=_until,
        dead=bindparam("now_dead", type_=outbox.c.dead.type),
        problem=bindparam("why", type_=outbox.c.problem.type),
    )
)
"""Values: as _DELETE, until, now_dead, why."""

_RELEASE = update(outbox).where(_claimed).values(next_at=_until, attempts=outbox.c.attempts - ONE)
"""Values: as _DELETE, until."""

_waiting = case((outbox.c.dead == ZERO, ONE))

_BACKLOG = select(
    outbox.c.sink,
    func.count(_waiting).label("waiting"),
    (func.count() - func.count(_waiting)).label("dead"),
    func.min(case((outbox.c.dead == ZERO, outbox.c.at))).label("oldest_at"),
).group_by(outbox.c.sink)

_DELETE_OF_UPLOAD = delete(outbox).where(outbox.c.upload_id == bindparam("upload_id", type_=outbox.c.upload_id.type))

_EVENTS = select(outbox).order_by(outbox.c.at, outbox.c.event_id, outbox.c.sink)

_DEAD = _EVENTS.where(outbox.c.dead != ZERO)

_HOLD_ALL = (
    update(outbox).where(outbox.c.dead == ZERO).values(dead=ONE, problem=bindparam("why", type_=outbox.c.problem.type))
)

_anew = {"next_at": _until, "attempts": ZERO, "dead": ZERO}

_RESEND_DEAD = update(outbox).where(outbox.c.dead != ZERO).values(_anew)

_RESEND = update(outbox).where(outbox.c.event_id == _held_id).values(_anew)


def note(transaction: Transaction, sinks: Sinks, kind: EventKind, upload: UploadRow, at: datetime) -> None:
    """Write an event for each sink that wants it. One that waits already is not written twice."""
    if upload.role is Role.PARTIAL or upload.drop_id == PROBE_DROP_ID:
        return
    found = event_id(upload.id, kind)
    for name, sink in sinks.items():
        if kind not in sink.kinds:
            continue
        transaction.run(
            _INSERT_NOTIFIED if sink.notified_only else _INSERT,
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


def forget(transaction: Transaction, upload_id: str) -> None:
    """Take back what waits of an upload."""
    transaction.run(_DELETE_OF_UPLOAD, upload_id=upload_id)


class SqlOutbox:
    """Implements `ports.catalog.Outbox`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def is_due(self, sink: SinkName, now: datetime) -> bool:
        """Tell whether anything is due."""
        values = {"sink": sink.value, "now": to_micros(now), "most": 1}
        return bool(await self._engine.read(lambda each: each.rows(_DUE, **values)))

    async def claim(self, sink: SinkName, now: datetime, until: datetime, limit: int) -> list[OutboxRow]:
        """Take what is due."""

        def claim(transaction: Transaction) -> list[OutboxRow]:
            found = transaction.rows(_FREE_DUE, sink=sink.value, now=to_micros(now), most=limit)
            due = [_read_event(row) for row in found]
            for row in due:
                transaction.run(_HOLD, until=to_micros(until), **_claimed_as(row))
            return [replace(row, attempts=row.attempts + 1) for row in due]

        return await self._engine.write(claim)

    async def delivered(self, rows: Sequence[OutboxRow]) -> None:
        """Forget rows."""

        def forget(transaction: Transaction) -> None:
            for row in rows:
                transaction.run(_DELETE, **_claimed_as(row))

        await self._engine.write(forget)

    async def failed(self, rows: Sequence[OutboxRow], problem: str, next_at: datetime, *, max_attempts: int) -> None:
        """Keep rows for later, or as dead, which the audit tells."""
        by, until = actor(), to_micros(next_at)

        def fail(transaction: Transaction) -> None:
            for row in rows:
                dead = row.attempts >= max_attempts
                kept = transaction.run(_FAIL, until=until, now_dead=int(dead), why=problem, **_claimed_as(row))
                if dead and kept:
                    what = f"{row.sink.value} {row.kind.value}"
                    event = Event(Act.EVENT_DEAD, row.drop_id, row.upload_id, what, count=row.attempts)
                    audit.append(transaction, [event], by)

        await self._engine.write(fail)

    async def release(self, rows: Sequence[OutboxRow], now: datetime) -> None:
        """Give rows back."""

        def release(transaction: Transaction) -> None:
            for row in rows:
                transaction.run(_RELEASE, until=to_micros(now), **_claimed_as(row))

        await self._engine.write(release)

    async def backlog(self) -> list[Backlog]:
        """Return what waits at each sink."""
        rows = await self._engine.read_many(lambda each: each.rows(_BACKLOG))
        return [
            Backlog(SinkName(row["sink"]), row["waiting"], moment_or_none(row["oldest_at"]), row["dead"])
            for row in rows
        ]

    async def rows(self, *, dead_only: bool = False) -> list[OutboxRow]:
        """Return what waits."""
        statement = _DEAD if dead_only else _EVENTS
        return [_read_event(row) for row in await self._engine.read_many(lambda each: each.rows(statement))]

    async def hold(self, problem: str) -> int:
        """Keep back what waits."""
        return await self._engine.write(lambda transaction: transaction.run(_HOLD_ALL, why=problem))

    async def resend(self, event_ids: Sequence[str] | None, now: datetime) -> int:
        """Begin again."""
        by, until = actor(), to_micros(now)

        def resend(transaction: Transaction) -> int:
            if event_ids is None:
                count = transaction.run(_RESEND_DEAD, until=until)
            else:
                count = sum(transaction.run(_RESEND, held_id=found, until=until) for found in event_ids)
            if count:
                audit.append(transaction, [Event(Act.EVENT_RESEND, count=count)], by)
            return count

        return await self._engine.write(resend)


def _read_event(row: Row) -> OutboxRow:
    """Read an event that waits."""
    return OutboxRow(
        event_id=row["event_id"],
        sink=SinkName(row["sink"]),
        kind=EventKind(row["kind"]),
        drop_id=row["drop_id"],
        upload_id=row["upload_id"],
        at=from_micros(row["at"]),
        next_at=from_micros(row["next_at"]),
        attempts=row["attempts"],
        dead=bool(row["dead"]),
        problem=row["problem"],
    )


def _claimed_as(row: OutboxRow) -> dict[str, object]:
    return {"held_id": row.event_id, "held_sink": row.sink.value, "held_attempts": row.attempts}
