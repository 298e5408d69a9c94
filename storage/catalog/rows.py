"""Rows to values and back."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping

from dropoff_tus.model import Dropoff, Limits, Mode, Role, SignedPolicy, UploadRow, UploadState

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_micros(moment: datetime | None) -> int | None:
    """Write an aware time as microseconds since 1970."""
    return None if moment is None else (moment - _EPOCH) // timedelta(microseconds=1)


def from_micros(value: int | None) -> datetime | None:
    """Read such a number."""
    return None if value is None else _EPOCH + timedelta(microseconds=value)


def _moment(value: int) -> datetime:
    return _EPOCH + timedelta(microseconds=value)


def dropoff_values(dropoff: Dropoff) -> dict[str, Any]:
    """Return the columns of a new drop-off."""
    limits = dropoff.limits
    return {
        "id": dropoff.id,
        "name": dropoff.name,
        "created_at": to_micros(dropoff.created_at),
        "opens_at": to_micros(dropoff.opens_at),
        "expires_at": to_micros(dropoff.expires_at),
        "closed": dropoff.closed,
        "ended": dropoff.ended,
        "mode": dropoff.policy.mode.value,
        "recipients": json.dumps(list(dropoff.policy.recipients)),
        "policy_signature": dropoff.policy.signature,
        "code_mac": dropoff.code_mac,
        "limits": json.dumps(
            {
                "max_upload_bytes": limits.max_upload_bytes,
                "max_total_bytes": limits.max_total_bytes,
                "max_uploads": limits.max_uploads,
                "allowed_types": list(limits.allowed_types),
                "name_patterns": list(limits.name_patterns),
            }
        ),
        "used_uploads": 0,
        "used_bytes": 0,
        "reserved_bytes": 0,
    }


def dropoff_from(row: RowMapping) -> Dropoff:
    """Read a drop-off."""
    limits = json.loads(row["limits"])
    return Dropoff(
        id=row["id"],
        name=row["name"],
        created_at=_moment(row["created_at"]),
        policy=SignedPolicy(Mode(row["mode"]), tuple(json.loads(row["recipients"])), bytes(row["policy_signature"])),
        code_mac=None if row["code_mac"] is None else bytes(row["code_mac"]),
        limits=Limits(
            max_upload_bytes=limits["max_upload_bytes"],
            max_total_bytes=limits["max_total_bytes"],
            max_uploads=limits["max_uploads"],
            allowed_types=tuple(limits["allowed_types"]),
            name_patterns=tuple(limits["name_patterns"]),
        ),
        opens_at=from_micros(row["opens_at"]),
        expires_at=from_micros(row["expires_at"]),
        closed=bool(row["closed"]),
        ended=bool(row["ended"]),
    )


def upload_values(row: UploadRow) -> dict[str, Any]:
    """Return the columns of a new upload."""
    return {
        "id": row.id,
        "drop_id": row.drop_id,
        "role": row.role.value,
        "mode": row.mode.value,
        "state": row.state.value,
        "created_at": to_micros(row.created_at),
        "length": row.length,
        "reserved_bytes": row.reserved_bytes,
        "size_bytes": row.size_bytes,
        "completed_at": to_micros(row.completed_at),
        "final_id": row.final_id,
        "epoch": row.epoch,
    }


def upload_from(row: RowMapping) -> UploadRow:
    """Read an upload."""
    return UploadRow(
        id=row["id"],
        drop_id=row["drop_id"],
        role=Role(row["role"]),
        mode=Mode(row["mode"]),
        state=UploadState(row["state"]),
        created_at=_moment(row["created_at"]),
        length=row["length"],
        reserved_bytes=row["reserved_bytes"],
        size_bytes=row["size_bytes"],
        completed_at=from_micros(row["completed_at"]),
        final_id=row["final_id"],
        epoch=row["epoch"],
    )
