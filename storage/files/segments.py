"""Segments back to back, in one file an upload.

Source: docs/reference/format.md, Files.
"""

import os

from storage.backing import SegmentEntry
from storage.files.durable import Disk
from storage.files.folders import Folders


class DataFile:
    """The segments of one upload, open for reading."""

    def __init__(self, disk: Disk, descriptor: int) -> None:
        """Take over an open descriptor."""
        self._disk, self.descriptor = disk, descriptor

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)

    def size_bytes(self) -> int:
        """Return the file's size."""
        return os.fstat(self.descriptor).st_size

    def read(self, entry: SegmentEntry, at: int, count: int) -> bytes:
        """Return so many bytes of a segment; fewer only at the file's end."""
        return self._disk.read_at(self.descriptor, entry.data_offset + at, count)


class FileSegments:
    """Implements `storage.backing.Segments`."""

    def __init__(self, folders: Folders, *, free_space_floor_bytes: int) -> None:
        """Take the folders, and how much is to stay free on their volume."""
        self._folders, self._disk = folders, folders.disk
        self._floor_bytes = free_space_floor_bytes

    def free_bytes(self) -> int:
        """Return what is free above the floor."""
        return self._folders.free_bytes() - self._floor_bytes

    def size_bytes(self, upload_id: str) -> int:
        """Return the size of a data file."""
        return self._folders.of(upload_id).data.stat().st_size

    def open(self, upload_id: str) -> DataFile:
        """Open a data file for reading."""
        return DataFile(self._disk, self._disk.open_existing(self._folders.of(upload_id).data))

    def remove(self, upload_id: str) -> None:
        """Leave of an upload's data an empty file, and nothing of a torn tail of its log."""
        paths = self._folders.of(upload_id)
        try:
            data = self._disk.open_existing(paths.data, write=True)
        except FileNotFoundError:
            self._disk.write_new(paths.data, b"")
        else:
            try:
                self._disk.truncate(data, 0)
            finally:
                os.close(data)
        self._disk.remove(paths.torn_log)
