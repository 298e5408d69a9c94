"""Purging a drop-off: everything that it received is shredded, known to the catalog or not, whole or not.

Each step may be repeated, so a purge that was cut off goes on when it is begun again, and lists everything once more:
the list is read from tombstones and the catalog's rows, not from the removals of this run.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dropoff_tus.audit import Act, Event
from dropoff_tus.errors import (
    CatalogTamperedError,
    DropoffError,
    KeyMissingError,
    ServerShutdownError,
    UploadDamagedError,
    UploadLockedError,
    UploadNotFoundError,
)
from dropoff_tus.model import Role, UploadRow
from dropoff_tus.ports.catalog import Catalog, DropoffRows
from dropoff_tus.ports.clock import Clock
from dropoff_tus.ports.store import StoreInventory
from dropoff_tus.states import UploadState
from server.settings.units import stamp
from server.usecases.closing import Marks, set_closed
from server.usecases.dropoffs import unknown
from server.usecases.ending import lost_before
from server.usecases.ports import Advance, Begin

_log = logging.getLogger(__name__)
_REMEMBERED = 16
BACKUPS = "copies in backups are not included"
_ATTEMPTS, _PAUSE_SECONDS = 50, 0.1


@dataclass(frozen=True, slots=True)
class Purged:
    """The result of a purge. `removed` is as a certificate lists it; `kept` are ids with the reason.

    `unread` are uploads of nobody knows which drop-off: neither catalog nor log says it, and keys or bytes are here.
    """

    drop_id: str
    removed: list[dict[str, Any]] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """How many bytes were removed, of what it is known of."""
        return sum(item["bytes"] or 0 for item in self.removed)


class Purger:
    """Purges drop-offs."""

    def __init__(
        self,
        store: StoreInventory,
        catalog: Catalog,
        ended: Marks,
        clock: Clock,
        delete: Callable[[str], Awaitable[None]],
        sign: Callable[[Mapping[str, Any]], bytes],
    ) -> None:
        """Take the ports, the marks of what was ended, the time, and what shreds one upload or signs a certificate."""
        self._store, self._catalog, self._ended, self._clock = store, catalog, ended, clock
        self._delete, self._sign = delete, sign

    async def purge(self, drop_id: str, begin: Begin) -> Purged:
        """Close a drop-off and shred all that it received; `begin` gets their number, and makes the counter.

        Raises:
            DropoffNotFoundError: There is no such drop-off.
        """
        # First, so that nothing comes while it goes; a running server ends what it is receiving.
        if not await set_closed(self._catalog, self._ended, drop_id, closed=True, end_open=True):
            raise unknown()
        purged = Purged(drop_id)
        rows = {row.id: row for row in await self._catalog.uploads(drop_id=drop_id)}
        # Concatenations before the parts that end with them.
        ordered = sorted(rows, key=lambda found: rows[found].role is Role.PARTIAL)
        ordered = await self._lost(drop_id, rows, purged) + ordered
        advance = begin(len(ordered))
        for upload_id in ordered:
            try:
                row = rows.get(upload_id) or await self._catalog.upload(upload_id)
                purged.removed.append(await self._remove(drop_id, upload_id, row))
            except DropoffError as error:
                purged.kept.append((upload_id, error.message))
            advance(1)
        return purged

    def certificate(self, purged: Purged) -> bytes:
        """Return the signed line that says what was removed; only where nothing was kept."""
        payload = {
            "drop": purged.drop_id,
            "at": stamp(self._clock.now()),
            "uploads": purged.removed,
            "bytes": purged.size_bytes,
            "unread": purged.unread,
            "backups": BACKUPS,
        }
        return self._sign(payload)

    async def record(self, purged: Purged, certificate: bytes) -> str:
        """Record that a drop-off was purged, and by which certificate; return the hash that stands for it."""
        digest = hashlib.sha256(certificate).hexdigest()
        count = len(purged.removed)
        await self._catalog.record(
            Event(Act.DROP_PURGE, purged.drop_id, size_bytes=purged.size_bytes, final=digest, count=count)
        )
        return digest

    async def _lost(self, drop_id: str, rows: Mapping[str, UploadRow], purged: Purged) -> list[str]:
        """Return the uploads that the store has of a drop-off and the catalog has not, concatenations first."""
        finals: list[str] = []
        others: list[str] = []
        for upload_id in await self._store.upload_ids():
            if upload_id in rows:
                continue
            try:
                stored = await self._store.stat(upload_id)
            except DropoffError:
                claimed = await self._store.claimed_drop(upload_id)
                if claimed == drop_id:
                    others.append(upload_id)
                elif claimed is None and await self._store.leftovers(upload_id):
                    purged.unread.append(upload_id)
                continue
            if stored.drop_id == drop_id:
                (finals if stored.role is Role.FINAL else others).append(upload_id)
        return finals + others

    async def _remove(self, drop_id: str, upload_id: str, row: UploadRow | None) -> dict[str, Any]:
        """Remove one upload, and return its entry for the certificate."""
        try:
            stored = await self._store.stat(upload_id)
            _check_drop(upload_id, stored.drop_id, drop_id)
            if stored.ended is None or await self._store.leftovers(upload_id):
                await self._delete(upload_id)
                if row is None:
                    await self._record_lost(drop_id, upload_id)
            await self._settle(upload_id, row)
            return self._told(await self._store.tombstone(upload_id), row)
        except (UploadDamagedError, KeyMissingError):
            pass
        except UploadNotFoundError:
            now = self._clock.now()
            if row is not None and row.state is UploadState.OPEN and row.created_at > lost_before(now):
                raise UploadLockedError("it is being created at this moment") from None
        _check_drop(upload_id, await self._store.claimed_drop(upload_id), drop_id)
        # All that is here of it goes, and the certificate says that it was not whole.
        left = await self._store.leftovers(upload_id)
        with contextlib.suppress(UploadNotFoundError):
            await self._shred_damaged(upload_id)
        if row is None and left:
            await self._record_lost(drop_id, upload_id)
        await self._settle(upload_id, row)
        told = {
            "id": upload_id,
            "bytes": None,
            "created_at": None,
            "removed_at": stamp(self._clock.now()),
            "final": None,
        }
        if row is not None:
            told["created_at"] = stamp(row.created_at)
        with contextlib.suppress(DropoffError):
            told = await self._store.tombstone(upload_id)
        return self._told({**told, "damaged": True}, row)

    def _told(self, told: dict[str, Any], row: UploadRow | None) -> dict[str, Any]:
        """Let the catalog say how many bytes there were where the store no longer can."""
        return told if told["bytes"] is not None or row is None else {**told, "bytes": row.size_bytes}

    async def _shred_damaged(self, upload_id: str) -> None:
        """Shred it, and wait as long as for a lease where somebody has it: an attempt to finish it, perhaps."""
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(UploadLockedError):
                await self._store.shred_damaged(upload_id, UploadState.DELETED, "by the operator", self._clock.now())
                return
            await asyncio.sleep(_PAUSE_SECONDS)
        raise UploadLockedError("the upload is in use by another process")

    async def _record_lost(self, drop_id: str, upload_id: str) -> None:
        """Record what has no row whose change would tell it."""
        await self._catalog.record(Event(Act.UPLOAD_DELETE, drop_id, upload_id, "was not in the catalog"))

    async def _settle(self, upload_id: str, row: UploadRow | None) -> None:
        """Let the catalog say so too; again is harmless."""
        if row is not None:
            await self._catalog.set_state(upload_id, UploadState.DELETED, self._clock.now())


def _check_drop(upload_id: str, named: str | None, drop_id: str) -> None:
    """Refuse to shred for one drop-off what the log says is another's, whatever the catalog says.

    Raises:
        CatalogTamperedError: It is another's.
    """
    if named not in {None, drop_id}:
        raise CatalogTamperedError(
            f"the catalog says that upload {upload_id} is of this drop-off, its log names {named}: the catalog was "
            "changed. It was not shredded; `store check` tells more"
        )


@dataclass(eq=False)
class Purge:
    """How far a purge is: `done` of `total` uploads were looked at. Both are 0 until they are counted."""

    total: int = 0
    done: int = 0
    outcome: Purged | None = None
    certificate: bytes | None = None
    """Once nothing is kept."""
    version: int | None = None
    """The catalog's, when it ended well."""

    def begin(self, total: int) -> Advance:
        """Note how many there are; return what counts them."""
        self.total = total

        def advance(count: int) -> None:
            self.done += count

        return advance


