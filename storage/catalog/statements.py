"""What the catalog does, as plain functions over one connection inside one transaction.

A drop-off's counters are `used_uploads` (open and complete, no partials), `used_bytes` (complete) and `reserved_bytes`
(open). Every function keeps them equal to what its rows say.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from dropoff_tus.errors import AccessDeniedError, InvalidConcatError, PartInUseError, PartNotFoundError
from dropoff_tus.model import Dropoff, Role, UploadRow, UploadState, Usage
from dropoff_tus.ports import Decide
from storage.catalog.rows import dropoff_from, dropoff_values, to_micros, upload_from, upload_values
from storage.catalog.schema import counters, dropoffs, uploads

_RESERVING = (UploadState.OPEN.value, UploadState.FINISHING.value, UploadState.CHECKING.value)
_TAKEN_BACK = (UploadState.REJECTED, UploadState.TERMINATED, UploadState.EXPIRED, UploadState.DELETED)
_VERSION = "dropoffs"


def bump_version(connection: Connection) -> None:
    """Raise the counter that says: some drop-off changed."""
    connection.execute(update(counters).where(counters.c.name == _VERSION).values(value=counters.c.value + 1))


def version(connection: Connection) -> int:
    """Return that counter."""
    return int(connection.execute(select(counters.c.value).where(counters.c.name == _VERSION)).scalar_one())


def add_dropoff(connection: Connection, dropoff: Dropoff) -> None:
    """Insert a drop-off; ValueError if its id is taken."""
    try:
        connection.execute(insert(dropoffs), dropoff_values(dropoff))
    except IntegrityError:
        message = f"a drop-off with the id {dropoff.id} exists already"
        raise ValueError(message) from None
    bump_version(connection)


def dropoff(connection: Connection, drop_id: str) -> Dropoff | None:
    """Return one drop-off."""
    row = connection.execute(select(dropoffs).where(dropoffs.c.id == drop_id)).mappings().one_or_none()
    return None if row is None else dropoff_from(row)


def all_dropoffs(connection: Connection) -> list[Dropoff]:
    """Return all drop-offs, oldest first."""
    rows = connection.execute(select(dropoffs).order_by(dropoffs.c.created_at, dropoffs.c.id)).mappings()
    return [dropoff_from(row) for row in rows]


def usage(connection: Connection, drop_id: str) -> Usage:
    """Return what a drop-off's uploads take."""
    row = connection.execute(select(dropoffs).where(dropoffs.c.id == drop_id)).mappings().one_or_none()
    return Usage(0, 0, _outstanding(connection)) if row is None else _usage(connection, row)


def _usage(connection: Connection, row: Any) -> Usage:  # noqa: ANN401 - a row
    return Usage(row["used_uploads"], row["used_bytes"] + row["reserved_bytes"], _outstanding(connection))


def _outstanding(connection: Connection) -> int:
    total = select(func.coalesce(func.sum(dropoffs.c.reserved_bytes), 0)).where(dropoffs.c.reserved_bytes > 0)
    return int(connection.execute(total).scalar_one())


def set_closed(connection: Connection, drop_id: str, closed: bool, end_open: bool) -> bool:  # noqa: FBT001
    """Close or reopen a drop-off."""
    changed = connection.execute(
        update(dropoffs).where(dropoffs.c.id == drop_id).values(closed=closed, ended=closed and end_open)
    )
    bump_version(connection)
    return changed.rowcount > 0


def set_code(connection: Connection, drop_id: str, code_mac: bytes | None) -> bool:
    """Replace a drop-off's code."""
    changed = connection.execute(update(dropoffs).where(dropoffs.c.id == drop_id).values(code_mac=code_mac))
    bump_version(connection)
    return changed.rowcount > 0


def add_upload(connection: Connection, row: UploadRow, decide: Decide, parts: Sequence[str]) -> UploadRow:
    """Create an upload, or claim the parts of a concatenation; see the port."""
    present = upload(connection, row.id)
    if present is not None and present.role is Role.FINAL:
        return present
    found = connection.execute(select(dropoffs).where(dropoffs.c.id == row.drop_id).with_for_update())
    drop = found.mappings().one_or_none()
    if drop is None:
        message = "there is no such drop-off, or the code is wrong"
        raise AccessDeniedError(message)
    use = _usage(connection, drop)
    part_bytes = 0
    if row.role is Role.FINAL:
        part_bytes = _claim(connection, row, parts)
        # The parts' bytes are the final's from here on; only its place in the count is new.
        row = replace(row, length=part_bytes, reserved_bytes=part_bytes)
        decide(dropoff_from(drop), replace(use, bytes=use.bytes - part_bytes))
    else:
        decide(dropoff_from(drop), use)
    connection.execute(insert(uploads), upload_values(row))
    _count(
        connection,
        row.drop_id,
        uploads_by=0 if row.role is Role.PARTIAL else 1,
        used_by=-part_bytes,
        reserved_by=row.reserved_bytes,
    )
    return row


def _claim(connection: Connection, row: UploadRow, parts: Sequence[str]) -> int:
    """Give the parts to a final; return their size in bytes."""
    rows = connection.execute(select(uploads).where(uploads.c.id.in_(list(parts)))).mappings()
    found = {part["id"]: upload_from(part) for part in rows}
    total = 0
    for part_id in parts:
        part = found.get(part_id)
        if part is None or part.drop_id != row.drop_id:
            message = "a part of the concatenation is no upload of this drop-off"
            raise PartNotFoundError(message)
        if part.role is not Role.PARTIAL or part.state is not UploadState.COMPLETE:
            message = "every part must be a finished partial upload (Upload-Concat: partial)"
            raise InvalidConcatError(message)
        if part.final_id is not None:
            message = "a part of the concatenation belongs to another upload already"
            raise PartInUseError(message)
        total += part.size_bytes or 0
    connection.execute(update(uploads).where(uploads.c.id.in_(list(parts))).values(final_id=row.id, size_bytes=0))
    return total


