"""The rights to write, by locks of the kernel: across the processes of one machine, and none outlives its process.

Source: docs/reference/format.md, Leases.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Sequence

from storage.backing import KeyFile, SegmentEntry, Tip
from storage.failpoints import failpoint
from storage.files.chains import LogFile
from storage.files.folders import Folders
from storage.files.locks import lock, open_folder, try_lock
from storage.files.neighbours import FileNeighbours


class FileGrip:
    """Implements `storage.backing.Grip`: a locked log, and the data file."""

    def __init__(self, folders: Folders, upload_id: str, lines: LogFile) -> None:
        """Take over a log that is open for writing, and locked."""
        self._folders, self._paths = folders, folders.of(upload_id)
        self.lines = lines
        self._opened: int | None = None
        with contextlib.suppress(OSError):  # whoever asks for it hears of that
            self._opened = self._data

    @property
    def _data(self) -> int:
        if self._opened is None:
            self._opened = self._folders.disk.open_existing(self._paths.data, write=True)
        return self._opened

    def data_bytes(self) -> int:
        """Return the size of the data file."""
        return os.fstat(self._data).st_size

    def write(self, ciphertext: memoryview, at: int) -> None:
        """Write ciphertext at a position."""
        self._folders.disk.write_at(self._data, ciphertext, at)

    def cut(self, data_bytes: int) -> None:
        """Cut the data file."""
        self._folders.disk.truncate(self._data, data_bytes)

    def settle(self, own: KeyFile) -> None:
        """Make the envelopes, the receipt's folder and all new folders durable."""
        disk, paths = self._folders.disk, self._paths
        own_envelope = paths.key_file(own)
        for envelope in dict.fromkeys((paths.root_envelope, own_envelope)):
            with contextlib.suppress(FileNotFoundError):
                disk.sync_path(envelope)
        for folder in dict.fromkeys((own_envelope.parent, paths.keys_folder, paths.folder, paths.folder.parent)):
            disk.sync_path(folder)
        for shared in (paths.keys_folder, paths.folder.parent, self._folders.layout.uploads):
            self._folders.settle(shared)

    def append(self, line: bytes, after: Tip, segments: Sequence[SegmentEntry] = ()) -> None:
        """Sync the data that a line names, append the line, and see that both files still have their names."""
        if segments:
            failpoint("before-data-sync")
            self._folders.disk.sync_file(self._data)
            failpoint("after-data-sync")
        self.lines.append(line, after)
        self._folders.disk.check_linked(self._data)
        failpoint("after-log-sync")

    def set_torn_aside(self, size_bytes: int) -> None:
        """Keep the torn tail of the log in a file of its own, and cut it off."""
        self.lines.set_torn_aside(size_bytes, self._paths)

    def close(self) -> None:
        """Close both files."""
        if self._opened is not None:
            os.close(self._opened)
        self.lines.close()


class FileLeasing:
    """Implements `storage.backing.Leasing`."""

    def __init__(self, folders: Folders) -> None:
        """Hold nothing yet."""
        self._folders = folders
        self.neighbours = FileNeighbours(folders.disk, folders.layout.servers)
        self._announced: int | None = None

    def acquire(self, upload_id: str) -> FileGrip | None:
        """Open and lock a log."""
        disk, paths = self._folders.disk, self._folders.of(upload_id)
        with self._folders.looking(), disk.holding(paths.folder):
            log = LogFile(disk, disk.open_existing(paths.log, write=True))
            if try_lock(log.descriptor):
                return FileGrip(self._folders, upload_id, log)
        log.close()
        return None

    def is_held(self, upload_id: str) -> bool:
        """Tell whether a log is locked."""
        try:
            log = self._folders.disk.open_existing(self._folders.of(upload_id).log)
        except FileNotFoundError:
            return False
        try:
            return not try_lock(log, shared=True)
        finally:
            os.close(log)

    def join(self) -> Callable[[], None] | None:
        """Lock the folder of all uploads."""
        folder = open_folder(self._folders.layout.uploads)
        if try_lock(folder):
            return functools.partial(os.close, folder)
        os.close(folder)
        return None

    def announce(self) -> bool:
        """Lock the folder of wrapped keys beside other servers."""
        self._announced = open_folder(self._folders.layout.keys_dir)
        alone = try_lock(self._announced)
        # An exclusive holder has it only for this moment.
        lock(self._announced, shared=True)
        return alone

    def close(self) -> None:
        """Let go of that lock."""
        self.neighbours.close()
        if self._announced is not None:
            os.close(self._announced)
            self._announced = None
