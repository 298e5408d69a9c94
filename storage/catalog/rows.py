"""Rows to values and back."""

import functools
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from operator import index
from typing import Any, Protocol, TypeVar

from dropoff_tus.errors import CatalogTamperedError
from dropoff_tus.model import (
    ApiToken,
    Dropoff,
    DropTerms,
    Mode,
    Role,
    Scope,
    UploadRow,
    Usage,
)
from dropoff_tus.outbox import Backlog, EventKind, OutboxRow, SinkName
from dropoff_tus.states import UploadState
from dropoff_tus.text import canonical
from storage.catalog.schema import dropoffs

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST_MICROS = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST_MICROS = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_FIXED = dropoffs.c.keys().index("used_uploads")
"""So many columns change with the drop-off only; counters follow."""


class Row(Protocol):
    """The common form of both drivers' rows: values by the name of their column, or all in their order."""

    def __iter__(self) -> Iterator[Any]:
        """Go through the values."""
        ...

    def __getitem__(self, name: str, /) -> Any:  # noqa: ANN401 - each column has its type
        """Return one column's value."""
        ...


def _reads(read: Callable[[Row], T]) -> Callable[[Row], T]:
    """Let a reader of rows say in a sentence what is in the way of all that list them."""

    @functools.wraps(read)
    def reading(row: Row) -> T:
        try:
            return read(row)
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
            kind, named = read.__name__.removeprefix("read_"), next(iter(row))
            message = (
                f"the {kind} {named} has something in the database that cannot be: it was changed; put it right there"
            )
            raise CatalogTamperedError(message) from error

    return reading


def to_micros(moment: datetime) -> int:
    """Write an aware time as whole microseconds since 1970; a naive one is a TypeError."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Read such a number as aware UTC; one that somebody wrote there and no calendar has, as the nearest."""
    return _EPOCH + timedelta(microseconds=max(_FIRST_MICROS, min(micros, _LAST_MICROS)))


def _micros_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else to_micros(moment)


def _moment_or_none(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


def _write_texts(texts: tuple[str, ...]) -> str:
    return json.dumps(texts)


def _read_texts(written: str) -> tuple[str, ...]:
    return tuple(json.loads(written))


def dropoff_values(dropoff: Dropoff) -> dict[str, object]:
    """Return the columns of a new drop-off, nothing of it used."""
    return {
        "id": dropoff.id,
        "created_at": to_micros(dropoff.created_at),
        "closed": int(dropoff.closed),
        "ended": int(dropoff.ended),
        "terms": canonical(dropoff.terms.as_json()),
        "code_mac": dropoff.code_mac,
        "signature": dropoff.signature,
        "used_uploads": 0,
        "used_bytes": 0,
        "reserved_bytes": 0,
        "attempts": 0,
    }


@_reads
def read_dropoff(row: Row) -> Dropoff:
    """Read a drop-off: the first columns of a row, as the table has them."""
    return _read_dropoff(tuple(row)[:_FIXED])


@_reads
def read_if_known(row: Row) -> Dropoff | None:
    """Read a drop-off, or a row of nothing as None, at the same expense: the clock must not tell what exists."""
    values = tuple(row)[:_FIXED]
    known = values[0] is not None
    found = _read_dropoff(values if known else _NOBODYS)
    return found if known else None


# Every creation reads the same row twice; equal columns are an equal value, which nobody can change.
@functools.lru_cache(maxsize=1024)
def _read_dropoff(values: tuple[Any, ...]) -> Dropoff:
    drop_id, created_at, closed, ended, terms, code_mac, signature = values
    return Dropoff(
        id=drop_id,
        created_at=from_micros(created_at),
        terms=DropTerms.read(terms),
        code_mac=code_mac,
        signature=signature,
        closed=bool(closed),
        ended=bool(ended),
    )


_NOBODYS = tuple(dropoff_values(Dropoff("", _EPOCH, DropTerms(""), bytes(32), bytes(64))).values())[:_FIXED]
"""The columns of a drop-off that is none."""


def read_usage(row: Row, *, without_bytes: int = 0, without_reserved_bytes: int = 0) -> Usage:
    """Read a drop-off's usage, less what the upload in question takes itself: used, and reserved."""
    return Usage(
        uploads=row["used_uploads"],
        bytes=row["used_bytes"] + row["reserved_bytes"] - without_bytes - without_reserved_bytes,
        attempts=row["attempts"],
    )


def upload_values(upload: UploadRow, *, used_bytes: int) -> dict[str, object]:
    """Return the columns of a new upload."""
    created_at = to_micros(upload.created_at)
    return {
        "id": upload.id,
        "drop_id": upload.drop_id,
        "role": upload.role.value,
        "mode": upload.mode.value,
        "state": upload.state.value,
        "state_at": created_at,
        "created_at": created_at,
        "completed_at": _micros_or_none(upload.completed_at),
        "length": upload.length,
        "size_bytes": upload.size_bytes,
        "reserved_bytes": upload.reserved_bytes,
        "used_bytes": used_bytes,
        "final_id": upload.final_id,
    }


@_reads
def read_upload(row: Row) -> UploadRow:
    """Read an upload."""
    return UploadRow(
        id=row["id"],
        drop_id=row["drop_id"],
        role=Role(row["role"]),
        mode=Mode(row["mode"]),
        state=UploadState(row["state"]),
        created_at=from_micros(row["created_at"]),
        length=None if row["length"] is None else index(row["length"]),
        reserved_bytes=index(row["reserved_bytes"]),
        size_bytes=None if row["size_bytes"] is None else index(row["size_bytes"]),
        completed_at=_moment_or_none(row["completed_at"]),
        final_id=row["final_id"],
    )


def read_event(row: Row) -> OutboxRow:
    """Read an event that waits."""
    return OutboxRow(
        event_id=row["event_id"],
        sink=SinkName(row["sink"]),
        kind=EventKind(row["kind"]),
        drop_id=row["drop_id"],
        upload_id=row["upload_id"],
        at=from_micros(row["at"]),
        next_at=from_micros(row["next_at"]),
        attempts=row["attempts"],
        dead=bool(row["dead"]),
        problem=row["problem"],
    )


def read_backlog(row: Row) -> Backlog:
    """Read what waits at a sink."""
    return Backlog(SinkName(row["sink"]), row["waiting"], _moment_or_none(row["oldest_at"]), row["dead"])


def token_values(token: ApiToken) -> dict[str, object]:
    """Return the columns of an API token."""
    return {
        "id": token.id,
        "name": token.name,
        "scopes": _write_texts(tuple(scope.value for scope in token.scopes)),
        "created_at": to_micros(token.created_at),
        "expires_at": _micros_or_none(token.expires_at),
        "revoked_at": _micros_or_none(token.revoked_at),
        "mac": token.mac,
        "drop_id": token.drop_id,
    }


@_reads
def read_token(row: Row) -> ApiToken:
    """Read an API token."""
    return ApiToken(
        id=row["id"],
        name=row["name"],
        scopes=tuple(Scope(scope) for scope in _read_texts(row["scopes"])),
        created_at=from_micros(row["created_at"]),
        mac=row["mac"],
        drop_id=row["drop_id"],
        expires_at=_moment_or_none(row["expires_at"]),
        revoked_at=_moment_or_none(row["revoked_at"]),
    )


def page_values(after: tuple[datetime, str] | None, limit: int | None) -> dict[str, object]:
    """Return the values of a list's page."""
    values: dict[str, object] = {}
    if after is not None:
        values |= {"after_at": to_micros(after[0]), "after_id": after[1]}
    if limit is not None:
        values["most"] = limit
    return values
