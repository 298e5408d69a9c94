"""The base of every part of the store: settings, keys, paths, the disk, and a memory of uploads.

The content of an upload's log is kept in a bounded cache and believed while the log has the same size, so another
process may write between two requests.

Source: docs/format.md.
"""

import contextlib
import errno
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from blake3 import blake3

from dropoff_tus.checksum import running_hash
from dropoff_tus.errors import DropoffError, StorageFailedError, StorageFullError
from dropoff_tus.ids import is_upload_id
from dropoff_tus.model import Metadata
from storage.age import Identity, Recipient
from storage.backing import SyncFailedError
from storage.files.durable import Disk
from storage.files.layout import Layout
from storage.keyring.keys import ServerKeys
from storage.uploads.chain import Chain
from storage.uploads.chains import Chains
from storage.uploads.log import LogState
from storage.uploads.recovery import not_found, read_chain, read_durable, waiting_at

_log = logging.getLogger(__name__)
_CACHE_ENTRIES = 4096
_MOST_KEY_FILE_BYTES = 1 << 20
"""More than an envelope or a receipt ever has; the file in its place may be anything."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """The configuration of the store."""

    root: Path
    keys_dir: Path
    root_recipients: tuple[str, ...]
    durability: Literal["fsync", "os"] = "fsync"
    digest: Literal["sha256", "blake3", "none"] = "sha256"
    free_space_floor_bytes: int = 1 << 30


@dataclass(slots=True)
class Known:
    """The memory of an upload in this process. `vouched` means: it made or opened the envelope itself."""

    state: LogState
    hashes: dict[str, Any] = field(default_factory=dict)
    metadata: Metadata | None = None
    receipt_identity: Identity | None = None
    recipient: Recipient | None = None
    vouched: bool = False


class KnownUploads:
    """A bounded memory of uploads; forgotten ones are read again. Any thread may use it."""

    def __init__(self) -> None:
        """Start knowing nothing."""
        self._known: OrderedDict[str, Known] = OrderedDict()

    def get(self, upload_id: str) -> Known | None:
        """Return what is known, or None."""
        return self._known.get(upload_id)

    def put(self, upload_id: str, known: Known) -> None:
        """Remember, as the newest."""
        self._known[upload_id] = known
        with contextlib.suppress(KeyError):
            self._known.move_to_end(upload_id)
        while len(self._known) > _CACHE_ENTRIES:
            with contextlib.suppress(KeyError):
                self._known.popitem(last=False)

    def forget(self, upload_id: str) -> None:
        """Know nothing of an upload any more."""
        self._known.pop(upload_id, None)

    def advance(self, state: LogState) -> None:
        """Keep an upload's newest state."""
        known = self._known.get(state.id)
        if known is None:
            self.put(state.id, Known(state))
        else:
            known.state = state

    def update(self, state: LogState, hashes: dict[str, Any]) -> None:
        """Keep an upload's newest state, and other running digests than before."""
        self.advance(state)
        self._known[state.id].hashes = hashes


