"""Chains of signed lines in files, one an upload. The one place that appends to them, cuts them and syncs them.

Source: docs/reference/format.md, Files, Order of writes, Recovery.
"""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from datetime import datetime

from dropoff_tus.ids import is_upload_id
from storage.backing import MAX_LINE_BYTES, Ends, KeyFile, Tip
from storage.failpoints import failpoint
from storage.files.durable import Disk
from storage.files.folders import Folders
from storage.files.layout import UploadPaths
from storage.files.locks import lock, open_folder

_PIECE_BYTES = 16 << 10
_SECTOR_BYTES = 512
"""The unit that a disk writes whole or not at all."""


class LogFile:
    """One chain, open. A line of it is torn by a crash if it lacks its LF, or if whole sectors of it are NUL."""

    def __init__(self, disk: Disk, descriptor: int) -> None:
        """Take over an open descriptor."""
        self._disk, self.descriptor = disk, descriptor

    def close(self) -> None:
        """Close the file; the kernel lets go of its lock."""
        os.close(self.descriptor)

    # ---- reading --------------------------------------------------------------------------------------------

    def size_bytes(self) -> int:
        """Return the file's size."""
        return os.fstat(self.descriptor).st_size

    def read(self, start: int, count: int) -> bytes:
        """Return so many bytes; fewer only at the file's end."""
        return self._disk.read_at(self.descriptor, start, count)

    def first(self) -> bytes | None:
        """Return the first line; None where a crash left no whole one."""
        have, size = b"", self.size_bytes()
        while len(have) < size and (piece := self.read(len(have), min(_PIECE_BYTES, size - len(have)))):
            newline = piece.find(b"\n")
            if newline >= 0:
                line = have + piece[: newline + 1]
                return None if _lacks_sectors(line, 0) else line
            have += piece
        return None

    def ends(self, *, durable: bool = False) -> Ends:
        """Return the first and the last whole line, and what a crash left behind it.

        A process that died, or one that is in the middle of a commit, may have left a line that is not durable: it
        would count here, and be lost in a power cut. So with `durable` the file is synced before it is read, from the
        medium, and again as long as it grows.
        """
        while True:
            size = self.size_bytes()
            if durable:
                self._disk.sync_file(self.descriptor)
                self._disk.forget_cached(self.descriptor)
            found = self._ends(size)
            if not durable or self.size_bytes() == size:
                return found

    def _ends(self, size: int) -> Ends:
        first = self.first()
        if first is None:
            return Ends(None, b"", 0, self.read(0, min(size, 2 * MAX_LINE_BYTES)))
        end = self._whole_end(size)
        torn = self.read(end, min(size - end, MAX_LINE_BYTES + 1))
        return Ends(first, self._last_line(end) if end > len(first) else b"", max(end, len(first)), torn)

    def _whole_end(self, size: int) -> int:
        """Return where the last whole line ends; 0 if what follows it is longer than any line."""
        start, tail = size, b""
        while start > 0 and len(tail) <= MAX_LINE_BYTES:
            start, tail = self._before(start, tail)
            cut = tail.rfind(b"\n")
            if cut < 0:
                continue
            if cut + 1 < len(tail):
                return start + cut + 1
            # The last line has its LF. With NULs in it, some of its bytes never reached the disk although its size did.
            previous = tail.rfind(b"\n", 0, cut)
            if previous < 0 and start > 0:
                continue
            return start + previous + 1 if _lacks_sectors(tail[previous + 1 :], start + previous + 1) else size
        return 0

    def _last_line(self, end: int) -> bytes:
        start, tail = end, b""
        while start > 0:
            start, tail = self._before(start, tail)
            previous = tail.rfind(b"\n", 0, len(tail) - 1)
            if previous >= 0:
                return tail[previous + 1 :]
        return tail

    def _before(self, start: int, tail: bytes) -> tuple[int, bytes]:
        """Read on towards the beginning, in pieces that grow."""
        step = min(max(_PIECE_BYTES, len(tail)), start)
        return start - step, self.read(start - step, step) + tail

    # ---- writing --------------------------------------------------------------------------------------------

    def append(self, line: bytes, after: Tip) -> None:
        """Append one line, durably.

        Raises:
            SyncFailedError: It may be there or not; or the file has lost its name.
            OSError: It is not there.
        """
        try:
            self._disk.write_at(self.descriptor, line, after.size_bytes)
        except OSError:
            # A partial line must not stay in front of the next one, nor come back among its sectors in a power cut.
            self._cut(after.size_bytes)
            raise
        failpoint("after-log-write")
        self._disk.sync_file(self.descriptor)
        self._disk.check_linked(self.descriptor)

    def set_torn_aside(self, size_bytes: int, paths: UploadPaths) -> None:
        """Keep what a crash left after the last whole line in a file of its own, and cut it off."""
        torn = self.read(size_bytes, self.size_bytes() - size_bytes)
        self._disk.remove(paths.torn_log)
        self._disk.write_new(paths.torn_log, torn)
        self._cut(size_bytes)

    def _cut(self, size_bytes: int) -> None:
        self._disk.truncate(self.descriptor, size_bytes)
        self._disk.sync_file(self.descriptor)


