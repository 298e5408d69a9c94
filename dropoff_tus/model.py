"""Frozen values that every layer speaks of: drop-offs, uploads, grants."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from dropoff_tus.states import UploadState
from dropoff_tus.terms import Kind, Term, read_value, terms_of, write_value
from dropoff_tus.text import canonical


class Role(StrEnum):
    """The role of an upload: by itself, a part of a concatenation, or its result."""

    REGULAR = "regular"
    PARTIAL = "partial"
    FINAL = "final"


class Mode(StrEnum):
    """The readers of a finished upload: the server too, or only the root identities."""

    MANAGED = "managed"
    SEALED = "sealed"


class Task(StrEnum):
    """What operators run again and again, from a timer: monitoring tells when each last ended, and how."""

    CHECK = "check"
    QUICK_CHECK = "quick-check"
    BACKUP = "backup"


@dataclass(frozen=True, slots=True)
class Run:
    """The last end of a task. `good_at` is the last end without `problems`, which a later one with some leaves."""

    task: Task
    ended_at: datetime
    good_at: datetime | None
    problems: int


@dataclass(frozen=True, slots=True)
class Tally:
    """So many uploads are in a state; `oldest_at` is since when, of states that an upload soon leaves by itself."""

    state: UploadState
    count: int
    oldest_at: datetime | None = None


SEALED_BY_AGE = "age"
"""The one value of `sealed-by` in the metadata: the content is an age v1 file."""


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

    @property
    def relative_path(self) -> str | None:
        """The client's path of the file within the folder that it chose: `relativePath`, as text, whatever is in it."""
        return self._text("relativePath")

    @property
    def sender(self) -> str | None:
        """The name that whoever sends gave to themselves, as text."""
        return self._text("sender")

    @property
    def message(self) -> str | None:
        """The message of whoever sends, as text."""
        return self._text("message")

    def _text(self, key: str) -> str | None:
        value = self.get(key)
        return None if value is None else value.decode("utf-8", "replace")

    @property
    def sealed_by(self) -> str | None:
        """How the client sealed the content before sending: `age`, or None where `sealed-by` says nothing we know."""
        return SEALED_BY_AGE if self.get("sealed-by") == SEALED_BY_AGE.encode() else None

    def __repr__(self) -> str:
        """Show how many pairs there are; values may be private."""
        return f"Metadata(<{len(self.pairs)} pairs>)"


