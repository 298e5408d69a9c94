"""The base of the engine: four small protocols, of which `storage.files` is one backing, on local folders.

| protocol | keeps | on local folders | on objects and a database |
|---|---|---|---|
| `Chains` | an upload's signed lines, one naming the other | a file that grows | a row with the tip, a row a line |
| `Segments` | its ciphertext | one file | an object a segment, named by its hash |
| `KeyFiles` | its envelopes and its receipt | a file each | an object each |
| `Leasing` | who may write it | kernel locks | a row with the holder |

A backing does not look into lines, segments and envelopes. Its calls block, and are made in worker threads. They
raise `OSError` where something failed, with the place as its file name, and `FileNotFoundError` where there is
nothing of the upload; `StorageFailedError` where the place of all uploads is away.
"""

import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from dropoff_tus.model import Mode
from storage.neighbours import Neighbours

_log = logging.getLogger(__name__)
MAX_LINE_BYTES = 32 << 20
"""A commit of as many segments as one line takes is below this."""


class SyncFailedError(OSError):
    """Something may be stored or not: nothing may build on it before it was read again."""


class LeaseLostError(OSError):
    """Somebody else has the lease by now, or went on from that tip: nothing was appended."""


def log_failure(error: OSError) -> None:
    """Log which error it was, and where."""
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    _log.error("the disk failed", extra={"errno": name, "path": str(error.filename)})


class KeyFile(StrEnum):
    """One of the files that hold an upload's keys."""

    ROOT = "root"
    """The envelope for the root identities, and of a managed upload for the server too."""
    INGEST = "ingest"
    """The server's own, of a sealed upload in progress: in no backup, and removed when it is sealed."""
    RECEIPT = "receipt"

    @classmethod
    def own(cls, mode: Mode) -> "KeyFile":
        """Return which one the server opens."""
        return cls.ROOT if mode is Mode.MANAGED else cls.INGEST


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """One segment as the log names it. Offsets and lengths are bytes; `h`, `c` and `k` are hex."""

    index: int
    offset: int
    length: int
    data_offset: int
    data_length: int
    header_length: int
    h: str
    c: str
    k: str | None

    def record(self) -> dict[str, Any]:
        """Return the form that is stored."""
        return {
            "i": self.index,
            "o": self.offset,
            "l": self.length,
            "co": self.data_offset,
            "cl": self.data_length,
            "hl": self.header_length,
            "h": self.h,
            "c": self.c,
            "k": self.k,
        }

    @classmethod
    def parse(cls, r: dict[str, Any]) -> "SegmentEntry":
        """Read the stored form of a record whose signature has been verified."""
        return cls(r["i"], r["o"], r["l"], r["co"], r["cl"], r["hl"], r["h"], r["c"], r["k"])


@dataclass(frozen=True, slots=True)
class Tip:
    """Where a chain ends: how many bytes of lines it has, and the hex SHA-256 of the last one."""

    size_bytes: int
    hash: str


@dataclass(frozen=True, slots=True)
class Ends:
    """The first and the last whole line of a chain, unverified."""

    first: bytes | None
    """None where a crash left no whole one; then `torn` has all there is, of a very long log the beginning."""
    last: bytes
    """Empty where there is only the first."""
    size_bytes: int
    """Up to the end of the last whole line."""
    torn: bytes = b""
    """The remains of a crash after that."""


class Lines(Protocol):
    """An open chain. Positions are bytes from its beginning."""

    def size_bytes(self) -> int:
        """Return the size of all there is, torn or not."""
        ...

    def first(self) -> bytes | None:
        """Return the first line; None where a crash left no whole one."""
        ...

    def ends(self, *, durable: bool = False) -> Ends:
        """Return the first and the last line; with `durable`, such as no power cut takes away any more."""
        ...

    def read(self, start: int, count: int) -> bytes:
        """Return so many bytes; fewer only where there are no more."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Ciphertext(Protocol):
    """The open segments of an upload."""

    def size_bytes(self) -> int:
        """Return up to which position there is ciphertext."""
        ...

    def read(self, entry: SegmentEntry, at: int, count: int) -> bytes:
        """Return so many bytes of a segment, from a position in it; fewer only where there are no more."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Grip(Protocol):
    """An upload that nobody else writes until this is closed."""

    @property
    def lines(self) -> Lines:
        """Its chain."""
        ...

    def data_bytes(self) -> int:
        """Return up to which position there is ciphertext, committed or not."""
        ...

    def write(self, ciphertext: memoryview, at: int) -> None:
        """Add ciphertext of the segment that is being sealed, where what was written before ends."""
        ...

    def cut(self, data_bytes: int) -> None:
        """Drop the ciphertext from a position on. Its keys are never used again."""
        ...

    def settle(self, own: KeyFile) -> None:
        """Make the creation durable: before the first commit nothing of it is."""
        ...

    def append(self, line: bytes, after: Tip, segments: Sequence[SegmentEntry] = ()) -> None:
        """Commit: make these written segments durable, and then the line that names them.

        Raises:
            LeaseLostError: The chain does not end there any more, or another has the lease.
            SyncFailedError: It may be committed or not.
            OSError: It is not, and the chain is as it was.
        """
        ...

    def set_torn_aside(self, size_bytes: int) -> None:
        """Keep the remains of a crash after the last whole line elsewhere, and cut them off, durably."""
        ...

    def close(self) -> None:
        """Let others write it."""
        ...


