"""The store's folders: where everything lies, how it is written, and whether they are still the ones of the start."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from dropoff_tus.errors import StorageFailedError
from storage.backing import log_failure
from storage.files.durable import Disk
from storage.files.layout import Layout, UploadPaths


class Folders:
    """The base of every part of this backing."""

    def __init__(self, layout: Layout, *, sync: bool) -> None:
        """Take the folders as they are now for the store's."""
        self.layout = layout
        self.disk = Disk(sync=sync, roots=layout.roots)
        self._roots = self._present_roots()
        self._settled: set[Path] = set()

    def of(self, upload_id: str) -> UploadPaths:
        """Return where the files of an upload lie."""
        return self.layout.of(upload_id)

    def make(self, folder: Path) -> None:
        """Make a folder that many uploads share, unless it is there."""
        if not folder.is_dir():
            self._settled.discard(folder)
            self.disk.make_folder(folder)

    def settle(self, folder: Path) -> None:
        """Make the name of such a folder durable, once: nobody takes it away."""
        if folder not in self._settled:
            self.disk.sync_path(folder.parent)
            self._settled.add(folder)

    def check_there(self) -> None:
        """Refuse to take the roots for the store's when they are other folders than at the start.

        An unmounted volume leaves an empty folder, or none: its uploads are not unknown, and new ones in that folder
        would be hidden when it comes back.

        Raises:
            StorageFailedError: They are not there, or others.
        """
        if self._roots is None:
            self._roots = self._present_roots()
            return
        for root, known in self._roots.items():
            error = None
            try:
                found = root.stat()
            except OSError as gone:
                error = gone
            else:
                if (found.st_dev, found.st_ino) == known:
                    continue
            error = error or OSError(errno.ESTALE, "another folder is in its place", str(root))
            log_failure(error)
            message = "the store's folder is not there; acknowledged bytes are safe, try again when it is back"
            raise StorageFailedError(message) from error

    def _present_roots(self) -> dict[Path, tuple[int, int]] | None:
        """Tell which folders the roots are; None where one is missing."""
        try:
            found = {root: root.stat() for root in (self.layout.uploads, self.layout.keys_dir)}
        except OSError:
            return None
        return {root: (one.st_dev, one.st_ino) for root, one in found.items()}

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Where a file of an upload is not found, see whether the folders of all of them are there."""
        try:
            yield
        except FileNotFoundError:
            self.check_there()
            raise

    def free_bytes(self) -> int:
        """Return what is free on the volume of the uploads."""
        numbers = os.statvfs(self.layout.root)
        return numbers.f_bavail * numbers.f_frsize
