"""Typed requests, plans and replies, which flow between the wire, the decisions and the use cases."""

from dataclasses import dataclass, field
from datetime import datetime

from dropoff_tus.checksum import ExpectedChecksum, ExpectedDigest
from dropoff_tus.ids import UploadToken
from dropoff_tus.model import Metadata, Role

TUS_VERSION = "1.0.0"
EXTENSIONS = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "checksum",
    "expiration",
    "termination",
    "concatenation",
)


@dataclass(frozen=True, slots=True)
class BodyInfo:
    """The body, as the headers describe it. `length` is None for a chunked one."""

    length: int | None
    checksum: ExpectedChecksum | None = None


@dataclass(frozen=True, slots=True)
class Create:
    """POST: a new upload.

    Attributes:
        length: None means deferred.
        parts: Those of a concatenation.
        token: The one that the client drew; None leaves it to the server.
    """

    role: Role
    length: int | None
    metadata: Metadata
    digests: tuple[ExpectedDigest, ...] = ()
    parts: tuple[UploadToken, ...] = ()
    body: BodyInfo | None = None
    token: UploadToken | None = None


@dataclass(frozen=True, slots=True)
class Patch:
    """PATCH: more bytes at an offset; `declared_length` when a deferred length becomes known."""

    offset: int
    body: BodyInfo
    declared_length: int | None = None


@dataclass(frozen=True, slots=True)
class AppendPlan:
    """The decision on a body: how much of it may be taken.

    Attributes:
        offset: Where the first byte goes; the lease must still be there.
        limit_bytes: How many bytes may be kept at most.
        expected_bytes: Content-Length, or None for a chunked body.
        declare_length: A length to fix first, or None.
        checksum: The digest that the whole body must have before any of it counts.
        ignore_body: The upload is complete already: answer 204 and keep nothing.
        past_limit: The error a chunked body that goes past `limit_bytes` ends in, by code.
    """

    offset: int
    limit_bytes: int
    expected_bytes: int | None
    declare_length: int | None = None
    checksum: ExpectedChecksum | None = None
    ignore_body: bool = False
    past_limit: str = "ERR_UPLOAD_SIZE_EXCEEDED"


@dataclass(frozen=True, slots=True)
class Created:
    """201: the new upload. `location` is absolute or path-absolute; `offset` set when a body came with it."""

    location: str = field(repr=False)
    upload_id: str
    offset: int | None = None
    expires_at: datetime | None = None
    receipt: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The reply to HEAD. `concat` is the Upload-Concat value to show, or None."""

    offset: int
    length: int | None
    metadata: Metadata | None
    expires_at: datetime | None = None
    concat: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Appended:
    """204 to PATCH: the durable offset."""

    offset: int
    expires_at: datetime | None = None
    receipt: str | None = None


@dataclass(frozen=True, slots=True)
class Terminated:
    """204 to DELETE."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """204 to OPTIONS. `max_size_bytes` 0 means none."""

    max_size_bytes: int = 0
