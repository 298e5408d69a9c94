"""Commits: the moment an offset becomes durable. A lease begins with the recovery of what the last one left.

Source: docs/reference/format.md, Order of writes, Recovery.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from dropoff_tus.errors import DropoffError, UploadInterruptedError
from dropoff_tus.model import Mode
from storage.backing import Grip, KeyFile, LeaseLostError, SegmentEntry, SyncFailedError
from storage.keyring.lines import Record, damaged, sign_line
from storage.uploads.base import StoreBase, refused
from storage.uploads.log import LogState, check_signs, jump, next_record, segments_record
from storage.uploads.reading import final_parts
from storage.uploads.recovery import check_unchanged, not_found, read_state

_SEEN_EVERY = timedelta(seconds=1)


class Committer:
    """Appends to one upload's log under its lease. One thread at a time; every method blocks on the disk.

    `state` advances when a line is durable, and never otherwise.
    """

    def __init__(self, base: StoreBase, state: LogState, grip: Grip) -> None:
        """Take the leased upload, and where it stands."""
        self._base, self._grip = base, grip
        self.state = state

    @classmethod
    def recover(cls, base: StoreBase, upload_id: str, grip: Grip) -> "Committer":
        """Find out where an upload stands; keep a torn tail of its log aside, and drop what was not committed.

        Raises:
            UploadNotFoundError, UploadDamagedError: As the ports say; nothing was changed.
            KeyMissingError: As `check_creation`.
            OSError: The disk failed.
        """
        state, torn = base.memory.state(upload_id), 0
        remembered = state is not None and grip.lines.size_bytes() == state.log_bytes
        if state is None or not remembered:
            state, torn = read_state(grip.lines, upload_id, base.keys.signing, durable=True)
        try:
            have = grip.data_bytes()
        except FileNotFoundError:
            # A power cut may take a part of a creation; later the bytes were taken away.
            raise (not_found() if state.is_new else damaged(upload_id, "its data is gone")) from None
        if not remembered:
            # Before anything is cut: the last record could have been moved there, and its totals with it.
            base.verified(grip.lines, upload_id)
        if not remembered or have != state.data_bytes:
            _repair(base, state, grip, have, torn)
        if not remembered:
            base.memory.recovered(state)
        if state.is_new and not base.memory.is_vouched(upload_id):
            check_creation(base, state)
        return cls(base, state, grip)

    def segments(self, entries: Sequence[SegmentEntry]) -> None:
        """Make written segments durable, in one line.

        Raises:
            OSError: Nothing of it counts; `failed` says what to do.
        """
        if not entries:
            return
        first, state = entries[0], self.state
        if (first.index, first.offset, first.data_offset) != (state.segments, state.offset, state.data_bytes):
            message = f"a commit to {state.id} does not follow the one before it"
            raise RuntimeError(message)
        self.record(segments_record(state, entries, self._base.now()), entries)

    def final(self, entries: Sequence[SegmentEntry], at: datetime) -> None:
        """Verify the chain, and make the last segments and the end of the upload durable, in one line.

        Raises:
            OSError: As `segments`.
            UploadDamagedError: The log is not the one that was written, or a part is not finished.
        """
        state = self.state
        check_unchanged(self._grip.lines, state)
        parts = final_parts(self._base, state)
        tip = segments_record(state, entries, at) if entries else next_record(state, "final", at, {})
        length = sum(part[2] for part in parts) if state.parts else tip["tot"][1]
        self.record({**tip, "t": "final", "len": length, "parts": parts}, entries)

    def record(self, record: Record, entries: Sequence[SegmentEntry] = ()) -> None:
        """Append one line. The upload's first one makes what its creation wrote durable before.

        Raises:
            OSError: As `segments`.
        """
        state, key = self.state, self._base.keys.signing
        if record["t"] != "end":
            check_signs(key, state)
        if state.is_new:
            self._grip.settle(KeyFile.own(state.mode))
        line = sign_line(record, key)
        self._grip.append(line, state.tip, entries)
        self.state = jump(state, record, line, state.log_bytes + len(line))
        self._base.memory.advanced(self.state)

    def seen(self) -> None:
        """Note in the log that somebody sent bytes, though none is kept; at most once a second.

        Raises:
            OSError: As `segments`.
        """
        now = self._base.now()
        if now - self.state.last_at >= _SEEN_EVERY:
            self.record(next_record(self.state, "seen", now, {}))

    def drop_uncommitted(self) -> None:
        """Drop ciphertext beyond what is committed; the keys of what was there are never used again."""
        self._grip.cut(self.state.data_bytes)

    def failed(self, error: OSError) -> DropoffError:
        """Turn what the disk did not do into a refusal, keeping what was durable."""
        memory, upload_id = self._base.memory, self.state.id
        kept = f"acknowledged bytes (up to {self.state.offset}) are safe"
        if isinstance(error, LeaseLostError):
            memory.forget(upload_id)
            return UploadInterruptedError("another server took this upload over", fate=kept)
        if isinstance(error, SyncFailedError):
            memory.distrust(upload_id)
        else:
            try:
                self.drop_uncommitted()
            except OSError:
                memory.distrust(upload_id)
        return refused(error, f" under upload {upload_id}; {kept}")


def _repair(base: StoreBase, state: LogState, grip: Grip, have: int, torn: int) -> None:
    is_open = not state.final and state.ended is None
    if is_open and base.key_files.has(state.id, KeyFile.RECEIPT):
        raise damaged(state.id, "it has a receipt, but its final record is gone")
    if have < state.data_bytes and state.ended is None:
        raise damaged(state.id, "its data is shorter than the committed bytes")
    if torn:
        grip.set_torn_aside(state.log_bytes)
    if have > state.data_bytes and is_open:
        grip.cut(state.data_bytes)


def check_creation(base: StoreBase, state: LogState) -> None:
    """Before the first commit to an upload of another process: whatever a power cut took, nothing was acknowledged.

    Raises:
        UploadNotFoundError: An envelope is gone or torn. Bytes committed now could never be opened.
        KeyMissingError: The folder of all such envelopes is away, and may come back.
    """
    try:
        root = base.read_key_file(state.id, KeyFile.ROOT)
        own = base.read_key_file(state.id, KeyFile.INGEST) if state.mode is Mode.SEALED else None
    except FileNotFoundError:
        raise not_found() from None
    whole = own is None or hashlib.sha256(own).hexdigest() == state.create["own"]
    if not whole or not base.written.is_envelope(state.id, root, state.create["root"]):
        raise not_found()
