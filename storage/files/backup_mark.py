"""The mark of a backup, a file in its folder of keys: whose it is, and whether it is whole.

It goes wherever the keys are restored to. So a server that finds it knows that its catalog is a copy, and begins by
keeping back the news that waited in it. A backup that was never finished is refused: what it lacks nobody could tell.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from dropoff_tus.errors import ToldError
from storage.files.durable import Disk

NAME = "backup.json"
_MOST_BYTES = 1 << 16


class UnfinishedBackupError(ToldError):
    """The folder of keys is that of a backup that was never finished."""


@dataclass(frozen=True, slots=True)
class BackupMark:
    """Of which store a backup is, made by which version, and the times as RFC 3339; None: it is not whole yet.

    `findings` counts uploads that did not verify in it.
    """

    store: str
    version: str
    begun_at: str
    completed_at: str | None = None
    uploads: int = 0
    findings: int = 0


def read_mark(keys_dir: Path) -> BackupMark | None:
    """Return the mark in a folder of keys, or None.

    Raises:
        ValueError: The file holds something else.
        OSError: It cannot be read.
    """
    try:
        raw = Disk(sync=True).read_small(keys_dir / NAME, _MOST_BYTES)
    except FileNotFoundError:
        return None
    try:
        return BackupMark(**json.loads(raw))
    except (TypeError, ValueError):
        message = f"{keys_dir / NAME} is no mark of a backup; move it away"
        raise ValueError(message) from None


def write_mark(keys_dir: Path, mark: BackupMark) -> None:
    """Write the mark, durably, in place of an earlier one."""
    Disk(sync=True).replace(keys_dir / NAME, f"{json.dumps(asdict(mark), indent=1)}\n".encode())


def remove_mark(keys_dir: Path) -> None:
    """Remove the mark, durably: the folder is a server's from now on."""
    disk = Disk(sync=True)
    disk.remove(keys_dir / NAME)
    disk.sync_path(keys_dir)


def restored_from(keys_dir: Path) -> BackupMark | None:
    """Return the mark if the folder of keys was restored from a backup, and nobody has settled that yet.

    Raises:
        UnfinishedBackupError: It is that of a backup that is not whole.
    """
    try:
        mark = read_mark(keys_dir)
    except ValueError as error:
        raise UnfinishedBackupError(str(error)) from None
    if mark is not None and mark.completed_at is None:
        message = (
            f"{keys_dir} is part of a backup that was begun at {mark.begun_at} and never finished. Use an earlier one, "
            f"or run `dropoff-tus backup` again where the server is. If it is all that is left: remove "
            f"{keys_dir / NAME}, run `dropoff-tus migrate`, then `dropoff-tus store adopt`. Nothing was changed"
        )
        raise UnfinishedBackupError(message)
    return mark
