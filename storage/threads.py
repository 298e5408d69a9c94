"""The store's threads, which do blocking work for the event loop: few to receive, seal and read, more for the disk.

`ThreadPoolExecutor` would do for all of them, with a future of its own for each piece of work, whose locks and
conditions cost as much as the handing over itself, several times a request: docs/develop/performance.md.
"""

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_DISK_THREADS = 16
"""Syncs side by side share a commit of the file system's journal."""
_OTHER_THREADS = 4
_READING_THREADS = 4
_LONG_LOG_BYTES = 4 << 20
"""Some 10,000 commits: verifying more takes long enough for others to notice."""
_PROCESSORS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
"""All that the process may use, even where a server keeps its other threads on one (`server.resources`)."""
_BESIDE_BYTES = 128 << 10
"""From this size on, handing the hashing to another thread costs less than it saves."""


class _Job:
    """A piece of work, and who waits for it. `taken` is acquired by the thread that begins it, or who gives it up."""

    __slots__ = ("arguments", "ended", "future", "loop", "taken", "waiter", "work")

    def __init__(self, work: Callable[..., Any], arguments: tuple[object, ...]) -> None:
        self.work, self.arguments = work, arguments
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.taken = threading.Lock()
        self.ended = False
        self.waiter: asyncio.Future[None] | None = None

    def settle(self, result: object, error: BaseException | None) -> None:
        """Say what came of it, on the event loop."""
        self.ended = True
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        elif isinstance(error, StopIteration):  # which a future does not take
            self.future.set_exception(RuntimeError("work raised StopIteration"))
        else:
            self.future.set_exception(error)

    async def end(self) -> None:
        """Wait until the thread is done with it, however often the one who waits is cancelled."""
        while not self.ended:
            self.waiter = self.loop.create_future()
            with contextlib.suppress(asyncio.CancelledError):
                await self.waiter


class Workers:
    """Some threads; each starts with a piece of work, until there are as many as allowed."""

    def __init__(self, count: int, name: str, *, spread: bool = False) -> None:
        """Start none yet.

        Args:
            count: How many threads at most.
            name: Their name.
            spread: Whether they run on every processor: their work mostly needs no interpreter.
        """
        self._count, self._name, self._spread = count, name, spread
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Run work in a thread and return what it returns.

        Cancelled before a thread has begun with it, the work is not done; else this returns when it has ended.

        Raises:
            RuntimeError: The threads were closed.
        """
        if self._closed:
            raise RuntimeError("the store's threads have ended")
        job = _Job(work, arguments)
        self._queue.put(job)
        if len(self._threads) < self._count:
            # A daemon, so that a program that forgets to close can end.
            thread = threading.Thread(target=self._serve, name=f"{self._name}_{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        try:
            return await job.future  # type: ignore[no-any-return] # what the work returned
        except asyncio.CancelledError:
            if not job.taken.acquire(blocking=False):
                await job.end()
            raise

    def close(self) -> None:
        """Do what is queued, take nothing more, and return when every thread has ended."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        if self._spread:
            spread()
        while (job := self._queue.get()) is not None:
            if not job.taken.acquire(blocking=False):
                continue
            result, error = None, None
            try:
                result = job.work(*job.arguments)
            except BaseException as raised:  # noqa: BLE001 - the thread must go on, and whoever waits hears of it
                error = raised
            # The loop may have been closed by someone who did not wait; there is nobody left to tell.
            with contextlib.suppress(RuntimeError):
                job.loop.call_soon_threadsafe(job.settle, result, error)
            # Nothing of it is kept alive while the thread waits for more.
            del job, result, error


class Threads:
    """Runs blocking work beside the event loop.

    The caller gets control back when the work has ended, even if it was cancelled: then it may release the descriptors
    and buffers of the work.
    """

    def __init__(self, *, sync: bool = True) -> None:
        """Make the pools; threads start when there is work. Without syncs few threads wait for the disk."""
        cores = self._cores = max(2, os.cpu_count() or 2)
        self._turns = 0
        """Uploads that are being received and sealed, or wait for a worker to do so."""
        self._sealers = Workers(cores, "seal", spread=True)
        self._digesters = ThreadPoolExecutor(cores, "digest", initializer=spread)
        self._workers = Workers(_DISK_THREADS if sync else _OTHER_THREADS, "disk")
        self._readers = Workers(_READING_THREADS, "read", spread=True)

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
            A function that waits for the end of it; the bytes stay as they are until then.
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


def spread() -> None:
    """Let the calling thread run on every processor."""
    if _PROCESSORS is not None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, _PROCESSORS)


def _nothing() -> None:
    """Stand for work that has ended."""
