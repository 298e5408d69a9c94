"""The base of every part of the engine: the four protocols, the keys, and the memory of uploads.

Source: docs/reference/format.md.
"""

import contextlib
import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from dropoff_tus.errors import DropoffError, StorageFailedError, StorageFullError
from dropoff_tus.ids import is_upload_id
from storage.backing import Chains, KeyFile, KeyFiles, Leasing, Lines, Segments, SyncFailedError, log_failure
from storage.keyring.journal import Written
from storage.keyring.keys import ServerKeys
from storage.uploads.chain import Chain
from storage.uploads.log import LogState
from storage.uploads.memory import UploadMemory, distrusted
from storage.uploads.recovery import not_found, read_chain, read_state, waiting_at


@dataclass(frozen=True, slots=True)
class StoreBase:
    """Shared by the parts of the engine; has no threads of its own."""

    chains: Chains
    segments: Segments
    key_files: KeyFiles
    leasing: Leasing
    keys: ServerKeys
    written: Written
    """Which envelopes rotations of the roots wrote."""
    now: Callable[[], datetime]
    root_recipients: tuple[str, ...] = ()
    digest: str = "none"
    """The one that each receipt has, or none."""
    memory: UploadMemory = field(default_factory=UploadMemory)

    def check_floor(self, more_bytes: int) -> None:
        """Refuse to write what would take the disk below its floor. For worker threads, before each batch.

        Raises:
            StorageFullError: It would.
        """
        if more_bytes > self.segments.free_bytes():
            message = "the server's disk has no room for more at this time; go on with this upload later"
            raise StorageFullError(message)

    @contextlib.contextmanager
    def refusing(self, upload_id: str) -> Iterator[None]:
        """Turn what the backing raises into what the ports say, and distrust the upload if a sync failed.

        Raises:
            UploadNotFoundError, StorageFailedError, StorageFullError: It is not there, or the disk failed.
        """
        try:
            yield
        except FileNotFoundError:
            self.memory.forget(upload_id)
            raise not_found() from None
        except OSError as error:
            raise self.failed(upload_id, error) from error

    def failed(self, upload_id: str, error: OSError) -> DropoffError:
        """Return the refusal for an upload that the disk did not let us read; distrust it if a sync failed."""
        if isinstance(error, SyncFailedError):
            self.memory.distrust(upload_id)
            log_failure(error)
            return distrusted()
        return refused(error, f" under upload {upload_id} ({error.strerror}); stored bytes stay")

    def load(self, upload_id: str, *, durable: bool = True) -> LogState:
        """Return the log's state, from memory while the log's size is the one remembered.

        Args:
            upload_id: The upload.
            durable: Make sure that it is durable, for whoever relies on it.

        Raises:
            UploadNotFoundError, UploadDamagedError, StorageFailedError: As the ports say.
        """
        self.check_id(upload_id)
        known = self.memory.state(upload_id)
        with self.refusing(upload_id):
            if known is not None and self.chains.size_bytes(upload_id) == known.log_bytes:
                return known
            with contextlib.closing(self.chains.open(upload_id)) as log:
                return read_state(log, upload_id, self.keys.signing, durable=durable)[0]

    def read_key_file(self, upload_id: str, kind: KeyFile) -> bytes:
        """Return an upload's envelope or receipt.

        Raises:
            FileNotFoundError: It is not there.
            StorageFailedError: It cannot be read.
        """
        try:
            return self.key_files.get(upload_id, kind)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self.failed(upload_id, error) from error

    def check_id(self, upload_id: str) -> None:
        """Refuse what is no id, and an upload whose state on disk is unknown.

        Raises:
            UploadNotFoundError, StorageFailedError: It is.
        """
        if not is_upload_id(upload_id):
            raise not_found()
        self.memory.check_trusted(upload_id)

    def waits(self, upload_id: str) -> bool:
        """Tell whether an upload plainly waits for bytes, only by its last record; False in any doubt."""
        if not is_upload_id(upload_id):
            return False
        try:
            with contextlib.closing(self.chains.open(upload_id)) as log:
                return waiting_at(log, self.keys.signing) is not None
        except (OSError, StorageFailedError):
            return False

    def log_bytes(self, upload_id: str) -> int:
        """Return the size of a log, or -1 where it cannot be looked at."""
        try:
            return self.chains.size_bytes(upload_id) if is_upload_id(upload_id) else -1
        except (OSError, StorageFailedError):
            return -1

    def verified(self, log: Lines, upload_id: str, *, every_signature: bool = False) -> Chain:
        """Verify a whole open log; without every signature, of what was verified before only what was added.

        Raises:
            OSError: It cannot be read.
        """
        if every_signature:
            return read_chain(log, upload_id, self.keys.signing, every_signature=True)
        return self.memory.verified(log, upload_id, self.keys.signing)

    def chain(self, upload_id: str, *, every_signature: bool = False) -> Chain:
        """Open and verify a whole log."""
        with self.refusing(upload_id), contextlib.closing(self.chains.open(upload_id)) as log:
            return self.verified(log, upload_id, every_signature=every_signature)

    def wanted_digests(self, names: Iterable[str]) -> set[str]:
        """Return the digests to compute: the configured one and the named ones."""
        return {*names, self.digest} - {"none"}


def refused(error: OSError, text: str) -> StorageFailedError | StorageFullError:
    """Make the refusal for what the disk did not do: it is full, or it failed. Its path is only for the log.

    Args:
        error: The system's error.
        text: The text after the words for that.
    """
    log_failure(error)
    # A sync that failed may have lost bytes, whatever the reason: more room does not mend that.
    if error.errno in {errno.ENOSPC, errno.EDQUOT} and not isinstance(error, SyncFailedError):
        return StorageFullError(f"the disk is full{text}")
    return StorageFailedError(f"the disk failed{text}")
