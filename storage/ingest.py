"""Ingest epochs: the identities of sealed uploads in progress, made by the day and destroyed when nothing needs them.

The server's envelope of a sealed upload is to the identity of the day of its creation. Once every upload of that day
is sealed or ended, the identity goes, so that neither an old copy of the store nor all keys of today open what was
sealed. An epoch's name carries random hex besides the day: should the folder be lost and an epoch be made anew,
putting the old file back disturbs nothing.

Source: docs/format.md, Ingest epochs.
"""

import secrets
import threading
from datetime import UTC, date, datetime
from pathlib import Path

from storage.age import AgeError, Identity, KeyType, parse_identity_file
from storage.durable import Disk
from storage.keysource import KeySourceError, read_owner_only, write_owner_only

_DISK = Disk(sync=True)
_DAY_CHARACTERS = len("2000-01-31")
_PATTERN = "????-??-??*.txt"
_NOT_YET = f".{_PATTERN}.*.new"
"""An epoch's file before it gets its name; a killed process may leave it behind, also beside that name."""


class IngestKeys:
    """The epochs of one folder. Any thread may use it, and other processes the same folder."""

    def __init__(self, folder: Path) -> None:
        """Use a folder of its own, kept out of backups."""
        self._folder = folder
        self._lock = threading.Lock()
        self._durable: set[str] = set()
        self._loaded: dict[str, tuple[Identity, ...]] = {}

    def __repr__(self) -> str:
        """Show nothing of the keys."""
        return "IngestKeys(redacted)"

    def current(self, day: date) -> str:
        """Return a day's epoch, making its identities first if need be. They are durable before it returns.

        Raises:
            KeySourceError: They cannot be written.
        """
        with self._lock:
            known = [epoch for epoch in self.epochs() if _day(epoch) == day.isoformat()]
            if known:
                if known[-1] not in self._durable:
                    # Whoever made it may have died before the sync.
                    _DISK.sync_path(self._folder)
                    self._durable.add(known[-1])
                return known[-1]
            epoch = f"{day.isoformat()}.{secrets.token_hex(4)}"
            try:
                _DISK.make_root(self._folder)
            except OSError as error:
                message = f"cannot make the folder of ingest identities, {self._folder}: {error.strerror}"
                raise KeySourceError(message) from None
            write_owner_only(self._path(epoch), identity_lines(f"ingest epoch {epoch}"))
            self._durable.add(epoch)
            return epoch

    def identity(self, epoch: str, key_type: str) -> Identity | None:
        """Return an epoch's identity of one type, or None once it is destroyed or where it is missing."""
        found = self._loaded.get(epoch)
        if found is None:
            try:
                found = tuple(parse_identity_file(read_owner_only(self._path(epoch), "the ingest identity")))
            except (AgeError, KeySourceError):
                return None
            self._loaded[epoch] = found
        return next((identity for identity in found if identity.key_type == key_type), None)

    def epochs(self) -> list[str]:
        """Return the epochs that still have identities, oldest day first."""
        return sorted(path.name.removesuffix(".txt") for path in self._folder.glob(_PATTERN))

    def retire(self, needed_days: set[str], today: date) -> list[str]:
        """Destroy, durably, the identities of all past days but those needed; return the epochs destroyed.

        Nothing that was sealed under them opens again with keys of the server, whatever copy it is in.
        """
        with self._lock:
            gone = [epoch for epoch in self.epochs() if _day(epoch) < today.isoformat()]
            gone = [epoch for epoch in gone if _day(epoch) not in needed_days]
            # The same identity under another name: what is needed has the right one.
            left = [path for path in self._folder.glob(_NOT_YET) if _day(path.name[1:]) < today.isoformat()]
            for path in left:
                _DISK.remove(path)
            for epoch in gone:
                _DISK.remove(self._path(epoch))
                self._loaded.pop(epoch, None)
            if gone or left:
                _DISK.sync_path(self._folder)
            # Another process may have destroyed some.
            for epoch in self._loaded.keys() - set(self.epochs()):
                self._loaded.pop(epoch, None)
            return gone

    def _path(self, epoch: str) -> Path:
        return self._folder / f"{epoch}.txt"


def identity_lines(purpose: str) -> str:
    """Return the text of a new identity file with one identity of each type."""
    made = datetime.now(UTC).date().isoformat()
    identities = "".join(Identity.generate(kind).secret_text() + "\n" for kind in KeyType)
    return f"# dropoff-tus {purpose}, made {made}\n{identities}"


def _day(epoch: str) -> str:
    return epoch[:_DAY_CHARACTERS]
