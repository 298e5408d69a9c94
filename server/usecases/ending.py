"""Ending uploads, by the client or the operator. The store first, which is the truth, then the catalog."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from dropoff_tus import protocol
from dropoff_tus.errors import (
    CatalogTamperedError,
    CatalogUnavailableError,
    DropoffError,
    PartInUseError,
    TerminateFinishedError,
    UploadDamagedError,
    UploadLockedError,
    UploadNotFoundError,
)
from dropoff_tus.ids import UploadToken
from dropoff_tus.messages import Terminated
from dropoff_tus.model import StoredUpload, UploadRow
from dropoff_tus.ports.store import Lease
from dropoff_tus.states import UploadState
from server.usecases.finding import Finder
from server.usecases.finishing import Finisher, log_end
from server.usecases.ports import Ports

_log = logging.getLogger(__name__)
LOST_CREATION_SECONDS = 600
_ON_ITS_WAY_SECONDS = 60.0
_DELETE_LEASE_SECONDS = 5.0
_ENDING_SIDE_BY_SIDE = 16
Condition = Callable[[StoredUpload], bool]


def lost_before(now: datetime) -> datetime:
    """Return what a row has to be older than to be nobody's, where the store has nothing of it.

    A younger one may be on its way there: the row comes first, and another process may be making the files.
    """
    return now - timedelta(seconds=_ON_ITS_WAY_SECONDS)


class Ender:
    """Ends uploads under their leases."""

    def __init__(self, ports: Ports, finder: Finder, finisher: Finisher) -> None:
        """Take the ports, who finds uploads, and who finishes what turns out to be whole."""
        self._finder = finder
        self._store, self._catalog, self._clock, self._finisher = ports.store, ports.catalog, ports.clock, finisher
        self._counts = ports.counts
        self._trusted, self._terminate_finished = ports.trusted, ports.settings.terminate_finished

    # ---- by the client ----------------------------------------------------------------------------------------

    async def terminate(self, drop_id: str, token: UploadToken) -> Terminated:
        """End an upload for its client.

        Raises:
            TerminateFinishedError: It is finished, and the operator does not allow it; or a final has it.
            UploadNotFoundError, UploadGoneError, UploadLockedError: As ever.
        """
        stored = await self._finder.find(drop_id, token)
        protocol.check_delete(stored, terminate_finished=self._terminate_finished)
        state, why = UploadState.TERMINATED, "by the client"
        async with self._store.lease(stored.id, reason=protocol.ending(state, why)) as lease:
            if lease.upload.ended is not None:
                raise protocol.gone(lease.upload.ended, lease.upload.end_reason)
            # Bytes may have come between the first look and the lease.
            protocol.check_delete(lease.upload, terminate_finished=self._terminate_finished)
            try:
                await self.end(lease, state, why)
            except PartInUseError:
                raise TerminateFinishedError("this upload is a part of another one now; end that one") from None
        self._counts.terminated += 1
        return Terminated()

    async def end(self, lease: Lease, state: UploadState, why: str, row: UploadRow | None = None) -> None:
        """End a leased upload, if given for what this row says of it. `why` is a fixed phrase.

        The catalog takes a complete upload back first, in the transaction that says whether a final has it: if one
        process ends a part while another claims it, one of them is refused. And a start looks at it again, should this
        process die in between: it ends or is complete, as the store says.

        Raises:
            PartInUseError: A final has it, and would be damaged; nothing was changed.
            CatalogTamperedError: The row is not what the signed log says; nothing was changed.
            CatalogUnavailableError: An unfinished one has ended, and the catalog learns of it as soon as it answers. A
                finished one may be as it was.
        """
        if row is not None:
            protocol.check_agrees(row, lease.upload)
        upload_id, now = lease.upload.id, self._clock.now()
        finished = lease.upload.final and lease.upload.ended is None
        withdrawn = finished and await self._catalog.set_state(upload_id, UploadState.WITHDRAWN, now)
        try:
            await lease.end(state, why, now)
        except DropoffError:
            if withdrawn:
                self._finisher.finish_later(upload_id)
            raise
        log_end(upload_id, state, why)
        try:
            await self._catalog.set_state(upload_id, state, self._clock.now())
        except CatalogUnavailableError:
            self._finisher.finish_later(lease.upload.id)
            raise

    # ---- by the operator --------------------------------------------------------------------------------------

    async def delete(self, upload_id: str) -> None:
        """Shred an upload for the operator, finished or not.

        Raises:
            PartInUseError: A final has it, and would be damaged.
            CatalogTamperedError: Its row is not what its signed log says.
            UploadLockedError: Another process has it.
        """
        state, why = UploadState.DELETED, "by the operator"
        row = await self._catalog.upload(upload_id)
        async with self._store.lease(
            upload_id, timeout_seconds=_DELETE_LEASE_SECONDS, reason=protocol.ending(state, why)
        ) as lease:
            await self.end(lease, state, why, row)

    async def delete_damaged(self, upload_id: str) -> bool:
        """Shred an upload for the operator as `delete` does, even if it, a part of it or its row does not verify.

        Returns:
            Whether something was damaged.

        Raises:
            UploadNotFoundError: Neither store nor catalog has it.
            PartInUseError, UploadLockedError: As `delete`.
        """
        row = await self._catalog.upload(upload_id)
        try:
            await self.delete(upload_id)
        except (UploadDamagedError, CatalogTamperedError):
            pass
        except UploadNotFoundError:
            # Its log is gone; keys and bytes may be there.
            if row is None:
                raise
        else:
            return False
        # The catalog's word on parts, since the log has none. Asked first, lest a part in use be shredded.
        await self._catalog.set_state(upload_id, UploadState.WITHDRAWN, self._clock.now())
        parts = [] if row is None else await self._catalog.parts(upload_id)
        await self._shred_damaged(upload_id)
        for part in parts:
            await self._shred_part(part)
        await self._catalog.set_state(upload_id, UploadState.DELETED, self._clock.now())
        return True

    async def _shred_damaged(self, upload_id: str) -> None:
        with contextlib.suppress(UploadNotFoundError):
            await self._store.shred_damaged(upload_id, UploadState.DELETED, "by the operator", self._clock.now())
            log_end(upload_id, UploadState.DELETED, "by the operator")

    async def _shred_part(self, row: UploadRow) -> None:
        """Shred a part of what was damaged, unless its own log shows that the row was made one by a change."""
        try:
            async with self._store.lease(row.id, timeout_seconds=_DELETE_LEASE_SECONDS) as lease:
                protocol.check_agrees(row, lease.upload)
                await lease.end(UploadState.DELETED, "by the operator", self._clock.now())
        except (UploadDamagedError, UploadNotFoundError):
            await self._shred_damaged(row.id)
        except DropoffError as error:
            self.passed_over(row, error)
        else:
            log_end(row.id, UploadState.DELETED, "by the operator")

    async def end_open(self, drop_id: str) -> int:
        """End everything unfinished of a drop-off; return how many uploads are open still, for another attempt.

        An upload that has all its bytes is finished as usual.
        """
        rows = await self._catalog.uploads(drop_id=drop_id, states=[UploadState.OPEN])
        await self._store.interrupt([row.id for row in rows], UploadState.TERMINATED)
        side_by_side = asyncio.Semaphore(_ENDING_SIDE_BY_SIDE)

        async def end(row: UploadRow) -> None:
            # One whose lease is not to be had must not make the others wait.
            async with side_by_side:
                await self.end_unless_whole(row, UploadState.TERMINATED, "drop-off closed by the operator")

        await asyncio.gather(*(end(row) for row in rows))
        return len(await self._catalog.uploads(drop_id=drop_id, states=[UploadState.OPEN])) if rows else 0

    # ---- whatever it is -----------------------------------------------------------------------------------------

    async def end_lost(self, drop_id: str) -> int:
        """End creations of a drop-off whose answer was lost: no byte, and idle for ten minutes."""
        before = self._trusted.now() - timedelta(seconds=LOST_CREATION_SECONDS)
        rows = await self._catalog.uploads(drop_id=drop_id, states=[UploadState.OPEN], created_before=before)
        count = 0
        for row in rows:
            count += await self.end_unless_whole(
                row,
                UploadState.EXPIRED,
                "creation without a byte",
                lambda stored: stored.offset == 0 and stored.last_commit_at <= before,
            )
        return count

    async def end_unless_whole(
        self, row: UploadRow, state: UploadState, why: str, condition: Condition | None = None
    ) -> bool:
        """End an open upload; with a condition, which time is, if that holds and nobody receives for it.

        The condition is asked now and again under the lease. One bad upload stops nothing.

        Returns:
            Whether it ended, or was forgotten.
        """
        try:
            stored = await self._store.stat(row.id)
            if condition is not None and not condition(stored):
                return False
            if stored.whole and stored.ended is None:
                self._finisher.finish_later(row.id)
                return False
            by_time = condition is not None
            async with self._store.lease(row.id, idle=by_time, reason=protocol.ending(state, why)) as lease:
                if lease.upload.whole or (condition is not None and not condition(lease.upload)):
                    return False
                await self.end(lease, state, why, row)
        except UploadNotFoundError:
            # The process died between the catalog's row and the store's files, if it is not just there.
            return await self.forget_lost(row)
        except DropoffError as error:
            self.passed_over(row, error)
            return False
        return True

    async def forget_lost(self, row: UploadRow) -> bool:
        """Forget a creation of which the store has nothing, unless it may be on its way there; tell whether."""
        try:
            return await self.forget(row, lost_before(self._trusted.now()))
        except DropoffError as error:
            self.passed_over(row, error)
            return False

    async def forget(self, row: UploadRow, before: datetime) -> bool:
        """Forget a creation of which the store has nothing, unless it is younger than `before`; tell whether."""
        if row.created_at > before:
            return False
        await self._catalog.drop_upload(row.id)
        _log.info("a creation that never reached the store is forgotten", extra={"upload_id": row.id})
        return True

    def passed_over(self, row: UploadRow, error: DropoffError) -> None:
        """Log that an upload could not be ended: one bad upload stops nothing."""
        # The holder of an upload receives for it, or ends or finishes it: nothing is amiss.
        level = logging.DEBUG if isinstance(error, UploadLockedError) else logging.WARNING
        if isinstance(error, UploadDamagedError):
            self._counts.damaged.add(row.id)
        _log.log(level, "an upload could not be ended", extra={"upload_id": row.id, "code": error.code})
