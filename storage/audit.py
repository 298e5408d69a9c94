"""What the server signs about the past: checkpoints of the audit, and certificates of erasure. Each has its own domain.

A checkpoint says how many rows there were and the last one's hash. Kept elsewhere, it shows what is done to the rows
later, also by someone who can write the whole chain anew.

Source: docs/audit.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dropoff_tus.audit import Act, AuditBrokenError, Chain
from storage.keys import SigningKey
from storage.log import sign_line, stamp, verify_line

VERSION = 1
_CHECKPOINT_DOMAIN = b"dropoff-tus/audit-checkpoint/v1\n"
_ERASURE_DOMAIN = b"dropoff-tus/erasure/v1\n"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How many rows there were, and the last one's hash."""

    count: int
    last: str


def sign_checkpoint(count: int, last: str, at: datetime, key: SigningKey) -> str:
    """Return the signed line of a checkpoint, without its line end."""
    payload = {"v": VERSION, "count": count, "hash": last, "at": stamp(at), "key": key.id}
    return sign_line(payload, key, domain=_CHECKPOINT_DOMAIN).decode("ascii").rstrip("\n")


def read_checkpoint(line: str, key: SigningKey) -> Checkpoint | None:
    """Return a checkpoint that this key, or one it retired, signed; else None."""
    found = verify_line(line.strip().encode("utf-8", "replace"), key, domain=_CHECKPOINT_DOMAIN)
    return None if found is None else Checkpoint(found[0]["count"], found[0]["hash"])


def sign_certificate(payload: Mapping[str, Any], key: SigningKey) -> bytes:
    """Return the signed line of a certificate of erasure."""
    return sign_line({"v": VERSION, "key": key.id, **payload}, key, domain=_ERASURE_DOMAIN)


def verify_certificate(line: bytes, key: SigningKey) -> dict[str, Any] | None:
    """Return what a certificate says, if this key, or one it retired, signed it."""
    found = verify_line(line, key, domain=_ERASURE_DOMAIN)
    return None if found is None else found[0]


@dataclass(slots=True)
class Verifier:
    """Follows the chain row by row, and finds the checkpoints: those in it, and earlier ones kept elsewhere."""

    key: SigningKey
    anchors: Iterable[Checkpoint] = ()
    chain: Chain = field(default_factory=Chain)
    policies: dict[str, str] = field(default_factory=dict)
    """What stands for each drop-off's signed terms, as they were recorded last (`policy_hash`)."""
    closed: dict[str, bool] = field(default_factory=dict)
    """Whether a drop-off was closed or reopened last."""
    revoked: set[str] = field(default_factory=set)
    """The API tokens that were revoked."""
    checkpoints: int = 0
    """How many were found, in the chain and of the anchors."""
    _wanted: dict[int, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Note where the anchors must be met."""
        for anchor in self.anchors:
            self._wanted.setdefault(anchor.count, set()).add(anchor.last)
        self._meet()

    def follow(self, rows: Iterable[tuple[int, str]]) -> None:
        """Go on with some rows.

        Raises:
            AuditBrokenError: They are not what was written.
        """
        for seq, text in rows:
            before = Checkpoint(self.chain.count, self.chain.last)
            row = self.chain.follow(seq, text)
            if row.get("act") == Act.CHECKPOINT.value:
                if read_checkpoint(str(row.get("checkpoint")), self.key) != before:
                    message = f"row {seq} is no checkpoint of this server, or the rows before it were written anew"
                    raise AuditBrokenError(message)
                self.checkpoints += 1
            if "policy" in row:
                self.policies[str(row.get("drop"))] = str(row["policy"])
            if row.get("act") in {Act.DROP_CLOSE, Act.DROP_REOPEN}:
                self.closed[str(row.get("drop"))] = row["act"] == Act.DROP_CLOSE
            if row.get("act") == Act.TOKEN_REVOKE:
                self.revoked.add(str(row.get("token")))
            self._meet()

    def finish(self) -> None:
        """Say that these were all.

        Raises:
            AuditBrokenError: A checkpoint speaks of more.
        """
        if self._wanted:
            most = max(self._wanted)
            first = self.chain.count + 1
            rows = f"row {first} is" if first == most else f"rows {first} to {most} are"
            message = f"{rows} missing: a checkpoint was signed with {most}, so the end is missing"
            raise AuditBrokenError(message)

    def _meet(self) -> None:
        hashes = self._wanted.pop(self.chain.count, None)
        if hashes is None:
            return
        if hashes != {self.chain.last}:
            message = f"the rows up to {self.chain.count} are not those of the checkpoint: they were changed since"
            raise AuditBrokenError(message)
        self.checkpoints += 1
