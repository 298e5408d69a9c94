"""Commits: the moment an offset becomes durable. Data first, then one signed log line.

Source: docs/format.md, Order of writes.
"""

import errno
import os
from collections.abc import Sequence
from datetime import datetime, timedelta

from dropoff_tus.errors import DropoffError
from storage.backing import SyncFailedError
from storage.failpoints import failpoint
from storage.keyring.lines import Record, sign_line
from storage.uploads.base import StoreBase, refused
from storage.uploads.creation import sync_creation
from storage.uploads.log import LogState, SegmentEntry, check_signs, jump, next_record, segments_record
from storage.uploads.reading import final_parts
from storage.uploads.recovery import check_unchanged

_SEEN_EVERY = timedelta(seconds=1)


class Committer:
    """Appends to one upload's log under its lease. One thread at a time; every method blocks on the disk.

    `state` advances when a line is durable, and never otherwise.
    """

    def __init__(self, base: StoreBase, state: LogState, log: int, data: int) -> None:
        """Take the leased upload's state and open descriptors."""
        self._base, self._log, self._data = base, log, data
        self.state = state

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
        self._sync_data()
        self.record(segments_record(self.state, entries, self._base.now()))

    def final(self, entries: Sequence[SegmentEntry], at: datetime) -> None:
        """Verify the chain, and make the last segments and the end of the upload durable, in one line.

        Raises:
            OSError: As `segments`.
            UploadDamagedError: The log is not the one that was written, or a part is not finished.
        """
        base, state = self._base, self.state
        check_unchanged(self._log, state)
        if entries:
            self._sync_data()
        parts = final_parts(base, state)
        tip = segments_record(state, entries, at) if entries else next_record(state, "final", at, {})
        length = sum(part[2] for part in parts) if state.parts else tip["tot"][1]
        self.record({**tip, "t": "final", "len": length, "parts": parts})

    def record(self, record: Record) -> None:
        """Append one line. The upload's first one makes its folders and envelopes durable before.

        Raises:
            OSError: As `segments`.
        """
        base, state = self._base, self.state
        if record["t"] != "end":
            check_signs(base.keys.signing, state)
        if state.log_bytes == state.create_bytes:
            sync_creation(base, state)
        line = sign_line(record, base.keys.signing)
        try:
            base.disk.write_at(self._log, line, state.log_bytes)
        except OSError:
            # A partial line must not stay in front of the next one, nor come back among its sectors in a power cut.
            base.disk.truncate(self._log, state.log_bytes)
            base.disk.sync_file(self._log)
            raise
        failpoint("after-log-write")
        base.disk.sync_file(self._log)
        if not (os.fstat(self._log).st_nlink and os.fstat(self._data).st_nlink):
            raise SyncFailedError(errno.ESTALE, "the upload's files were removed")
        failpoint("after-log-sync")
        self.state = jump(state, record, line, state.log_bytes + len(line))
        base.known.advance(self.state)

    def seen(self) -> None:
        """Note in the log that somebody sent bytes, though none is kept; at most once a second.

        Raises:
            OSError: As `segments`.
        """
        now = self._base.now()
        if now - self.state.last_at >= _SEEN_EVERY:
            self.record(next_record(self.state, "seen", now, {}))

    def drop_uncommitted(self) -> None:
        """Cut `data` to what is committed; the keys of what was there are never used again."""
        self._base.disk.truncate(self._data, self.state.data_bytes)

    def failed(self, error: OSError) -> DropoffError:
        """Turn a disk error into a refusal, keeping what was durable."""
        kept = f"what was acknowledged before (up to {self.state.offset}) is safe"
        if isinstance(error, SyncFailedError):
            self._distrust()
        else:
            try:
                self.drop_uncommitted()
            except OSError:
                self._distrust()
        base, upload_id = self._base, self.state.id
        return refused(error, f" under upload {upload_id}; {kept}", base.layout.of(upload_id).folder)

    def _sync_data(self) -> None:
        failpoint("before-data-sync")
        self._base.disk.sync_file(self._data)
        failpoint("after-data-sync")

    def _distrust(self) -> None:
        """Refuse the upload, whose state on disk is unknown, until a restart has read it again."""
        self._base.distrusted.add(self.state.id)
        self._base.known.forget(self.state.id)