@dataclass(frozen=True, slots=True)
class DropTerms:
    """All that an operator says of a drop-off; its signature covers it. 0, an empty text or an empty tuple is no limit.

    From these fields are made the options of `drop create` and `drop edit`, the keys of section `[dropoffs]`, the API's
    bodies and answers, and the catalog's column: a new field needs a `Term` here, and whoever heeds it.
    """

    name: Annotated[str, Term(Kind.LABEL, "Your name for it", setting="")]
    mode: Annotated[
        Mode,
        Term(
            Kind.MODE,
            "Sealed: not even the server can read a finished upload; for new uploads",
            option="--sealed/--managed",
            setting="sealed",
        ),
    ] = Mode.MANAGED
    seal_in_browser: Annotated[
        bool,
        Term(
            Kind.FLAG,
            "Whether the upload page seals files before it sends them, and others are refused; of uploads created "
            "from now on",
        ),
    ] = False
    opens_at: Annotated[
        datetime | None, Term(Kind.TIME, "When it begins to take uploads", none="now", option="--opens", setting="")
    ] = None
    expires_at: Annotated[
        datetime | None,
        Term(Kind.TIME, "When it stops taking uploads", none="never", option="--expires", setting="expires"),
    ] = None
    max_upload_bytes: Annotated[int, Term(Kind.BYTES, "Size of one upload", none="no limit")] = 0
    max_total_bytes: Annotated[int, Term(Kind.BYTES, "Size of all uploads together", none="no limit")] = 0
    max_uploads: Annotated[int, Term(Kind.COUNT, "How many uploads", none="no limit")] = 0
    allowed_types: Annotated[
        tuple[str, ...],
        Term(Kind.TYPES, "Media types it takes, e.g. text/csv or image/*", none="any", option="--allow-type"),
    ] = ()
    name_patterns: Annotated[
        tuple[str, ...],
        Term(Kind.NAMES, "Patterns of file names it takes, e.g. '*.vcf.gz'", none="any", option="--allow-name"),
    ] = ()
    recipients: Annotated[
        tuple[str, ...],
        Term(
            Kind.RECIPIENTS,
            "age recipients of new uploads",
            none="the configured roots",
            option="--recipient",
            setting="",
        ),
    ] = ()
    notify: Annotated[
        tuple[str, ...],
        Term(Kind.ADDRESSES, "Mail addresses that get a mail when files arrive; needs [mail]", none="nobody"),
    ] = ()
    retain_seconds: Annotated[
        int,
        Term(
            Kind.SECONDS,
            "Finished uploads are shredded this long after their completion, existing ones too",
            none="never",
            option="--retain",
            setting="retain",
        ),
    ] = 0
    receiver: Annotated[
        str, Term(Kind.TEXT, "The recipient of the files; shown to everybody who has the code", none="nobody is named")
    ] = ""
    contact: Annotated[
        str, Term(Kind.TEXT, "A contact for uploaders; shown to everybody who has the code", none="nobody")
    ] = ""

    def as_json(self) -> dict[str, Any]:
        """Return the terms as values of JSON: times as RFC 3339, tuples as lists."""
        return {name: write_value(getattr(self, name)) for name in TERMS}

    @classmethod
    def read(cls, text: str) -> Self:
        """Read the terms that were written as JSON.

        Raises:
            ValueError: They are not all there, or one of them is no value that it can have.
        """
        found = json.loads(text)
        if not isinstance(found, dict) or found.keys() != TERMS.keys():
            raise ValueError("these are not the terms of a drop-off")
        return cls(**{name: read_value(term, found[name]) for name, term in TERMS.items()})


TERMS = terms_of(DropTerms)
"""The description of each field of `DropTerms`, by its name."""


@dataclass(frozen=True, slots=True)
class Dropoff:
    """An invitation to upload. `code_mac` is HMAC-SHA-256 of the code (32 bytes), None without a code.

    `signature` is the server's, 64 bytes over a versioned domain and `signed_text`: an empty tuple of recipients stands
    for the configured roots at the time of each upload.
    """

    id: str
    created_at: datetime
    terms: DropTerms
    code_mac: bytes | None = field(default=None, repr=False)
    signature: bytes = field(default=b"", repr=False)
    closed: bool = False
    ended: bool = False
    """`drop close --now`: its open uploads have been ended too."""

    def signed_text(self) -> str:
        """Return the canonical JSON of all that is signed.

        That is every field but the signature, and whether it is closed, which the audit has. It is made from the
        drop-off as it was read, so one that was changed behind the server does not verify.
        """
        return canonical(
            {
                "id": self.id,
                "created_at": write_value(self.created_at),
                "code_mac": None if self.code_mac is None else self.code_mac.hex(),
                "terms": self.terms.as_json(),
            }
        )


class Scope(StrEnum):
    """The scopes of an API token."""

    DROPS_READ = "drops:read"
    DROPS_WRITE = "drops:write"
    UPLOADS_READ = "uploads:read"
    UPLOADS_DOWNLOAD = "uploads:download"
    UPLOADS_DELETE = "uploads:delete"


@dataclass(frozen=True, slots=True)
class ApiToken:
    """An operator's right to use the API.

    `mac` is a keyed hash of the secret and of what it is good for (32 bytes). With `drop_id` it is good only for that
    drop-off.
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
    """The usage of a drop-off's uploads, in one transaction's view.

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
    """The bytes of its pieces on the disk beyond their plaintext: headers, tags, records."""

    @property
    def whole(self) -> bool:
        """Whether nothing more is to come from the client: the rest is the server's to do."""
        return self.final or self.role is Role.FINAL or self.offset == self.length
