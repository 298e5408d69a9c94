"""Taking keys away: sealing a finished upload, shredding an ended one. Every step may be repeated.

Source: docs/format.md, Order of writes.
"""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from dropoff_tus.errors import DropoffError, UploadLockedError
from dropoff_tus.model import Mode, Role
from dropoff_tus.states import UploadState
from storage.failpoints import failpoint
from storage.files.locks import try_lock
from storage.keyring.lines import sign_line, stamp
from storage.uploads.base import StoreBase, log_failure
from storage.uploads.claims import said_at_creation
from storage.uploads.log import LogState, jump, next_record
from storage.uploads.recovery import not_found, read_chain, read_create

_TOMBSTONE_RECORDS = 2


def seal(base: StoreBase, state: LogState) -> None:
    """Unlink the server's envelopes of a finished upload and its parts, durably."""
    # Its own first: a crash after a part's would leave metadata that asks for a check, and nothing to check with.
    for upload_id in (state.id, *state.parts):
        paths = base.layout.of(upload_id)
        base.disk.remove(paths.ingest_envelope)
        failpoint("before-seal-sync")
        # Also if it was gone: an attempt that was killed may have removed it without a sync.
        with contextlib.suppress(FileNotFoundError):
            base.disk.sync_path(base.layout.ingest_dir)
        known = base.known.get(upload_id)
        if known is not None:
            known.metadata = known.receipt_identity = None
    failpoint("after-seal")


def unsealed(base: StoreBase, state: LogState) -> bool:
    """Tell whether an envelope to the server lies beside a sealed upload that is finished, or beside a part of it.

    That is so while it is being finished; later it means that a copy was restored.
    """
    if not state.final or state.mode is not Mode.SEALED or state.role is Role.PARTIAL:
        return False
    return any(base.layout.of(one).ingest_envelope.exists() for one in (state.id, *state.parts))


def shred(base: StoreBase, state: LogState) -> None:
    """Remove the keys, durably, then the bytes. The log stays as a tombstone of two records."""
    _remove_keys_and_bytes(base, state.id)
    known = base.known.get(state.id)
    if known is not None:
        known.metadata = known.receipt_identity = None
        known.hashes = {}
    _shorten_log(base, state.id)


def shred_part(base: StoreBase, part: str, state: UploadState, why: str, at: datetime) -> None:
    """End and shred a part of a concatenation; nobody else can write it, since it is finished."""
    part_state = base.load(part)
    if part_state.ended is None:
        record = next_record(part_state, "end", at, {"state": state.value, "why": why})
        line = sign_line(record, base.keys.signing)
        log = base.disk.open_existing(base.layout.of(part).log, write=True)
        try:
            base.disk.write_at(log, line, part_state.log_bytes)
            base.disk.sync_file(log)
        finally:
            os.close(log)
        part_state = jump(part_state, record, line, part_state.log_bytes + len(line))
        base.known.update(part_state, {})
    shred(base, part_state)


def shred_damaged(base: StoreBase, upload_id: str, state: UploadState, why: str, at: datetime) -> None:
    """End and shred an upload that does not verify. Every step may be repeated.

    Its log stays beside the tombstone as it was found (`log.damaged`), since it may tell what happened. The tombstone
    is the create record and the end, or nothing where not even that record verifies.

    Raises:
        UploadNotFoundError: There is nothing of it.
        UploadLockedError: Another process writes it.
        OSError: The disk failed; the files are as they were, or go with another attempt.
    """
    paths = base.layout.of(upload_id)
    if not paths.folder.is_dir():
        raise not_found()
    with _damaged_log(base, upload_id) as log:
        if log is not None:
            _end_damaged(base, upload_id, log, state, why, at)
        failpoint("after-damaged-end")
        if not paths.data.exists():
            base.disk.write_new(paths.data, b"")
        _remove_keys_and_bytes(base, upload_id)
        if log is not None:
            _shorten_log(base, upload_id)
    base.known.forget(upload_id)


def _end_damaged(base: StoreBase, upload_id: str, log: int, state: UploadState, why: str, at: datetime) -> None:
    paths, key = base.layout.of(upload_id), base.keys.signing
    found = os.pread(log, os.fstat(log).st_size, 0)
    try:
        stands: LogState | None = read_chain(log, upload_id, key, every_signature=True).state
    except DropoffError:
        base.disk.replace(paths.damaged_log, found)
        failpoint("before-damaged-end")
        stands = read_create(log, upload_id, key)
    if stands is None:
        base.disk.remove(paths.log)
        base.disk.sync_path(paths.folder)
    elif stands.ended is None:
        end = sign_line(next_record(stands, "end", at, {"state": state.value, "why": why}), key)
        base.disk.replace(paths.log, found[: stands.log_bytes] + end)


