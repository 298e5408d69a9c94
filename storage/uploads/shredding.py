"""Taking keys away: sealing a finished upload, shredding an ended one. Every step may be repeated.

Source: docs/reference/format.md, Order of writes.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from dropoff_tus.errors import DropoffError, UploadLockedError
from dropoff_tus.model import Mode, Role, StoredUpload
from dropoff_tus.states import UploadState
from storage.backing import Grip, KeyFile, Lines, log_failure
from storage.failpoints import failpoint
from storage.keyring.lines import sign_line, stamp
from storage.uploads.base import StoreBase
from storage.uploads.claims import said_at_creation
from storage.uploads.log import LogState, jump, next_record
from storage.uploads.recovery import not_found, read_chain, read_create


def seal(base: StoreBase, state: LogState) -> None:
    """Remove the server's envelopes of a finished upload and its parts, durably."""
    # Its own first: a crash after a part's would leave metadata that asks for a check, and nothing to check with.
    for upload_id in (state.id, *state.parts):
        base.key_files.remove(upload_id, KeyFile.INGEST)
        base.memory.forget_secrets(upload_id)
    failpoint("after-seal")


def unsealed(base: StoreBase, state: StoredUpload) -> bool:
    """Tell whether an envelope to the server lies beside a sealed upload that is finished, or beside a part of it.

    That is so while it is being finished; later it means that a copy was restored.
    """
    if not state.final or state.mode is not Mode.SEALED or state.role is Role.PARTIAL:
        return False
    return any(base.key_files.has(one, KeyFile.INGEST) for one in (state.id, *state.parts))


def shred(base: StoreBase, upload_id: str) -> None:
    """Remove the keys, durably, then the bytes. The log stays as a tombstone of two records."""
    _remove_keys_and_bytes(base, upload_id)
    _shorten_log(base, upload_id)


def shred_part(base: StoreBase, part: str, state: UploadState, why: str, at: datetime) -> None:
    """End and shred a part of a concatenation; nobody else can write it, since it is finished."""
    part_state = base.load(part)
    if part_state.ended is None:
        record = _end(part_state, state, why, at)
        line = sign_line(record, base.keys.signing)
        base.chains.append(part, line, part_state.tip)
        base.memory.advanced(jump(part_state, record, line, part_state.log_bytes + len(line)))
    shred(base, part)


def shred_damaged(base: StoreBase, upload_id: str, state: UploadState, why: str, at: datetime) -> None:
    """End and shred an upload that does not verify. Every step may be repeated.

    Its log stays beside the tombstone as it was found, since it may tell what happened. The tombstone is the create
    record and the end, or nothing where not even that record verifies.

    Raises:
        UploadNotFoundError: There is nothing of it.
        UploadLockedError: Another process writes it.
        OSError: The disk failed; the files are as they were, or go with another attempt.
    """
    if not base.chains.has(upload_id):
        raise not_found()
    with _alone(base, upload_id) as grip:
        if grip is not None:
            _end_damaged(base, upload_id, grip.lines, state, why, at)
        failpoint("after-damaged-end")
        _remove_keys_and_bytes(base, upload_id)
        if grip is not None:
            _shorten_log(base, upload_id)
    base.memory.forget(upload_id)


@contextlib.contextmanager
def _alone(base: StoreBase, upload_id: str) -> Iterator[Grip | None]:
    """Keep others from writing an upload, if it has a log."""
    try:
        grip = base.leasing.acquire(upload_id)
    except FileNotFoundError:
        yield None
        return
    if grip is None:
        raise UploadLockedError("the upload is in use by another process; nothing was changed")
    with contextlib.closing(grip):
        yield grip


def _end(stands: LogState, state: UploadState, why: str, at: datetime) -> dict[str, Any]:
    return next_record(stands, "end", at, {"state": state.value, "why": why})


def _end_damaged(base: StoreBase, upload_id: str, log: Lines, state: UploadState, why: str, at: datetime) -> None:
    key, found = base.keys.signing, log.read(0, log.size_bytes())
    try:
        stands: LogState | None = read_chain(log, upload_id, key, every_signature=True).state
    except DropoffError:
        base.chains.set_aside(upload_id, found)
        failpoint("before-damaged-end")
        stands = read_create(log, upload_id, key)
    if stands is None:
        base.chains.replace(upload_id, b"")
    elif stands.ended is None:
        base.chains.replace(upload_id, found[: stands.log_bytes] + sign_line(_end(stands, state, why, at), key))


def leftovers(base: StoreBase, upload_id: str) -> bool:
    """Tell whether keys or bytes of an upload are here, whatever its log says."""
    try:
        return base.key_files.has(upload_id) or base.segments.size_bytes(upload_id) > 0
    except FileNotFoundError:
        return False


def is_longer_than_tombstone(base: StoreBase, upload_id: str) -> bool:
    """Tell whether a log has more than the record of its creation and that of its end."""
    try:
        with contextlib.closing(base.chains.open(upload_id)) as log:
            ends = log.ends()
            return log.size_bytes() > len(ends.first or ends.torn) + len(ends.last)
    except FileNotFoundError:
        return False


def claimed_drop(base: StoreBase, upload_id: str) -> str | None:
    """Return the drop-off that an upload's log names, without believing it; None where it names none."""
    records = (said_at_creation(base, upload_id, aside=aside) for aside in (False, True))
    return next((str(record["drop"]) for record in records if record is not None and "drop" in record), None)


def tombstone(base: StoreBase, upload_id: str) -> dict[str, Any]:
    """Return what the log still says of an upload that has ended: ids, sizes and times.

    With `damaged` where it did not verify when it was shredded; then it says of no bytes.

    Raises:
        UploadNotFoundError, UploadDamagedError: As the ports say.
    """
    state = base.chain(upload_id).state
    try:
        base.chains.open(upload_id, aside=True).close()
        damaged = True
    except FileNotFoundError:
        damaged = False
    return {
        "id": upload_id,
        "bytes": None if damaged else state.offset,
        "created_at": state.create["at"],
        "removed_at": stamp(state.last_at),
        "final": state.final_hash,
        **({"damaged": True} if damaged else {}),
    }


def _remove_keys_and_bytes(base: StoreBase, upload_id: str) -> None:
    """Remove every key, durably, then the bytes."""
    failpoint("before-shred")
    base.key_files.remove(upload_id)
    failpoint("after-shred-keys")
    base.segments.remove(upload_id)


def _shorten_log(base: StoreBase, upload_id: str) -> None:
    """Leave of the log of an ended upload the create record and an end that follows it and tells what was.

    The upload has ended durably before, so whichever of the two logs a crash leaves, it is ended. Without room for
    the short one now, `store sweep` writes it later. A log that does not verify stays as it is, as evidence.
    """
    try:
        if is_longer_than_tombstone(base, upload_id):
            with contextlib.suppress(DropoffError):
                _write_tombstone(base, upload_id)
    except OSError as error:
        log_failure(error)
    base.memory.forget(upload_id)


def _write_tombstone(base: StoreBase, upload_id: str) -> None:
    with contextlib.closing(base.chains.open(upload_id)) as log:
        state = base.verified(log, upload_id).state
        create = log.read(0, state.create_bytes)
    if state.ended is None:
        return
    fields = {"state": state.ended.value, "why": state.end_reason, "final": state.final_hash}
    end = next_record(state, "end", state.last_at, {**fields, "prev": hashlib.sha256(create).hexdigest()})
    failpoint("before-shorten")
    base.chains.replace(upload_id, create + sign_line(end, base.keys.signing))
    failpoint("after-shorten")
