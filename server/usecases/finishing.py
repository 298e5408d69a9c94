"""Finishing: the post-finish checks, repeated until they are done. The server owns this, not the client.

open -> digests agree -> final record, receipt, seal (store) -> complete (catalog). A mismatch ends in rejected.
An upload that must be read back and is larger than READ_BACK_BYTES gets its final record, goes to state checking and is
read in the background. Every step may be repeated: after a crash `reconcile` starts over.
"""

import asyncio
import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import NoReturn

from dropoff_tus import headers, protocol
from dropoff_tus.errors import (
    AccessDeniedError,
    CatalogUnavailableError,
    DigestMismatchError,
    DropoffError,
    KeyMissingError,
    NotSealedError,
    ServerShutdownError,
    UploadDamagedError,
    UploadGoneError,
    UploadNotFoundError,
)
from dropoff_tus.model import Dropoff, Role, StoredUpload, UploadRow, Usage
from dropoff_tus.ports.store import Lease
from dropoff_tus.states import ENDED, UploadState
from server.usecases.ports import Ports

_log = logging.getLogger(__name__)
READ_BACK_BYTES = 1 << 30
_NO_LIMIT = 1 << 63
RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_HOPELESS = (
    AccessDeniedError,
    DigestMismatchError,
    NotSealedError,
    ServerShutdownError,
    UploadDamagedError,
    UploadGoneError,
    UploadNotFoundError,
)


