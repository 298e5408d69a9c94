"""A memory of verified logs: a request for one byte of a long upload reads one block of its log.

Source: docs/format.md, Recovery.
"""

import contextlib
import threading
from collections import OrderedDict
from weakref import WeakValueDictionary

from dropoff_tus.errors import UploadDamagedError
from storage.keyring.signing import SigningKey
from storage.uploads.chain import Chain
from storage.uploads.recovery import read_chain

_MOST_MARKS = 50_000
"""Some 16 MiB, which stand for 3 GiB of logs."""
_STATE_MARKS = 16
"""The cost of a chain beside its marks, in marks."""


class Chains:
    """A bounded memory of verified logs. Any thread may use it."""

    def __init__(self) -> None:
        """Start knowing nothing."""
        self._lock = threading.Lock()
        self._chains: OrderedDict[str, Chain] = OrderedDict()
        self._marks = 0
        self._turns: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    def read(self, log: int, upload_id: str, key: SigningKey) -> Chain:
        """Verify a log, or what was added to it since it was verified. Other callers wait for it.

        Args:
            log: Open descriptor.
            upload_id: The upload that it should belong to.
            key: Verifies.

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
                    chain = read_chain(log, upload_id, key, known=known)
            chain = chain or read_chain(log, upload_id, key)
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
