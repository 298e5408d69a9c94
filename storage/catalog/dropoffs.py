"""The drop-offs, and what the catalog keeps of itself. `accounting` has the effect of uploads on their counters."""

import functools
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, bindparam, case, insert, select, update

from dropoff_tus.audit import Act, Event, Note, creation_of, edit_of
from dropoff_tus.model import Dropoff, DropTerms, Run, Task, Usage
from dropoff_tus.ports.catalog import Change
from dropoff_tus.text import canonical
from storage.catalog.audit import Recording
from storage.catalog.rows import Row, from_micros, moment_or_none, reads, to_micros
from storage.catalog.schema import catalog_state, dropoffs, runs
from storage.catalog.transaction import ONE, ZERO, Statement, Transaction, page_values, paged

_drop_id = bindparam("drop_id", type_=dropoffs.c.id.type)
_FIXED = dropoffs.c.keys().index("used_uploads")
"""So many columns change with the drop-off only; counters follow."""

_INSERT = insert(dropoffs)

_DROPOFF = select(dropoffs).where(dropoffs.c.id == _drop_id)

_DROPOFF_OR_NONE = select(dropoffs).select_from(catalog_state.outerjoin(dropoffs, dropoffs.c.id == _drop_id))
"""The same as one row in any case, of nothing for an unknown id, which so costs as much (see `_read_if_known`)."""

_CHANGE = (
    update(dropoffs)
    .where(dropoffs.c.id == _drop_id)
    .values(
        {name: bindparam(f"new_{name}", type_=dropoffs.c[name].type) for name in ("terms", "code_mac", "signature")}
    )
)

SET_CLOSED = (
    update(dropoffs)
    .where(dropoffs.c.id == _drop_id)
    .values(
        closed=bindparam("now_closed", type_=dropoffs.c.closed.type),
        ended=bindparam("now_ended", type_=dropoffs.c.ended.type),
    )
)

_STATE = select(catalog_state)

_RAISE_VERSION = update(catalog_state).values(version=catalog_state.c.version + ONE)

_SET_STORE_ID = (
    update(catalog_state)
    .where(catalog_state.c.store_id.is_(None))
    .values(store_id=bindparam("new_store_id", type_=catalog_state.c.store_id.type))
)

_NOTE_TIME = update(catalog_state).values(noted_at=bindparam("at", type_=BigInteger))

_at, _found = bindparam("at", type_=BigInteger), bindparam("found", type_=BigInteger)
_NOTE_RUN = (
    update(runs)
    .where(runs.c.task == bindparam("ended", type_=runs.c.task.type))
    .values(ended_at=_at, good_at=case((_found == ZERO, _at), else_=runs.c.good_at), problems=_found)
)

_RUNS = select(runs).where(runs.c.ended_at.is_not(None)).order_by(runs.c.task)


@functools.cache
def list_dropoffs(*, after: bool, limited: bool) -> Statement:
    """Return the statement for a list of drop-offs, oldest first. Values: those of `page_values`."""
    return paged(select(dropoffs), dropoffs.c.created_at, dropoffs.c.id, after=after, limited=limited)


class SqlDropoffs(Recording):
    """Implements `ports.catalog.DropoffRows`."""

    async def add_dropoff(self, dropoff: Dropoff) -> None:
        """Insert a drop-off."""

        def add(transaction: Transaction, note: Note) -> None:
            if transaction.rows(_DROPOFF, drop_id=dropoff.id):
                raise ValueError("a drop-off with this id exists already")
            transaction.run(_RAISE_VERSION)
            transaction.run(_INSERT, **_values(dropoff))
            note(creation_of(dropoff))

        await self._write(add)

    async def dropoff(self, drop_id: str) -> Dropoff | None:
        """Return one drop-off, or None."""
        return await self._engine.read(lambda transaction: _one(transaction, drop_id))

    async def dropoffs(self, *, after: tuple[datetime, str] | None = None, limit: int | None = None) -> list[Dropoff]:
        """Return drop-offs, oldest first."""
        statement, values = list_dropoffs(after=after is not None, limited=limit is not None), page_values(after, limit)
        return [read_dropoff(row) for row in await self._engine.read_many(lambda each: each.rows(statement, **values))]

    async def change_dropoff(self, drop_id: str, change: Change) -> Dropoff | None:
        """Change what a drop-off is. Of `change` the same holds as of an operation of `Engine`."""

        def alter(transaction: Transaction, note: Note) -> Dropoff | None:
            transaction.run(_RAISE_VERSION)  # first, because it locks: all changes of drop-offs take turns
            present = _one(transaction, drop_id)
            if present is None:
                return None
            changed = change(present)
            event = edit_of(present, changed)
            if event is not None:
                values = _values(changed)
                changes = {f"new_{name}": values[name] for name in ("terms", "code_mac", "signature")}
                transaction.run(_CHANGE, drop_id=drop_id, **changes)
                note(event)
            return changed

        return await self._write(alter)

    async def usage(self, drop_id: str) -> Usage:
        """Return what a drop-off's uploads take; an unknown one has none."""
        rows = await self._engine.read(lambda each: each.rows(_DROPOFF, drop_id=drop_id))
        return read_usage(rows[0]) if rows else Usage(0, 0)

    async def set_closed(self, drop_id: str, *, closed: bool, end_open: bool = False) -> bool:
        """Close or reopen; closing again without end_open takes no `ended` back."""

        def close(transaction: Transaction, note: Note) -> bool:
            transaction.run(_RAISE_VERSION)  # first, as above
            present = _one(transaction, drop_id)
            if present is None:
                return False
            ended = closed and (end_open or present.ended)
            transaction.run(SET_CLOSED, drop_id=drop_id, now_closed=int(closed), now_ended=int(ended))
            act = Act.DROP_CLOSE if closed else Act.DROP_REOPEN
            note(Event(act, drop_id, result="now" if closed and end_open else None))
            return True

        return await self._write(close)

    async def version(self) -> int:
        """Return the counter of drop-off changes."""
        found: int = (await self._engine.read(_state))["version"]
        return found


