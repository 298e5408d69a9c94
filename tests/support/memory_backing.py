"""The four protocols of `storage.backing` in memory, as objects and a database would have them.

Lines are appended by their tip, segments are objects named by their hash, and a lost lease is an error. Nothing is ever
torn, and all that was put is durable.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from storage.backing import Ends, KeyFile, LeaseLostError, SegmentEntry, Tip
from storage.keyring.journal import JOURNAL, Written
from storage.keyring.keys import ServerKeys
from storage.neighbours import Alone
from storage.uploads.base import StoreBase


@dataclass(eq=False)
class Stored:
    """All that is kept of one upload."""

    log: bytes
    key_files: dict[KeyFile, bytes]
    objects: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Segments by their names: where each starts, and its ciphertext."""
    aside: bytes | None = None
    holder: object = None

    @property
    def data_bytes(self) -> int:
        """Where the last segment ends."""
        return max((start + len(data) for start, data in self.objects.values()), default=0)

    def append(self, line: bytes, after: Tip) -> None:
        """Swap the tip."""
        last = self.log[self.log.rfind(b"\n", 0, -1) + 1 :]
        if after != Tip(len(self.log), hashlib.sha256(last).hexdigest()):
            raise LeaseLostError
        self.log += line


def _name(entry: SegmentEntry) -> str:
    return f"{entry.index}-{entry.c}"


class _Lines:
    def __init__(self, log: Callable[[], bytes]) -> None:
        self._log = log

    def size_bytes(self) -> int:
        return len(self._log())

    def first(self) -> bytes | None:
        return self._log()[: self._log().find(b"\n") + 1]

    def ends(self, *, durable: bool = False) -> Ends:
        del durable  # all of it is
        log, first = self._log(), self.first()
        last = log[log.rfind(b"\n", 0, -1) + 1 :]
        return Ends(first, b"" if last == log else last, len(log))

    def read(self, start: int, count: int) -> bytes:
        return self._log()[start : start + count]

    def close(self) -> None:
        """Do nothing."""


class _Ciphertext:
    def __init__(self, stored: Stored) -> None:
        self._stored = stored

    def size_bytes(self) -> int:
        return self._stored.data_bytes

    def read(self, entry: SegmentEntry, at: int, count: int) -> bytes:
        _, data = self._stored.objects.get(_name(entry), (0, b""))
        return data[at : at + count]

    def close(self) -> None:
        """Do nothing."""


class _Grip:
    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self.lines = _Lines(lambda: stored.log)
        self._sealed, self._start, self._lock = bytearray(), 0, threading.Lock()
        stored.holder = self

    def data_bytes(self) -> int:
        return self._stored.data_bytes + len(self._sealed)

    def write(self, ciphertext: memoryview, at: int) -> None:
        with self._lock:
            if not self._sealed:
                self._start = at
            assert at == self._start + len(self._sealed), "ciphertext does not follow what was written before"
            self._sealed += ciphertext

    def cut(self, data_bytes: int) -> None:
        del self._sealed[max(0, data_bytes - self._start) :]
        for name in [name for name, (start, _) in self._stored.objects.items() if start >= data_bytes]:
            del self._stored.objects[name]

    def settle(self, own: KeyFile) -> None:
        """Do nothing: the creation is durable."""

    def append(self, line: bytes, after: Tip, segments: Sequence[SegmentEntry] = ()) -> None:
        for entry in segments:
            begin = entry.data_offset - self._start
            data = bytes(self._sealed[begin : begin + entry.data_length])
            assert len(data) == entry.data_length, "a line names what was not written"
            self._stored.objects[_name(entry)] = (entry.data_offset, data)
        if self._stored.holder is not self:
            raise LeaseLostError
        self._stored.append(line, after)
        if segments:
            with self._lock:
                done = segments[-1].data_offset + segments[-1].data_length - self._start
                del self._sealed[:done]
                self._start += done

    def set_torn_aside(self, size_bytes: int) -> None:
        raise AssertionError(size_bytes)

    def close(self) -> None:
        if self._stored.holder is self:
            self._stored.holder = None


class MemoryBacking:
    """Implements `Chains`, `Segments`, `KeyFiles` and `Leasing`; several engines may stand on one."""

    neighbours = Alone()

    def __init__(self) -> None:
        """Start empty."""
        self.uploads: dict[str, Stored] = {}
        self.free = 1 << 50
        self._creating = threading.Lock()
        self._joined = False
        self.servers = 0

    def base(self, keys: ServerKeys, folder: Path, now: Callable[[], datetime], roots: Sequence[str]) -> StoreBase:
        """Return the base of an engine. Only the journal of rotations is a file."""
        written = Written(folder / JOURNAL)
        chains, segments, key_files = MemoryChains(self), MemorySegments(self), MemoryKeys(self)
        return StoreBase(chains, segments, key_files, self, keys, written, now, tuple(roots), "sha256")

    def of(self, upload_id: str) -> Stored:
        """Return what is kept of an upload."""
        if upload_id not in self.uploads:
            raise FileNotFoundError(upload_id)
        return self.uploads[upload_id]

    def acquire(self, upload_id: str) -> _Grip | None:
        """Take an upload."""
        stored = self.of(upload_id)
        return None if stored.holder is not None else _Grip(stored)

    def is_held(self, upload_id: str) -> bool:
        """Tell whether anybody has it."""
        return upload_id in self.uploads and self.uploads[upload_id].holder is not None

    @contextmanager
    def creating(self) -> Iterator[None]:
        """Create one at a time."""
        with self._creating:
            yield

    def join(self) -> Callable[[], None] | None:
        """Take the turn."""
        if self._joined:
            return None
        self._joined = True
        return self._part

    def _part(self) -> None:
        self._joined = False

    def announce(self) -> bool:
        """Count servers."""
        self.servers += 1
        return self.servers == 1

    def close(self) -> None:
        """Count one less."""
        self.servers = max(0, self.servers - 1)


