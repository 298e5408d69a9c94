"""The only place that changes files and folders, and syncs them. Everything durable goes through a `Disk`.

Ordering, which every caller follows: bytes of `data` are durable before the log line that names them, and an upload's
envelopes and folders before its first log line that acknowledges anything. A failed sync is never repeated as if it had
worked (the kernel may have dropped the dirty pages): `SyncFailedError` tells the caller to stop trusting that file.

Below the roots of a store nothing is reached through a symbolic link, neither a file nor a folder on the way to it:
otherwise somebody who can write to the store could let us cut or remove files elsewhere. The roots may be links, to
volumes.

Source: docs/reference/format.md, Order of writes.
"""

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from storage.backing import SyncFailedError
from storage.failpoints import failpoint
from storage.files.opened import OpenFolders

OSErrorT = TypeVar("OSErrorT", bound=OSError)
FOLDER_MODE = 0o700
FILE_MODE = 0o600
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1


_NO_FOLDER_SYNCS = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})
"""The error of file systems that sync no folders, such as some network shares."""


def named(error: OSErrorT, descriptor: int) -> OSErrorT:
    """Return an error with the path of the open file, which calls on descriptors leave out."""
    with contextlib.suppress(OSError):
        error.filename = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - no path of ours
    return error


def sync_folder(path: Path) -> None:
    """Make a folder's entries durable, also to find out whether its file system can do that.

    Raises:
        OSError: It was not done; with the path.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        calls.fsync(descriptor)
    except OSError as error:
        raise named(error, descriptor) from None
    finally:
        os.close(descriptor)


def sync_ahead(descriptor: int) -> None:
    """Let the file system of an open file write what it has, so that many syncs that follow find little to do.

    Only they say whether it was done. Source: syncfs(2).
    """
    ctypes.CDLL(None).syncfs(descriptor)


def sync_filesystem(path: Path) -> None:
    """Make everything durable that was written to the file system of a folder. Source: syncfs(2).

    Raises:
        OSError: Something of it was not.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def _in(folder: int | None, path: Path) -> str:
    """Return how a path is named in its opened folder, or without one."""
    return str(path) if folder is None else path.name


class Calls:
    """The system calls that change something. Every `Disk` goes through them, so a test can see or break each.

    `folder` is the folder that the path lies in, opened; None where the path is to be believed as it is.
    """

    def mkdir(self, path: Path, folder: int | None) -> None:
        """Make one folder."""
        os.mkdir(_in(folder, path), FOLDER_MODE, dir_fd=folder)

    def rmdir(self, path: Path, folder: int | None) -> None:
        """Remove an empty folder."""
        os.rmdir(_in(folder, path), dir_fd=folder)

    def create(self, path: Path, folder: int | None) -> int:
        """Open a file that must not exist yet, for writing."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(_in(folder, path), flags, FILE_MODE, dir_fd=folder)

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        """Write some of data at an offset; return how many bytes."""
        return os.pwrite(descriptor, data, offset)

    def ftruncate(self, descriptor: int, size_bytes: int) -> None:
        """Cut a file."""
        os.ftruncate(descriptor, size_bytes)

    def fdatasync(self, descriptor: int) -> None:
        """Make a file's bytes and size durable."""
        os.fdatasync(descriptor)

    def fsync(self, descriptor: int) -> None:
        """Make a file, or a folder's entries, durable."""
        os.fsync(descriptor)

    def rename(self, path: Path, target: Path, folder: int | None) -> None:
        """Give a file another name in its folder, in place of what had it."""
        os.replace(_in(folder, path), _in(folder, target), src_dir_fd=folder, dst_dir_fd=folder)

    def rename_new(self, path: Path, target: Path) -> None:
        """Give a file a name that must be free. It may keep the other one too, for the caller to take away."""
        rename_new(path, target)

    def unlink(self, path: Path, folder: int | None) -> None:
        """Take a name away."""
        os.unlink(_in(folder, path), dir_fd=folder)


def rename_new(path: Path, target: Path) -> None:
    """Give a file a name that must be free, in whatever way the file system has. It may keep the other one too.

    A rename that replaces nothing is one step. Some file systems have only links for that (NFS), and some neither
    (exFAT, folders shared with a virtual machine): there an empty file takes the name first, and a crash may leave it.

    Raises:
        FileExistsError: The name is taken; the other file stays.
        OSError: The disk failed.
    """
    try:
        _rename_noreplace(path, target)
    except FileExistsError:
        raise
    except OSError:
        try:
            target.hardlink_to(path)
        except FileExistsError:
            raise
        except OSError:
            _rename_over_empty(path, target)


