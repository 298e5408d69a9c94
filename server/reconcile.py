"""After a crash: repair the catalog from the store, which is the truth about bytes."""

import logging
from dataclasses import dataclass, field

from dropoff_tus import protocol
from dropoff_tus.errors import DropoffError, UploadNotFoundError
from dropoff_tus.model import StoredUpload, UploadRow, UploadState
from dropoff_tus.ports import Catalog, Store
from server.ending import Ender
from server.finishing import Finisher

_log = logging.getLogger(__name__)
_UNFINISHED = (UploadState.OPEN, UploadState.FINISHING, UploadState.CHECKING)


@dataclass(slots=True)
class ReconcileReport:
    """What `reconcile` did. `problems` are (upload id, error code) of what it had to leave as it is.

    `later` counts what the background finishes, because it has to be read back and is large.
    """

    finished: int = 0
    later: int = 0
    dropped: int = 0
    ended: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)


async def reconcile(store: Store, catalog: Catalog, finisher: Finisher, ender: Ender) -> ReconcileReport:
    """Bring every unfinished row in line with the store, before the first request. One bad upload stops nothing.

    Raises:
        CatalogUnavailableError: Not even the list of rows could be read.
    """
    report = ReconcileReport()
    # What may be read back before the first request, in all: the start must not take longer for it.
    left_bytes = finisher.read_back_bytes
    for row in await catalog.uploads(states=_UNFINISHED):
        try:
            stored = await _repair_one(row, store, catalog, ender, report)
            if stored is None:
                continue
            size_bytes = row.length or stored.offset
            if size_bytes > left_bytes:
                finisher.finish_later(row.id)
                report.later += 1
                continue
            left_bytes -= size_bytes
            async with store.lease(row.id) as lease:
                await finisher.finish(lease)
            report.finished += 1
        except DropoffError as error:
            report.problems.append((row.id, error.code))
            _log.warning("an upload was left as it is", extra={"upload_id": row.id, "code": error.code})
        except Exception:  # noqa: BLE001 - neither a bug nor a disk error may keep the server from starting
            report.problems.append((row.id, DropoffError.code))
            _log.exception("an upload was left as it is", extra={"upload_id": row.id})
    return report


async def _repair_one(
    row: UploadRow, store: Store, catalog: Catalog, ender: Ender, report: ReconcileReport
) -> StoredUpload | None:
    """Bring one row in line; return what is whole and so to be finished."""
    try:
        stored = await store.stat(row.id)
    except UploadNotFoundError:
        await catalog.drop_upload(row.id)
        report.dropped += 1
        return None
    if stored.ended is not None:
        async with store.lease(row.id) as lease:
            # Again, since the crash may have come before the last key was gone.
            await ender.end(lease, stored.ended, "repeated after a crash")
        report.ended += 1
        return None
    return stored if protocol.is_whole(stored) else None
