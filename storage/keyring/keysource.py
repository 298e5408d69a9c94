"""Where the server's secrets come from, and how they are written: whole, durable, only for their owner.

A key's *source* is tried in this order: `$CREDENTIALS_DIRECTORY/<name>` (systemd), then what the configuration says: a
file that nobody else can use (`check_owner_only`), or `command:…`, which prints the key.

Source: docs/reference/format.md, Keys.
"""

import contextlib
import os
import secrets
import shlex
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from dropoff_tus.errors import ToldError
from dropoff_tus.text import decode_text
from storage.files.durable import Disk

# Keys are always synced, whatever the store's durability: a lost key loses everything under it.
_DISK = Disk(sync=True)
_COMMAND_TIMEOUT_SECONDS = 30
_COMMAND = "command:"
_CREDENTIALS = "CREDENTIALS_DIRECTORY"
_OTHERWISE = f", or hand it over in ${_CREDENTIALS}, or by a command (docs/reference/configuration.md, Secrets)"
_OTHERS, _OTHERS_OF_ROOTS, _OTHERS_WHO_WRITE = 0o077, 0o037, 0o022


class KeySourceError(ToldError):
    """A key cannot be had; the text says which and what to do, and nothing of the key."""


class RotationError(KeySourceError):
    """A rotation cannot be done; the text says why and what to do. Nothing was lost."""


def read_source(name: str, source: str) -> str:
    """Return the text of a key.

    Args:
        name: The key's name, also below `$CREDENTIALS_DIRECTORY`.
        source: The entry in the configuration.

    Raises:
        KeySourceError: It is not to be had there.
    """
    credential = _credential(name)
    if credential is not None:
        try:
            return _text(credential.read_bytes(), f"the {name} in ${_CREDENTIALS}")
        except OSError as error:
            raise KeySourceError(f"cannot read the {name} in ${_CREDENTIALS}: {error.strerror}") from None
    if source.startswith(_COMMAND):
        return _from_command(name, source.removeprefix(_COMMAND))
    return read_owner_only(Path(source), f"the {name}", _OTHERWISE)


def source_file(name: str, source: str) -> Path | None:
    """Return the file that a key is read from, where links lead; None if it comes from elsewhere and has no file."""
    if _credential(name) is not None or source.startswith(_COMMAND):
        return None
    return Path(source).resolve()


def _credential(name: str) -> Path | None:
    # systemd keeps these on its own tmpfs, mode 0440 under some versions: its own access rules hold there.
    folder = os.environ.get(_CREDENTIALS)
    path = Path(folder) / name if folder else None
    return path if path is not None and path.exists() else None


def _from_command(name: str, command: str) -> str:
    try:
        answer = subprocess.run(  # noqa: S603 - the operator's own configuration names the command
            shlex.split(command), check=True, capture_output=True, timeout=_COMMAND_TIMEOUT_SECONDS
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        # Neither the error's text nor the command's output: both may hold what must not be shown.
        message = f"the command for the {name} failed ({type(error).__name__}); run it by hand to see why"
        raise KeySourceError(message) from None
    return _text(answer.stdout, f"the output of the command for the {name}")


def _text(raw: bytes, what: str) -> str:
    try:
        return decode_text(raw)
    except ValueError as error:
        raise KeySourceError(f"{what} {error}") from None


def read_owner_only(path: Path, name: str, otherwise: str = "") -> str:
    """Return the text of a secret file; see `check_owner_only`.

    Raises:
        KeySourceError: Likewise, or it is no UTF-8 text.
    """
    with _opened_owner_only(path, name, otherwise) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
        return _text(file.read(), f"{name} at {path}")


def check_owner_only(path: Path, name: str) -> None:
    """Refuse a secret file that others than its owner may use.

    As PostgreSQL does for its TLS key, one that belongs to root may be read by its group, to which root gave it.
    On a read-only mount, as containers get their secrets, everybody may read: no mode can be changed there, and who
    else sees the mount is not decided by it.

    Args:
        path: Where it is, or a link to it.
        name: Its name in messages.

    Raises:
        KeySourceError: It cannot be read, is no file, or others may use it; the sentence says what to do.
    """
    with _opened_owner_only(path, name, ""):
        pass


@contextlib.contextmanager
def _opened_owner_only(path: Path, name: str, otherwise: str) -> Iterator[int]:
    try:
        # Not blocking, or a FIFO in its place would hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise KeySourceError(f"cannot read {name} at {path}: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            raise KeySourceError(f"cannot read {name} at {path}: it is no ordinary file")
        forbidden, use = _OTHERS, "read or written"
        remedy = f"run: chmod 600 {path}; where that cannot be done, mount it read-only"
        if os.fstatvfs(descriptor).f_flag & os.ST_RDONLY:
            forbidden, use, remedy = _OTHERS_WHO_WRITE, "written", "mount it with mode 0440"
        elif status.st_uid == 0 != os.geteuid():
            forbidden = _OTHERS_OF_ROOTS
            remedy = f"run as root: chmod 640 {path}, and chgrp it to a group of this user"
        if mode & forbidden:
            raise KeySourceError(f"{path} can be {use} by others (mode {mode:04o}); {remedy}{otherwise}")
        yield descriptor
    finally:
        os.close(descriptor)


def write_owner_only(path: Path, text: str) -> None:
    """Write a new secret so that it appears whole and durable, or not at all.

    Args:
        path: Where; never replaced.
        text: ASCII.

    Raises:
        KeySourceError: There is a file already, or it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        try:
            _write_synced(temporary, text)
            # Never in place of a key that another process made meanwhile.
            _DISK.rename_new(temporary, path)
        except FileExistsError:
            raise KeySourceError(f"{path} exists already and was left as it is") from None
        finally:
            _DISK.remove(temporary)
        _DISK.sync_path(path.parent)
    except OSError as error:
        raise KeySourceError(f"cannot write {path}: {error.strerror}") from None


def replace_owner_only(path: Path, text: str) -> None:
    """Replace a secret file whole: after a crash the old text is there, or the new one.

    Raises:
        KeySourceError: It cannot be written; the old one is as it was.
    """
    try:
        _DISK.replace(path, text.encode("ascii"))
    except OSError as error:
        raise KeySourceError(f"cannot replace {path}: {error.strerror}; the old one is as it was") from None


def _write_synced(path: Path, text: str) -> None:
    descriptor = _DISK.create(path)
    try:
        _DISK.write_at(descriptor, text.encode("ascii"), 0)
        _DISK.sync_file(descriptor)
    finally:
        os.close(descriptor)
