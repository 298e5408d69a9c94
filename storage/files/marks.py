"""Decisions that no change of the database takes back or makes up: an empty file each, beside the keys."""

import contextlib
from pathlib import Path

from storage.files.durable import Disk


class Marks:
    """Ids of which one thing was decided, whatever the catalog says. Any process may use them."""

    def __init__(self, folder: Path) -> None:
        """Use a folder of its own in the store's folder of keys."""
        self._folder, self._disk = folder, Disk(sync=True)

    def add(self, marked: str) -> None:
        """Mark an id of the catalog, durably; again is harmless."""
        self._disk.make_root(self._folder)
        with contextlib.suppress(FileExistsError):
            self._disk.write_new(self._folder / marked, b"")
        self._disk.sync_path(self._folder)

    def discard(self, marked: str) -> None:
        """Take a mark off again, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            self._disk.remove(self._folder / marked)
            self._disk.sync_path(self._folder)

    def __contains__(self, asked: object) -> bool:
        """Tell whether an id is marked."""
        return (self._folder / str(asked)).exists()


def revoked_tokens(keys_dir: Path) -> Marks:
    """Return the API tokens that were revoked, for ever."""
    return Marks(keys_dir / "revoked")


def ended_drops(keys_dir: Path) -> Marks:
    """Return the drop-offs that were closed so that what was open in them ends."""
    return Marks(keys_dir / "ended")
