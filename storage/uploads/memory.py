"""The memory of uploads in this process. All of it can be read again, so it is bounded; any thread may use it.

The content of a log is believed while the log has the same size, so another process may write between two requests.

Source: docs/reference/format.md, Recovery.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from blake3 import blake3

from dropoff_tus.checksum import running_hash
from dropoff_tus.errors import StorageFailedError, UploadDamagedError
from storage.age import Recipient
from storage.backing import Lines
from storage.keyring.envelope import Secrets
from storage.keyring.signing import SigningKey
from storage.uploads.chain import Chain
from storage.uploads.log import LogState
from storage.uploads.recovery import read_chain

_MOST_UPLOADS = 4096
_MOST_MARKS = 50_000
"""Some 16 MiB, for 3 GiB of logs."""
_STATE_MARKS = 16
"""The cost of a chain beside its marks, in marks."""


def new_hash(name: str) -> Any:  # noqa: ANN401 - hashlib's and blake3's objects share no type
    """Start a digest by its name."""
    return blake3() if name == "blake3" else running_hash(name)


class RunningDigests:
    """Digests of an upload's first bytes, carried along while they come. They answer for that position only."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """Start with no byte."""
        self._hashes = {name: new_hash(name) for name in names}
        self.position = 0

    def __bool__(self) -> bool:
        """Tell whether there is anything to feed."""
        return bool(self._hashes)

    def feed(self, data: memoryview) -> None:
        """Take the bytes that follow."""
        # Until all have them they stand nowhere.
        position, self.position = self.position, -1
        for value in self._hashes.values():
            value.update(data)
        self.position = position + data.nbytes

    def copy(self) -> "RunningDigests":
        """Return what goes on from here on its own."""
        other = RunningDigests()
        other._hashes = {name: value.copy() for name, value in self._hashes.items()}
        other.position = self.position
        return other

    def at(self, position: int, names: set[str]) -> dict[str, bytes] | None:
        """Return these digests of the bytes up to a position; None if they were not carried to just there."""
        if position != self.position or not names <= self._hashes.keys():
            return None
        return {name: self._hashes[name].digest() for name in names}


@dataclass(slots=True)
class _Known:
    state: LogState
    digests: RunningDigests = field(default_factory=RunningDigests)
    secrets: Secrets | None = None
    recipient: Recipient | None = None
    vouched: bool = False


class UploadMemory:
    """Where uploads stand, their running digests and secrets, which of them are distrusted, and verified chains."""

    def __init__(self) -> None:
        """Start knowing nothing."""
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._distrusted: set[str] = set()
        self._lock = threading.Lock()
        self._chains: OrderedDict[str, Chain] = OrderedDict()
        self._marks = 0
        self._turns: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    # ---- where an upload stands -----------------------------------------------------------------------------

    def state(self, upload_id: str) -> LogState | None:
        """Return where an upload stood when it was last read or written here."""
        known = self._known.get(upload_id)
        return None if known is None else known.state

    def created(self, state: LogState, digests: RunningDigests, secrets: Secrets, recipient: Recipient) -> None:
        """Remember an upload that was made here."""
        self._put(_Known(state, digests, secrets, recipient, vouched=True))

    def recovered(self, state: LogState) -> None:
        """Remember what was read of an upload, and nothing that was known of it before."""
        self._put(_Known(state))

    def advanced(self, state: LogState) -> None:
        """Remember where an upload stands after what was written here."""
        known = self._known.get(state.id)
        if known is None:
            self._put(_Known(state))
        else:
            known.state = state

    def forget(self, upload_id: str) -> None:
        """Know nothing of an upload any more."""
        self._known.pop(upload_id, None)

    def distrust(self, upload_id: str) -> None:
        """Refuse an upload whose state on disk is unknown since a sync failed, as long as this process lives."""
        self._distrusted.add(upload_id)
        self.forget(upload_id)

    def check_trusted(self, upload_id: str) -> None:
        """Refuse an upload that is distrusted.

        Raises:
            StorageFailedError: It is.
        """
        if upload_id in self._distrusted:
            raise distrusted()

    def _put(self, known: _Known) -> None:
        self._known[known.state.id] = known
        with contextlib.suppress(KeyError):
            self._known.move_to_end(known.state.id)
        while len(self._known) > _MOST_UPLOADS:
            with contextlib.suppress(KeyError):
                self._known.popitem(last=False)

    # ---- its keys and digests -------------------------------------------------------------------------------

    def is_vouched(self, upload_id: str) -> bool:
        """Tell whether this process made the upload's envelope, or has opened it."""
        known = self._known.get(upload_id)
        return known is not None and known.vouched

    def vouch(self, upload_id: str, secrets: Secrets) -> None:
        """Remember what was in the envelope."""
        known = self._known.get(upload_id)
        if known is not None:
            known.secrets, known.vouched = secrets, True

    def secrets(self, upload_id: str) -> Secrets | None:
        """Return what is remembered of the envelope."""
        known = self._known.get(upload_id)
        return None if known is None else known.secrets

    def forget_secrets(self, upload_id: str) -> None:
        """Keep nothing of the envelope, which is gone."""
        known = self._known.get(upload_id)
        if known is not None:
            known.secrets = None

    def recipient(self, state: LogState) -> Recipient:
        """Return an upload's own recipient, parsed once."""
        known = self._known.get(state.id)
        if known is None:
            return state.recipient
        if known.recipient is None:
            known.recipient = state.recipient
        return known.recipient

    def digests(self, upload_id: str, position: int) -> RunningDigests:
        """Return the digests that were carried to a position; otherwise some that know nothing, now and later."""
        known = self._known.get(upload_id)
        if known is None:
            return RunningDigests()
        if known.digests.position != position:
            known.digests = RunningDigests()
        return known.digests

    def carry(self, upload_id: str, digests: RunningDigests) -> None:
        """Go on with these digests."""
        known = self._known.get(upload_id)
        if known is not None:
            known.digests = digests

    # ---- verified chains ------------------------------------------------------------------------------------

    def verified(self, lines: Lines, upload_id: str, key: SigningKey) -> Chain:
        """Verify a log, or what was added to it since it was verified. Other callers wait for it.

        Raises:
            UploadNotFoundError, UploadDamagedError, KeyMissingError: As `read_chain`.
        """
        with self._lock:
            turn = self._turns.setdefault(upload_id, threading.Lock())
        with turn:
            with self._lock:
                known = self._take(upload_id)
            chain = None
            if known is not None:
                # Another log that verifies may stand there by now: that of a tombstone, or one from a backup.
                with contextlib.suppress(UploadDamagedError):
                    chain = read_chain(lines, upload_id, key, known=known)
            chain = chain or read_chain(lines, upload_id, key)
            with self._lock:
                self._keep(upload_id, chain)
            return chain

    def _take(self, upload_id: str) -> Chain | None:
        chain = self._chains.pop(upload_id, None)
        if chain is not None:
            self._marks -= len(chain.marks) + _STATE_MARKS
        return chain

    def _keep(self, upload_id: str, chain: Chain) -> None:
        self._take(upload_id)
        self._chains[upload_id] = chain
        self._marks += len(chain.marks) + _STATE_MARKS
        while self._marks > _MOST_MARKS and len(self._chains) > 1:
            self._take(next(iter(self._chains)))


def distrusted() -> StorageFailedError:
    """Make the error for an upload whose state on disk is unknown."""
    return StorageFailedError("the disk failed under this upload; it is refused until the server has been restarted")