class Chains(Protocol):
    """The signed lines of all uploads."""

    def check_there(self) -> None:
        """Refuse to take an empty place for one without uploads.

        Raises:
            StorageFailedError: The folder is not that of the start.
        """
        ...

    def ids(self) -> list[str]:
        """Return the ids of all uploads, in order."""
        ...

    def has(self, upload_id: str) -> bool:
        """Tell whether anything of an upload may be here, with lines or without."""
        ...

    def creating(self, upload_id: str) -> AbstractContextManager[None]:
        """Keep others from creating the same upload."""
        ...

    def create(self, upload_id: str, line: bytes, key_files: Mapping[KeyFile, bytes], *, again: bool = False) -> None:
        """Make an upload of one line, with its key files and no segments. Nothing is durable before its first commit.

        With `again`, in place of what a creation left that died. If it fails, nothing of it is left.

        Raises:
            FileExistsError: Without `again`, if there is anything of that upload, which stays.
        """
        ...

    def is_cut_off(self, upload_id: str, before: datetime) -> bool:
        """Tell whether all that is here of an upload is the beginning of a creation that died, before a time."""
        ...

    def remove(self, upload_id: str) -> None:
        """Remove everything of an upload that holds nothing acknowledged, or of a tombstone."""
        ...

    def size_bytes(self, upload_id: str) -> int:
        """Return the size of a chain."""
        ...

    def open(self, upload_id: str, *, aside: bool = False) -> Lines:
        """Open a chain, or the one that was set aside."""
        ...

    def append(self, upload_id: str, line: bytes, after: Tip) -> None:
        """Append to a chain that nobody may write any more, durably, without its lease: the tip protects it."""
        ...

    def set_aside(self, upload_id: str, lines: bytes) -> None:
        """Keep a copy of lines that do not verify, durably."""
        ...

    def replace(self, upload_id: str, lines: bytes) -> None:
        """Put other lines in the place of a chain, at once and durably; none: there is no chain any more."""
        ...


class Segments(Protocol):
    """The ciphertext of all uploads."""

    def free_bytes(self) -> int:
        """Return how much room is left for more, less what is to stay free."""
        ...

    def size_bytes(self, upload_id: str) -> int:
        """Return how much ciphertext of an upload there is."""
        ...

    def open(self, upload_id: str) -> Ciphertext:
        """Open the ciphertext of an upload."""
        ...

    def remove(self, upload_id: str) -> None:
        """Remove it, and what crashes left of it."""
        ...


class KeyFiles(Protocol):
    """The key files of all uploads."""

    def has(self, upload_id: str, *kinds: KeyFile) -> bool:
        """Tell whether one of these is there; without a kind, whether anything is."""
        ...

    def is_settled(self, upload_id: str, kind: KeyFile) -> bool:
        """Tell whether one is there, and make it durable: an attempt that died may have put it."""
        ...

    def get(self, upload_id: str, kind: KeyFile) -> bytes:
        """Return one; of one that is larger than any should be, so much that this can be seen.

        Raises:
            KeyMissingError: The place of all files of its kind is away.
        """
        ...

    def put(self, upload_id: str, kind: KeyFile, blob: bytes, check: Callable[[bytes], None] | None = None) -> None:
        """Write one, durably and whole or not at all.

        Args:
            upload_id: Whose.
            kind: Which.
            blob: All of it.
            check: For one that takes the place of what nothing else can bring back; then it is durable whatever the
                store's durability. Called before, with what reads back of it; raising leaves the old one.
        """
        ...

    def remove(self, upload_id: str, *kinds: KeyFile) -> None:
        """Remove these, without a kind all, durably; missing ones are fine."""
        ...


class Leasing(Protocol):
    """The rights to write, across processes."""

    @property
    def neighbours(self) -> Neighbours:
        """Who else may write here."""
        ...

    def acquire(self, upload_id: str) -> Grip | None:
        """Take an upload, or None where another process has it."""
        ...

    def is_held(self, upload_id: str) -> bool:
        """Tell whether anybody has an upload now; its last commit is there once this is False."""
        ...

    def join(self) -> Callable[[], None] | None:
        """Take the turn of whoever makes a concatenation; None if it is another's. Call what is returned to end it."""
        ...

    def announce(self) -> bool:
        """Say that a server runs here, until `close` or the end of the process; tell whether no other did."""
        ...

    def close(self) -> None:
        """Say nothing any more."""
        ...