class PurgeJobs:
    """The purges that this process does in the background, each waited for as long as each client likes.

    A request joins the purge that runs. As long as no drop-off was changed, a later request gets the last result again,
    with the same certificate. After a change, a failure or kept uploads it begins a new purge, which repeats nothing.
    """

    def __init__(self, purger: Purger, catalog: DropoffRows) -> None:
        """Start with none."""
        self._purger, self._catalog = purger, catalog
        self._jobs: OrderedDict[str, tuple[Purge, asyncio.Task[None]]] = OrderedDict()
        self._asking = asyncio.Lock()

    async def ask(self, drop_id: str, wait_seconds: float) -> Purge:
        """Purge a drop-off, or go on with it, and return its progress after this long at most.

        Raises:
            DropoffNotFoundError: There is none.
            CatalogUnavailableError, ServerShutdownError: Ask again; it goes on where it was.
        """
        async with self._asking:
            found = self._jobs.get(drop_id)
            if found is None or not await self._holds(*found):
                purge = Purge()
                # The audit names the client that begins it, even for acts after that client has gone.
                found = purge, asyncio.create_task(self._run(drop_id, purge))
                found[1].add_done_callback(_look_at)
                self._jobs[drop_id] = found
            self._jobs.move_to_end(drop_id)
            self._forget()
        purge, task = found
        await asyncio.wait([task], timeout=wait_seconds)
        if task.cancelled():
            raise ServerShutdownError("the server is stopping; ask again after its start, and the purge goes on")
        if task.done():
            task.result()
        return purge

    async def stop(self) -> None:
        """Stop; a request after the next start goes on."""
        tasks = [task for _, task in self._jobs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _holds(self, purge: Purge, task: asyncio.Task[None]) -> bool:
        """Tell whether a purge runs, or what came of it is what another would find."""
        if not task.done():
            return True
        return purge.version is not None and purge.version == await self._catalog.version()

    async def _run(self, drop_id: str, purge: Purge) -> None:
        try:
            purged = await self._purger.purge(drop_id, purge.begin)
            version = await self._catalog.version()
            if not purged.kept:
                certificate = self._purger.certificate(purged)
                await self._purger.record(purged, certificate)
                purge.certificate, purge.version = certificate, version
            purge.outcome = purged
        except DropoffError as error:
            _log.warning("a purge was cut off; ask again", extra={"drop_id": drop_id, "code": error.code})
            raise

    def _forget(self) -> None:
        """Keep what runs, and the last that ended."""
        ended = [drop_id for drop_id, (_, task) in self._jobs.items() if task.done()]
        for drop_id in ended[:-_REMEMBERED]:
            del self._jobs[drop_id]


def _look_at(task: asyncio.Task[None]) -> None:
    """Look at how it ended: waiting requests get it, and it was logged in case nobody waits."""
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()
