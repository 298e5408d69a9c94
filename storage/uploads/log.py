"""The signed commit log: one line a commit, `<canonical JSON> SP <unpadded base64 signature> LF`.

Every record carries `t` (its type), `at`, `prev` (hex SHA-256 of the whole previous line), `len` (the declared length
or
null) and `tot` = [segments, plaintext bytes, ciphertext bytes] after it, so that the create record and the last one
together tell where an upload stands. Signatures are verified before anything is parsed.

Source: docs/reference/format.md, Log.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from dropoff_tus.errors import KeyMissingError
from dropoff_tus.model import Mode, Role, StoredUpload
from dropoff_tus.states import UploadState
from storage.age import KeyType, Recipient
from storage.backing import SegmentEntry, Tip
from storage.keyring.lines import Record, damaged, sign_line, stamp, verify_line
from storage.keyring.signing import SigningKey, key_id

FORMAT_VERSION = 2
MAX_SEGMENTS = 4_000_000
"""1 TiB in pieces of 256 KiB; or a year of a line so slow that a commit each ten seconds has little in it."""
MAX_COMMIT_SEGMENTS = 100_000
"""The segments of one line: a body with a checksum is committed whole, and this is 6 TiB of it."""
_RECEIPT_DOMAIN = b"dropoff-tus/receipt/v1\n"


def sign_receipt(payload: Mapping[str, Any], key: SigningKey) -> bytes:
    """Return the signed line of a receipt."""
    return sign_line(payload, key, domain=_RECEIPT_DOMAIN)


def verify_receipt(line: bytes, key: SigningKey) -> Record | None:
    """Return a receipt's payload if this key, or one it retired, signed it."""
    found = verify_line(line, key, domain=_RECEIPT_DOMAIN)
    return None if found is None else found[0]


@dataclass(frozen=True, slots=True)
class LogState:
    """Where an upload stands after its last record. `log_bytes` is the size of the log up to that record."""

    create: Record = field(repr=False)
    id: str
    offset: int
    data_bytes: int
    segments: int
    length: int | None
    last_at: datetime
    last_hash: str
    log_bytes: int
    create_bytes: int
    """The size of the create record's line: a log of that size has no commit yet."""
    key: str
    """The id of the key that signs what follows: that of the create record, unless a `key` record changed it."""
    final: bool = False
    final_hash: str | None = None
    final_parts: tuple[tuple[str, str, int], ...] = ()
    ended: UploadState | None = None
    end_reason: str | None = None

    @property
    def tip(self) -> Tip:
        """Where its chain ends."""
        return Tip(self.log_bytes, self.last_hash)

    @property
    def is_new(self) -> bool:
        """Tell whether nothing was committed yet: only the first commit makes the upload's files durable."""
        return self.log_bytes == self.create_bytes

    @property
    def role(self) -> Role:
        """The role of the upload."""
        return Role(self.create["concat"]["role"]) if self.create["concat"] else Role.REGULAR

    @property
    def parts(self) -> tuple[str, ...]:
        """The ids of a concatenation's parts."""
        return tuple(self.create["concat"].get("parts", ())) if self.create["concat"] else ()

    @property
    def mode(self) -> Mode:
        """Managed or sealed."""
        return Mode(self.create["mode"])

    @property
    def key_type(self) -> str:
        """The type of every key of this upload."""
        return str(self.create["u"]["type"])

    @property
    def recipient_bytes(self) -> bytes:
        """The upload's own recipient, raw."""
        return base64.b64decode(self.create["u"]["key"])

    @property
    def commitment(self) -> str:
        """To the metadata that is in the envelopes."""
        return str(self.create["commitment"])

    @property
    def recipient(self) -> Recipient:
        """The upload's own recipient."""
        return Recipient.from_public_bytes(KeyType(self.key_type), self.recipient_bytes)

    @property
    def overhead_bytes(self) -> int:
        """The bytes of the pieces on the disk beyond their plaintext."""
        return self.log_bytes - self.create_bytes + self.data_bytes - self.offset

    def stored(self) -> StoredUpload:
        """Return what the ports speak of."""
        return StoredUpload(
            id=self.id,
            drop_id=self.create["drop"],
            role=self.role,
            mode=self.mode,
            created_at=datetime.fromisoformat(self.create["at"]),
            last_commit_at=self.last_at,
            offset=self.offset,
            length=self.length,
            final=self.final,
            ended=self.ended,
            end_reason=self.end_reason,
            parts=self.parts,
            key_type=self.key_type,
            overhead_bytes=self.overhead_bytes,
        )


