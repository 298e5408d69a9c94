"""Frozen values that every layer speaks of: drop-offs, uploads, grants."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum

from dropoff_tus.states import UploadState


class Role(StrEnum):
    """What an upload is for: itself, a part of a concatenation, or its result."""

    REGULAR = "regular"
    PARTIAL = "partial"
    FINAL = "final"


class Mode(StrEnum):
    """Who can read a finished upload: the server too, or the root identities alone."""

    MANAGED = "managed"
    SEALED = "sealed"


@dataclass(frozen=True, slots=True)
class Metadata:
    """Upload-Metadata as received, less the code: ordered pairs of key and decoded value."""

    pairs: tuple[tuple[str, bytes], ...] = ()

    def get(self, key: str) -> bytes | None:
        """Return the value of a key (exact case), or None."""
        return next((value for name, value in self.pairs if name == key), None)

    @property
    def raw_filename(self) -> bytes | None:
        """The client's name for the file: `filename`, else `name`; whatever bytes it sent."""
        value = self.get("filename")
        return self.get("name") if value is None else value

    @property
    def filename(self) -> str | None:
        """The client's name for the file as text; undecodable bytes are replaced."""
        name = self.raw_filename
        return None if name is None else name.decode("utf-8", "replace")

    @property
    def filetype(self) -> str | None:
        """The client's media type: `filetype`, else `type`."""
        for key in ("filetype", "type"):
            value = self.get(key)
            if value is not None:
                return value.decode("utf-8", "replace")
        return None

    def __repr__(self) -> str:
        """Show how many pairs there are; values may be private."""
        return f"Metadata(<{len(self.pairs)} pairs>)"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a drop-off accepts. 0 or an empty tuple means no limit."""

    max_upload_bytes: int = 0
    max_total_bytes: int = 0
    max_uploads: int = 0
    allowed_types: tuple[str, ...] = ()
    name_patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SignedPolicy:
    """A drop-off's mode and recipients, signed by the server key together with all its other terms.

    An empty tuple of recipients stands for the configured roots at the time of each upload. `terms` is made from the
    drop-off as it was read (`Dropoff.with_terms`), so a term that was changed behind the server does not verify.
    `signature` is 64 bytes over a versioned domain and the canonical JSON of (drop id, mode, recipients, terms).
    """

    mode: Mode
    recipients: tuple[str, ...]
    signature: bytes = field(default=b"", repr=False)
    terms: str = ""


@dataclass(frozen=True, slots=True)
class Dropoff:
    """An invitation to upload. `code_mac` is HMAC-SHA-256 of the code (32 bytes), None without a code."""

    id: str
    name: str
    created_at: datetime
    policy: SignedPolicy
    code_mac: bytes | None = field(default=None, repr=False)
    limits: Limits = Limits()
    opens_at: datetime | None = None
    expires_at: datetime | None = None
    closed: bool = False
    ended: bool = False
    """`drop close --now`: what is open has been ended too."""
    notify: tuple[str, ...] = ()
    """Mail addresses that are told of uploads."""
    retain_seconds: int = 0
    """Finished uploads are shredded so long after their completion; 0: never."""
    contact: str = ""
    """Whom an uploader may ask."""

    def with_terms(self) -> "Dropoff":
        """Return the same with `policy.terms`: hex SHA-256 of all that is signed beside mode and recipients.

        That is every field but the id, the policy itself, and whether it is closed, which the audit alone holds.
        """
        unsigned = ("id", "policy", "closed", "ended")
        values = {name: value for name, value in asdict(self).items() if name not in unsigned}
        text = json.dumps(values, sort_keys=True, default=_as_text)
        return replace(self, policy=replace(self.policy, terms=hashlib.sha256(text.encode()).hexdigest()))


def _as_text(value: datetime | bytes) -> str:
    return value.hex() if isinstance(value, bytes) else value.astimezone(UTC).isoformat()


class Scope(StrEnum):
    """What an API token may be good for."""

    DROPS_READ = "drops:read"
    DROPS_WRITE = "drops:write"
    UPLOADS_READ = "uploads:read"
    UPLOADS_DOWNLOAD = "uploads:download"
    UPLOADS_DELETE = "uploads:delete"


@dataclass(frozen=True, slots=True)
class ApiToken:
    """An operator's right to use the API.

    `mac` is a keyed hash of the secret and of what it is good for (32 bytes). With `drop_id` it is good for that
    drop-off alone.
    """

    id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    mac: bytes = field(repr=False)
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    drop_id: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a drop-off's uploads take, in one transaction's view.

    `uploads` counts open and complete uploads that are no partials. `bytes` is what is complete plus what is
    reserved. `attempts` counts what leaves files behind beside them: partials, and what its client ended or what was
    rejected.
    """

    uploads: int
    bytes: int
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """The proven right to create an upload in one drop-off."""

    dropoff: Dropoff


@dataclass(frozen=True, slots=True)
class UploadRow:
    """An upload as the catalog knows it: nothing of its content, name or token.

    `reserved_bytes` is what it may still take; `size_bytes` what it took once complete. `final_id` names the
    concatenation that claimed a partial.
    """

    id: str
    drop_id: str
    role: Role
    mode: Mode
    state: UploadState
    created_at: datetime
    length: int | None = None
    reserved_bytes: int = 0
    size_bytes: int | None = None
    completed_at: datetime | None = None
    final_id: str | None = None


@dataclass(frozen=True, slots=True)
class StoredUpload:
    """An upload as the store knows it: the truth about bytes.

    `offset` is durable plaintext bytes. `final` is true once the final record is durable. `ended` is how it ended or
    None, and `end_reason` why, a fixed phrase. `parts` are the upload ids of a concatenation, in order.
    """

    id: str
    drop_id: str
    role: Role
    mode: Mode
    created_at: datetime
    last_commit_at: datetime
    offset: int
    length: int | None
    final: bool = False
    ended: UploadState | None = None
    end_reason: str | None = None
    parts: tuple[str, ...] = ()
    key_type: str = "hybrid"
    overhead_bytes: int = 0
    """What its pieces take on the disk beyond their plaintext: headers, tags, records."""

    @property
    def whole(self) -> bool:
        """Whether nothing more is to come from the client: the rest is the server's to do."""
        return self.final or self.role is Role.FINAL or self.offset == self.length
