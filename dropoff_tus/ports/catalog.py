"""The ports of the catalog, which is the truth about drop-offs: a use case names those that it needs.

Every method is one short transaction. Any of them raises CatalogUnavailableError when the database does not answer;
nothing was changed then, as far as the caller may rely on it, and every method is safe to repeat. A change is recorded
in the audit in its own transaction, with who acts (`dropoff_tus.audit`).
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from dropoff_tus.audit import Event
from dropoff_tus.model import ApiToken, Dropoff, Run, Tally, Task, UploadRow, Usage
from dropoff_tus.outbox import Backlog, OutboxRow, SinkName
from dropoff_tus.states import UploadState

Decide = Callable[[Dropoff, Usage], None]
"""Policy on a drop-off and its usage, called inside the transaction; raises to refuse."""


Change = Callable[[Dropoff], Dropoff]
"""A drop-off as it is to be, made from what it is, called inside the transaction; raises to refuse."""


class DropoffRows(Protocol):
    """The drop-offs, and what their uploads take together."""

    async def add_dropoff(self, dropoff: Dropoff) -> None:
        """Insert a drop-off.

        Raises:
            ValueError: The id is taken.
        """
        ...

    async def dropoff(self, drop_id: str) -> Dropoff | None:
        """Return one drop-off, or None."""
        ...

    async def dropoffs(self, *, after: tuple[datetime, str] | None = None, limit: int | None = None) -> list[Dropoff]:
        """Return drop-offs, oldest first: all, or those that follow a creation time and id, at most `limit`."""
        ...

    async def change_dropoff(self, drop_id: str, change: Change) -> Dropoff | None:
        """Put another value in a drop-off's place; its id and its uploads stay. None if there is none.

        Raises: The exceptions of `change`; nothing was changed then.
        """
        ...

    async def usage(self, drop_id: str) -> Usage:
        """Return what a drop-off's uploads take."""
        ...

    async def set_closed(self, drop_id: str, *, closed: bool, end_open: bool = False) -> bool:
        """Close or reopen; with end_open also mark what is open to be ended. False if there is no such drop-off."""
        ...

    async def version(self) -> int:
        """Return a counter that every change of any drop-off raises; cheap to poll."""
        ...


class UploadRows(Protocol):
    """The uploads' rows. The bytes of each count against its drop-off in the same transaction."""

    async def add_upload(self, row: UploadRow, decide: Decide, *, parts: Sequence[str] = ()) -> UploadRow:
        """Create an upload: lock the drop-off, let `decide` refuse, reserve row.reserved_bytes, insert.

        For a FINAL row `parts` (upload ids) are claimed in the same transaction: each must be a COMPLETE PARTIAL of
        this drop-off with no other final; their sizes move from the parts to the final. If the final's id exists
        already with the same parts, its row is returned unchanged and nothing is decided again.

        Returns:
            The row as stored.

        Raises:
            AccessDeniedError: The drop-off does not exist.
            PartNotFoundError, UploadGoneError, InvalidConcatError, PartInUseError: See `parts`.
            Whatever `decide` raises.
        """
        ...

    async def reserve(self, upload_id: str, reserved_bytes: int, decide: Decide, *, length: int | None = None) -> None:
        """Raise (or settle, when length is given) an OPEN upload's reservation to a new total, if `decide` lets it.

        Usage given to `decide` excludes this upload's present reservation.
        """
        ...

    async def drop_upload(self, upload_id: str) -> None:
        """Forget an upload whose creation in the store failed; gives its reservation back. Unknown is fine."""
        ...

    async def complete_upload(
        self, upload_id: str, size_bytes: int, at: datetime, *, final: str | None = None, drop_id: str | None = None
    ) -> bool:
        """Mark COMPLETE, with its size in place of its reservation. False if it was complete already.

        `final` is the hash of its final record, for the audit, and `drop_id` the drop-off that its signed log names.

        Raises:
            UploadDamagedError: The row names another drop-off; nothing was changed.
        """
        ...

    async def set_state(self, upload_id: str, state: UploadState, at: datetime) -> bool:
        """Move to CHECKING, WITHDRAWN or an end, which gives back all it took; the parts of a FINAL end with it.

        False if it is unknown or in that state already, or `states` knows no way from where it is.

        Raises:
            PartInUseError: It is a part that a final has claimed, which ends only with that final.
        """
        ...

    async def upload(self, upload_id: str) -> UploadRow | None:
        """Return one upload, or None."""
        ...

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
        """Return uploads, oldest first, filtered; `unclaimed`: only partials that no final has.

        `after` is the creation and the id of an upload: the rows that follow it are returned, at most `limit`.
        """
        ...

    async def parts(self, final_id: str) -> list[UploadRow]:
        """Return the partials a final has claimed (in no particular order)."""
        ...

    async def tally(self) -> list[Tally]:
        """Return for each state that an upload has how many there are; parts count as well."""
        ...


