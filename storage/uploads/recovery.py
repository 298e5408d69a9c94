"""Reading a log back: where an upload stands, what is torn, what is tampering. Needs no decryption key.

A tail is *torn*, an honest crash, only if the backing knows it for what a crash leaves, and no longer than one record.
It is kept aside and cut. Anything else that does not verify is tampering: refused, and nothing is truncated, so that a
flipped bit never costs acknowledged bytes. Nor is anything read from a line before a signature covers it, its own or,
through `prev`, that of a line after it.

Source: docs/reference/format.md, Recovery.
"""

import hashlib
import re
from dataclasses import dataclass, replace

from dropoff_tus.errors import KeyMissingError, UploadDamagedError, UploadNotFoundError
from storage.backing import MAX_LINE_BYTES, Ends, Lines
from storage.keyring.lines import Record, damaged, verify_line
from storage.keyring.signing import SigningKey
from storage.uploads.chain import Chain, Mark, created_mark, parse, read_exactly, walk
from storage.uploads.log import FORMAT_VERSION, LogState, follow, initial_state, jump

_LAST_BYTES = 4 << 10
"""Has the last record in it, and mostly the whole log of an upload that has just begun."""
_NAMED_KEY = re.compile(rb'"key":"([0-9a-f]{16})"')


@dataclass(frozen=True, slots=True)
class _Last:
    """The last record, if it is not the create record: verified, with its signer, its line and where that ends."""

    record: Record
    signer: str
    line: bytes
    end: int


def not_found() -> UploadNotFoundError:
    """Make the one error for uploads that are not here."""
    return UploadNotFoundError(
        "the store has nothing of this upload; `dropoff-tus store check` tells where it and the catalog differ"
    )


def read_state(log: Lines, upload_id: str, key: SigningKey, *, durable: bool = False) -> tuple[LogState, int]:
    """Read the create record and the last one.

    Args:
        log: Open.
        upload_id: The upload that it should belong to.
        key: Verifies.
        durable: Make sure that it is durable before any answer.

    Returns:
        The state, and the size of a torn tail in bytes (0 if none).

    Raises:
        UploadNotFoundError: Creation itself was torn: nothing was ever acknowledged.
        UploadDamagedError: Tampering.
        KeyMissingError: The log goes on under a signing key that is not at hand.
        OSError: It cannot be read, or not be made durable.
    """
    created, last, torn = _read_ends(log.ends(durable=durable), upload_id, key, every_signature=False)
    if last is None:
        return created, torn
    return jump(replace(created, key=last.signer), last.record, last.line, last.end), torn


def _read_ends(
    ends: Ends, upload_id: str, key: SigningKey, *, every_signature: bool
) -> tuple[LogState, _Last | None, int]:
    """Return the state after the create record, the last record, and the size of a torn tail."""
    if ends.first is None:
        _refuse_lost_beginning(ends.torn, upload_id, key)
        raise not_found()
    found = verify_line(ends.last, key) if ends.last else None
    # Of a small upload the last line follows the create record, and its signature covers that too.
    follows = found is not None and found[0]["prev"] == hashlib.sha256(ends.first).hexdigest()
    created = _create_state(ends.first, upload_id, key, covered=follows and not every_signature)
    if len(ends.torn) > MAX_LINE_BYTES:
        raise damaged(upload_id, "the bytes after its last whole record are longer than a record")
    if ends.torn:
        _refuse_changed_end(ends.torn, upload_id, key)
    if not ends.last:
        return created, None, len(ends.torn)
    if found is None:
        raise damaged(upload_id, "its last record does not verify")
    record, signer = found
    # A chain that a `key` record handed over ends under a newer key; whether one did is for `read_chain` to see. No
    # chain goes back to an older key, which may be in wrong hands by now.
    if record["t"] == "create" or key.is_older(signer, created.key):
        raise damaged(upload_id, "its last record is not of this log")
    if record["t"] == "key":
        _check_known(record["key"], key, upload_id)
    return created, _Last(record, signer, ends.last, ends.size_bytes), len(ends.torn)


def read_create(log: Lines, upload_id: str, key: SigningKey) -> LogState | None:
    """Return the state after the create record; None if that does not verify."""
    line = log.first()
    try:
        return None if line is None else _create_state(line, upload_id, key)
    except UploadDamagedError:
        return None


def waiting_at(log: Lines, key: SigningKey) -> int | None:
    """Return the offset of an upload that plainly waits for more bytes, only by its last record.

    For a start with very many uploads, which has nothing to do for such a one. It reads and verifies a third of what
    `read_state` does. The first request for the upload sees the rest.

    Returns:
        The offset; None where it may be whole, ended, torn or damaged, so that `read_state` has to say.
    """
    size = log.size_bytes()
    start = max(0, size - _LAST_BYTES)
    tail = log.read(start, size - start)
    if not tail.endswith(b"\n") or b"\0" in tail:
        return None
    begin = tail.rfind(b"\n", 0, len(tail) - 1) + 1
    found = verify_line(tail[begin:], key) if begin or not start else None
    if found is None:
        return None
    record = found[0]
    segments, offset, _ = record["tot"]
    # Until a second commit the create record, if it is not in sight, may never have reached the disk.
    doubtful = start > 0 and segments == len(record.get("segs", ()))
    if doubtful or record["len"] == offset or record["t"] in {"final", "end"}:
        return None
    if record["t"] == "create" and record["concat"] and record["concat"]["role"] == "final":
        return None
    # With no byte it could be a concatenation, which has no other record before the final one.
    if record["t"] == "key" and not (offset and key.knows(record["key"])):
        return None
    return int(offset)


