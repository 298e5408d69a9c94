"""Rotating the signing key, while no server uses the store: unfinished logs are handed over, then the old key retires.

Steps, each durable before the next, so that a second run finishes what a first one began:
1. the key file gets the new key beside the old one; in this state no server starts;
2. every unfinished upload's log gets a `key` record, signed by the old key and naming the new one;
3. the key file gets the new key as the one that signs, and the old one as a public key that only verifies.

What is finished stays under the key that finished it. Where the key file is not ours to replace (a credential or a
command), the new text goes to another file, which the operator then puts in place.

Source: docs/format.md, Rotation.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dropoff_tus.errors import DropoffError, UploadLockedError, UploadNotFoundError
from dropoff_tus.ids import is_upload_id
from storage.files.durable import Disk, failpoint
from storage.keyring.keys import ServerKeys, SigningKey, SigningKeyFile, key_id, new_signing_key, public_of
from storage.keyring.keysource import (
    RotationError,
    read_owner_only,
    read_source,
    replace_owner_only,
    source_file,
    write_owner_only,
)
from storage.keyring.lines import sign_line
from storage.uploads.base import StoreBase, StoreSettings
from storage.uploads.creation import sync_creation
from storage.uploads.log import LogState, check_signs, key_record
from storage.uploads.recovery import read_chain, read_state, repair

_NAME = "signing-key"


@contextlib.contextmanager
def hold_store(root: Path, *, alone: bool = False) -> Iterator[None]:
    """Use a store's keys beside others, or alone. Kernel locks, so that a killed process holds nothing.

    Raises:
        RotationError: Someone uses it alone, or alone was asked for and someone uses it.
        FileNotFoundError: There is no such folder.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            if alone:
                message = "the server, or another command, uses the store; stop it first. Nothing was changed"
            else:
                message = "the signing key is being rotated; try again when that is done"
            raise RotationError(message) from None
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Handed:
    """The report on one upload: handed over now or before, or (`why`) not."""

    upload_id: str
    handed: bool
    why: str | None = None


class SigningRotation:
    """One rotation of the signing key. Needs `hold_store(alone=True)`."""

    def __init__(self, settings: StoreSettings, source: str, output: Path | None = None) -> None:
        """Read the old key and find or make the new one; nothing is written yet.

        Args:
            settings: The store's.
            source: Where the signing key comes from.
            output: Where the new text goes when the source cannot be replaced.

        Raises:
            RotationError: The source cannot be replaced and there is no output, or output holds something else.
            KeySourceError: The old key cannot be had.
        """
        path = output or source_file(_NAME, source)
        if path is None:
            message = "the signing key does not come from a file; name a new one with --output and put it in place then"
            raise RotationError(message)
        found = SigningKeyFile.parse(read_source(_NAME, source))
        if found.private is None:
            message = "the signing key has no private line; nothing was changed"
            raise RotationError(message)
        self._old, self._retired = found.private, found.retired
        self._old_public = public_of(found.private)
        self._output = output
        self._path = path
        self.resumed = found.following is not None
        self._new = found.following or self._begun_elsewhere() or new_signing_key()
        self.new_public = public_of(self._new)
        self.old_id, self.new_id = key_id(self._old_public), key_id(self.new_public)
        signing = SigningKey(self._old, self._retired, [self.new_public])
        keys = ServerKeys(signing, b"", (), settings.keys_dir)
        self._base = StoreBase(settings, keys, lambda: datetime.now(UTC))
        # Synced whatever the store's durability: the old key is gone afterwards.
        self._disk = self._base.disk = Disk(sync=True, roots=self._base.layout.roots)

    def _begun_elsewhere(self) -> bytes | None:
        """Return the new key of an earlier run that wrote to another file."""
        if self._output is None or not self._output.exists():
            return None
        found = SigningKeyFile.parse(read_owner_only(self._output, "the new signing key"))
        if found.private is None or self._old_public not in found.retired:
            message = f"{self._output} exists already and holds another key; it was left as it is"
            raise RotationError(message)
        self.resumed = True
        return found.private

    def prepare(self) -> None:
        """Step 1: make the new key durable before anything is handed over to it."""
        if self._output is None:
            if not self.resumed:
                replace_owner_only(self._path, SigningKeyFile(self._old, self._retired, self._new).text())
        elif not self.resumed:
            write_owner_only(self._output, self._finished().text())
        failpoint("signing-prepared")

    def upload_ids(self) -> list[str]:
        """Return the ids of all uploads."""
        return sorted(path.name for path in self._base.layout.uploads.glob("??/*") if is_upload_id(path.name))

    def hand_over(self, upload_id: str, *, dry_run: bool = False) -> Handed | None:
        """Step 2, for one upload; may be repeated.

        Returns:
            None where there is nothing to hand over: it is finished, has ended, or never was.

        Raises:
            OSError: The disk failed; run the rotation again.
        """
        paths = self._base.layout.of(upload_id)
        try:
            log = self._disk.open_existing(paths.log, write=not dry_run)
        except FileNotFoundError:
            return None
        try:
            state, torn = read_state(log, upload_id, self._base.keys.signing)
            if state.final or state.ended is not None:
                return None
            if state.key != self.new_id:
                check_signs(self._base.keys.signing, state)
                if not dry_run:
                    self._lock(log)
                    self._append(state, log, torn)
        except UploadNotFoundError:
            return None
        except DropoffError as error:
            return Handed(upload_id, handed=False, why=error.message)
        finally:
            os.close(log)
        return Handed(upload_id, handed=True)

    @staticmethod
    def _lock(log: int) -> None:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = "the upload is in use by another process"
            raise UploadLockedError(message) from None

    def _append(self, state: LogState, log: int, torn: int) -> None:
        paths = self._base.layout.of(state.id)
        # Before anything is cut or signed: the totals of the last record alone could be those of a record moved there.
        read_chain(log, state.id, self._base.keys.signing, every_signature=False)
        data = self._disk.open_existing(paths.data, write=True)
        try:
            repair(self._disk, paths, log, data, state, torn)
        finally:
            os.close(data)
        if state.log_bytes == state.create_bytes:
            # What a first commit does: it is no longer the second line, by which the commit would know.
            sync_creation(self._base, state)
        line = sign_line(key_record(state, self.new_public, self._base.now()), self._base.keys.signing)
        try:
            self._disk.write_at(log, line, state.log_bytes)
        except OSError:
            # A partial line must not stay in front of the next one.
            self._disk.truncate(log, state.log_bytes)
            raise
        failpoint("signing-record-written")
        self._disk.sync_file(log)

    def finish(self) -> None:
        """Step 3: retire the old key."""
        failpoint("signing-handed-over")
        if self._output is None:
            replace_owner_only(self._path, self._finished().text())

    def _finished(self) -> SigningKeyFile:
        return SigningKeyFile(self._new, (*self._retired, self._old_public))
