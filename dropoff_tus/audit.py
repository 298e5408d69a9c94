"""The audit: its acts and actors, and how a checkpoint covers a range of rows.

A row is canonical JSON, kept as it was written, under a number that only grows. A signed checkpoint has the hash of the
rows since the one before, and names that one (`storage.catalog`): so rows that are changed, moved, put in or removed
show against the next checkpoint. Names, codes, tokens, keys and digests of content have no field here.

Source: docs/operate/audit.md.
"""

import hashlib
import json
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeAlias

from dropoff_tus.model import TERMS, Dropoff, Role, UploadRow
from dropoff_tus.states import UploadState
from dropoff_tus.text import canonical

_DOMAIN = b"dropoff-tus/audit-rows/v1\n"
_MOST_SEQ_BYTES = 8
MOST_NAMED = 500
"""So many uploads with findings get rows of their own from one check."""


class Act(StrEnum):
    """An act that is recorded."""

    TOKEN_CREATE = "token.create"  # noqa: S105 - the name of an act
    TOKEN_REVOKE = "token.revoke"  # noqa: S105 - likewise
    WRONG_TOKENS = "token.wrong"
    DROP_CREATE = "drop.create"
    DROP_EDIT = "drop.edit"
    DROP_CLOSE = "drop.close"
    DROP_REOPEN = "drop.reopen"
    DROP_NEW_CODE = "drop.new_code"
    DROP_PURGE = "drop.purge"
    WRONG_CODES = "code.wrong"
    UPLOAD_CREATE = "upload.create"
    UPLOAD_FORGET = "upload.forget"
    UPLOAD_COMPLETE = "upload.complete"
    UPLOAD_REJECT = "upload.reject"
    UPLOAD_TERMINATE = "upload.terminate"
    UPLOAD_EXPIRE = "upload.expire"
    UPLOAD_RETIRE = "upload.retire"
    UPLOAD_DELETE = "upload.delete"
    UPLOAD_EXPORT = "upload.export"
    UPLOAD_DOWNLOAD = "upload.download"
    EVENT_DEAD = "event.dead"
    EVENT_RESEND = "event.resend"
    KEYS_ROTATE = "keys.rotate"
    CLOCK_TRUST = "clock.trust"
    STORE_BACKUP = "store.backup"
    STORE_CHECK = "store.check"
    STORE_RESTORE = "store.restore"
    AUDIT_ACCEPT = "audit.accept"


ENDS = {
    UploadState.REJECTED: Act.UPLOAD_REJECT,
    UploadState.TERMINATED: Act.UPLOAD_TERMINATE,
    UploadState.EXPIRED: Act.UPLOAD_EXPIRE,
    UploadState.DELETED: Act.UPLOAD_DELETE,
}
"""How the end of an upload is recorded."""


def end_of(upload: UploadRow, state: UploadState) -> Act:
    """Return how an end is recorded: time ends a complete upload by retention and any other by expiry.

    It depends only on the row, so an end that is repeated after a crash has the same name.
    """
    retired = state is UploadState.EXPIRED and upload.completed_at is not None and upload.role is not Role.PARTIAL
    return Act.UPLOAD_RETIRE if retired else ENDS[state]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `final` is the hex SHA-256 of a final log record, `count` how often or how many.

    `result` is a fixed word if the act does not say everything. `origin` is the origin of the act, as in `Actor`, if
    the server records acts of others that it has counted for a while.
    """

    act: Act
    drop_id: str | None = None
    upload_id: str | None = None
    result: str | None = None
    size_bytes: int | None = None
    final: str | None = None
    count: int | None = None
    token_id: str | None = None
    origin: str | None = None
    policy: str | None = None
    """Stands for a drop-off's signed terms; see `terms_hash`."""
    began_at: datetime | None = None
    """When a check began: what was there by then is covered by it."""
    findings: int | None = None


