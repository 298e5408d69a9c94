"""The owner of the store: nobody else works in it, since its owner could not read the files that they leave.

The owner is who made the ids and the catalog's file; the folders around them may be anybody's, as a volume's often is.
"""

import errno
import os
import pwd
import tempfile
from collections.abc import Iterable
from pathlib import Path

from dropoff_tus.errors import ToldError


class ForeignOwnerError(ToldError):
    """This process is not the store's owner; the text says who is, and what to do. Nothing was done."""


def check_owner(files: Iterable[Path]) -> None:
    """Refuse to go on where what this process writes would not be the owner's.

    Args:
        files: Made by the owner. One that is missing says nothing: it will be whose who comes first.

    Raises:
        ForeignOwnerError: It would not.
    """
    for file in files:
        owner = _owner(file)
        if owner is not None and owner != os.geteuid() and not _is_given_to(owner, file.parent):
            raise ForeignOwnerError(_refusal(file, owner))


def _owner(file: Path) -> int | None:
    """Return a file's owner; behind a folder that is closed to us, that folder's."""
    for path in (file, *file.parents):
        try:
            return path.stat().st_uid
        except PermissionError:
            continue
        except (FileNotFoundError, NotADirectoryError):
            break
    return None


def _is_given_to(owner: int, folder: Path) -> bool:
    """Tell whether new files are the owner's, whoever makes them, as on some network shares, or cannot be made."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_uid == owner
    except OSError as error:
        return error.errno == errno.EROFS


def _refusal(file: Path, owner: int) -> str:
    name, own = _name(owner), _name(os.geteuid())
    return (
        f"{file} belongs to {name}, and this runs as {own}: {name} could not read what it would write. Nothing was "
        f"done. Run it as {name}: `sudo -u '{name}' dropoff-tus …`, or `setpriv --reuid={owner} --clear-groups "
        f"dropoff-tus …`. If all of it is to be {own}'s, first give {own} the store, the keys and the catalog with "
        "`chown -R`"
    )


def _name(user: int) -> str:
    """Return a user's name, or the number as sudo takes it."""
    try:
        return pwd.getpwuid(user).pw_name
    except (KeyError, OverflowError):
        return f"#{user}"
