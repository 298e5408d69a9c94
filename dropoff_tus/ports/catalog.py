"""The port of the catalog: drop-offs, the rows of their uploads, API tokens, the audit."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from dropoff_tus.audit import Event
from dropoff_tus.model import ApiToken, Dropoff, UploadRow, UploadState, Usage

Decide = Callable[[Dropoff, Usage], None]
"""Policy on a drop-off and its usage, called inside the transaction; raises to refuse."""


Change = Callable[[Dropoff], Dropoff]
"""A drop-off as it is to be, made from what it is, called inside the transaction; raises to refuse."""


class Catalog(Protocol):
    """The catalog: the truth about drop-offs. Every method is one short transaction.

    Any of them raises CatalogUnavailableError when the database does not answer; nothing was changed then, as far
    as the caller may rely on it, and every method is safe to repeat. A change is recorded in the audit in
    its own transaction, with who acts (`dropoff_tus.audit`).
    """

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

        Raises:
            Whatever `change` raises; nothing was changed then.
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
        """Move to CHECKING, REJECTED, TERMINATED, EXPIRED or DELETED; the last four give back all it took.

        For a FINAL its parts follow. False if it was in that state already or is unknown.

        FINISHING takes a COMPLETE upload back, before it is ended: it keeps what it took, no final can claim it any
        more, and a start looks at it again. False for any other.

        Raises:
            PartInUseError: It is a part that a final has claimed, which ends with that final alone.
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

        `after` is the creation and the id of an upload: what follows it in the order is returned, at most `limit`.
        """
        ...

    async def parts(self, final_id: str) -> list[UploadRow]:
        """Return the partials a final has claimed (in no particular order)."""
        ...

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

    async def record(self, *events: Event) -> None:
        """Add events to the audit; changes of the catalog bring their own with them."""
        ...
