"""Envelopes and receipts, a file each: beside one another, but for the server's of sealed uploads in progress.

Source: docs/reference/format.md, Files, Order of writes.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

from dropoff_tus.errors import KeyMissingError
from storage.backing import KeyFile
from storage.failpoints import failpoint
from storage.files.durable import Disk
from storage.files.folders import Folders

_MOST_BYTES = 1 << 20
"""More than an envelope or a receipt ever has; the file in its place may be anything."""


class FileKeys:
    """Implements `storage.backing.KeyFiles`."""

    def __init__(self, folders: Folders) -> None:
        """Take the folders."""
        self._folders, self._disk = folders, folders.disk
        self._synced = Disk(sync=True, roots=folders.layout.roots)

    def has(self, upload_id: str, *kinds: KeyFile) -> bool:
        """Tell whether one of these files is there; without a kind, whether anything is, also what a crash left."""
        paths = self._folders.of(upload_id)
        return any(path.exists() for path in ([paths.key_file(kind) for kind in kinds] if kinds else paths.key_files))

    def is_settled(self, upload_id: str, kind: KeyFile) -> bool:
        """Tell whether a file is there, whose name an attempt that died may not have made durable."""
        if not self.has(upload_id, kind):
            return False
        self._disk.sync_path(self._folders.of(upload_id).key_file(kind).parent)
        return True

    def get(self, upload_id: str, kind: KeyFile) -> bytes:
        """Return a file; of a larger one than any should be, one byte too many."""
        try:
            return self._disk.read_small(self._folders.of(upload_id).key_file(kind), _MOST_BYTES)
        except FileNotFoundError:
            self._folders.check_there()
            if kind is KeyFile.INGEST and not self._folders.layout.ingest_dir.is_dir():
                message = "the folder keys.ingest_dir is not there; its bytes are safe, put the folder back"
                raise KeyMissingError(message) from None
            raise

    def put(self, upload_id: str, kind: KeyFile, blob: bytes, check: Callable[[bytes], None] | None = None) -> None:
        """Write a file, durably; with a check once that finds right what reads back of it."""
        path = self._folders.of(upload_id).key_file(kind)
        if check is None:
            self._disk.replace(path, blob)
            return

        def check_read(temporary: Path) -> None:
            check(self._synced.read_small(temporary, _MOST_BYTES))

        self._synced.replace(path, blob, before_rename=check_read)

    def remove(self, upload_id: str, *kinds: KeyFile) -> None:
        """Remove files, durably; without a kind all of them, and what a crash left beside."""
        paths = self._folders.of(upload_id)
        removed = [paths.key_file(kind) for kind in kinds] if kinds else paths.key_files
        for path in removed:
            self._disk.remove(path)
        failpoint("before-seal-sync")
        # Also if they were gone: an attempt that was killed may have removed them without a sync.
        for folder in dict.fromkeys(path.parent for path in removed):
            with contextlib.suppress(FileNotFoundError):
                self._disk.sync_path(folder)
