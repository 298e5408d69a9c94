"""The store's threads: one a core to receive and seal, one a core for digests, few to read, more for the disk."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from storage.files.workers import Workers

T = TypeVar("T")
_DISK_THREADS = 16
"""Syncs side by side share a commit of the file system's journal."""
_OTHER_THREADS = 4
_READING_THREADS = 4
_LONG_LOG_BYTES = 4 << 20
"""Some 10,000 commits: verifying more takes long enough for others to notice."""
_BESIDE_BYTES = 128 << 10
"""From this size on, handing the hashing to another thread costs less than it saves."""


class Pools:
    """Runs blocking work beside the event loop.

    Whoever awaits it gets control back when the work has ended, also when cancelled: what the work uses, descriptors
    and buffers, may be let go of afterwards.
    """

    def __init__(self, *, sync: bool = True) -> None:
        """Make the pools; threads start when there is work. Without syncs few threads wait for the disk."""
        cores = self._cores = max(2, os.cpu_count() or 2)
        self._turns = 0
        """Uploads that are being received and sealed, or wait for a worker to do so."""
        self._sealers = Workers(cores, "seal")
        self._digesters = ThreadPoolExecutor(cores, thread_name_prefix="digest")
        self._workers = Workers(_DISK_THREADS if sync else _OTHER_THREADS, "disk")
        self._readers = Workers(_READING_THREADS, "read")

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Run file work."""
        return await self._workers.run(work, *arguments)

    async def run_reading(self, work: Callable[..., T], *arguments: object) -> T:
        """Run what reads an upload's bytes, however many ask for some: nothing else waits for these threads."""
        return await self._readers.run(work, *arguments)

    async def run_on_log(self, log_bytes: int, work: Callable[..., T], *arguments: object) -> T:
        """Run work that reads a whole log of that size: with a long one it is reading, else file work."""
        return await (self._readers if log_bytes > _LONG_LOG_BYTES else self._workers).run(work, *arguments)

    async def run_sealing(self, work: Callable[..., T], *arguments: object) -> T:
        """Run the receiving and sealing of a body."""
        self._turns += 1
        try:
            return await self._sealers.run(work, *arguments)
        finally:
            self._turns -= 1

    def digest_beside(self, work: Callable[[memoryview], object], data: memoryview) -> Callable[[], None]:
        """Hash beside the calling worker, where that helps: a large piece, and a core that no other worker uses.

        Returns:
            What waits for the end of it; the bytes stay as they are until then.
        """
        if data.nbytes < _BESIDE_BYTES or self._turns >= self._cores:
            work(data)
            return _nothing
        running = self._digesters.submit(work, data)

        def wait() -> None:
            running.result()

        return wait

    def close(self) -> None:
        """Let the threads end what they do, and go."""
        for workers in (self._sealers, self._workers, self._readers):
            workers.close()
        self._digesters.shutdown(wait=True)


def _nothing() -> None:
    """Stand for work that has ended."""