def _lacks_sectors(line: bytes, start: int) -> bool:
    """Tell whether parts of a line were never written: they are NUL, and whole sectors. A flipped bit is not."""
    if b"\0" not in line:
        return False
    first = -start % _SECTOR_BYTES
    pieces = [line[:first], *(line[at : at + _SECTOR_BYTES] for at in range(first, len(line), _SECTOR_BYTES))]
    return all(b"\0" not in piece or not piece.strip(b"\0") for piece in pieces)


class FileChains:
    """Implements `storage.backing.Chains`."""

    def __init__(self, folders: Folders) -> None:
        """Take the folders."""
        self._folders, self._disk = folders, folders.disk
        self.check_there = folders.check_there

    def ids(self) -> list[str]:
        """Return the names of all uploads' folders, in order."""
        shards = (folder for folder in self._folders.layout.uploads.glob("??") if folder.is_dir())
        return sorted(path.name for shard in shards for path in shard.iterdir() if is_upload_id(path.name))

    def has(self, upload_id: str) -> bool:
        """Tell whether an upload has a folder."""
        return self._folders.of(upload_id).folder.is_dir()

    @contextlib.contextmanager
    def creating(self, upload_id: str) -> Iterator[None]:
        """Keep other processes from creating the same upload."""
        self.check_there()
        folder = self._folders.of(upload_id).folder
        self._folders.make(folder.parent)
        self._disk.make_folder(folder)
        descriptor = open_folder(folder)
        try:
            lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def create(self, upload_id: str, line: bytes, key_files: Mapping[KeyFile, bytes], *, again: bool = False) -> None:
        """Write the files of an upload; if that fails, none is left, but what was there before stays."""
        paths = self._folders.of(upload_id)
        self.check_there()
        if not again and (paths.folder.exists() or any(path.exists() for path in paths.key_files)):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(paths.folder))
        self._folders.make(paths.keys_folder)
        self._folders.make(paths.folder.parent)
        if KeyFile.INGEST in key_files:
            self._disk.make_root(self._folders.layout.ingest_dir)
        if again:
            self._remove_files(paths)
        try:
            with self._disk.holding(paths.folder.parent):
                # First, so that keys that a crash leaves by themselves are known for the rest of a creation.
                self._disk.make_folder(paths.folder)
                for kind, blob in key_files.items():
                    self._disk.write_new(paths.key_file(kind), blob)
                with self._disk.holding(paths.folder):
                    self._disk.write_new(paths.data, b"")
                    self._disk.write_new(paths.log, line)
        except OSError:
            self.remove(upload_id)
            raise

    def is_cut_off(self, upload_id: str, before: datetime) -> bool:
        """Tell whether all that is here of an upload are empty files and key files, older than a time."""
        paths = self._folders.of(upload_id)
        if any(path.exists() for path in (paths.torn_log, paths.damaged_log, paths.receipt)):
            return False
        there = [path.stat() for path in (paths.folder, *paths.key_files) if path.exists()]
        empty = not any(path.stat().st_size for path in (paths.log, paths.data) if path.exists())
        return empty and all(found.st_mtime <= before.timestamp() for found in there)

    def remove(self, upload_id: str) -> None:
        """Remove every file of an upload, and its folder."""
        paths = self._folders.of(upload_id)
        self._remove_files(paths)
        with contextlib.suppress(OSError):
            self._disk.remove_folder(paths.folder)

    def _remove_files(self, paths: UploadPaths) -> None:
        for path in (*paths.key_files, paths.data, paths.log, paths.new_log, paths.torn_log, paths.damaged_log):
            with contextlib.suppress(OSError):
                self._disk.remove(path)

    def size_bytes(self, upload_id: str) -> int:
        """Return the size of a log."""
        with self._folders.looking():
            return self._folders.layout.log_of(upload_id).stat().st_size

    def open(self, upload_id: str, *, aside: bool = False) -> LogFile:
        """Open a log for reading, or the copy of one that did not verify."""
        path = self._folders.of(upload_id).damaged_log if aside else self._folders.layout.log_of(upload_id)
        with self._folders.looking():
            return LogFile(self._disk, self._disk.open_existing(path))

    def append(self, upload_id: str, line: bytes, after: Tip) -> None:
        """Append to a log that nobody may write any more."""
        with contextlib.closing(
            LogFile(self._disk, self._disk.open_existing(self._folders.of(upload_id).log, write=True))
        ) as log:
            log.append(line, after)

    def set_aside(self, upload_id: str, lines: bytes) -> None:
        """Keep a copy of a log that does not verify."""
        self._disk.replace(self._folders.of(upload_id).damaged_log, lines)

    def replace(self, upload_id: str, lines: bytes) -> None:
        """Write a log whole, or remove it."""
        paths = self._folders.of(upload_id)
        if lines:
            self._disk.replace(paths.log, lines)
        else:
            self._disk.remove(paths.log)
            self._disk.sync_path(paths.folder)
