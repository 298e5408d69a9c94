"""Threads that do blocking work for the event loop, with one queue and no more than that.

`ThreadPoolExecutor` does the same with a future of its own for each piece of work, whose locks and conditions cost as
much as the handing over itself, several times a request: docs/performance.md.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


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

    def answer(self, result: object, error: BaseException | None) -> None:
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

    def __init__(self, count: int, name: str) -> None:
        """Start none yet.

        Args:
            count: How many threads at most.
            name: What they are called.
        """
        self._count, self._name = count, name
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
            message = "the store's threads have ended"
            raise RuntimeError(message)
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
                job.loop.call_soon_threadsafe(job.answer, result, error)
            # Nothing of it is kept alive while the thread waits for more.
            del job, result, error
