"""Drop-offs and uploads for catalog tests, and the sums that the counters must equal."""

import itertools
import os
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from dropoff_tus.errors import DropoffFullError
from dropoff_tus.model import Dropoff, DropTerms, Role, UploadRow, Usage
from dropoff_tus.states import UploadState
from storage.catalog import SqlCatalog

NOW = datetime(2026, 3, 4, 5, 6, 7, 891011, tzinfo=UTC)
HOLDING = (UploadState.OPEN, UploadState.WITHDRAWN, UploadState.CHECKING)
ENDED = (UploadState.REJECTED, UploadState.TERMINATED, UploadState.EXPIRED, UploadState.DELETED)
GIVEN_UP = (UploadState.REJECTED, UploadState.TERMINATED)
seconds = itertools.count()
"""How much younger than `NOW` the next row is; each test begins from zero, whatever ran before it in the process."""


def allow(_dropoff: Dropoff, _usage: Usage) -> None:
    """Decide for the upload."""


def refuse(_dropoff: Dropoff, _usage: Usage) -> None:
    """Decide against the upload."""
    raise DropoffFullError("refused by the test")


class Watch:
    """Decides for the upload and keeps what it was shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[Dropoff, Usage]] = []

    def __call__(self, dropoff: Dropoff, usage: Usage) -> None:
        """Keep both."""
        self.seen.append((dropoff, usage))


def make_dropoff(
    name: str = "Survey",
    *,
    code_mac: bytes | None = None,
    **terms: Any,  # noqa: ANN401 - each has its type
) -> Dropoff:
    """Return a new drop-off; each is a second younger than the one before."""
    created_at = NOW + timedelta(seconds=next(seconds))
    return Dropoff(str(uuid.uuid4()), created_at, DropTerms(name, **terms), code_mac, b"s" * 64)


def make_upload(
    dropoff: Dropoff, reserved_bytes: int = 0, role: Role = Role.REGULAR, *, length: int | None = None
) -> UploadRow:
    """Return a new open upload; each is a second younger than the one before."""
    return UploadRow(
        id=os.urandom(16).hex(),
        drop_id=dropoff.id,
        role=role,
        mode=dropoff.terms.mode,
        state=UploadState.OPEN,
        created_at=NOW + timedelta(seconds=next(seconds)),
        length=length,
        reserved_bytes=reserved_bytes,
    )


async def add_complete(catalog: SqlCatalog, dropoff: Dropoff, size_bytes: int, role: Role = Role.REGULAR) -> UploadRow:
    """Add an upload and complete it; return its row as it was added."""
    row = await catalog.add_upload(make_upload(dropoff, size_bytes, role), allow)
    assert await catalog.complete_upload(row.id, size_bytes, NOW)
    return row


async def summed_usage(catalog: SqlCatalog, drop_id: str) -> Usage:
    """Return the usage by only the rows, as the port defines it."""
    everything = await catalog.uploads()
    mine = [row for row in everything if row.drop_id == drop_id]
    counted = [row for row in mine if row.role is not Role.PARTIAL and row.state not in ENDED]
    total = sum(row.reserved_bytes for row in mine)
    total += sum(row.size_bytes or 0 for row in mine if row.state is UploadState.COMPLETE and row.final_id is None)
    for final in counted:
        if final.role is Role.FINAL and final.state is not UploadState.COMPLETE:
            total += final.length or 0  # what it took over from its parts
    attempts = [row for row in mine if row.state in GIVEN_UP or (row.role is Role.PARTIAL and row.state not in ENDED)]
    return Usage(len(counted), total, len(attempts))