class Finisher:
    """Finishes uploads under their leases, at once or later."""

    def __init__(
        self,
        ports: Ports,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
        read_back_bytes: int = READ_BACK_BYTES,
    ) -> None:
        """Take the ports, the delays between attempts (the last one is repeated), and what is read back at once."""
        self._store, self._catalog, self._clock = ports.store, ports.catalog, ports.clock
        self._counts = ports.counts
        self._retry_seconds = retry_seconds
        self.read_back_bytes = read_back_bytes
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._since: dict[str, datetime] = {}
        self._stopped = False

    async def stop(self) -> None:
        """Stop the background work; `reconcile` takes it up again."""
        self._stopped = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def finish(self, lease: Lease) -> bool:
        """Finish a whole upload as far as the client has to wait for it; may be repeated.

        Returns:
            Whether there is a receipt: not for a partial, and not yet in state checking.

        Raises:
            DigestMismatchError: It is rejected now.
            UploadGoneError: It ended before.
            UploadDamagedError: The stored upload does not verify; it stays as it is.
            CatalogUnavailableError, KeyMissingError, StorageFullError, StorageFailedError: Every byte is durable, and
                the server repeats the rest.
        """
        upload = lease.upload
        try:
            state = await self._attempt(lease, self.read_back_bytes)
        except _HOPELESS:
            raise
        except DropoffError:
            self.finish_later(upload.id)
            raise
        if state in ENDED:
            raise protocol.gone(state)
        if state is UploadState.CHECKING:
            self.finish_later(upload.id)
            return False
        return upload.role is not Role.PARTIAL

    def finish_later(self, upload_id: str) -> None:
        """Finish in the background, again and again until it is done or hopeless."""
        if self._stopped or upload_id in self._tasks:
            return
        task = asyncio.get_running_loop().create_task(self._repeat(upload_id))
        self._tasks[upload_id], self._since[upload_id] = task, self._clock.now()

        def forget(_task: asyncio.Task[None]) -> None:
            del self._tasks[upload_id], self._since[upload_id]

        task.add_done_callback(forget)

    def waiting(self) -> tuple[int, datetime | None]:
        """Return how many uploads are being finished in the background, and since when the oldest is."""
        return len(self._since), min(self._since.values(), default=None)

    async def take_back(self, lease: Lease, *, checked: bool) -> UploadState:
        """Add an upload that the catalog lacks as the store has it, and finish it if it is whole; return its state.

        With `checked`, its receipt is there: then it is complete as of its final record.

        Raises:
            KeyMissingError, UploadDamagedError and others: As `finish`; its row is there.
            AccessDeniedError: The catalog lacks its drop-off too.
        """
        upload = lease.upload
        if upload.final and (checked or upload.role is Role.PARTIAL):
            done = await lease.complete({}, upload.last_commit_at)
            return await self._record(upload, done.size_bytes, upload.last_commit_at, done.final_hash)
        row = replace(_row_of(upload), reserved_bytes=max(upload.length or 0, upload.offset))
        await self._catalog.add_upload(row, _accept, parts=upload.parts)
        if upload.whole:
            await self.finish(lease)
        present = await self._catalog.upload(upload.id)
        return UploadState.OPEN if present is None else present.state

    async def _repeat(self, upload_id: str) -> None:
        for delay in itertools.chain(self._retry_seconds, itertools.repeat(self._retry_seconds[-1])):
            try:
                async with self._store.lease(upload_id) as lease:
                    await self._attempt(lease, _NO_LIMIT)
            except _HOPELESS as error:
                if isinstance(error, UploadDamagedError):
                    self._counts.damaged.add(upload_id)
                _log.warning("finishing ended", extra={"upload_id": upload_id, "code": error.code})
                return
            except DropoffError as error:
                _log.warning("finishing is repeated", extra={"upload_id": upload_id, "code": error.code})
            except Exception:  # noqa: BLE001 - a task's exception would be seen by nobody
                _log.exception("finishing failed", extra={"upload_id": upload_id})
                return
            else:
                return
            await asyncio.sleep(delay)

    async def _attempt(self, lease: Lease, read_back_bytes: int) -> UploadState:
        """Go through all steps once; return the state reached."""
        upload, now = lease.upload, self._clock.now()
        if upload.ended is not None:
            # Ended before a crash, or while the catalog was away: only it has to learn.
            await self._catalog.set_state(upload.id, upload.ended, now)
            return upload.ended
        values = await self._checked_digests(lease, read_back_bytes)
        if values is None:
            await lease.write_final(now)
            await self._catalog.set_state(upload.id, UploadState.CHECKING, now)
            return UploadState.CHECKING
        done = await lease.complete(values, now)
        return await self._record(lease.upload, done.size_bytes, now, done.final_hash)

    async def _record(
        self, upload: StoredUpload, size_bytes: int, now: datetime, final: str | None = None
    ) -> UploadState:
        """Tell the catalog, which counts an upload once, however often this runs; return its state there."""
        if await self._catalog.complete_upload(upload.id, size_bytes, now, final=final, drop_id=upload.drop_id):
            self._counts.finished += 1
            _log.info("upload complete", extra={"upload_id": upload.id, "size_bytes": size_bytes})
            return UploadState.COMPLETE
        row = await self._catalog.upload(upload.id)
        if row is not None:
            return row.state
        # The catalog is older than the store: it was restored from a copy. The store is the truth about bytes.
        for part_id in upload.parts:
            part = await self._store.stat(part_id)
            await self._record(part, part.offset, now)
        await self._catalog.add_upload(_row_of(upload), _accept, parts=upload.parts)
        await self._catalog.complete_upload(upload.id, size_bytes, now, final=final, drop_id=upload.drop_id)
        _log.warning("an upload was missing in the catalog and was added", extra={"upload_id": upload.id})
        return UploadState.COMPLETE

    async def _checked_digests(self, lease: Lease, read_back_bytes: int) -> dict[str, bytes] | None:
        """Return the digests of the content, agreed with those in the metadata; None if it is too large now.

        Raises:
            DigestMismatchError: They do not agree; the upload is rejected.
            NotSealedError: The client said that it is sealed, and it is not; the upload is rejected.
        """
        upload = lease.upload
        if upload.role is Role.PARTIAL:
            return {}  # checks and receipts are for what partials become
        metadata = await self._store.metadata(upload.id)
        if metadata is None:
            if not upload.final:
                raise KeyMissingError("the server cannot open this upload to check it; its bytes are safe")
            # Sealed by an attempt that did not reach the catalog: the checks came before that. Should the metadata be
            # missing for another reason, there is no receipt, and `complete` refuses.
            return {}
        # An upload with its final record was looked at before, and may be too long to be looked at again.
        if metadata.sealed_by is not None and not upload.final and not await lease.begins_sealed():
            message = "the file is not sealed as its sender said (sealed-by: age)"
            await self._reject(lease, "the content is no age file, as its metadata says", NotSealedError(message))
        expected = headers.digests(metadata)
        names = [digest.algorithm for digest in expected]
        values = await lease.digests(names, read_back_bytes=read_back_bytes)
        for digest in expected:
            if values is not None and not digest.matches(values[digest.algorithm]):
                why = f"the content does not match the {digest.algorithm} in its metadata"
                message = "the file does not match the digest in its metadata"
                await self._reject(lease, why, DigestMismatchError(message))
        return values

    async def _reject(self, lease: Lease, why: str, error: DropoffError) -> NoReturn:
        """End an upload for good; raises the error, which says what became of the bytes."""
        now = self._clock.now()
        await lease.end(UploadState.REJECTED, why, now)
        log_end(lease.upload.id, UploadState.REJECTED, why)
        try:
            await self._catalog.set_state(lease.upload.id, UploadState.REJECTED, now)
        except CatalogUnavailableError:
            self.finish_later(lease.upload.id)
        error.fate = "it was rejected and nothing of it is kept, upload it again"
        raise error


def log_end(upload_id: str, state: UploadState, why: str) -> None:
    """Say in the log that an upload ended, and why."""
    level = logging.WARNING if state is UploadState.REJECTED else logging.INFO
    _log.log(level, "upload ended", extra={"upload_id": upload_id, "state": state.value, "why": why})


def _row_of(upload: StoredUpload) -> UploadRow:
    return UploadRow(
        id=upload.id,
        drop_id=upload.drop_id,
        role=upload.role,
        mode=upload.mode,
        state=UploadState.OPEN,
        created_at=upload.created_at,
        length=upload.length,
    )


def _accept(_dropoff: Dropoff, _usage: Usage) -> None:
    """Decide for what is here already."""