class ApiTokenRows(Protocol):
    """The API's tokens."""

    async def add_token(self, token: ApiToken) -> None:
        """Insert an API token."""
        ...

    async def token(self, token_id: str) -> ApiToken | None:
        """Return one API token, also one that is over, or None."""
        ...

    async def tokens(self) -> list[ApiToken]:
        """Return all API tokens, oldest first."""
        ...

    async def revoke_token(self, token_id: str, at: datetime) -> bool:
        """Revoke an API token, once and for all. False if there is none of this id."""
        ...


class AuditRows(Protocol):
    """The audit, as use cases see it."""

    async def record(self, *events: Event) -> None:
        """Add events to the audit; changes of the catalog bring their own with them."""
        ...


class StoreNotes(Protocol):
    """The little that the catalog keeps of its store and of the servers that run on it."""

    async def store_id(self) -> str | None:
        """Return the id of the store that this catalog speaks of, or None before its first start."""
        ...

    async def keep_store_id(self, new: str) -> str:
        """Keep the store's id if there is none yet, and return the one that is kept: it never changes."""
        ...

    async def noted_time(self) -> datetime | None:
        """Return when a server last ran, by a clock that was believed, or None before the first one."""
        ...

    async def note_time(self, at: datetime) -> None:
        """Note that a server runs now."""
        ...

    async def note_run(self, task: Task, at: datetime, problems: int) -> None:
        """Note that a task ended, and what it found: 0 if all was well."""
        ...

    async def runs(self) -> list[Run]:
        """Return the tasks that ever ended, each with its last end."""
        ...


class Outbox(Protocol):
    """Events that wait for delivery. Delivery is at least once (`dropoff_tus.outbox`)."""

    async def is_due(self, sink: SinkName, now: datetime) -> bool:
        """Tell whether anything is to be delivered; cheap to poll."""
        ...

    async def claim(self, sink: SinkName, now: datetime, until: datetime, limit: int) -> list[OutboxRow]:
        """Take rows that are due, oldest first, and count an attempt of each.

        Until the given time no other process gets them. If the server dies, they wait for the end of the claim.
        """
        ...

    async def delivered(self, rows: Sequence[OutboxRow]) -> None:
        """Forget claimed rows. One that another process has claimed since is left to it."""
        ...

    async def failed(self, rows: Sequence[OutboxRow], problem: str, next_at: datetime, *, max_attempts: int) -> None:
        """Keep claimed rows for another attempt, or as dead if they had their number. As `delivered` otherwise."""
        ...

    async def release(self, rows: Sequence[OutboxRow], now: datetime) -> None:
        """Give claimed rows back, due now, as if they had not been claimed. As `delivered` otherwise."""
        ...

    async def backlog(self) -> list[Backlog]:
        """Return what waits at each sink; none where nothing does."""
        ...

    async def rows(self, *, dead_only: bool = False) -> list[OutboxRow]:
        """Return what waits, oldest first."""
        ...

    async def hold(self, problem: str) -> int:
        """Keep back all that waits, as if it were dead, until an operator resends it; return how many."""
        ...

    async def resend(self, event_ids: Sequence[str] | None, now: datetime) -> int:
        """Make rows of these events, or (None) all dead ones, due now, with attempts from zero; return how many."""
        ...


class Catalog(DropoffRows, UploadRows, ApiTokenRows, AuditRows, StoreNotes, Protocol):
    """All of it but the outbox, for whoever opens it or needs most of it."""