def read_chain(
    log: Lines, upload_id: str, key: SigningKey, *, every_signature: bool = False, known: Chain | None = None
) -> Chain:
    """Verify the whole log: every `prev` hash, and all signatures or those of the first and last line.

    Args:
        log: Open.
        upload_id: The upload that it should belong to.
        key: Verifies.
        every_signature: Verify all of them, and that all records add up; otherwise reading them shows that.
        known: The part that was verified before, so that only newer lines are read.

    Raises:
        UploadNotFoundError, UploadDamagedError: As `read_state`; and if the log does not continue the known part.
    """
    created, last, _ = _read_ends(log.ends(), upload_id, key, every_signature=every_signature)
    begun = Chain(created, (created_mark(created),))
    if last is None:
        return begun
    last_hash, chain = hashlib.sha256(last.line).hexdigest(), known or begun
    if last_hash == chain.state.last_hash:
        return chain
    marks, telling = walk(log, chain.marks[-1], last.end, last_hash, upload_id)
    state = chain.state
    for line, record in telling:
        if line == last.line:
            # Through `prev` the last signature covers every line before it.
            _check_signer(last.record, last.signer, upload_id, key, state.key)
        state = follow(state, record, line, last.end)
    chain = chain.extended(state, marks)
    in_force = created.key
    for line, record in chain.records(log, 0 if every_signature else len(chain.marks) - 2):
        if every_signature:
            found = (last.record, last.signer) if line == last.line else verify_line(line, key)
            if found is None:
                raise damaged(upload_id, "a record does not verify")
            _check_signer(*found, upload_id, key, in_force)
            in_force = record["key"] if record["t"] == "key" else in_force
    return chain


def check_unchanged(log: Lines, state: LogState) -> None:
    """Check that the log on disk is still the one `state` was read from or written to, whole and with nothing after it.

    The hash of the last line is known, and through `prev` it covers every line before, so no signature is needed.

    Raises:
        UploadDamagedError: It is not.
    """
    if log.size_bytes() != state.log_bytes:
        raise damaged(state.id, "its log is not the one that was written")
    create = read_exactly(log, 0, state.create_bytes, state.id)
    begin = Mark(state.create_bytes, hashlib.sha256(create).hexdigest(), 0, 0, 0)
    walk(log, begin, state.log_bytes, state.last_hash, state.id)


def _create_state(line: bytes, upload_id: str, key: SigningKey, *, covered: bool = False) -> LogState:
    """Return the state after a create record; `covered` by the signature of the line after it, it needs none."""
    told = parse(line) if covered else {}
    found = (told, told["key"]) if key.knows(told.get("key", "")) else verify_line(line, key)
    if found is None:
        raise damaged(upload_id, f"its create record does not verify{_unknown_signer(line, key)}")
    record, signer = found
    if record.get("t") != "create" or record.get("id") != upload_id or record.get("key") != signer:
        raise damaged(upload_id, "its create record is of another upload")
    if record["v"] != FORMAT_VERSION:
        raise damaged(
            upload_id, f"its format is version {record['v']}, and this program reads version {FORMAT_VERSION}"
        )
    return initial_state(record, line)


def _check_signer(record: Record, signer: str, upload_id: str, key: SigningKey, in_force: str) -> None:
    # An upload that was finished under a key retired since can only be ended under a newer one.
    newer_end = record["t"] == "end" and key.is_older(in_force, signer)
    if signer != in_force and not newer_end:
        raise damaged(upload_id, "a record is signed by another key than the one its log was handed to")


def _check_known(wanted: str, key: SigningKey, upload_id: str) -> None:
    if not key.knows(wanted):
        message = (
            f"upload {upload_id} goes on under the signing key {wanted}, which keys.signing_key does not hold; "
            "its bytes are safe, put the rotated key in place"
        )
        raise KeyMissingError(message)


def _unknown_signer(line: bytes, key: SigningKey) -> str:
    """Return a hint where the line names a key that is not at hand. Nothing of the line is trusted."""
    found = _NAMED_KEY.search(line)
    if found is None or key.knows(found[1].decode("ascii")):
        return ""
    return f" (it names the key {found[1].decode('ascii')}, which keys.signing_key does not hold; put it back)"


def _refuse_lost_beginning(found: bytes, upload_id: str, key: SigningKey) -> None:
    """Refuse a log that lacks sectors of its create record and goes on past a first commit.

    A crash leaves no more than one line behind such a record: that commit's sync makes both whole before anything
    follows. Everything that followed was acknowledged.
    """
    _, *after = found.split(b"\n", 3)
    if len(after) < 2:  # noqa: PLR2004 - what is behind the first LF, and behind a second one
        return
    verified = verify_line(after[0] + b"\n", key)
    # The LF of the create record itself may be lost, so that this is the third line.
    goes_on = len(after) > 2 or after[1] or (verified and verified[0]["tot"][0] > len(verified[0].get("segs", ())))  # noqa: PLR2004
    if goes_on:
        raise damaged(upload_id, "parts of its create record are gone, and commits that came later are there")


def _refuse_changed_end(tail: bytes, upload_id: str, key: SigningKey) -> None:
    """Refuse a whole record in whose place of the LF stands something that no crash leaves there."""
    if tail[-1:] not in {b"\n", b"\0"} and verify_line(tail[:-1] + b"\n", key) is not None:
        raise damaged(upload_id, "the end of its last record was changed")
