"""A file that appears under its name only when it is whole, and never in place of one that came meanwhile.

Where the file system can, the file has no name while it is written, so that not even a killed process leaves plain
bytes behind. Elsewhere (FAT, some network shares) it has a hidden name, removed on every way out.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from server.cli.output import CommandError

_CANNOT = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}
"""How file systems and old kernels say that they know no unnamed files."""
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1


@contextlib.contextmanager
def new_file(target: Path, *, replace: bool, otherwise: str = "choose another name") -> Iterator[BinaryIO]:
    """Write a file of the caller's own; when the block ends well it is durable and has its name.

    Args:
        target: The name it is to have.
        replace: Take the place of an ordinary file that has that name.
        otherwise: What to say that the user can do where the name is taken.

    Raises:
        CommandError: It cannot be written, or the name is taken. Nothing is left of it.
    """
    taken = CommandError(f"{target} exists already and was left as it is; {otherwise}")
    if _is_there(target) and not replace:
        raise taken
    try:
        file, hidden = _open(target)
    except OSError as error:
        message = f"cannot write in {target.parent}: {error.strerror}"
        raise CommandError(message) from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # noqa: TID251 - the operator's own file, not the store
            _publish(file, hidden, target, replace=replace)
    except FileExistsError:
        raise taken from None
    except OSError as error:
        message = f"cannot write {target}: {error.strerror}; nothing of it was left there"
        raise CommandError(message) from None
    finally:
        if hidden is not None:
            hidden.unlink(missing_ok=True)


def _is_there(target: Path) -> bool:
    """Say at once what would only be found out after hours of writing; what decides is `_publish`."""
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        message = f"cannot write {target}: {error.strerror}"
        raise CommandError(message) from None
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        message = f"{target} is no ordinary file and was left as it is; choose another name, or --output - for stdout"
        raise CommandError(message)
    return True


def _open(target: Path) -> tuple[BinaryIO, Path | None]:
    """Open a new file for its owner alone, unnamed (None) or under a hidden name."""
    with contextlib.suppress(NotADirectoryError):
        try:
            return os.fdopen(os.open(target.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "wb"), None
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
    hidden = _hidden_name(target)
    return os.fdopen(os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb"), hidden


def _hidden_name(target: Path) -> Path:
    return target.with_name(f".{secrets.token_hex(8)}.part")


def _publish(file: BinaryIO, hidden: Path | None, target: Path, *, replace: bool) -> None:
    """Give the file its name, in one step that fails where the name is taken (not with `replace`)."""
    if replace:
        if hidden is None:
            hidden = _hidden_name(target)
            _link(file, hidden)
        try:
            hidden.replace(target)
        finally:
            hidden.unlink(missing_ok=True)
    elif hidden is None:
        _link(file, target)
    else:
        _rename_new(hidden, target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some file systems sync no folders; the file is there all the same
            os.fsync(folder)  # noqa: TID251 - as above
    finally:
        os.close(folder)


def _link(file: BinaryIO, name: Path) -> None:
    """Name an unnamed file. Source: open(2), O_TMPFILE."""
    # Before Python 3.14 only a link by folder descriptor follows the symbolic link that such a name is.
    descriptors = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(str(file.fileno()), name, src_dir_fd=descriptors, follow_symlinks=True)
    finally:
        os.close(descriptors)


def _rename_new(old: Path, new: Path) -> None:
    """Rename, but never over another file; on file systems without that, by a link. Source: rename(2)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is not None:
        if rename(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in {errno.EINVAL, errno.ENOSYS}:
            raise OSError(number, os.strerror(number), str(new))
    new.hardlink_to(old)
