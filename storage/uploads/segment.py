"""Segments: sealing a stream into age files back to back, and reading any range of them again.

A segment holds back at most one chunk (64 KiB), because only the last one is flagged. Buffers belong to the worker
thread, not to the upload, so that a stalled upload costs its held-back bytes and nothing else.

Source: docs/reference/format.md, Segment.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator

from blake3 import blake3

from dropoff_tus.errors import UploadDamagedError
from storage.age import (
    CHUNK_BYTES,
    NONCE_BYTES,
    SEALED_CHUNK_BYTES,
    TAG_BYTES,
    AgeError,
    ChunkOpener,
    Identity,
    Recipient,
    SegmentSealer,
    open_header,
    payload_key,
    sealed_size,
)
from storage.backing import Ciphertext, SegmentEntry
from storage.keyring.checksum import Checksum
from storage.keyring.lines import damaged

ROLL_BYTES = 64 << 20
"""Plaintext of a full segment; a multiple of the chunk size."""
BATCH_BYTES = 1 << 20
_READ_BYTES = 256 << 10
"""Two of these, sealed and plain, are held for each download that its client does not take."""
_CHECKED_BYTES = 16 * SEALED_CHUNK_BYTES
_HEADER_BYTES = 8 << 10
_OUT_BYTES = BATCH_BYTES + (BATCH_BYTES // CHUNK_BYTES + 1) * TAG_BYTES + _HEADER_BYTES
_SMALL_BYTES = 384 << 10
"""Up to this size buffers are made for one use; larger ones belong to the thread."""


Sink = Callable[[memoryview, int], None]


class _ThreadBuffers(threading.local):
    """One plaintext and one ciphertext buffer a thread that seals batches; kept, since fresh ones cost page faults."""

    def __init__(self) -> None:
        self.plain = memoryview(bytearray(BATCH_BYTES + CHUNK_BYTES))
        self.out = memoryview(bytearray(_OUT_BYTES + CHUNK_BYTES))


_buffers = _ThreadBuffers()


def plain_buffer(size_bytes: int) -> memoryview:
    """Return room for plaintext, which the calling thread uses until it asks again: at most BATCH_BYTES and a chunk."""
    return _buffers.plain if size_bytes > _SMALL_BYTES else memoryview(bytearray(size_bytes))


def _sealed_buffer(plain_bytes: int) -> memoryview:
    if plain_bytes > _SMALL_BYTES:
        return _buffers.out
    return memoryview(bytearray(sealed_size(plain_bytes) + _HEADER_BYTES))


class _Content:
    """`c` of a segment: BLAKE3 of its header and all tags, or of all of its ciphertext."""

    def __init__(self, header: bytes, *, tags: bool) -> None:
        self._hash, self._tags = blake3(header), tags

    def update(self, sealed: memoryview) -> None:
        """Take whole chunks; only the last one of a segment is shorter."""
        if not self._tags:
            self._hash.update(sealed)
            return
        ends = (*range(SEALED_CHUNK_BYTES, sealed.nbytes, SEALED_CHUNK_BYTES), sealed.nbytes)
        self._hash.update(b"".join(sealed[end - TAG_BYTES : end] for end in ends))

    def hexdigest(self) -> str:
        return str(self._hash.hexdigest())


class SegmentWriter:
    """Seals one segment into `data`. Used by one worker thread at a time."""

    def __init__(self, recipient: Recipient, *, index: int, offset: int, data_offset: int, digested: bool) -> None:
        """Start a segment; nothing is written before its first bytes.

        With a signed digest of the plaintext the content is hashed only there: `c` is of the tags then.
        """
        self._sealer = SegmentSealer(recipient)
        self._header_pending = True
        self._index, self._offset, self._data_offset = index, offset, data_offset
        self._written = 0
        self._content = _Content(self._sealer.header, tags=digested)
        self._checksum = Checksum() if digested else None
        self.plain_bytes = 0
        """Plaintext taken in, held back bytes included."""

    def write(self, sink: Sink, plain: memoryview, *, last: bool) -> int:
        """Seal what can be sealed of `plain`, which starts with the bytes held back before.

        Args:
            sink: Writes ciphertext at a position.
            plain: At most BATCH_BYTES + CHUNK_BYTES.
            last: Seal everything: the segment ends here.

        Returns:
            How many bytes of plain were sealed; the caller holds back the rest, 1 to 65,536 bytes, or 0 if last.
        """
        whole = max(plain.nbytes - 1, 0) // CHUNK_BYTES * CHUNK_BYTES
        if not whole and not last:
            return 0
        out, start = _sealed_buffer(plain.nbytes), 0
        if self._header_pending:
            header = self._sealer.header
            out[: len(header)] = header
            start = len(header)
            self._header_pending = False
        used = start + self._sealer.seal_chunks(plain[:whole], out[start:])
        if last:
            used += self._sealer.seal_last(plain[whole:], out[used:])
        sink(out[:used], self._data_offset + self._written)
        # Not in a thread of its own, which was measured to cost more than it saves: docs/develop/performance.md.
        self._content.update(out[start:used])
        if self._checksum is not None:
            self._checksum.update(out[:used])
        self._written += used
        return plain.nbytes if last else whole

    def entry(self) -> SegmentEntry:
        """Return the log's entry of the ended segment."""
        return SegmentEntry(
            index=self._index,
            offset=self._offset,
            length=self.plain_bytes,
            data_offset=self._data_offset,
            data_length=self._written,
            header_length=len(self._sealer.header),
            h=hashlib.sha256(self._sealer.header).hexdigest(),
            c=self._content.hexdigest(),
            k=None if self._checksum is None else self._checksum.hexdigest(),
        )