class StoreBase:
    """Shared by the rooms of the store; has no threads of its own."""

    def __init__(self, settings: StoreSettings, keys: ServerKeys, clock: Callable[[], datetime]) -> None:
        """Take settings, keys and the time."""
        self.settings, self.keys, self.now = settings, keys, clock
        self.layout = Layout(settings.root, settings.keys_dir, keys.ingest_dir)
        self.disk = Disk(sync=settings.durability == "fsync", roots=self.layout.roots)
        self.known = KnownUploads()
        self.chains = Chains()
        self.distrusted: set[str] = set()
        """Uploads whose state on disk is unknown since a sync failed."""
        self._roots = self._present_roots()

    def check_roots(self) -> None:
        """Refuse to take the roots for the store's when they are other folders than at the start.

        An unmounted volume leaves an empty folder, or none: its uploads are not unknown, and new ones in that folder
        would be hidden when it comes back.

        Raises:
            StorageFailedError: They are not there, or others.
        """
        if self._roots is None:
            self._roots = self._present_roots()
            return
        for root, known in self._roots.items():
            error = None
            try:
                found = root.stat()
            except OSError as gone:
                error = gone
            else:
                if (found.st_dev, found.st_ino) == known:
                    continue
            log_failure(error or OSError(errno.ESTALE, "another folder is in its place"), root)
            message = "the store's folder is not there; acknowledged bytes are safe, try again when it is back"
            raise StorageFailedError(message) from error

    def _present_roots(self) -> dict[Path, tuple[int, int]] | None:
        """Tell which folders the roots are; None where one is missing."""
        try:
            found = {root: root.stat() for root in (self.layout.uploads, self.settings.keys_dir)}
        except OSError:
            return None
        return {root: (one.st_dev, one.st_ino) for root, one in found.items()}

    def free_bytes(self) -> int:
        """Return what is free above the floor."""
        numbers = os.statvfs(self.settings.root)
        return numbers.f_bavail * numbers.f_frsize - self.settings.free_space_floor_bytes

    def check_floor(self, more_bytes: int) -> None:
        """Refuse to write what would take the disk below its floor. For worker threads, before each batch.

        Raises:
            StorageFullError: It would.
        """
        if more_bytes > self.free_bytes():
            message = "the server's disk has no room for more at this time; go on with this upload later"
            raise StorageFullError(message)

    def absent(self) -> DropoffError:
        """Return what to say of an upload whose files are not there: it is unknown, or the store is away."""
        try:
            self.check_roots()
        except StorageFailedError as error:
            return error
        return not_found()

    def recipient_of(self, state: LogState) -> Recipient:
        """Return an upload's own recipient, parsed once."""
        known = self.known.get(state.id)
        if known is None:
            return state.recipient
        if known.recipient is None:
            known.recipient = state.recipient
        return known.recipient

    def load(self, upload_id: str) -> LogState:
        """Return the log's state, from memory while the log's size is the one remembered.

        Raises:
            UploadNotFoundError, UploadDamagedError, StorageFailedError: As the ports say.
        """
        if not is_upload_id(upload_id):
            raise not_found()
        if upload_id in self.distrusted:
            raise distrusted()
        paths = self.layout.of(upload_id)
        known = self.known.get(upload_id)
        try:
            if known is not None and paths.log.stat().st_size == known.state.log_bytes:
                return known.state
            log = self.disk.open_existing(paths.log)
            try:
                return read_durable(self.disk, log, upload_id, self.keys.signing)[0]
            finally:
                os.close(log)
        except FileNotFoundError:
            self.known.forget(upload_id)
            raise self.absent() from None
        except OSError as error:
            raise self.failed(upload_id, error) from error

    def waits(self, upload_id: str) -> bool:
        """Tell whether an upload plainly waits for bytes, only by its last record; False in any doubt."""
        if not is_upload_id(upload_id):
            return False
        try:
            log = self.disk.open_existing(self.layout.log_of(upload_id))
            try:
                return waiting_at(log, self.keys.signing) is not None
            finally:
                os.close(log)
        except OSError:
            return False

    def failed(self, upload_id: str, error: OSError) -> StorageFailedError | StorageFullError:
        """Return the refusal for an upload that the disk did not let us read; distrust it if a sync failed."""
        if isinstance(error, SyncFailedError):
            self.distrusted.add(upload_id)
            self.known.forget(upload_id)
            log_failure(error, self.layout.of(upload_id).folder)
            return distrusted()
        text = f" under upload {upload_id} ({error.strerror}); stored bytes stay"
        return refused(error, text, self.layout.of(upload_id).folder)

    def read_key_file(self, upload_id: str, path: Path) -> bytes:
        """Return an upload's envelope or receipt.

        Raises:
            FileNotFoundError: It is not there.
            StorageFailedError: It cannot be read.
        """
        try:
            return self.disk.read_small(path, _MOST_KEY_FILE_BYTES)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self.failed(upload_id, error) from error

    def open_log(self, upload_id: str) -> int:
        """Open a log for reading. Returns a descriptor for the caller to close.

        Raises:
            UploadNotFoundError, StorageFailedError: It is not there, or cannot be opened.
        """
        try:
            return self.disk.open_existing(self.layout.of(upload_id).log)
        except FileNotFoundError:
            raise self.absent() from None
        except OSError as error:
            raise self.failed(upload_id, error) from error

    def log_bytes(self, upload_id: str) -> int:
        """Return the size of a log, or -1 where it cannot be looked at."""
        try:
            return self.layout.log_of(upload_id).stat().st_size if is_upload_id(upload_id) else -1
        except OSError:
            return -1

    def verified(self, log: int, upload_id: str, *, every_signature: bool = False) -> Chain:
        """Verify a whole open log; without every signature, of what was verified before only what was added."""
        try:
            if every_signature:
                return read_chain(log, upload_id, self.keys.signing, every_signature=True)
            return self.chains.read(log, upload_id, self.keys.signing)
        except OSError as error:
            raise self.failed(upload_id, error) from error

    def chain(self, upload_id: str, *, every_signature: bool = False) -> Chain:
        """Open and verify a whole log."""
        log = self.open_log(upload_id)
        try:
            return self.verified(log, upload_id, every_signature=every_signature)
        finally:
            os.close(log)

    def wanted_digests(self, names: Iterable[str]) -> set[str]:
        """Return the digests to compute: the configured one and the named ones."""
        configured = set() if self.settings.digest == "none" else {self.settings.digest}
        return configured | set(names)


def refused(error: OSError, text: str, place: Path) -> StorageFailedError | StorageFullError:
    """Make the refusal for what the disk did not do: it is full, or it failed. Its path is only for the log.

    Args:
        error: The system's error.
        text: The text after the words for that.
        place: Where it was, for an error that names no path.
    """
    log_failure(error, place)
    # A sync that failed may have lost bytes, whatever the reason: more room does not mend that.
    if error.errno in {errno.ENOSPC, errno.EDQUOT} and not isinstance(error, SyncFailedError):
        return StorageFullError(f"the disk is full{text}")
    return StorageFailedError(f"the disk failed{text}")


def log_failure(error: OSError, place: Path) -> None:
    """Log which error it was, and where."""
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    _log.error("the disk failed", extra={"errno": name, "path": str(error.filename or place)})


def distrusted() -> StorageFailedError:
    """Make the error for an upload whose state on disk is unknown."""
    return StorageFailedError("the disk failed under this upload; it is refused until the server has been restarted")


def new_hash(name: str) -> Any:  # noqa: ANN401 - hashlib's and blake3's objects share no type
    """Start a digest by its name."""
    return blake3() if name == "blake3" else running_hash(name)