class MemoryChains:
    """Implements `storage.backing.Chains`."""

    def __init__(self, backing: MemoryBacking) -> None:
        """Take the backing."""
        self._backing = backing

    def check_there(self) -> None:
        """Do nothing: memory is there."""

    def ids(self) -> list[str]:
        """Return all ids."""
        return sorted(self._backing.uploads)

    def has(self, upload_id: str) -> bool:
        """Tell whether there is one."""
        return upload_id in self._backing.uploads

    @contextmanager
    def creating(self, upload_id: str) -> Iterator[None]:
        """Create one at a time."""
        del upload_id
        with self._backing.creating():
            yield

    def create(self, upload_id: str, line: bytes, key_files: Mapping[KeyFile, bytes], *, again: bool = False) -> None:
        """Insert."""
        if not again and upload_id in self._backing.uploads:
            raise FileExistsError(upload_id)
        self._backing.uploads[upload_id] = Stored(line, dict(key_files))

    def is_cut_off(self, upload_id: str, before: datetime) -> bool:
        """Return False: a creation is one step."""
        del upload_id, before
        return False

    def remove(self, upload_id: str) -> None:
        """Delete."""
        self._backing.uploads.pop(upload_id, None)

    def size_bytes(self, upload_id: str) -> int:
        """Return the size of the lines."""
        return len(self._backing.of(upload_id).log)

    def open(self, upload_id: str, *, aside: bool = False) -> _Lines:
        """Open the lines, or what was set aside."""
        stored = self._backing.of(upload_id)
        if not aside:
            return _Lines(lambda: stored.log)
        if stored.aside is None:
            raise FileNotFoundError(upload_id)
        return _Lines(lambda: stored.aside or b"")

    def append(self, upload_id: str, line: bytes, after: Tip) -> None:
        """Append only by the tip."""
        self._backing.of(upload_id).append(line, after)

    def set_aside(self, upload_id: str, lines: bytes) -> None:
        """Keep a copy."""
        self._backing.of(upload_id).aside = lines

    def replace(self, upload_id: str, lines: bytes) -> None:
        """Put other lines in their place."""
        self._backing.of(upload_id).log = lines


class MemorySegments:
    """Implements `storage.backing.Segments`."""

    def __init__(self, backing: MemoryBacking) -> None:
        """Take the backing."""
        self._backing = backing

    def free_bytes(self) -> int:
        """Return the number the test gave."""
        return self._backing.free

    def size_bytes(self, upload_id: str) -> int:
        """Return where the last segment ends."""
        return self._backing.of(upload_id).data_bytes

    def open(self, upload_id: str) -> _Ciphertext:
        """Open the segments."""
        return _Ciphertext(self._backing.of(upload_id))

    def remove(self, upload_id: str) -> None:
        """Delete the objects."""
        self._backing.of(upload_id).objects.clear()


class MemoryKeys:
    """Implements `storage.backing.KeyFiles`."""

    def __init__(self, backing: MemoryBacking) -> None:
        """Take the backing."""
        self._backing = backing

    def has(self, upload_id: str, *kinds: KeyFile) -> bool:
        """Tell whether one of them is there."""
        stored = self._backing.uploads.get(upload_id)
        return stored is not None and any(kind in stored.key_files for kind in kinds or KeyFile)

    def is_settled(self, upload_id: str, kind: KeyFile) -> bool:
        """Tell whether it is there."""
        return self.has(upload_id, kind)

    def get(self, upload_id: str, kind: KeyFile) -> bytes:
        """Return one."""
        if not self.has(upload_id, kind):
            raise FileNotFoundError(kind)
        return self._backing.of(upload_id).key_files[kind]

    def put(self, upload_id: str, kind: KeyFile, blob: bytes, check: Callable[[bytes], None] | None = None) -> None:
        """Put one, if it is found right."""
        if check is not None:
            check(blob)
        self._backing.of(upload_id).key_files[kind] = blob

    def remove(self, upload_id: str, *kinds: KeyFile) -> None:
        """Delete some or all."""
        for kind in kinds or KeyFile:
            self._backing.of(upload_id).key_files.pop(kind, None)
