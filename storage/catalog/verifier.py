"""Checkpoints of the audit: signed, read, and held against the rows.

A checkpoint has the hash of the rows since the one before it, and that one's hash: so the newest stands for all. Kept
elsewhere, it shows later changes of the rows, even by someone who can rewrite the whole table.

Source: docs/operate/audit.md.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from dropoff_tus.audit import Act, AuditBrokenError, RowsHash, read_row
from storage.keyring.lines import sign_line, stamp, verify_line
from storage.keyring.signing import SigningKey

_VERSION = 1
_CHECKPOINT_DOMAIN = b"dropoff-tus/checkpoint/v1\n"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The rows after one number and up to another: how many there are, and their hash."""

    number: int
    after: int
    to: int
    count: int
    rows: str
    """The hash of the rows."""
    prev: str
    """The hash of the checkpoint before; empty where the audit begins, so `after` is 0."""
    line: str
    """All of it, signed."""

    @property
    def hash(self) -> str:
        """The hash that the next one names."""
        return hashlib.sha256(self.line.encode("ascii")).hexdigest()

    def follows(self, other: "Checkpoint") -> bool:
        """Tell whether it is the one behind another."""
        return (self.number, self.after, self.prev) == (other.number + 1, other.to, other.hash)


def sign_checkpoint(
    number: int, before: Checkpoint | None, to: int, rows: RowsHash, at: datetime, key: SigningKey
) -> Checkpoint:
    """Sign the rows behind those of the checkpoint before, up to a number."""
    after, prev = (0, "") if before is None else (before.to, before.hash)
    payload = {
        "v": _VERSION,
        "number": number,
        "after": after,
        "to": to,
        "count": rows.count,
        "rows": rows.hex,
        "prev": prev,
        "at": stamp(at),
        "key": key.id,
    }
    line = sign_line(payload, key, domain=_CHECKPOINT_DOMAIN).decode("ascii").rstrip("\n")
    return Checkpoint(number, after, to, rows.count, rows.hex, prev, line)


def read_checkpoint(line: str, key: SigningKey) -> Checkpoint | None:
    """Return a checkpoint that this key, or one it retired, signed; else None."""
    text = line.strip()
    found = verify_line(text.encode("utf-8", "replace"), key, domain=_CHECKPOINT_DOMAIN)
    if found is None:
        return None
    told = found[0]
    return Checkpoint(told["number"], told["after"], told["to"], told["count"], told["rows"], told["prev"], text)


@dataclass(slots=True)
class Verifier:
    """Follows the rows in the order of their numbers, and the checkpoints between them."""

    key: SigningKey
    last: Checkpoint | None = None
    """The last checkpoint that was met, from which on the rows are signed by nothing yet."""
    seq: int = 0
    """How far the rows were followed."""
    count: int = 0
    """How many rows were followed."""
    checkpoints: int = 0
    """How many checkpoints were met."""
    policies: dict[str, str] = field(default_factory=dict)
    """The hash of each drop-off's signed terms, as they were recorded last (`terms_hash`)."""
    closed: dict[str, bool] = field(default_factory=dict)
    """Whether a drop-off was closed or reopened last."""
    revoked: set[str] = field(default_factory=set)
    """The API tokens that were revoked."""
    began: str | None = None
    """The time of the first row."""
    unsigned: RowsHash = field(default_factory=RowsHash)
    """The rows since the last checkpoint."""

    def follow(self, rows: Iterable[tuple[int, str]]) -> None:
        """Go on with some rows.

        Raises:
            AuditBrokenError: One of them was written by nobody here.
        """
        for seq, text in rows:
            row = read_row(seq, text)
            self.unsigned.add(seq, text)
            self.seq, self.count = seq, self.count + 1
            self.began = self.began or str(row.get("at"))
            if "policy" in row:
                self.policies[str(row.get("drop"))] = str(row["policy"])
            if row.get("act") in {Act.DROP_CLOSE, Act.DROP_REOPEN}:
                self.closed[str(row.get("drop"))] = row["act"] == Act.DROP_CLOSE
            if row.get("act") == Act.TOKEN_REVOKE:
                self.revoked.add(str(row.get("token")))

    def expect(self, number: int, line: str) -> Checkpoint:
        """Return the next checkpoint, before its rows are followed.

        Raises:
            AuditBrokenError: It is no checkpoint of this server, or not the next one.
        """
        return next_checkpoint(self.last, number, line, self.key)

    def meet(self, checkpoint: Checkpoint) -> None:
        """Compare the rows that were followed since the last checkpoint with those that this one speaks of.

        Raises:
            AuditBrokenError: They are others.
        """
        if (self.unsigned.count, self.unsigned.hex) != (checkpoint.count, checkpoint.rows):
            where = f"the rows {checkpoint.after + 1} to {checkpoint.to}"
            if self.unsigned.count == checkpoint.count:
                raise AuditBrokenError(f"{where} are not those that were signed: some were changed or moved")
            message = (
                f"{where} are not those that were signed: there were {checkpoint.count}, and there are "
                f"{self.unsigned.count}"
            )
            raise AuditBrokenError(message)
        self.last, self.unsigned = checkpoint, RowsHash()
        self.seq = checkpoint.to
        self.checkpoints += 1


def next_checkpoint(before: Checkpoint | None, number: int, line: str, key: SigningKey) -> Checkpoint:
    """Return the checkpoint that a database has behind another, or the one with which the audit begins.

    Raises:
        AuditBrokenError: It is no checkpoint of this server, or not that one.
    """
    found = read_checkpoint(line, key)
    if found is None or found.number != number:
        raise AuditBrokenError(f"checkpoint {number} is none that this server signed")
    if not (found.after == 0 if before is None else found.follows(before)):
        raise AuditBrokenError(f"checkpoint {number} does not follow: at least one before it is missing")
    return found
