"""Rows of uploads made from the store itself, where there is no catalog: a copy of it on another machine."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from dropoff_tus.audit import Event
from dropoff_tus.errors import DropoffError, UploadNotFoundError
from dropoff_tus.model import Role, StoredUpload, UploadRow
from dropoff_tus.ports.store import StoredUploads
from dropoff_tus.states import UploadState

_AT_ONCE = 64


class StoredRows:
    """Stands for the catalog where commands only read. A copy does not change, so it is looked through once."""

    def __init__(self, store: StoredUploads, upload_ids: Sequence[str]) -> None:
        """Take the store, and the uploads in it."""
        self._store, self._ids = store, upload_ids
        self._rows: dict[str, UploadRow] | None = None
        self.unread: list[str] = []
        """The uploads of which nobody can say whose they are."""

    async def upload(self, upload_id: str) -> UploadRow | None:
        """Return one upload, or None."""
        try:
            return _row(await self._store.stat(upload_id))
        except DropoffError:
            return None

    async def uploads(
        self,
        *,
        drop_id: str | None = None,
        states: Sequence[UploadState] = (),
        partials: bool = True,
        after: tuple[datetime, str] | None = None,
        limit: int | None = None,
    ) -> list[UploadRow]:
        """Return uploads, oldest first, filtered as the catalog's."""
        if self._rows is None:
            self._rows = await self._look()
        rows = sorted(self._rows.values(), key=lambda row: (row.created_at, row.id))
        return [
            row
            for row in rows
            if (drop_id is None or row.drop_id == drop_id)
            and (not states or row.state in states)
            and (partials or row.role is not Role.PARTIAL)
            and (after is None or (row.created_at, row.id) > after)
        ][:limit]

    async def record(self, *events: Event) -> None:
        """Record nothing: the audit is the server's."""

    async def _look(self) -> dict[str, UploadRow]:
        found: dict[str, UploadRow] = {}
        for start in range(0, len(self._ids), _AT_ONCE):
            some = self._ids[start : start + _AT_ONCE]
            for upload_id, stored in zip(
                some, await asyncio.gather(*map(self._store.stat, some), return_exceptions=True), strict=True
            ):
                if isinstance(stored, StoredUpload):
                    found[upload_id] = _row(stored)
                elif not isinstance(stored, DropoffError):
                    raise stored
                elif not isinstance(stored, UploadNotFoundError):
                    self.unread.append(upload_id)
        return found


def _row(stored: StoredUpload) -> UploadRow:
    whole = stored.final and stored.ended is None
    return UploadRow(
        stored.id,
        stored.drop_id,
        stored.role,
        stored.mode,
        stored.ended or (UploadState.COMPLETE if stored.final else UploadState.OPEN),
        stored.created_at,
        length=stored.length,
        size_bytes=stored.offset if whole else None,
        completed_at=stored.last_commit_at if whole else None,
    )
