"""An upload's row: asked for, read and written."""

from operator import index

from sqlalchemy import bindparam, select

from dropoff_tus.model import Mode, Role, UploadRow
from dropoff_tus.states import UploadState
from storage.catalog.rows import Row, from_micros, micros_or_none, moment_or_none, reads, to_micros
from storage.catalog.schema import uploads
from storage.catalog.transaction import Transaction

UPLOAD = select(uploads).where(uploads.c.id == bindparam("upload_id", type_=uploads.c.id.type))

PARTS = select(uploads).where(uploads.c.final_id == bindparam("final_id", type_=uploads.c.final_id.type))


def one_upload(transaction: Transaction, upload_id: str) -> UploadRow | None:
    """Return one upload, or None."""
    rows = transaction.rows(UPLOAD, upload_id=upload_id)
    return read_upload(rows[0]) if rows else None


def parts_of(transaction: Transaction, final_id: str) -> list[UploadRow]:
    """Return the partials that a final has claimed."""
    return [read_upload(row) for row in transaction.rows(PARTS, final_id=final_id)]


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
        "completed_at": micros_or_none(upload.completed_at),
        "length": upload.length,
        "size_bytes": upload.size_bytes,
        "reserved_bytes": upload.reserved_bytes,
        "used_bytes": used_bytes,
        "final_id": upload.final_id,
    }


@reads
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
        completed_at=moment_or_none(row["completed_at"]),
        final_id=row["final_id"],
    )
