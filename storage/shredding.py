"""Taking keys away: sealing a finished upload, shredding an ended one. Every step may be repeated.

Source: docs/format.md, Order of writes.
"""

import os
from datetime import datetime

from dropoff_tus.model import UploadState
from storage.base import StoreBase
from storage.durable import failpoint
from storage.log import LogState, jump, next_record, sign_line


def seal(base: StoreBase, state: LogState) -> None:
    """Unlink the server's envelopes of a finished upload and its parts, durably."""
    # Its own first: a crash after a part's would leave metadata that asks for a check, and nothing to check with.
    for upload_id in (state.id, *state.parts):
        paths = base.layout.of(upload_id)
        base.disk.remove(paths.server_envelope)
        failpoint("before-seal-sync")
        # Also if it was gone: an attempt that was killed may have removed it without a sync.
        base.disk.sync_path(paths.keys_folder)
        known = base.known.get(upload_id)
        if known is not None:
            known.metadata = known.receipt_identity = None
    failpoint("after-seal")


def shred(base: StoreBase, state: LogState) -> None:
    """Remove the keys, durably, then the bytes. The log stays as a tombstone."""
    paths = base.layout.of(state.id)
    failpoint("before-shred")
    for path in paths.key_files:
        base.disk.remove(path)
    # Also if all were gone already, as above.
    base.disk.sync_path(paths.keys_folder)
    failpoint("after-shred-keys")
    data = base.disk.open_existing(paths.data, write=True)
    try:
        base.disk.truncate(data, 0)
    finally:
        os.close(data)
    base.unfinished.pop(state.id, None)
    known = base.known.get(state.id)
    if known is not None:
        known.metadata = known.receipt_identity = None
        known.hashes = {}


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
