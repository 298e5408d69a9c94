"""The port on any database: says of each operation whether it writes; its neighbours and the engine do the rest."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from dropoff_tus.audit import Event, Note, actor
from dropoff_tus.model import ApiToken, Dropoff, UploadRow, Usage
from dropoff_tus.outbox import Sinks
from dropoff_tus.ports.catalog import Change, Decide
from dropoff_tus.states import UploadState
from storage.catalog import audit, dropoffs, tokens, uploads
from storage.catalog.outbox import SqlOutbox
from storage.catalog.transaction import Transaction
from storage.failpoints import failpoint

T = TypeVar("T")


class Engine(Protocol):
    """Runs operations on one database. Each call is a transaction of its own.

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


class SqlCatalog:
    """Implements `dropoff_tus.ports.catalog.Catalog`.

    `decide` may run in the database's own thread, and more than once: it must neither block nor touch what belongs to
    the event loop, nor keep anything.
    """

    def __init__(self, engine: Engine, sinks: Sinks | None = None) -> None:
        """Take the database, and the receivers of events; `outbox` has the events."""
        self._engine = engine
        self._sinks: Sinks = sinks or {}
        self.outbox = SqlOutbox(engine)

    async def add_dropoff(self, dropoff: Dropoff) -> None:
        """Insert a drop-off."""
        await self._write(lambda transaction, note: dropoffs.add(transaction, dropoff, note))

    async def dropoff(self, drop_id: str) -> Dropoff | None:
        """Return one drop-off, or None."""
        return await self._engine.read(lambda transaction: dropoffs.one(transaction, drop_id))

    async def dropoffs(self, *, after: tuple[datetime, str] | None = None, limit: int | None = None) -> list[Dropoff]:
        """Return drop-offs, oldest first."""
        return await self._engine.read_many(lambda transaction: dropoffs.page(transaction, after=after, limit=limit))

    async def change_dropoff(self, drop_id: str, change: Change) -> Dropoff | None:
        """Change what a drop-off is. Of `change` the same holds as of `decide`."""
        return await self._write(lambda transaction, note: dropoffs.change(transaction, drop_id, change, note))

    async def usage(self, drop_id: str) -> Usage:
        """Return what a drop-off's uploads take."""
        return await self._engine.read(lambda transaction: dropoffs.usage(transaction, drop_id))

    async def set_closed(self, drop_id: str, *, closed: bool, end_open: bool = False) -> bool:
        """Close or reopen a drop-off."""
        return await self._write(
            lambda transaction, note: dropoffs.set_closed(transaction, drop_id, note, closed=closed, end_open=end_open)
        )

    async def version(self) -> int:
        """Return the counter of drop-off changes."""
        return await self._engine.read(dropoffs.version)

    async def store_id(self) -> str | None:
        """Return the id of the store that this catalog speaks of, or None."""
        return await self._engine.read(dropoffs.store_id)

    async def keep_store_id(self, new: str) -> str:
        """Keep the store's id, if none is kept; return the one that is."""
        return await self._engine.write(lambda transaction: dropoffs.keep_store_id(transaction, new))

    async def noted_time(self) -> datetime | None:
        """Return when a server last ran, or None."""
        return await self._engine.read(dropoffs.noted_time)

    async def note_time(self, at: datetime) -> None:
        """Note that a server runs now."""
        await self._engine.write(lambda transaction: dropoffs.note_time(transaction, at))

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
            lambda transaction, note: uploads.add(transaction, row, decide, tuple(parts), self._sinks, note)
        )

    async def reserve(self, upload_id: str, reserved_bytes: int, decide: Decide, *, length: int | None = None) -> None:
        """Raise or settle a reservation.

        Raises:
            UploadNotFoundError: There is no such upload.
            UploadGoneError: It has ended.
            QuotaError: Beyond what can be counted.
        """
        await self._engine.write(
            lambda transaction: uploads.reserve(transaction, upload_id, reserved_bytes, decide, length)
        )

    async def drop_upload(self, upload_id: str) -> None:
        """Forget an upload whose creation in the store failed."""
        await self._write(lambda transaction, note: uploads.forget(transaction, upload_id, note))

    async def complete_upload(
        self, upload_id: str, size_bytes: int, at: datetime, *, final: str | None = None, drop_id: str | None = None
    ) -> bool:
        """Mark COMPLETE; also False for an upload that ended or is unknown."""
        done = await self._write(
            lambda transaction, note: uploads.complete(
                transaction, upload_id, size_bytes, at, final, drop_id, self._sinks, note
            )
        )
        failpoint("after-catalog-complete")
        return done

    async def set_state(self, upload_id: str, state: UploadState, at: datetime) -> bool:
        """Move to CHECKING, WITHDRAWN or an end."""
        done = await self._write(
            lambda transaction, note: uploads.set_state(transaction, upload_id, state, at, self._sinks, note)
        )
        failpoint("after-catalog-state")
        return done

    async def upload(self, upload_id: str) -> UploadRow | None:
        """Return one upload, or None."""
        return await self._engine.read(lambda transaction: uploads.one(transaction, upload_id))

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
        return await self._engine.read_many(
            lambda transaction: uploads.page(
                transaction,
                drop_id=drop_id,
                states=states,
                partials=partials,
                created_before=created_before,
                unclaimed=unclaimed,
                after=after,
                limit=limit,
            )
        )

    async def parts(self, final_id: str) -> list[UploadRow]:
        """Return the partials that a final has claimed."""
        return await self._engine.read_many(lambda transaction: uploads.parts(transaction, final_id))

    async def add_token(self, token: ApiToken) -> None:
        """Insert an API token."""
        await self._write(lambda transaction, note: tokens.add(transaction, token, note))

    async def token(self, token_id: str) -> ApiToken | None:
        """Return one API token, or None."""
        return await self._engine.read(lambda transaction: tokens.one(transaction, token_id))

    async def tokens(self) -> list[ApiToken]:
        """Return all API tokens, oldest first."""
        return await self._engine.read_many(tokens.every)

    async def revoke_token(self, token_id: str, at: datetime) -> bool:
        """Revoke an API token."""
        return await self._write(lambda transaction, note: tokens.revoke(transaction, token_id, at, note))

    # ---- the audit ----------------------------------------------------------------------------------------------

    async def _write(self, work: Callable[[Transaction, Note], T]) -> T:
        """Run an operation, and record what it notes in the same transaction."""
        by = actor()

        def run(transaction: Transaction) -> T:
            events: list[Event] = []
            result = work(transaction, events.append)
            audit.append(transaction, events, by)
            return result

        return await self._engine.write(run)

    async def record(self, *events: Event) -> None:
        """Record what changes nothing here."""
        by = actor()
        await self._engine.write(lambda transaction: audit.append(transaction, events, by))

    async def audit_rows(self, after: int, to: int, most: int) -> list[tuple[int, str]]:
        """Return some rows of the audit after a number and up to another: each one's number and text."""
        return await self._engine.read_many(lambda transaction: audit.rows_between(transaction, after, to, most))

    async def audit_end(self) -> int:
        """Return the greatest number of a row, 0 if there is none; up to it no row comes any more."""
        return await self._engine.settled(audit.end)

    async def checkpoints(self, after: int, most: int) -> list[tuple[int, str]]:
        """Return some checkpoints after a number: each one's number and signed line."""
        return await self._engine.read_many(lambda transaction: audit.checkpoints(transaction, after, most))

    async def last_checkpoint(self) -> tuple[int, str] | None:
        """Return the checkpoint with the greatest number, or None."""
        return await self._engine.read(audit.last_checkpoint)

    async def add_checkpoint(self, number: int, line: str) -> None:
        """Add a checkpoint; its number must be free."""
        await self._engine.write(lambda transaction: audit.add_checkpoint(transaction, number, line))
