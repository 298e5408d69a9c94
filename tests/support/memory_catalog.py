"""A catalog in memory, honest to the contract of `dropoff_tus.ports.catalog`. Usage is counted each time."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from dropoff_tus.audit import ENDS, Act, Event, creation_of, edit_of, end_of
from dropoff_tus.errors import (
    AccessDeniedError,
    CatalogUnavailableError,
    InvalidConcatError,
    PartInUseError,
    PartNotFoundError,
    UploadDamagedError,
    UploadExistsError,
    UploadGoneError,
    UploadNotFoundError,
)
from dropoff_tus.model import ApiToken, Dropoff, Role, Run, Tally, Task, UploadRow, Usage
from dropoff_tus.outbox import EventKind, Sinks, kind_of
from dropoff_tus.ports.catalog import Change, Decide
from dropoff_tus.states import UploadState
from tests.support.memory_outbox import MemoryOutbox

_TAKING = {UploadState.OPEN, UploadState.WITHDRAWN, UploadState.CHECKING}
_FROM = {UploadState.CHECKING: _TAKING, UploadState.WITHDRAWN: {UploadState.COMPLETE}}
_BACK = {UploadState.REJECTED, UploadState.TERMINATED, UploadState.EXPIRED, UploadState.DELETED}


def _used_bytes(row: UploadRow) -> int:
    """Return what an upload that has not ended takes besides its reservation."""
    if row.final_id is not None:
        return 0  # its final has it
    if row.size_bytes is not None:
        return row.size_bytes  # it was complete, even if it is about to be ended
    return (row.length or 0) if row.role is Role.FINAL else 0


class MemoryCatalog:
    """Implements `dropoff_tus.ports.catalog.Catalog`. `asked` counts transactions; `down` makes all of them fail."""

    def __init__(self, sinks: Sinks | None = None) -> None:
        """Start empty."""
        self.outbox = MemoryOutbox(sinks or {})
        self.drops: dict[str, Dropoff] = {}
        self.rows: dict[str, UploadRow] = {}
        self.api_tokens: dict[str, ApiToken] = {}
        self.asked = 0
        self.down = False
        self._version = 0
        self._store_id: str | None = None
        self._noted: datetime | None = None
        self._runs: dict[Task, Run] = {}
        self.events: list[Event] = []

    async def _begin(self) -> None:
        # Others run meanwhile, as with a real database; the rest of each method is one transaction.
        await asyncio.sleep(0)
        self.asked += 1
        if self.down:
            raise CatalogUnavailableError("the catalog does not answer")

    async def add_dropoff(self, dropoff: Dropoff) -> None:
        """Insert a drop-off."""
        await self._begin()
        if dropoff.id in self.drops:
            raise ValueError(dropoff.id)
        self.drops[dropoff.id] = dropoff
        self._version += 1
        self.events.append(creation_of(dropoff))

    async def dropoff(self, drop_id: str) -> Dropoff | None:
        """Return one drop-off."""
        await self._begin()
        return self.drops.get(drop_id)

    async def dropoffs(self, *, after: tuple[datetime, str] | None = None, limit: int | None = None) -> list[Dropoff]:
        """Return drop-offs."""
        await self._begin()
        drops = sorted(self.drops.values(), key=lambda drop: (drop.created_at, drop.id))
        return [drop for drop in drops if after is None or (drop.created_at, drop.id) > after][:limit]

    async def change_dropoff(self, drop_id: str, change: Change) -> Dropoff | None:
        """Change what a drop-off is."""
        await self._begin()
        drop = self.drops.get(drop_id)
        if drop is None:
            return None
        self.drops[drop_id] = changed = change(drop)
        self._version += 1
        event = edit_of(drop, changed)
        if event is not None:
            self.events.append(event)
        return changed

    async def usage(self, drop_id: str) -> Usage:
        """Return what a drop-off's uploads take."""
        await self._begin()
        return self._usage(drop_id)

    def _usage(self, drop_id: str, *, without: str = "") -> Usage:
        rows = [row for row in self.rows.values() if row.state not in _BACK]
        mine = [row for row in rows if row.drop_id == drop_id]
        reserved = {row.id: row.reserved_bytes for row in mine if row.state in _TAKING and row.id != without}
        given_up = {UploadState.TERMINATED, UploadState.REJECTED}
        ended = sum(row.drop_id == drop_id and row.state in given_up for row in self.rows.values())
        return Usage(
            uploads=sum(row.role is not Role.PARTIAL for row in mine),
            bytes=sum(_used_bytes(row) + reserved.get(row.id, 0) for row in mine),
            attempts=ended + sum(row.role is Role.PARTIAL for row in mine),
        )

    async def set_closed(self, drop_id: str, *, closed: bool, end_open: bool = False) -> bool:
        """Close or reopen."""
        await self._begin()
        drop = self.drops.get(drop_id)
        if drop is None:
            return False
        self.drops[drop_id] = replace(drop, closed=closed, ended=closed and end_open)
        self._version += 1
        act = Act.DROP_CLOSE if closed else Act.DROP_REOPEN
        self.events.append(Event(act, drop_id, result="now" if closed and end_open else None))
        return True

    async def version(self) -> int:
        """Return the change counter."""
        await self._begin()
        return self._version

    async def noted_time(self) -> datetime | None:
        """Return when a server last ran."""
        await self._begin()
        return self._noted

    async def note_time(self, at: datetime) -> None:
        """Note that one runs now."""
        await self._begin()
        self._noted = at

    async def note_run(self, task: Task, at: datetime, problems: int) -> None:
        """Note the end of a task."""
        await self._begin()
        before = self._runs.get(task)
        good_at = at if not problems else (before.good_at if before else None)
        self._runs[task] = Run(task, at, good_at, problems)

    async def runs(self) -> list[Run]:
        """Return the last ends."""
        await self._begin()
        return [self._runs[task] for task in sorted(self._runs)]

    async def tally(self) -> list[Tally]:
        """Count; when a row came into its state is not kept here."""
        await self._begin()
        states = [row.state for row in self.rows.values()]
        return [Tally(state, states.count(state)) for state in sorted(set(states))]

    async def store_id(self) -> str | None:
        """Return the store's id."""
        await self._begin()
        return self._store_id

    async def keep_store_id(self, new: str) -> str:
        """Keep the store's id, once."""
        await self._begin()
        self._store_id = self._store_id or new
        return self._store_id

    async def add_upload(self, row: UploadRow, decide: Decide, *, parts: Sequence[str] = ()) -> UploadRow:
        """Create an upload, or claim the parts of a concatenation."""
        await self._begin()
        if row.role is Role.FINAL and row.id in self.rows:
            return self.rows[row.id]
        drop = self.drops.get(row.drop_id)
        if drop is None:
            raise AccessDeniedError("there is no such drop-off, or the code is wrong")
        if row.role is Role.FINAL:
            claimed = self._claimable(row, parts)
            total = sum(part.size_bytes or 0 for part in claimed)
            usage = self._usage(row.drop_id)
            decide(drop, replace(usage, bytes=usage.bytes - total))
            row = replace(row, length=total, reserved_bytes=0)
            for part in claimed:
                self.rows[part.id] = replace(part, final_id=row.id)
        else:
            if row.id in self.rows:
                raise UploadExistsError("it exists")
            decide(drop, self._usage(row.drop_id))
        self.rows[row.id] = row
        self.events.append(Event(Act.UPLOAD_CREATE, row.drop_id, row.id, row.role.value, row.length))
        self.outbox.note(EventKind.CREATED, row, drop, row.created_at)
        return row

    def _claimable(self, row: UploadRow, parts: Sequence[str]) -> list[UploadRow]:
        if not parts or len(set(parts)) != len(parts):
            raise InvalidConcatError("each part once, and at least one")
        found = [part for part_id in parts if (part := self.rows.get(part_id)) is not None]
        if len(found) != len(parts) or any(part.drop_id != row.drop_id for part in found):
            raise PartNotFoundError("no upload of this drop-off")
        if any(part.state in ENDS for part in found):
            raise UploadGoneError("it has ended")
        if any(part.role is not Role.PARTIAL or part.state is not UploadState.COMPLETE for part in found):
            raise InvalidConcatError("no finished partial upload")
        if any(part.final_id is not None for part in found):
            raise PartInUseError("belongs to another upload already")
        return found

    async def reserve(self, upload_id: str, reserved_bytes: int, decide: Decide, *, length: int | None = None) -> None:
        """Change an open upload's reservation."""
        await self._begin()
        row = self.rows.get(upload_id)
        if row is None:
            raise UploadNotFoundError("there is no such upload")
        if row.state in _BACK:
            raise UploadGoneError("this upload has ended")
        lower = length is None and reserved_bytes <= row.reserved_bytes
        if row.state is not UploadState.OPEN or row.role is Role.FINAL or lower:
            return
        decide(self.drops[row.drop_id], self._usage(row.drop_id, without=upload_id))
        known = row.length if length is None else length
        self.rows[upload_id] = replace(row, reserved_bytes=reserved_bytes, length=known)

    async def drop_upload(self, upload_id: str) -> None:
        """Forget an upload and free the parts it claimed."""
        await self._begin()
        gone = self.rows.pop(upload_id, None)
        if gone is not None:
            self.events.append(Event(Act.UPLOAD_FORGET, gone.drop_id, upload_id))
        self.outbox.forget(upload_id)
        for row in list(self.rows.values()):
            if row.final_id == upload_id:
                self.rows[row.id] = replace(row, final_id=None)

    async def complete_upload(
        self, upload_id: str, size_bytes: int, at: datetime, *, final: str | None = None, drop_id: str | None = None
    ) -> bool:
        """Mark an upload complete."""
        await self._begin()
        row = self.rows.get(upload_id)
        if row is None or row.state not in _TAKING:
            return False
        if drop_id not in {None, row.drop_id}:
            raise UploadDamagedError("the row names another drop-off than the log")
        self.rows[upload_id] = replace(
            row,
            state=UploadState.COMPLETE,
            size_bytes=size_bytes,
            length=size_bytes,
            reserved_bytes=0,
            completed_at=at,
        )
        if row.completed_at is None:
            self.events.append(Event(Act.UPLOAD_COMPLETE, row.drop_id, upload_id, row.role.value, size_bytes, final))
        self.outbox.note(EventKind.COMPLETE, row, self.drops[row.drop_id], at)
        return True

    async def set_state(self, upload_id: str, state: UploadState, at: datetime) -> bool:
        """Move an upload, and the parts of a final, to a state."""
        await self._begin()
        row = self.rows.get(upload_id)
        if row is None or row.state is state or row.state not in _FROM.get(state, {row.state}):
            return False
        if row.final_id is not None and row.state not in _BACK:
            raise PartInUseError("belongs to another upload")
        followers = [part for part in self.rows.values() if state in _BACK and part.final_id == upload_id]
        for one in (row, *followers):
            reserved = 0 if state in _BACK else one.reserved_bytes
            self.rows[one.id] = replace(one, state=state, reserved_bytes=reserved)
        if state in ENDS:
            was = row.state if row.completed_at is None else UploadState.COMPLETE
            self.events.append(Event(end_of(row, state), row.drop_id, upload_id, f"was {was.value}", row.size_bytes))
        kind = kind_of(state)
        if kind is not None:
            self.outbox.note(kind, row, self.drops[row.drop_id], at)
        return True

    async def upload(self, upload_id: str) -> UploadRow | None:
        """Return one upload."""
        await self._begin()
        return self.rows.get(upload_id)

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
        """Return uploads, filtered."""
        await self._begin()
        found = [
            row
            for row in sorted(self.rows.values(), key=lambda row: (row.created_at, row.id))
            if (drop_id is None or row.drop_id == drop_id)
            and (not states or row.state in states)
            and (partials or row.role is not Role.PARTIAL)
            and (created_before is None or row.created_at < created_before)
            and (not unclaimed or (row.role is Role.PARTIAL and row.final_id is None))
            and (after is None or (row.created_at, row.id) > after)
        ]
        return found[:limit]

    async def parts(self, final_id: str) -> list[UploadRow]:
        """Return a final's partials."""
        await self._begin()
        return [row for row in self.rows.values() if row.final_id == final_id]

    async def add_token(self, token: ApiToken) -> None:
        """Insert an API token."""
        await self._begin()
        self.api_tokens[token.id] = token
        self.events.append(Event(Act.TOKEN_CREATE, token.drop_id, result=" ".join(token.scopes), token_id=token.id))

    async def token(self, token_id: str) -> ApiToken | None:
        """Return one API token."""
        await self._begin()
        return self.api_tokens.get(token_id)

    async def tokens(self) -> list[ApiToken]:
        """Return all API tokens."""
        await self._begin()
        return sorted(self.api_tokens.values(), key=lambda token: (token.created_at, token.id))

    async def revoke_token(self, token_id: str, at: datetime) -> bool:
        """Revoke an API token."""
        await self._begin()
        token = self.api_tokens.get(token_id)
        if token is None:
            return False
        if token.revoked_at is None:
            self.api_tokens[token_id] = replace(token, revoked_at=at)
            self.events.append(Event(Act.TOKEN_REVOKE, token_id=token_id))
        return True

    async def record(self, *events: Event) -> None:
        """Record events."""
        await self._begin()
        self.events.extend(events)
