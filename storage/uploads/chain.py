"""A whole log, verified in blocks: however long it is, one block of it and a mark for each are in memory.

It goes from the last line, whose hash a signature covers, back to the create record: the hash of each line is the
`prev` of the one after it. So every line is known to be authentic before any is parsed. Where a block ends, and the
hash of the line there, is kept as its mark: by that the block can be read later, and is the same or refused. Whether
records add up is seen when they are read.

Source: docs/reference/format.md, Recovery.
"""

import bisect
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from storage.backing import MAX_LINE_BYTES, Lines, SegmentEntry
from storage.keyring.lines import Record, damaged
from storage.uploads.log import LogState

_BLOCK_BYTES = 64 << 10
"""Read and verified at once, for one byte of an upload too: some 130 commits, in about a millisecond."""
_PREV = b'"prev":"'
_COMMIT = b'"t":"segs"'
_TELLING = frozenset({"key", "final", "end"})
_NOT_THE_CHAIN = "a line of its log was changed, moved or taken out"

Totals = tuple[int, int, int]
"""Segments, plaintext bytes and ciphertext bytes up to some record."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where in the log a record ends, the hash of its line, and what the upload has up to it."""

    end: int
    hash: str
    segments: int
    offset: int
    data_bytes: int


@dataclass(frozen=True, slots=True)
class Chain:
    """A whole verified log: where the upload stands, and the marks of its blocks, the create record's first."""

    state: LogState
    marks: tuple[Mark, ...]

    def extended(self, state: LogState, marks: Sequence[Mark]) -> "Chain":
        """Return the chain with what was added to it. Short blocks at its end are joined, or they would be many."""
        short = len(self.marks) > 1 and self.marks[-1].end - self.marks[-2].end < _BLOCK_BYTES
        return Chain(state, (*(self.marks[:-1] if short else self.marks), *marks))

    def records(self, log: Lines, first: int = 0) -> Iterator[tuple[bytes, Record]]:
        """Yield the lines and records that follow a mark.

        Args:
            log: Open.
            first: The number of the mark.

        Raises:
            UploadDamagedError: The log is not the verified one any more, or a record does not add up with the one
                before. Nothing of the block is yielded.
        """
        for before, after in pairwise(self.marks[first:]):
            lines = read_exactly(log, before.end, after.end - before.end, self.state.id).splitlines(keepends=True)
            if _prove(lines, after.hash, self.state.id) != before.hash:
                raise damaged(self.state.id, _NOT_THE_CHAIN)
            records = [parse(line) for line in lines]
            _check_sums(self.state.id, before, records, created=before is self.marks[0])
            yield from zip(lines, records, strict=True)

    def segments(self, log: Lines, offset: int = 0) -> Iterator[SegmentEntry]:
        """Yield segments, beginning at the latest with the one that holds the byte at `offset`."""
        first = bisect.bisect_right(self.marks, offset, key=lambda mark: mark.offset) - 1
        for _, record in self.records(log, max(0, first)):
            for entry in record.get("segs", ()):
                yield SegmentEntry.parse(entry)


def created_mark(state: LogState) -> Mark:
    """Return the mark of a create record, by the state after it."""
    return Mark(state.log_bytes, state.last_hash, 0, 0, 0)


def walk(
    log: Lines, begin: Mark, end: int, last_hash: str, upload_id: str
) -> tuple[list[Mark], list[tuple[bytes, Record]]]:
    """Verify that the lines between a mark and an end are the ones that the last one's hash stands for.

    Returns:
        The marks after `begin`; and the lines and records that change more than the totals, and the last one.

    Raises:
        UploadDamagedError: They are not.
    """
    marks: list[Mark] = []
    telling: list[tuple[bytes, Record]] = []
    expected = last_hash
    for start, lines in _blocks(log, begin.end, end, upload_id):
        stop, of_last = start + sum(map(len, lines)), expected
        expected = _prove(lines, expected, upload_id)
        marks.append(Mark(stop, of_last, *_totals(parse(lines[-1]))))
        # By their text, since parsing takes longer than all else. No string has bare quotes that look like it.
        only_commits = telling and b"".join(lines).count(_COMMIT) == len(lines)
        for line in () if only_commits else reversed(lines):
            record = parse(line)
            if record["t"] in _TELLING or not telling:
                telling.append((line, record))
    if expected != begin.hash:
        raise damaged(upload_id, _NOT_THE_CHAIN)
    return marks[::-1], telling[::-1]


def parse(line: bytes) -> Record:
    """Read the record of an authentic line."""
    record: Record = json.loads(line[: line.rindex(b" ")])
    return record


def read_exactly(log: Lines, position: int, count: int, upload_id: str) -> bytes:
    """Read so many bytes of a log.

    Raises:
        UploadDamagedError: It has fewer.
    """
    raw = log.read(position, count)
    if len(raw) < count:
        raise damaged(upload_id, "its log became shorter")
    return raw


def _blocks(log: Lines, begin: int, end: int, upload_id: str) -> Iterator[tuple[int, list[bytes]]]:
    """Yield whole lines in blocks, the last block first: where it starts, and its lines in order."""
    at, rest = end, b""
    while at > begin:
        step = min(max(_BLOCK_BYTES, len(rest)), at - begin)
        at -= step
        raw = read_exactly(log, at, step, upload_id) + rest
        # Up to the first LF it is of a line that starts before.
        rest = b"" if at == begin else raw[: raw.find(b"\n") + 1] or raw
        if len(rest) > MAX_LINE_BYTES:
            raise damaged(upload_id, "a line of its log is longer than a record")
        if len(rest) < len(raw):
            yield at + len(rest), raw[len(rest) :].splitlines(keepends=True)


def _prove(lines: list[bytes], last_hash: str, upload_id: str) -> str:
    """Check that each line is the one that the line after it names, and return what the first one names.

    A CR, at which `splitlines` splits too, is in no authentic line.
    """
    expected = last_hash
    for line in reversed(lines):
        if hashlib.sha256(line).hexdigest() != expected:
            raise damaged(upload_id, _NOT_THE_CHAIN)
        # Authentic now. By its text, as above.
        at = line.index(_PREV) + len(_PREV)
        expected = line[at : line.index(b'"', at)].decode("ascii")
    return expected


def _totals(record: Record) -> Totals:
    segments, offset, data_bytes = record["tot"]
    return segments, record["len"] if record["t"] == "final" else offset, data_bytes


def _check_sums(upload_id: str, before: Mark, records: list[Record], *, created: bool) -> None:
    """Check that records add up: segments and totals follow each other, and nothing follows the end."""
    totals, last = (before.segments, before.offset, before.data_bytes), "create" if created else ""
    for record in records:
        if last == "end" or (last == "final" and record["t"] != "end"):
            raise damaged(upload_id, "a record follows the last one")
        segments, offset, data_bytes = totals
        for entry in record.get("segs", ()):
            if (entry["i"], entry["o"], entry["co"]) != (segments, offset, data_bytes) or entry["l"] <= 0:
                raise damaged(upload_id, "segments do not follow each other")
            segments, offset, data_bytes = segments + 1, offset + entry["l"], data_bytes + entry["cl"]
        # The end of a tombstone follows the create record, and tells what is gone.
        if record["tot"] != [segments, offset, data_bytes] and (last, record["t"]) != ("create", "end"):
            raise damaged(upload_id, "the totals of a record do not add up")
        totals, last = _totals(record), record["t"]
