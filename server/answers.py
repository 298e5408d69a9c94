"""What operators are shown of drop-offs, uploads and tokens: the same for `--json` and the API."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field

from dropoff_tus.errors import DropoffError
from dropoff_tus.model import ApiToken, Dropoff, Mode, Role, Scope, UploadRow, Usage
from dropoff_tus.policy import WindowState, window_state
from dropoff_tus.ports.store import Store
from dropoff_tus.protocol import check_agrees
from dropoff_tus.states import UploadState
from server.clock import SystemClock
from server.settings.units import stamp

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Bytes = Annotated[int, Field(ge=0)]


class OperatorStore(Store, Protocol):
    """The store, and what operators alone may ask of it."""

    async def receipt(self, upload_id: str, identities: Sequence[str] = ()) -> dict[str, Any] | None:
        """Return what an upload's receipt says, or None where it is not there or cannot be read here."""
        ...

    async def signed_receipt(self, upload_id: str, identities: Sequence[str] = ()) -> bytes | None:
        """Return the receipt's signed line, or None likewise."""
        ...


class Answer(BaseModel):
    """What all have in common."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class DropAddress(Answer):
    """Where a drop-off is."""

    id: str
    name: str
    upload_url: str = Field(description="Where tus clients create uploads.")
    page_url: str = Field(description="The upload page.")


class NewDropAnswer(DropAddress):
    """A drop-off with its new code."""

    code: str | None = Field(description="The code, shown this once; null where none is needed.")

    @classmethod
    def of(cls, base_url: str, dropoff: Dropoff, code: str | None) -> Self:
        """Show a drop-off whose code was made just now."""
        return cls(**_address(base_url, dropoff), code=code)


class DropAnswer(DropAddress):
    """A drop-off. Of limits, 0 or an empty list is none."""

    mode: Mode = Field(description="Who can read a finished upload: managed, the server too; sealed, the roots alone.")
    has_code: bool
    closed: bool
    state: WindowState = Field(description="Whether it takes uploads now: open; or closed, not_open yet, or expired.")
    created_at: Time
    opens_at: Time | None
    expires_at: Time | None
    max_upload_bytes: Bytes
    max_total_bytes: Bytes
    max_uploads: int = Field(ge=0)
    allowed_types: list[str]
    name_patterns: list[str]
    recipients: list[str] = Field(description="age recipients of its own; empty: the configured roots.")
    notify: list[str] = Field(description="Mail addresses that are told what arrived.")
    retain_seconds: int = Field(ge=0, description="Finished uploads are shredded so long after completion; 0: never.")
    contact: str = Field(description="Whom an uploader may ask; shown to whoever has the code.")

    @classmethod
    def of(cls, base_url: str, dropoff: Dropoff) -> Self:
        """Show a drop-off."""
        return cls(**_members(base_url, dropoff))


class DropUsageAnswer(DropAnswer):
    """A drop-off and what its uploads take."""

    uploads: int = Field(ge=0)
    bytes: Bytes

    @classmethod
    def with_usage(cls, base_url: str, dropoff: Dropoff, usage: Usage) -> Self:
        """Show a drop-off with its usage."""
        return cls(**_members(base_url, dropoff), uploads=usage.uploads, bytes=usage.bytes)


def _address(base_url: str, dropoff: Dropoff) -> dict[str, str]:
    return {
        "id": dropoff.id,
        "name": dropoff.name,
        "upload_url": f"{base_url}/files/{dropoff.id}/",
        "page_url": f"{base_url}/d/{dropoff.id}",
    }


def _members(base_url: str, dropoff: Dropoff) -> dict[str, Any]:
    limits = dropoff.limits
    return {
        **_address(base_url, dropoff),
        "mode": dropoff.policy.mode,
        "has_code": dropoff.code_mac is not None,
        "closed": dropoff.closed,
        "state": window_state(dropoff, SystemClock().now()),
        "created_at": stamp(dropoff.created_at),
        "opens_at": stamp(dropoff.opens_at),
        "expires_at": stamp(dropoff.expires_at),
        "max_upload_bytes": limits.max_upload_bytes,
        "max_total_bytes": limits.max_total_bytes,
        "max_uploads": limits.max_uploads,
        "allowed_types": list(limits.allowed_types),
        "name_patterns": list(limits.name_patterns),
        "recipients": list(dropoff.policy.recipients),
        "notify": list(dropoff.notify),
        "retain_seconds": dropoff.retain_seconds,
        "contact": dropoff.contact,
    }


class UploadAnswer(Answer):
    """An upload. Name and digest are null where the server cannot read them."""

    id: str
    drop_id: str
    state: UploadState
    filename: str | None = Field(description="As the client named it: text to show, never a path.")
    length: Bytes | None = Field(description="Null until the client has said it.")
    offset: Bytes = Field(description="How many bytes are here.")
    sha256: str | None
    created_at: Time
    completed_at: Time | None
    reason: str | None = Field(
        description="Why it ended, a fixed phrase: `retention is over` or `idle for too long` of what is expired, say."
    )


async def show_upload(store: OperatorStore, row: UploadRow, identities: Sequence[str] = ()) -> UploadAnswer:
    """Show an upload: its row, and what the store knows of it. One that cannot be read is shown as the catalog has it.

    Args:
        store: Where it is.
        row: The catalog's.
        identities: age identities that open what the server cannot.
    """
    filename, digest, offset, reason = None, None, row.size_bytes or 0, None
    with suppress(DropoffError):
        stored = await store.stat(row.id)
        check_agrees(row, stored)
        offset, reason = stored.offset, stored.end_reason
        receipt = None
        if row.state is UploadState.COMPLETE and row.role is not Role.PARTIAL:
            receipt = await store.receipt(row.id, identities)
        if receipt is not None:
            digest, filename = receipt.get("sha256"), receipt.get("path")
        elif stored.ended is None:
            metadata = await store.metadata(row.id)
            filename = metadata.filename if metadata is not None else None
    return UploadAnswer(
        id=row.id,
        drop_id=row.drop_id,
        state=row.state,
        filename=filename,
        length=row.length,
        offset=offset,
        sha256=digest,
        created_at=stamp(row.created_at),
        completed_at=stamp(row.completed_at),
        reason=reason,
    )


class DeletedAnswer(Answer):
    """An upload that was shredded."""

    id: str
    state: UploadState


class TokenAnswer(Answer):
    """An API token, without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    drop_id: str | None = Field(description="The drop-off it is for; null: all.")

    @classmethod
    def of(cls, token: ApiToken) -> Self:
        """Show a token."""
        return cls(
            id=token.id,
            name=token.name,
            scopes=list(token.scopes),
            created_at=stamp(token.created_at),
            expires_at=stamp(token.expires_at),
            revoked_at=stamp(token.revoked_at),
            drop_id=token.drop_id,
        )
