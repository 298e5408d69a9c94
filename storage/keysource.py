"""Where the server's secrets come from, and how they are written: whole, durable, for their owner alone.

A key's *source* is tried in this order: `$CREDENTIALS_DIRECTORY/<name>` (systemd), then what the configuration says: a
file (refused unless its owner alone can read it), `command:…` (prints the key), or `env:NAME` (removed after reading).

Source: docs/format.md, Keys.
"""

import os
import secrets
import shlex
import stat
import subprocess
from pathlib import Path

from storage.durable import Disk

# Keys are always synced, whatever the store's durability: a lost key loses everything under it.
_DISK = Disk(sync=True)
_COMMAND_TIMEOUT_SECONDS = 30
_COMMAND, _VARIABLE = "command:", "env:"
_CREDENTIALS = "CREDENTIALS_DIRECTORY"
_OTHERS = 0o077


class KeySourceError(Exception):
    """A key cannot be had; the text says which and what to do, and nothing of the key."""


class RotationError(KeySourceError):
    """A rotation cannot be done; the text says why and what to do. Nothing was lost."""


def read_source(name: str, source: str) -> str:
    """Return the text of a key.

    Args:
        name: What the key is called, also below `$CREDENTIALS_DIRECTORY`.
        source: What the configuration says.

    Raises:
        KeySourceError: It is not to be had there.
    """
    credential = _credential(name)
    if credential is not None:
        try:
            return credential.read_text("ascii", errors="replace")
        except OSError as error:
            message = f"cannot read the {name} in ${_CREDENTIALS}: {error.strerror}"
            raise KeySourceError(message) from None
    if source.startswith(_COMMAND):
        return _from_command(name, source.removeprefix(_COMMAND))
    if source.startswith(_VARIABLE):
        variable = source.removeprefix(_VARIABLE)
        value = os.environ.pop(variable, None)
        if value is None:
            message = f"the environment variable {variable} for the {name} is not set"
            raise KeySourceError(message)
        return value
    return read_owner_only(Path(source), f"the {name}")


def source_file(name: str, source: str) -> Path | None:
    """Return the file that a key is read from; None if it comes from elsewhere and cannot be replaced here."""
    if _credential(name) is not None or source.startswith((_COMMAND, _VARIABLE)):
        return None
    return Path(source)


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
    return answer.stdout.decode("ascii", "replace")


def read_owner_only(path: Path, name: str) -> str:
    """Return the text of a secret file.

    Raises:
        KeySourceError: It cannot be read, is no file, or others may read or write it; the sentence says what to do.
    """
    try:
        # Not blocking, or a FIFO in its place would hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        message = f"cannot read {name} at {path}: {error.strerror}"
        raise KeySourceError(message) from None
    try:
        status = os.fstat(descriptor)
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            message = f"cannot read {name} at {path}: it is no ordinary file"
            raise KeySourceError(message)
        if mode & _OTHERS:
            message = f"{path} can be read or written by others (mode {mode:04o}); run: chmod 600 {path}"
            raise KeySourceError(message)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read().decode("ascii", "replace")
    finally:
        os.close(descriptor)


def write_owner_only(path: Path, text: str, *, existing_ok: bool = False) -> None:
    """Write a new secret so that it appears whole and durable, or not at all.

    Args:
        path: Where; never replaced.
        text: ASCII.
        existing_ok: Leave a file that is there already, without an error.

    Raises:
        KeySourceError: There is a file already, or it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        try:
            _write_synced(temporary, text)
            # A link, not a rename: it never replaces a key that another process made meanwhile.
            _DISK.link(temporary, path)
        except FileExistsError:
            if not existing_ok:
                message = f"{path} exists already and was left as it is"
                raise KeySourceError(message) from None
        finally:
            _DISK.remove(temporary)
        _DISK.sync_path(path.parent)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}"
        raise KeySourceError(message) from None


def replace_owner_only(path: Path, text: str) -> None:
    """Replace a secret file whole: after a crash the old text is there, or the new one.

    Raises:
        KeySourceError: It cannot be written; the old one is as it was.
    """
    try:
        _DISK.replace(path, text.encode("ascii"))
    except OSError as error:
        message = f"cannot replace {path}: {error.strerror}; the old one is as it was"
        raise KeySourceError(message) from None


def _write_synced(path: Path, text: str) -> None:
    descriptor = _DISK.create(path)
    try:
        _DISK.write_at(descriptor, text.encode("ascii"), 0)
        _DISK.sync_file(descriptor)
    finally:
        os.close(descriptor)
