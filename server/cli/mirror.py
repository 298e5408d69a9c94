"""A folder made like another one, file by file, while that one changes. For `backup`."""

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dropoff_tus.ids import is_upload_id
from server.cli.target import new_file
from storage.failpoints import failpoint
from storage.files import backup_mark
from storage.files.durable import Disk
from storage.files.layout import NEW_SUFFIX

_PIECE_BYTES = 1 << 20
_SETTLED_SECONDS = 2.0
"""A file that was changed within this time may be changed again without a trace in its time."""
_SECRET = b"AGE-SECRET-KEY-"
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Mirror:
    """Makes a folder like another one. No link is followed, and what is left out is not looked at."""

    def __init__(
        self, source: Path, target: Path, left_out: frozenset[tuple[int, int]], secrets: list[str] | None = None
    ) -> None:
        """Take both folders, what is left out by device and inode, and where identities that lie there are listed."""
        self._source, self._target, self._left_out, self._secrets = source, target, left_out, secrets
        self.copied_bytes = 0

    def new(self) -> list[tuple[str, int]]:
        """Return the paths and sizes of files that the copy lacks or has otherwise."""
        found = []
        for path, size, changed_at in self._files(""):
            try:
                there = (self._target / path).lstat()
            except FileNotFoundError:
                there = None
            if there is None or (there.st_size, there.st_mtime_ns) != (size, changed_at):
                found.append((path, size))
        return found

    def _files(self, folder: str) -> Iterator[tuple[str, int, int]]:
        """Yield path, size and time of each file below; of a folder the logs first (see above)."""
        with os.scandir(self._source / folder) as entries:
            ordered = sorted(entries, key=lambda entry: (not entry.name.startswith("log"), entry.name))
        for entry in ordered:
            path = f"{folder}/{entry.name}" if folder else entry.name
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                if (found.st_dev, found.st_ino) in self._left_out or not wanted(path):
                    continue
                if stat.S_ISDIR(found.st_mode):
                    yield from self._files(path)
                elif stat.S_ISREG(found.st_mode):
                    yield path, found.st_size, found.st_mtime_ns

    def copy(self, path: str, advance: Callable[[int], None]) -> bool:
        """Copy one file; False if it is gone, or must not be in a backup."""
        failpoint("backup-copy")
        target = self._target / path
        try:
            source = os.fdopen(os.open(self._source / path, _FILE), "rb")
        except FileNotFoundError:
            return False
        with source:
            before = os.fstat(source.fileno())
            piece = source.read(_PIECE_BYTES)
            if self._secrets is not None and _SECRET in piece:
                self._secrets.append(str(self._source / path))
                return False
            Disk(sync=False).make_folder(target.parent)
            # In the place of another one it has to be durable first: a power cut must leave either.
            with new_file(target, replace=True, sync=target.exists()) as file:
                while piece:
                    file.write(piece)
                    advance(len(piece))
                    self.copied_bytes += len(piece)
                    piece = source.read(_PIECE_BYTES)
                file.flush()
                if _settled(before, os.fstat(source.fileno())):
                    os.utime(file.fileno(), ns=(before.st_atime_ns, before.st_mtime_ns))
        return True

    def gone(self) -> Iterator[str]:
        """Yield the paths of files that the source no longer has; empty folders that it no longer has go at once."""
        for folder, _, names in os.walk(self._target, topdown=False):
            inner = Path(folder).relative_to(self._target)
            for path in (str(inner / name) for name in names):
                if wanted(path) and not os.path.lexists(self._source / path):
                    yield path
            if not (self._source / inner).exists():
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()

    def remove(self, path: str) -> None:
        """Remove a file of the copy."""
        (self._target / path).unlink()


def wanted(path: str) -> bool:
    """Tell whether a file is the mirror's to copy and to remove; the mark and the last checkpoint are written apart."""
    return path != backup_mark.NAME and not path.startswith("audit") and not path.endswith(NEW_SUFFIX)


def _settled(before: os.stat_result, after: os.stat_result) -> bool:
    """Tell whether a copied file can be told from what it may yet become by its size and time."""
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return same and before.st_mtime < time.time() - _SETTLED_SECONDS


def uploads_of(path: str) -> set[str]:
    """Return the upload that a file is of, by its name or its folder's; none for any other."""
    return {name for part in path.split("/") if is_upload_id(name := part.partition(".")[0])}


def inodes(paths: Sequence[Path]) -> frozenset[tuple[int, int]]:
    """Return device and inode of what is there of these."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            there = path.stat()
            found.add((there.st_dev, there.st_ino))
    return frozenset(found)
