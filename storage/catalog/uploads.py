"""The uploads' rows: the port, and lists of them. `accounting` creates and changes them."""

import functools
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import BigInteger, ColumnElement, bindparam, func, literal_column, select

from dropoff_tus.model import Role, Tally, UploadRow
from dropoff_tus.outbox import Sinks
from dropoff_tus.ports.catalog import Decide
from dropoff_tus.states import UploadState
from storage.catalog import accounting
from storage.catalog.audit import Recording
from storage.catalog.rows import moment_or_none, to_micros
from storage.catalog.schema import uploads
from storage.catalog.transaction import Engine, Statement, Transaction, page_values, paged
from storage.catalog.upload_rows import one_upload, parts_of, read_upload
from storage.failpoints import failpoint

_PARTIAL: ColumnElement[str] = literal_column(f"'{Role.PARTIAL.value}'")

_PASSED: tuple[ColumnElement[str], ...] = tuple(
    literal_column(f"'{state.value}'") for state in (UploadState.WITHDRAWN, UploadState.CHECKING)
)
_TALLY = select(uploads.c.state, func.count().label("count")).group_by(uploads.c.state).order_by(uploads.c.state)
"""The index of states has all of it."""
_OLDEST = (
    select(uploads.c.state, func.min(uploads.c.state_at).label("oldest_at"))
    .where(uploads.c.state.in_(_PASSED))
    .group_by(uploads.c.state)
)


@functools.cache
def list_uploads(
    *,
    of_dropoff: bool,
    states: frozenset[UploadState],
    partials: bool,
    created_before: bool,
    unclaimed: bool,
    after: bool = False,
    limited: bool = False,
) -> Statement:
    """Return the statement for one kind of list, oldest first.

    Values: drop_id if of_dropoff, before if created_before, and those of `page_values`. The states
    stand in the text, since there are few kinds of lists, and a list of bound values would be compiled each time.
    """
    conditions: list[ColumnElement[bool]] = []
    if of_dropoff:
        conditions.append(uploads.c.drop_id == bindparam("drop_id", type_=uploads.c.drop_id.type))
    if states:
        conditions.append(uploads.c.state.in_([literal_column(f"'{state.value}'") for state in sorted(states)]))
    if not partials:
        conditions.append(uploads.c.role != _PARTIAL)
    if created_before:
        conditions.append(uploads.c.created_at < bindparam("before", type_=BigInteger))
    if unclaimed:
        # As the partial index says it, or SQLite does not see that it may use it.
        conditions += [uploads.c.role == _PARTIAL, uploads.c.final_id.is_(None)]
    found = select(uploads).where(*conditions)
    return paged(found, uploads.c.created_at, uploads.c.id, after=after, limited=limited)


class SqlUploads(Recording):
    """Implements `ports.catalog.UploadRows`. Of `decide` the same holds as of an operation of `Engine`."""

    def __init__(self, engine: Engine, sinks: Sinks | None = None) -> None:
        """Take the database, and the receivers of events."""
        super().__init__(engine)
        self._sinks: Sinks = sinks or {}

    async def add_upload(self, row: UploadRow, decide: Decide, *, parts: Sequence[str] = ()) -> UploadRow:
        """Create an upload.

        A FINAL gets its length and bytes from its parts, whatever `row` says; the usage given to `decide` is without
        those bytes, and they are never reserved. Any row whose id is there already, with the same drop-off and role,
        is returned unchanged.

        Raises:
            ValueError: The id is taken by another upload.
            QuotaError: Beyond what can be counted.
        """
        return await self._write(
            lambda transaction, note: accounting.add(transaction, row, decide, tuple(parts), self._sinks, note)
        )

    async def reserve(self, upload_id: str, reserved_bytes: int, decide: Decide, *, length: int | None = None) -> None:
        """Raise or settle a reservation.

        Raises:
            UploadNotFoundError: There is no such upload.
            UploadGoneError: It has ended.
            QuotaError: Beyond what can be counted.
        """
        await self._engine.write(
            lambda transaction: accounting.reserve(transaction, upload_id, reserved_bytes, decide, length)
        )

    async def drop_upload(self, upload_id: str) -> None:
        """Forget an upload whose creation in the store failed."""
        await self._write(lambda transaction, note: accounting.forget(transaction, upload_id, note))

    async def complete_upload(
        self, upload_id: str, size_bytes: int, at: datetime, *, final: str | None = None, drop_id: str | None = None
    ) -> bool:
        """Mark COMPLETE; also False for an upload that ended or is unknown."""
        done = await self._write(
            lambda transaction, note: accounting.complete(
                transaction, upload_id, size_bytes, at, final, drop_id, self._sinks, note
            )
        )
        failpoint("after-catalog-complete")
        return done

    async def set_state(self, upload_id: str, state: UploadState, at: datetime) -> bool:
        """Move to CHECKING, WITHDRAWN or an end."""
        done = await self._write(
            lambda transaction, note: accounting.set_state(transaction, upload_id, state, at, self._sinks, note)
        )
        failpoint("after-catalog-state")
        return done

    async def upload(self, upload_id: str) -> UploadRow | None:
        """Return one upload, or None."""
        return await self._engine.read(lambda transaction: one_upload(transaction, upload_id))

    async def uploads(
        self,
        *,
        drop_id: str | None = None,
        states: Sequence[UploadState] = (),
        partials: bool = True,
        created_before: datetime | None = None,
        unclaimed: bool = False,
        after: tuple[datetime, str] | None = None,
        limit: int | None = None,
    ) -> list[UploadRow]:
        """Return uploads, oldest first, filtered."""
        statement = list_uploads(
            of_dropoff=drop_id is not None,
            states=frozenset(states),
            partials=partials,
            created_before=created_before is not None,
            unclaimed=unclaimed,
            after=after is not None,
            limited=limit is not None,
        )
        values = page_values(after, limit)
        if drop_id is not None:
            values["drop_id"] = drop_id
        if created_before is not None:
            values["before"] = to_micros(created_before)
        rows = await self._engine.read_many(lambda each: each.rows(statement, **values))
        return [read_upload(row) for row in rows]

    async def parts(self, final_id: str) -> list[UploadRow]:
        """Return the partials that a final has claimed."""
        return await self._engine.read_many(lambda transaction: parts_of(transaction, final_id))

    async def tally(self) -> list[Tally]:
        """Return how many uploads are in each state."""

        def count(transaction: Transaction) -> list[Tally]:
            oldest = {row["state"]: row["oldest_at"] for row in transaction.rows(_OLDEST)}
            return [
                Tally(UploadState(row["state"]), row["count"], moment_or_none(oldest.get(row["state"])))
                for row in transaction.rows(_TALLY)
            ]

        return await self._engine.read_many(count)