def read_segments(
    data: Ciphertext, upload_id: str, entries: Iterable[SegmentEntry], identity: Identity, start: int, stop: int
) -> Iterator[bytes]:
    """Yield the plain bytes from start up to stop, verified chunk by chunk.

    `h` is checked for every segment touched, and `c` for every segment that is read whole.

    Raises:
        UploadDamagedError: Something does not verify; nothing after it is yielded.
    """
    for entry in entries:
        begin, end = max(start - entry.offset, 0), min(stop - entry.offset, entry.length)
        if entry.offset >= stop:
            break
        if begin >= end:
            continue
        try:
            yield from _read_segment(data, upload_id, entry, identity, begin, end)
        except AgeError as error:
            raise damaged(upload_id, f"segment {entry.index}: {error}") from None


def _read_segment(
    data: Ciphertext, upload_id: str, entry: SegmentEntry, identity: Identity, begin: int, end: int
) -> Iterator[bytes]:
    head = _read_exactly(data, entry, 0, entry.header_length, upload_id)
    if hashlib.sha256(head).hexdigest() != entry.h:
        raise damaged(upload_id, f"the header of segment {entry.index} was changed")
    if entry.data_length != entry.header_length + sealed_size(entry.length):
        raise damaged(upload_id, f"segment {entry.index} has an impossible length")
    file_key = open_header(head[:-NONCE_BYTES], [identity])
    opener = ChunkOpener(payload_key(file_key, head[-NONCE_BYTES:]))
    whole = begin == 0 and end == entry.length
    content = _Content(head, tags=entry.k is not None)
    last_chunk = (entry.length - 1) // CHUNK_BYTES
    step = _READ_BYTES // CHUNK_BYTES
    for at in range(begin // CHUNK_BYTES, (end - 1) // CHUNK_BYTES + 1, step):
        until = min(at + step, (end - 1) // CHUNK_BYTES + 1)
        sealed_start = at * (CHUNK_BYTES + TAG_BYTES)
        sealed_stop = min(until * (CHUNK_BYTES + TAG_BYTES), sealed_size(entry.length))
        position = entry.header_length + sealed_start
        sealed = memoryview(_read_exactly(data, entry, position, sealed_stop - sealed_start, upload_id))
        content.update(sealed)
        if whole and until > last_chunk and content.hexdigest() != entry.c:
            raise damaged(upload_id, f"segment {entry.index} is not the one that was committed")
        plain = b"".join(
            opener.open(
                index,
                sealed[(index - at) * (CHUNK_BYTES + TAG_BYTES) : (index - at + 1) * (CHUNK_BYTES + TAG_BYTES)],
                last=index == last_chunk,
            )
            for index in range(at, until)
        )
        base = at * CHUNK_BYTES
        yield plain[max(begin - base, 0) : end - base]


def ciphertext_matches(data: Ciphertext, upload_id: str, entry: SegmentEntry) -> bool:
    """Tell, with no key, whether a segment is what was committed, up to what its key's holders can make of it."""
    try:
        head = _read_exactly(data, entry, 0, entry.header_length, upload_id)
        content, checksum = _Content(head, tags=entry.k is not None), Checksum()
        checksum.update(head)
        for position in range(entry.header_length, entry.data_length, _CHECKED_BYTES):
            count = min(_CHECKED_BYTES, entry.data_length - position)
            sealed = memoryview(_read_exactly(data, entry, position, count, upload_id))
            content.update(sealed)
            checksum.update(sealed)
    except UploadDamagedError:
        return False
    return content.hexdigest() == entry.c and entry.k in {None, checksum.hexdigest()}


def _read_exactly(data: Ciphertext, entry: SegmentEntry, position: int, count: int, upload_id: str) -> bytes:
    piece = data.read(entry, position, count)
    if len(piece) < count:
        raise damaged(upload_id, "its data is shorter than the committed bytes")
    return piece