class SqlNotes(Recording):
    """Implements `ports.catalog.StoreNotes`."""

    async def store_id(self) -> str | None:
        """Return the id of the store that this catalog speaks of, or None."""
        found: str | None = (await self._engine.read(_state))["store_id"]
        return found

    async def keep_store_id(self, new: str) -> str:
        """Keep the store's id, if none is kept; return the one that is."""

        def keep(transaction: Transaction) -> str:
            transaction.run(_SET_STORE_ID, new_store_id=new)
            found: str = _state(transaction)["store_id"]
            return found

        return await self._engine.write(keep)

    async def noted_time(self) -> datetime | None:
        """Return when a server last ran, or None."""
        return moment_or_none((await self._engine.read(_state))["noted_at"])

    async def note_time(self, at: datetime) -> None:
        """Note that a server runs now."""
        await self._engine.write(lambda transaction: transaction.run(_NOTE_TIME, at=to_micros(at)))

    async def note_run(self, task: Task, at: datetime, problems: int) -> None:
        """Note that a task ended."""
        values = {"ended": task.value, "at": to_micros(at), "found": problems}
        await self._engine.write(lambda transaction: transaction.run(_NOTE_RUN, **values))

    async def runs(self) -> list[Run]:
        """Return the last end of each task."""
        return [
            Run(Task(row["task"]), from_micros(row["ended_at"]), moment_or_none(row["good_at"]), row["problems"])
            for row in await self._engine.read(lambda transaction: transaction.rows(_RUNS))
        ]


def _state(transaction: Transaction) -> Row:
    return transaction.rows(_STATE)[0]


def _one(transaction: Transaction, drop_id: str) -> Dropoff | None:
    return _read_if_known(transaction.rows(_DROPOFF_OR_NONE, drop_id=drop_id)[0])


def _values(dropoff: Dropoff) -> dict[str, object]:
    """Return the columns of a new drop-off, nothing of it used."""
    return {
        "id": dropoff.id,
        "created_at": to_micros(dropoff.created_at),
        "closed": int(dropoff.closed),
        "ended": int(dropoff.ended),
        "terms": canonical(dropoff.terms.as_json()),
        "code_mac": dropoff.code_mac,
        "signature": dropoff.signature,
        "used_uploads": 0,
        "used_bytes": 0,
        "reserved_bytes": 0,
        "attempts": 0,
    }


@reads
def read_dropoff(row: Row) -> Dropoff:
    """Read a drop-off: the first columns of a row, as the table has them."""
    return _read(tuple(row)[:_FIXED])


def _read_if_known(row: Row) -> Dropoff | None:
    """Read a drop-off, or a row of nothing as None, at the same expense: the clock must not tell what exists."""
    values = tuple(row)
    known = values[0] is not None
    found = read_dropoff(row if known else _NOBODYS)
    return found if known else None


# Every creation reads the same row twice; equal columns are an equal value, which nobody can change.
@functools.lru_cache(maxsize=1024)
def _read(values: tuple[Any, ...]) -> Dropoff:
    drop_id, created_at, closed, ended, terms, code_mac, signature = values
    return Dropoff(
        id=drop_id,
        created_at=from_micros(created_at),
        terms=DropTerms.read(terms),
        code_mac=code_mac,
        signature=signature,
        closed=bool(closed),
        ended=bool(ended),
    )


_NOBODYS: Any = tuple(_values(Dropoff("", from_micros(0), DropTerms(""), bytes(32), bytes(64))).values())
"""The columns of a drop-off that is none."""


def read_usage(row: Row, *, without_bytes: int = 0, without_reserved_bytes: int = 0) -> Usage:
    """Read a drop-off's usage, less what the upload in question takes itself: used, and reserved."""
    return Usage(
        uploads=row["used_uploads"],
        bytes=row["used_bytes"] + row["reserved_bytes"] - without_bytes - without_reserved_bytes,
        attempts=row["attempts"],
    )
