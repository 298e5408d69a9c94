"""What a drop-off accepts: window, sizes, types and names, number, bytes, disk. Pure; the time is an argument."""

import fnmatch
from dataclasses import dataclass
from datetime import datetime

from dropoff_tus.errors import (
    DropoffClosedError,
    DropoffExpiredError,
    DropoffFullError,
    DropoffNotOpenError,
    MaxSizeExceededError,
    QuotaError,
    StorageFullError,
    TypeNotAllowedError,
)
from dropoff_tus.model import Dropoff, Limits, Metadata, Role, Usage

DEFERRED_STEP_BYTES = 1 << 30
"""While a length is deferred, bytes are reserved ahead in steps of this."""


@dataclass(frozen=True, slots=True)
class Space:
    """The disk at the time of a decision: free above the floor, and on disk already of what is reserved."""

    free_bytes: int
    unfinished_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a drop-off. `reserve_bytes` is what is to be reserved now."""

    role: Role
    length: int | None
    reserve_bytes: int
    metadata: Metadata


def max_upload_bytes(server_max_bytes: int, limits: Limits) -> int:
    """Return the smaller of the two limits that are set; 0 means none."""
    return min((value for value in (server_max_bytes, limits.max_upload_bytes) if value), default=0)


def check_window(dropoff: Dropoff, now: datetime) -> None:
    """Refuse outside of the drop-off's window, or when it is closed."""
    if dropoff.closed:
        message = "this drop-off is closed; ask whoever gave you the code"
        raise DropoffClosedError(message)
    if dropoff.opens_at is not None and now < dropoff.opens_at:
        message = "this drop-off is not open yet"
        raise DropoffNotOpenError(message)
    if dropoff.expires_at is not None and now >= dropoff.expires_at:
        message = "this drop-off has expired; ask whoever gave you the code"
        raise DropoffExpiredError(message)


def check_size(size_bytes: int | None, limit_bytes: int) -> None:
    """Refuse a size above a limit; 0 means no limit."""
    if limit_bytes and size_bytes is not None and size_bytes > limit_bytes:
        message = f"one upload may have {limit_bytes} bytes at most; nothing was written"
        raise MaxSizeExceededError(message)


def check_type(limits: Limits, metadata: Metadata) -> None:
    """Refuse a media type or file name that is not on the drop-off's lists."""
    filetype = (metadata.filetype or "").partition(";")[0].strip().lower()
    if limits.allowed_types and not any(fnmatch.fnmatchcase(filetype, p.lower()) for p in limits.allowed_types):
        message = "this drop-off does not take files of this type; nothing was written"
        raise TypeNotAllowedError(message)
    name = (metadata.filename or "").lower()
    if limits.name_patterns and not any(fnmatch.fnmatchcase(name, p.lower()) for p in limits.name_patterns):
        message = "this drop-off does not take files of this name; nothing was written"
        raise TypeNotAllowedError(message)


def check_space(reserve_bytes: int, usage: Usage, space: Space) -> None:
    """Refuse what the disk could not hold once everything promised has come."""
    promised = max(0, usage.outstanding_bytes - space.unfinished_bytes)
    if space.free_bytes - promised - reserve_bytes < 0:
        message = "the server's disk has no room for this; nothing was written"
        raise StorageFullError(message)


def admit(dropoff: Dropoff, usage: Usage, request: Request, now: datetime, server_max_bytes: int, space: Space) -> None:  # noqa: PLR0913
    """Decide on a new upload. The order is the order in which the refusals are told.

    Raises:
        DropoffError: The first rule it breaks.
    """
    check_window(dropoff, now)
    check_size(request.length, max_upload_bytes(server_max_bytes, dropoff.limits))
    limits = dropoff.limits
    if request.role is not Role.PARTIAL:
        check_type(limits, request.metadata)
        if limits.max_uploads and usage.uploads >= limits.max_uploads:
            message = "this drop-off has received all the uploads it takes"
            raise DropoffFullError(message)
    check_quota(limits, usage, request.reserve_bytes)
    if request.role is not Role.FINAL:
        check_space(request.reserve_bytes, usage, space)


def check_quota(limits: Limits, usage: Usage, reserve_bytes: int) -> None:
    """Refuse what goes above the drop-off's bytes."""
    if limits.max_total_bytes and usage.bytes + reserve_bytes > limits.max_total_bytes:
        left = max(0, limits.max_total_bytes - usage.bytes)
        message = f"this drop-off takes {left} bytes more; nothing was written"
        raise QuotaError(message)
