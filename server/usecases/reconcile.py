"""After a crash: repair the catalog from the store, which is the truth about bytes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dropoff_tus.errors import DropoffError, UploadDamagedError, UploadNotFoundError
from dropoff_tus.model import StoredUpload, UploadRow
from dropoff_tus.ports.store import Store
from dropoff_tus.states import UNFINISHED
from server.usecases.ending import Ender
from server.usecases.finishing import Finisher
from server.usecases.ports import Ports

_log = logging.getLogger(__name__)
_AHEAD = 32
"""How many logs are read side by side: mostly their syncs are waited for."""


@dataclass(slots=True)
class ReconcileReport:
    """The result of `reconcile`. `problems` are (upload id, error code) of uploads that it left as they are.

    `later` counts large uploads that must be read back, which the background finishes.
    """

    finished: int = 0
    later: int = 0
    dropped: int = 0
    ended: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)


class Reconciler:
    """Repairs the catalog at a start."""

    def __init__(self, ports: Ports, finisher: Finisher, ender: Ender) -> None:
        """Take the ports, and who finishes and who ends uploads."""
        self._ports, self._finisher, self._ender = ports, finisher, ender

    async def reconcile(self, lost_before: datetime | None = None) -> ReconcileReport:
        """Bring every unfinished row in line with the store, before the first request. One bad upload stops nothing.

        Args:
            lost_before: Uploads that were created before it and are not in the store never will be; another process may
                be creating younger ones, so they stay. None: all of it.

        Raises:
            CatalogUnavailableError: Not even the list of rows could be read.
        """
        report, store = ReconcileReport(), self._ports.store
        before = lost_before or self._ports.clock.now()
        # The bytes that may be read back before the first request, in all: the start must not take longer for it.
        left_bytes = self._finisher.read_back_bytes
        rows = await self._ports.catalog.uploads(states=UNFINISHED)
        # Of very many, all but a few: nothing is to be done for them.
        waiting = await store.waiting([row.id for row in rows])
        async for row, found in _stats(store, [row for row in rows if row.id not in waiting]):
            try:
                if isinstance(found, UploadNotFoundError):
                    report.dropped += await self._ender.forget(row, before)
                    continue
                stored = await self._repair_one(row, found, report)
                if stored is None:
                    continue
                size_bytes = row.length or stored.offset
                if size_bytes > left_bytes:
                    self._finisher.finish_later(row.id)
                    report.later += 1
                    continue
                left_bytes -= size_bytes
                async with store.lease(row.id) as lease:
                    await self._finisher.finish(lease)
                report.finished += 1
            except DropoffError as error:
                report.problems.append((row.id, error.code))
                if isinstance(error, UploadDamagedError):
                    self._ports.counts.damaged.add(row.id)
                _log.warning("an upload was left as it is", extra={"upload_id": row.id, "code": error.code})
            except Exception:  # noqa: BLE001 - neither a bug nor a disk error may keep the server from starting
                report.problems.append((row.id, DropoffError.code))
                _log.exception("an upload was left as it is", extra={"upload_id": row.id})
        return report

    async def _repair_one(
        self, row: UploadRow, stored: StoredUpload | BaseException, report: ReconcileReport
    ) -> StoredUpload | None:
        """Bring one row in line; return what is whole and so to be finished."""
        if isinstance(stored, BaseException):
            raise stored
        if stored.ended is not None:
            async with self._ports.store.lease(row.id) as lease:
                # Again, since the crash may have come before the last key was gone.
                await self._ender.end(lease, stored.ended, "repeated after a crash")
            report.ended += 1
            return None
        return stored if stored.whole else None


async def _stats(
    store: Store, rows: Sequence[UploadRow]
) -> AsyncIterator[tuple[UploadRow, StoredUpload | BaseException]]:
    """Yield the rows in order, each with what the store knows of it, or why it does not."""
    for start in range(0, len(rows), _AHEAD):
        group = rows[start : start + _AHEAD]
        found = await asyncio.gather(*(store.stat(row.id) for row in group), return_exceptions=True)
        for pair in zip(group, found, strict=True):
            yield pair