def _rename_noreplace(path: Path, target: Path) -> None:
    """Source: rename(2), RENAME_NOREPLACE."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if rename(_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def _rename_over_empty(path: Path, target: Path) -> None:
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
    try:
        path.replace(target)
    except OSError:
        target.unlink()
        raise


calls = Calls()
"""The calls of every `Disk` of the process. Tests put another one here."""


class Disk:
    """File operations with one durability: real syncs, or none for `durability = "os"`."""

    def __init__(self, *, sync: bool, roots: Sequence[Path] = ()) -> None:
        """Choose whether syncs are done, and below which folders no link is followed."""
        self._sync = sync
        self._folders = OpenFolders(roots)
        self.holding = self._folders.holding

    def make_folder(self, path: Path) -> None:
        """Make a folder (and its parents) only for the owner; an existing one is fine. Nothing is synced."""
        if path.is_dir():
            return
        self.make_folder(path.parent)
        try:
            with self._folders.of(path) as folder:
                calls.mkdir(path, folder)
        except FileExistsError:
            if not path.is_dir():
                raise

    def make_root(self, path: Path) -> None:
        """Make a folder that nobody syncs later, and make it durable together with its new parents."""
        made = []
        above = path
        while not above.exists():
            made.append(above)
            above = above.parent
        self.make_folder(path)
        for folder in made:
            self.sync_path(folder.parent)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        failpoint("rmdir")
        with self._folders.of(path) as folder:
            calls.rmdir(path, folder)

    def create(self, path: Path) -> int:
        """Open a file that must not exist yet, never through a link. Returns a descriptor for the caller to close."""
        with self._folders.of(path) as folder:
            return calls.create(path, folder)

    def write_new(self, path: Path, data: bytes, *, sync: bool = False) -> None:
        """Write a file that must not exist yet. Its name is not synced, its bytes only on demand."""
        descriptor = self.create(path)
        try:
            self.write_at(descriptor, data, 0)
            if sync:
                self._fsync(descriptor, path)
        finally:
            os.close(descriptor)

    def open_existing(self, path: Path, *, write: bool = False) -> int:
        """Open a file that exists, never through a link. Returns a descriptor for the caller to close."""
        return self._open(path, os.O_NOFOLLOW | (os.O_RDWR if write else os.O_RDONLY))

    def _open(self, path: Path, flags: int) -> int:
        with self._folders.of(path) as folder:
            # Not blocking, or a FIFO in its place would keep the thread for ever.
            return os.open(_in(folder, path), flags | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)

    def read_small(self, path: Path, most_bytes: int) -> bytes:
        """Return what a small file holds, never through a link; of a larger one, or of a device, one byte too many."""
        with os.fdopen(self.open_existing(path), "rb") as file:
            found = os.fstat(file.fileno())
            # A buffer for the largest that it may be would take longer than all the reading.
            most = min(found.st_size, most_bytes) if stat.S_ISREG(found.st_mode) else most_bytes
            return file.read(most + 1)

    def write_at(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of data at an offset, however many calls it takes."""
        view = memoryview(data)
        failpoint("write")
        while view.nbytes:
            try:
                count = calls.pwrite(descriptor, view, offset)
            except OSError as error:
                raise named(error, descriptor) from None
            if count <= 0:
                raise named(OSError(errno.EIO, "the disk took no bytes"), descriptor)
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
            calls.fdatasync(descriptor)
        except OSError as error:
            raise named(SyncFailedError(error.errno, error.strerror), descriptor) from error

    def sync_path(self, path: Path) -> None:
        """Make a file, or a folder's entries, durable.

        A file system that syncs no folders is nothing to fail at each time: a start refuses it (`server.services`),
        unless the operator does without syncs, and an identity that is made on it is as durable as it can be.

        Raises:
            SyncFailedError: As `sync_file`.
        """
        if not self._sync:
            failpoint("sync-path")
            return
        # Through a link, but to nothing that would be written there: a root of the store may be one, to a volume.
        descriptor = self._open(path, os.O_RDONLY)
        try:
            self._fsync(descriptor, path)
        finally:
            os.close(descriptor)

    def _fsync(self, descriptor: int, path: Path) -> None:
        failpoint("sync-path")
        if not self._sync:
            return
        try:
            calls.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNCS or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise SyncFailedError(error.errno, error.strerror, str(path)) from error

    def check_linked(self, descriptor: int) -> None:
        """Refuse to build on a file that has lost its name: its bytes go with this process.

        Raises:
            SyncFailedError: It has.
        """
        if not os.fstat(descriptor).st_nlink:
            raise named(SyncFailedError(errno.ESTALE, "the upload's files were removed"), descriptor)

    @staticmethod
    def read_at(descriptor: int, offset: int, count: int) -> bytes:
        """Return so many bytes; fewer only at the file's end."""
        try:
            raw = os.pread(descriptor, count, offset)
            while len(raw) < count and (more := os.pread(descriptor, count - len(raw), offset + len(raw))):
                raw += more
        except OSError as error:
            raise named(error, descriptor) from None
        return raw

    def forget_cached(self, descriptor: int) -> None:
        """Make later reads of a synced file ask the medium: after a failed sync the kernel may show what it lost."""
        if self._sync:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        """Cut a file."""
        failpoint("truncate")
        try:
            calls.ftruncate(descriptor, size_bytes)
        except OSError as error:
            raise named(error, descriptor) from None

    def replace(self, path: Path, data: bytes, *, before_rename: Callable[[Path], None] | None = None) -> None:
        """Write a small file whole: temporary name, sync, rename, sync of the folder.

        Args:
            path: The file to replace, or to make.
            data: All of it.
            before_rename: Called with the temporary file; raising leaves the old one.
        """
        temporary = path.with_name(path.name + ".new")
        with self.holding(path.parent):
            try:
                self.write_new(temporary, data, sync=True)
            except FileExistsError:  # a crash left it
                self.remove(temporary)
                self.write_new(temporary, data, sync=True)
            if before_rename is not None:
                before_rename(temporary)
            failpoint("rename")
            with self._folders.of(path) as folder:
                calls.rename(temporary, path, folder)
            self.sync_path(path.parent)

    def rename_new(self, path: Path, target: Path) -> None:
        """Give a file a name that must be free; it may keep the other one too. Nothing is synced.

        Raises:
            FileExistsError: The name is taken; the other file stays.
        """
        failpoint("rename-new")
        calls.rename_new(path, target)

    def remove(self, path: Path) -> bool:
        """Unlink a file; tell whether it was there."""
        failpoint("unlink")
        try:
            with self._folders.of(path) as folder:
                calls.unlink(path, folder)
        except FileNotFoundError:
            return False
        return True
