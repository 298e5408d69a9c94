"""Finishing: the post-finish checks, and their repetition until they are done. The server owns this, not the client.

open -> (digests agree) -> final record, receipt, seal -> complete. A mismatch ends in rejected. What would have to be
read back and is larger than READ_BACK_BYTES is checked in the background, state checking.
"""

import asyncio
import logging
from contextlib import suppress

from dropoff_tus import headers
from dropoff_tus.errors import CatalogUnavailableError, DigestMismatchError, DropoffError, UploadLockedError
from dropoff_tus.model import Role, UploadState
from dropoff_tus.ports import Catalog, Clock, Lease, Store

_log = logging.getLogger(__name__)
READ_BACK_BYTES = 1 << 30
_NO_LIMIT = 1 << 63
_RETRY_SECONDS = (1, 2, 5, 10, 30, 60)


class Finisher:
    """Finishes uploads under their leases, at once or later."""

    def __init__(self, store: Store, catalog: Catalog, clock: Clock) -> None:
        """Take the ports."""
        self._store, self._catalog, self._clock = store, catalog, clock
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Stop the background work."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def finish(self, lease: Lease, token: str | None, *, read_back_bytes: int = READ_BACK_BYTES) -> bool:
        """Finish a whole upload; may be repeated. True if there is a receipt.

        Raises:
            DigestMismatchError: It is rejected now.
            CatalogUnavailableError: All is durable, and the server repeats the rest.
        """
        upload = lease.upload
        if upload.role is Role.PARTIAL:
            await lease.complete(token, {}, self._clock.now())
            await self._catalog.complete_upload(upload.id, lease.upload.offset, self._clock.now())
            return False
        metadata = await self._store.metadata(upload.id)
        expected = headers.digests(metadata) if metadata is not None else ()
        names = [digest.algorithm for digest in expected]
        values = await lease.digests(names, read_back_bytes=read_back_bytes)
        try:
            if values is None:
                await lease.write_final(self._clock.now())
                await self._catalog.set_state(upload.id, UploadState.CHECKING, self._clock.now())
                self.finish_later(upload.id, token, read_back_bytes=_NO_LIMIT)
                return False
            if not all(digest.matches(values[digest.algorithm]) for digest in expected):
                await lease.end(UploadState.REJECTED, "digest mismatch", self._clock.now())
                await self._catalog.set_state(upload.id, UploadState.REJECTED, self._clock.now())
                message = "the file does not match the digest in its metadata; it was rejected, upload it anew"
                raise DigestMismatchError(message)
            done = await lease.complete(token, values, self._clock.now())
            await self._catalog.complete_upload(upload.id, done.size_bytes, self._clock.now())
        except CatalogUnavailableError:
            self.finish_later(upload.id, token)
            raise
        _log.info("upload complete", extra={"upload_id": upload.id, "size_bytes": done.size_bytes})
        return True

    def finish_later(self, upload_id: str, token: str | None, *, read_back_bytes: int = READ_BACK_BYTES) -> None:
        """Finish in the background, again and again until it is done."""
        if upload_id not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._repeat(upload_id, token, read_back_bytes))
            self._tasks[upload_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(upload_id, None))

    async def _repeat(self, upload_id: str, token: str | None, read_back_bytes: int) -> None:
        for delay in (*_RETRY_SECONDS, *([_RETRY_SECONDS[-1]] * 10_000)):
            try:
                async with self._store.lease(upload_id) as lease:
                    if lease.upload.ended is None:
                        await self.finish(lease, token, read_back_bytes=read_back_bytes)
            except (CatalogUnavailableError, UploadLockedError):
                await asyncio.sleep(delay)
            except DropoffError as error:
                _log.warning("finishing failed", extra={"upload_id": upload_id, "code": error.code})
                return
            else:
                return
