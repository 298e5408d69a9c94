"""The only place that syncs, renames, truncates and unlinks. Everything durable goes through a `Disk`.

Ordering, which every caller follows: bytes of `data` are durable before the log line that names them, and an upload's
envelopes and folders before its first log line that acknowledges anything. A failed sync is never repeated as if it had
worked (the kernel may have dropped the dirty pages): `SyncFailedError` tells the caller to stop trusting that file.

Source: docs/format.md, Order of writes.
"""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

_FAILPOINT_VARIABLE = "DROPOFF_TUS_FAILPOINT"
"""`name:count` kills the process at the count-th passage of that point. For crash tests."""

FOLDER_MODE = 0o700
FILE_MODE = 0o600


class SyncFailedError(OSError):
    """A sync failed: what the file holds on the medium is unknown."""


def _killer(spec: str) -> Callable[[str], None]:
    """Make the failpoint hook that kills this process."""
    name, _, count = spec.partition(":")
    left = int(count or "1")

    def hook(point: str) -> None:
        nonlocal left
        if point == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


failpoint_hook: Callable[[str], None] | None = (
    _killer(os.environ[_FAILPOINT_VARIABLE]) if _FAILPOINT_VARIABLE in os.environ else None
)


def failpoint(name: str) -> None:
    """Mark a step at which a crash is tested."""
    if failpoint_hook is not None:
        failpoint_hook(name)


class Disk:
    """File operations with one durability: real syncs, or none for `durability = "os"`."""

    def __init__(self, *, sync: bool) -> None:
        """Choose whether syncs are done."""
        self._sync = sync

    def make_folder(self, path: Path) -> None:
        """Make a folder (and its parents) for the owner alone; there already is fine."""
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)

    def write_new(self, path: Path, data: bytes) -> None:
        """Write a file that must not exist yet; nothing is synced."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        try:
            self.write_at(descriptor, data, 0)
        finally:
            os.close(descriptor)

    def open_existing(self, path: Path, *, write: bool = False) -> int:
        """Open a file that exists, never through a link. Returns a descriptor for the caller to close."""
        flags = os.O_RDWR if write else os.O_RDONLY
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)

    def write_at(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of data at an offset, however many calls it takes."""
        view = memoryview(data)
        failpoint("write")
        while view.nbytes:
            count = os.pwrite(descriptor, view, offset)
            if count <= 0:
                raise OSError(errno.EIO, "the disk took no bytes")
            offset += count
            view = view[count:]

    def sync_file(self, descriptor: int) -> None:
        """Make a file's bytes durable.

        Raises:
            SyncFailedError: The file's state on the medium is unknown.
        """
        failpoint("sync")
        if not self._sync:
            return
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            raise SyncFailedError(error.errno, "a sync failed") from error

    def sync_path(self, path: Path) -> None:
        """Make a file, or a folder's entries, durable.

        Raises:
            SyncFailedError: As `sync_file`.
        """
        failpoint("sync-path")
        if not self._sync:
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise SyncFailedError(error.errno, "a sync failed") from error
        finally:
            os.close(descriptor)

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        """Cut a file."""
        failpoint("truncate")
        os.ftruncate(descriptor, size_bytes)

    def replace(self, path: Path, data: bytes) -> None:
        """Write a small file whole: temporary name, sync, rename, sync of the folder."""
        temporary = path.with_name(path.name + ".new")
        temporary.unlink(missing_ok=True)
        self.write_new(temporary, data)
        self.sync_path(temporary)
        failpoint("rename")
        temporary.replace(path)
        self.sync_path(path.parent)

    def remove(self, path: Path) -> bool:
        """Unlink a file; tell whether it was there."""
        failpoint("unlink")
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        return True
