"""Handing unfinished logs over to a new signing key, while no server uses the store. The key file has steps of its own.

Every unfinished upload's log gets a `key` record, signed by the old key and naming the new one. A finished upload stays
under the key that finished it.

Source: docs/format.md, Rotation.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dropoff_tus.errors import DropoffError, UploadLockedError, UploadNotFoundError
from dropoff_tus.ids import is_upload_id
from storage.failpoints import failpoint
from storage.files.durable import Disk
from storage.files.locks import try_lock
from storage.keyring.keys import ServerKeys
from storage.keyring.lines import sign_line
from storage.keyring.rotation import KeyRotation
from storage.uploads.base import StoreBase, StoreSettings
from storage.uploads.creation import sync_creation
from storage.uploads.log import LogState, check_signs, key_record
from storage.uploads.recovery import read_chain, read_state, repair


@dataclass(frozen=True, slots=True)
class Handed:
    """The report on one upload: handed over now or before, or (`why`) not."""

    upload_id: str
    handed: bool
    why: str | None = None


class SigningRotation(KeyRotation):
    """One rotation of the signing key. Needs `hold_store(alone=True)`."""

    def __init__(self, settings: StoreSettings, source: str, output: Path | None = None) -> None:
        """Take the store's settings; see `KeyRotation` for the others."""
        super().__init__(source, output)
        keys = ServerKeys(self.signing, b"", (), settings.keys_dir)
        self._base = StoreBase(settings, keys, lambda: datetime.now(UTC))
        # Synced whatever the store's durability: the old key is gone afterwards.
        self._disk = self._base.disk = Disk(sync=True, roots=self._base.layout.roots)

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
                    if not try_lock(log):
                        raise UploadLockedError("the upload is in use by another process")
                    self._append(state, log, torn)
        except UploadNotFoundError:
            return None
        except DropoffError as error:
            return Handed(upload_id, handed=False, why=error.message)
        finally:
            os.close(log)
        return Handed(upload_id, handed=True)

    def _append(self, state: LogState, log: int, torn: int) -> None:
        paths = self._base.layout.of(state.id)
        # Before anything is cut or signed: the last record could have been moved there, and its totals with it.
        read_chain(log, state.id, self._base.keys.signing, every_signature=False)
        data = self._disk.open_existing(paths.data, write=True)
        try:
            repair(self._disk, paths, log, data, state, torn)
        finally:
            os.close(data)
        if state.log_bytes == state.create_bytes:
            # As a first commit does: it is no longer the second line, by which the commit would know.
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