def reserve(connection: Connection, upload_id: str, reserved: int, decide: Decide, length: int | None) -> None:
    """Change an open upload's reservation; see the port."""
    row = upload(connection, upload_id)
    if row is None or row.state is not UploadState.OPEN:
        return
    drop = connection.execute(select(dropoffs).where(dropoffs.c.id == row.drop_id).with_for_update()).mappings().one()
    use = _usage(connection, drop)
    decide(
        dropoff_from(drop),
        replace(
            use, bytes=use.bytes - row.reserved_bytes, outstanding_bytes=use.outstanding_bytes - row.reserved_bytes
        ),
    )
    values: dict[str, Any] = {"reserved_bytes": reserved}
    if length is not None:
        values["length"] = length
    connection.execute(update(uploads).where(uploads.c.id == upload_id).values(**values))
    _count(connection, row.drop_id, reserved_by=reserved - row.reserved_bytes)


def drop_upload(connection: Connection, upload_id: str) -> None:
    """Forget an upload, giving back what it took and the parts it claimed."""
    row = upload(connection, upload_id)
    if row is None:
        return
    _release(connection, row)
    if row.role is Role.FINAL:
        freed = sum(part.length or 0 for part in parts(connection, upload_id))
        connection.execute(
            update(uploads).where(uploads.c.final_id == upload_id).values(final_id=None, size_bytes=uploads.c.length)
        )
        _count(connection, row.drop_id, used_by=freed)
    connection.execute(uploads.delete().where(uploads.c.id == upload_id))


def _release(connection: Connection, row: UploadRow) -> None:
    if row.state in _TAKEN_BACK:
        return
    open_now = row.state.value in _RESERVING
    _count(
        connection,
        row.drop_id,
        uploads_by=0 if row.role is Role.PARTIAL else -1,
        used_by=0 if open_now else -(row.size_bytes or 0),
        reserved_by=-row.reserved_bytes if open_now else 0,
    )


def complete_upload(connection: Connection, upload_id: str, size_bytes: int, at: datetime) -> bool:
    """Mark an upload complete, with its size in place of its reservation."""
    row = upload(connection, upload_id)
    if row is None or row.state.value not in _RESERVING:
        return False
    connection.execute(
        update(uploads)
        .where(uploads.c.id == upload_id)
        .values(
            state=UploadState.COMPLETE.value,
            size_bytes=size_bytes,
            length=size_bytes,
            reserved_bytes=0,
            completed_at=to_micros(at),
        )
    )
    _count(connection, row.drop_id, used_by=size_bytes, reserved_by=-row.reserved_bytes)
    return True


def set_state(connection: Connection, upload_id: str, state: UploadState) -> bool:
    """Move an upload, and the parts of a final, to a state; see the port."""
    row = upload(connection, upload_id)
    if row is None or row.state is state:
        return False
    if state in _TAKEN_BACK:
        _release(connection, row)
        values = {"state": state.value, "reserved_bytes": 0}
        connection.execute(update(uploads).where(uploads.c.id == upload_id).values(**values))
        connection.execute(update(uploads).where(uploads.c.final_id == upload_id).values(**values))
    else:
        connection.execute(update(uploads).where(uploads.c.id == upload_id).values(state=state.value))
    return True


def upload(connection: Connection, upload_id: str) -> UploadRow | None:
    """Return one upload."""
    row = connection.execute(select(uploads).where(uploads.c.id == upload_id)).mappings().one_or_none()
    return None if row is None else upload_from(row)


def list_uploads(
    connection: Connection,
    drop_id: str | None,
    states: Sequence[UploadState],
    partials: bool,  # noqa: FBT001
    created_before: datetime | None,
    unclaimed: bool,  # noqa: FBT001
) -> list[UploadRow]:
    """Return uploads, oldest first, filtered."""
    conditions: list[ColumnElement[bool]] = []
    if drop_id is not None:
        conditions.append(uploads.c.drop_id == drop_id)
    if states:
        conditions.append(uploads.c.state.in_([state.value for state in states]))
    if not partials:
        conditions.append(uploads.c.role != Role.PARTIAL.value)
    if unclaimed:
        conditions += [uploads.c.role == Role.PARTIAL.value, uploads.c.final_id.is_(None)]
    if created_before is not None:
        conditions.append(uploads.c.created_at < to_micros(created_before))
    rows = connection.execute(select(uploads).where(*conditions).order_by(uploads.c.created_at, uploads.c.id))
    return [upload_from(row) for row in rows.mappings()]


def parts(connection: Connection, final_id: str) -> list[UploadRow]:
    """Return the partials a final has claimed."""
    rows = connection.execute(select(uploads).where(uploads.c.final_id == final_id)).mappings()
    return [upload_from(row) for row in rows]


def _count(
    connection: Connection, drop_id: str, *, uploads_by: int = 0, used_by: int = 0, reserved_by: int = 0
) -> None:
    connection.execute(
        update(dropoffs)
        .where(dropoffs.c.id == drop_id)
        .values(
            used_uploads=dropoffs.c.used_uploads + uploads_by,
            used_bytes=dropoffs.c.used_bytes + used_by,
            reserved_bytes=dropoffs.c.reserved_bytes + reserved_by,
        )
    )