def leftovers(base: StoreBase, upload_id: str) -> bool:
    """Tell whether keys or bytes of an upload are here, whatever its log says."""
    paths = base.layout.of(upload_id)
    if any(path.exists() for path in paths.key_files):
        return True
    try:
        return paths.data.stat().st_size > 0
    except FileNotFoundError:
        return False


def is_longer_than_tombstone(base: StoreBase, upload_id: str) -> bool:
    """Tell whether a log has more records than the one of its creation and one of its end."""
    try:
        with os.fdopen(base.disk.open_existing(base.layout.of(upload_id).log), "rb") as file:
            return sum(1 for _ in itertools.islice(file, _TOMBSTONE_RECORDS + 1)) > _TOMBSTONE_RECORDS
    except FileNotFoundError:
        return False


def claimed_drop(base: StoreBase, upload_id: str) -> str | None:
    """Return the drop-off that an upload's log names, without believing it; None where it names none."""
    paths = base.layout.of(upload_id)
    records = (said_at_creation(base.disk, path) for path in (paths.log, paths.damaged_log))
    return next((str(record["drop"]) for record in records if record is not None and "drop" in record), None)


def tombstone(base: StoreBase, upload_id: str) -> dict[str, Any]:
    """Return what the log still says of an upload that has ended: ids, sizes and times.

    With `damaged` where it did not verify when it was shredded; then it says of no bytes.

    Raises:
        UploadNotFoundError, UploadDamagedError: As the ports say.
    """
    state = base.chain(upload_id).state
    damaged = base.layout.of(upload_id).damaged_log.exists()
    return {
        "id": upload_id,
        "bytes": None if damaged else state.offset,
        "created_at": state.create["at"],
        "removed_at": stamp(state.last_at),
        "final": state.final_hash,
        **({"damaged": True} if damaged else {}),
    }


@contextlib.contextmanager
def _damaged_log(base: StoreBase, upload_id: str) -> Iterator[int | None]:
    """Open and lock a log, if there is one."""
    try:
        log = base.disk.open_existing(base.layout.of(upload_id).log, write=True)
    except FileNotFoundError:
        yield None
        return
    try:
        if not try_lock(log):
            raise UploadLockedError("the upload is in use by another process; nothing was changed")
        yield log
    finally:
        os.close(log)


def _remove_keys_and_bytes(base: StoreBase, upload_id: str) -> None:
    """Remove every key, durably, then the bytes."""
    paths = base.layout.of(upload_id)
    failpoint("before-shred")
    for path in paths.key_files:
        base.disk.remove(path)
    # Also if all were gone already, as above.
    for folder in (paths.keys_folder, base.layout.ingest_dir):
        with contextlib.suppress(FileNotFoundError):
            base.disk.sync_path(folder)
    failpoint("after-shred-keys")
    with contextlib.suppress(FileNotFoundError):
        data = base.disk.open_existing(paths.data, write=True)
        try:
            base.disk.truncate(data, 0)
        finally:
            os.close(data)


def _shorten_log(base: StoreBase, upload_id: str) -> None:
    """Leave of the log of an ended upload the create record and an end that follows it and tells what was.

    The upload has ended durably before, so whichever of the two logs a crash leaves, it is ended. Without room for
    the short one now, `store sweep` writes it later. A log that does not verify stays as it is, as evidence.
    """
    paths = base.layout.of(upload_id)
    try:
        base.disk.remove(paths.torn_log)
        if not is_longer_than_tombstone(base, upload_id):
            return
        with contextlib.suppress(DropoffError):
            state = base.chain(upload_id).state
            with os.fdopen(base.disk.open_existing(paths.log), "rb") as file:
                create = file.read(state.create_bytes)
            if state.ended is None:
                return
            fields = {"state": state.ended.value, "why": state.end_reason, "final": state.final_hash}
            end = next_record(state, "end", state.last_at, {**fields, "prev": hashlib.sha256(create).hexdigest()})
            failpoint("before-shorten")
            base.disk.replace(paths.log, create + sign_line(end, base.keys.signing))
            failpoint("after-shorten")
    except OSError as error:
        log_failure(error, paths.folder)
    base.known.forget(upload_id)