def initial_state(create: Record, line: bytes) -> LogState:
    """Return the state after a create record."""
    return LogState(
        create=create,
        id=create["id"],
        offset=0,
        data_bytes=0,
        segments=0,
        length=create["len"],
        last_at=datetime.fromisoformat(create["at"]),
        last_hash=hashlib.sha256(line).hexdigest(),
        log_bytes=len(line),
        create_bytes=len(line),
        key=create["key"],
    )


def next_record(state: LogState, kind: str, at: datetime, fields: Mapping[str, Any]) -> Record:
    """Return a record that follows `state`; totals and length stay unless `fields` has them."""
    return {
        "t": kind,
        "at": stamp(at),
        "prev": state.last_hash,
        "len": state.length,
        "tot": [state.segments, state.offset, state.data_bytes],
        **fields,
    }


def segments_record(state: LogState, entries: Sequence[SegmentEntry], at: datetime) -> Record:
    """Return the record of one commit."""
    last = entries[-1]
    totals = [last.index + 1, last.offset + last.length, last.data_offset + last.data_length]
    return next_record(state, "segs", at, {"segs": [entry.record() for entry in entries], "tot": totals})


def check_signs(key: SigningKey, state: LogState) -> None:
    """Refuse to go on with a log that belongs to another signing key than ours.

    Raises:
        KeyMissingError: The log's key was retired without handing it over.
    """
    if state.key != key.id:
        message = (
            f"upload {state.id} was begun under the signing key {state.key}, which only verifies now; "
            "its bytes are safe, and it goes on when that key signs again"
        )
        raise KeyMissingError(message)


def key_record(state: LogState, public: bytes, at: datetime) -> Record:
    """Return the record with which the old key hands the log over to another one, given by its 32 public bytes."""
    return next_record(state, "key", at, {"key": key_id(public), "pub": base64.b64encode(public).decode("ascii")})


def jump(state: LogState, record: Record, line: bytes, log_bytes: int) -> LogState:
    """Return the state after a last record, trusting its totals: its signature covers them and the whole chain.

    Args:
        state: The state after the create record, or after the record before.
        record: A verified record.
        line: Its whole line.
        log_bytes: The size of the log up to the end of this line.
    """
    segments, offset, data_bytes = record["tot"]
    changes: dict[str, Any] = {
        "segments": segments,
        "offset": offset,
        "data_bytes": data_bytes,
        "length": record["len"],
        "last_at": datetime.fromisoformat(record["at"]),
        "last_hash": hashlib.sha256(line).hexdigest(),
        "log_bytes": log_bytes,
    }
    if record["t"] == "final":
        changes |= {
            "final": True,
            "final_hash": changes["last_hash"],
            "final_parts": tuple((p[0], p[1], p[2]) for p in record["parts"]),
            "offset": record["len"],
        }
    elif record["t"] == "key":
        changes["key"] = record["key"]
    elif record["t"] == "end":
        final_hash = record.get("final", state.final_hash)
        changes |= {"ended": UploadState(record["state"]), "end_reason": record["why"], "final_hash": final_hash}
    return replace(state, **changes)


def follow(state: LogState, record: Record, line: bytes, log_bytes: int) -> LogState:
    """Return the state after the last record, or one that changes more than totals (`storage.uploads.chain` reads it).

    Raises:
        UploadDamagedError: It must not be where it is, or is at odds with itself.
    """
    if state.ended is not None or (state.final and record["t"] != "end"):
        raise damaged(state.id, "a record follows the last one")
    if record["t"] == "key" and key_id(base64.b64decode(record["pub"])) != record["key"]:
        raise damaged(state.id, "a record names a key by another id than its own")
    if record["t"] == "final" and not state.parts and record["len"] != record["tot"][1]:
        raise damaged(state.id, "the final length is not the stored one")
    return jump(state, record, line, log_bytes)
