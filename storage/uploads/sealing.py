"""Bytes in, segments in `data` out, ahead of their commit. Digests of the plaintext are computed beside the sealing.

Source: docs/reference/format.md, Segment.
"""

import time
from collections.abc import Callable, Sequence

from dropoff_tus.errors import TooManySegmentsError
from storage.backing import SegmentEntry
from storage.threads import Threads
from storage.uploads.base import StoreBase
from storage.uploads.log import MAX_COMMIT_SEGMENTS, MAX_SEGMENTS, LogState
from storage.uploads.segment import ROLL_BYTES, SegmentWriter, Sink

Feed = Callable[[memoryview], object]


class Sealing:
    """Seals what is received after an upload's committed end. Used by one worker at a time."""

    def __init__(self, base: StoreBase, threads: Threads, state: LogState, sink: Sink, digests: Sequence[Feed]) -> None:
        """Begin at the committed end. `digests` are fed with all plaintext that is taken."""
        self._threads, self._sink = threads, sink
        self._recipient, self._digested = base.memory.recipient(state), base.digest != "none"
        self._digests = digests
        # Where the next segment starts.
        self._index, self._offset, self._data_offset = state.segments, state.offset, state.data_bytes
        self._writer: SegmentWriter | None = None
        self._started_at = 0.0
        self._closed: list[SegmentEntry] = []
        self.held = b""
        """Plaintext that is not sealed yet, since only a segment's last chunk is flagged: 64 KiB at most."""

    @property
    def position(self) -> int:
        """The plaintext offset after everything taken in."""
        return self._offset + (self._writer.plain_bytes if self._writer is not None else 0)

    @property
    def room_bytes(self) -> int:
        """How much the present segment still takes."""
        return ROLL_BYTES - (self._writer.plain_bytes if self._writer is not None else 0)

    @property
    def waiting_bytes(self) -> int:
        """Plaintext of ended segments that wait for their commit."""
        return sum(entry.length for entry in self._closed)

    def age_seconds(self, now: float) -> float:
        """Return for how long the present segment has been open; 0 if none is."""
        return now - self._started_at if self._writer is not None else 0.0

    def take(self, buffer: memoryview, filled: int) -> None:
        """Seal, hash and write.

        Args:
            buffer: Starts with the bytes held back before.
            filled: Where what was received after them ends, within `room_bytes`.

        Raises:
            TooManySegmentsError: Nothing of it was taken.
            OSError: It is not known what of it was written.
        """
        fresh = buffer[len(self.held) : filled]
        writer = self._writer
        if writer is None:
            writer = self._writer = self._open_segment()
        writer.plain_bytes += fresh.nbytes
        full = writer.plain_bytes >= ROLL_BYTES
        digested = self._threads.digest_beside(self._digest, fresh) if self._digests else None
        try:
            sealed = writer.write(self._sink, buffer[:filled], last=full)
        finally:
            if digested is not None:
                digested()
        self.held = bytes(buffer[sealed:filled])
        if full:
            self._close_segment(writer)

    def end_segment(self) -> None:
        """Seal what is held back as the segment's last chunk."""
        writer = self._writer
        if writer is not None:
            writer.write(self._sink, memoryview(self.held), last=True)
            self.held = b""
            self._close_segment(writer)

    def take_closed(self) -> list[SegmentEntry]:
        """Hand over the ended segments, for their commit."""
        closed, self._closed = self._closed, []
        return closed

    def _digest(self, fresh: memoryview) -> None:
        for feed in self._digests:
            feed(fresh)

    def _open_segment(self) -> SegmentWriter:
        if len(self._closed) >= MAX_COMMIT_SEGMENTS:
            message = "the body is too long for one checksum; send it in several requests"
            raise TooManySegmentsError(message)
        if self._index >= MAX_SEGMENTS:
            message = f"the upload has {MAX_SEGMENTS} pieces; create it again and send larger chunks"
            raise TooManySegmentsError(message)
        self._started_at = time.monotonic()
        return SegmentWriter(
            self._recipient,
            index=self._index,
            offset=self._offset,
            data_offset=self._data_offset,
            digested=self._digested,
        )

    def _close_segment(self, writer: SegmentWriter) -> None:
        entry = writer.entry()
        self._closed.append(entry)
        self._index, self._offset = self._index + 1, self._offset + entry.length
        self._data_offset += entry.data_length
        self._writer = None