def edit_of(before: Dropoff, after: Dropoff) -> Event | None:
    """Return how a change of a drop-off is recorded: which of its terms, and never what they are; None if none did."""
    changed = [name for name in TERMS if getattr(before.terms, name) != getattr(after.terms, name)]
    changed += ["has_code"] if before.code_mac != after.code_mac else []
    if not changed and before.signature == after.signature:
        return None
    if changed == ["has_code"] and after.code_mac is not None:
        return Event(Act.DROP_NEW_CODE, after.id, policy=terms_hash(after))
    return Event(Act.DROP_EDIT, after.id, result=" ".join(changed), policy=terms_hash(after))


def creation_of(dropoff: Dropoff) -> Event:
    """Return how a new drop-off is recorded."""
    return Event(Act.DROP_CREATE, dropoff.id, result=dropoff.terms.mode.value, policy=terms_hash(dropoff))


def terms_hash(dropoff: Dropoff) -> str:
    """Return the hash of signed terms: earlier ones, which also verify, have another."""
    return hashlib.sha256(dropoff.signature).hexdigest()


@dataclass(frozen=True, slots=True)
class Actor:
    """The actor: `server`, `client`, `operator:<user>…`, `token:<id>`; and from where, as a keyed hash."""

    who: str
    origin: str | None = None


SERVER = Actor("server")
Note: TypeAlias = Callable[[Event], None]
"""Records an event in the transaction that is running."""

# Ambient, since who asks is known at the edge and wanted at the bottom, and nothing in between decides on it.
_acting: ContextVar[Callable[[], Actor]] = ContextVar("acting")


def actor() -> Actor:
    """Return who acts now: this process itself, unless `acting` says otherwise."""
    found = _acting.get(None)
    return SERVER if found is None else found()


class acting:  # noqa: N801 - used like a function, as those of contextlib are
    """Lets what runs inside, and the tasks begun there, act for somebody. `who` is asked only when it is recorded."""

    __slots__ = ("_before", "_who")

    def __init__(self, who: Callable[[], Actor]) -> None:
        """Take who acts."""
        self._who = who

    def __enter__(self) -> None:
        """Begin."""
        self._before = _acting.set(self._who)

    def __exit__(self, *_error: object) -> None:
        """Let whoever acted before act again."""
        _acting.reset(self._before)


class AuditBrokenError(Exception):
    """The audit is not what was written; the text says where."""


def moment(at: datetime) -> str:
    """Return a time as rows have it."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_row(event: Event, by: Actor, at: datetime) -> str:
    """Return the text of a row."""
    told: dict[str, Any] = {
        "at": moment(at),
        "act": event.act.value,
        "who": by.who,
        "from": event.origin or by.origin,
        "token": event.token_id,
        "drop": event.drop_id,
        "upload": event.upload_id,
        "result": event.result,
        "bytes": event.size_bytes,
        "final": event.final,
        "count": event.count,
        "policy": event.policy,
        "began": None if event.began_at is None else moment(event.began_at),
        "findings": event.findings,
    }
    return canonical({name: value for name, value in told.items() if value is not None})


def read_row(seq: int, text: str) -> dict[str, Any]:
    """Return what a row says.

    Raises:
        AuditBrokenError: Nothing here wrote it.
    """
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or canonical(row) != text:
        raise AuditBrokenError(f"row {seq} was changed")
    return row


@dataclass(slots=True)
class RowsHash:
    """The hash of rows in the order of their numbers: of each one its number and the hash of its text."""

    count: int = 0
    _hash: Any = field(default_factory=lambda: hashlib.sha256(_DOMAIN))

    def add(self, seq: int, text: str) -> None:
        """Go on to a row."""
        self._hash.update(seq.to_bytes(_MOST_SEQ_BYTES, "big") + hashlib.sha256(text.encode()).digest())
        self.count += 1

    @property
    def hex(self) -> str:
        """The hash so far."""
        digest: str = self._hash.hexdigest()
        return digest
