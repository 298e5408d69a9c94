"""A request's body as the engine pulls it: the event loop waits, a worker thread copies. Constant memory."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import StreamReader

from dropoff_tus.errors import BodyCutError, BodySlowError, BodyTimeoutError

_FETCH_BYTES = 1 << 20
_RATE_GRACE_SECONDS = 30.0


@dataclass(slots=True)
class BodyRate:
    """The rate below which a body is ended; it can change while the server runs."""

    min_bytes_per_second: float


class Pace:
    """The steps before waiting for a body: the go-ahead to send it, once, and a look at how fast it comes."""

    def __init__(
        self,
        before_first_byte: Callable[[], Awaitable[None]] | None = None,
        min_bytes_per_second: float = 0,
        count: Callable[[int], None] = lambda _bytes: None,
    ) -> None:
        """Take what sends 100 Continue once the checks have passed, the rate below which a body is ended, and a count.

        It counts the bytes that were received, on the event loop while they come.
        """
        self._before_first_byte = before_first_byte
        self._count, self._counted_bytes = count, 0
        self._min_rate, self._started = min_bytes_per_second, time.monotonic()

    async def keep(self, received_bytes: int) -> None:
        """Do what is due.

        Raises:
            BodyCutError: The client went away.
            BodySlowError: The body comes too slowly.
        """
        if self._before_first_byte is not None:
            first, self._before_first_byte = self._before_first_byte, None
            try:
                await first()
            except ConnectionError:
                raise cut_error() from None
        self.note(received_bytes)
        seconds = time.monotonic() - self._started
        if self._min_rate and seconds > _RATE_GRACE_SECONDS and received_bytes < self._min_rate * seconds:
            raise BodySlowError("the body came too slowly")

    def note(self, received_bytes: int) -> None:
        """Count what came since the last time."""
        self._count(received_bytes - self._counted_bytes)
        self._counted_bytes = received_bytes


def cut_error() -> BodyCutError:
    """Make the one error for a connection that ended in the middle of its body."""
    return BodyCutError("the connection broke in the middle of the body")


class StreamBody:
    """Implements `dropoff_tus.ports.store.Body` over aiohttp's parsed stream.

    `wait` runs on the event loop and `receive_into` in a worker, never at the same time: the engine alternates.
    """

    def __init__(self, content: StreamReader, pace: Pace | None = None) -> None:
        """Take the stream."""
        self._content, self._pace = content, pace or Pace()
        self._chunks: deque[memoryview] = deque()
        self._ended = False
        self._failure: BaseException | None = None
        self._pending: asyncio.Task[bytes] | None = None
        self._waker: asyncio.Future[None] | None = None
        self._woken = False
        self.received_bytes = 0

    async def wait(self, timeout_seconds: float) -> None:
        """Return when bytes or the end are there, when woken, or after the timeout."""
        await self._pace.keep(self.received_bytes)
        if self._chunks or self._ended or self._failure is not None:
            return
        if self._pending is None and self._take():
            return
        if self._woken:
            self._woken = False
            return
        loop = asyncio.get_running_loop()
        if self._pending is None:
            self._pending = loop.create_task(self._content.readany())
        self._waker = loop.create_future()
        futures: set[asyncio.Future[Any]] = {self._pending, self._waker}
        await asyncio.wait(futures, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        self._waker, self._woken = None, False
        if self._pending.done():
            task, self._pending = self._pending, None
            failure = task.exception() if not task.cancelled() else asyncio.CancelledError()
            if failure is not None:
                self._fail(failure)
            else:
                self._keep(task.result())
                self._take()

    async def is_empty(self, timeout_seconds: float) -> bool:
        """Wait for the first byte or the end, and tell whether it is the end.

        Raises:
            BodyCutError: The client went away before.
            BodyTimeoutError: Neither came in time, or too slowly.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while not self._chunks and not self._ended and self._failure is None:
                    await self.wait(timeout_seconds)
        except TimeoutError:
            raise BodyTimeoutError("the body neither began nor ended in time; nothing was written") from None
        if self._failure is not None and not self._chunks:
            raise cut_error()
        return not self._chunks

    def wake(self) -> None:
        """Make `wait` return at once."""
        self._woken = True
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    def receive_into(self, buffer: memoryview) -> int | None:
        """Copy what `wait` fetched."""
        filled = 0
        while self._chunks and filled < len(buffer):
            chunk = self._chunks[0]
            count = min(len(chunk), len(buffer) - filled)
            buffer[filled : filled + count] = chunk[:count]
            filled += count
            if count == len(chunk):
                self._chunks.popleft()
            else:
                self._chunks[0] = chunk[count:]
        if filled:
            self.received_bytes += filled
            return filled
        if self._failure is not None:
            raise cut_error()
        return 0 if self._ended else None

    async def close(self) -> None:
        """Stop waiting for bytes nobody wants."""
        self._pace.note(self.received_bytes)
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.wait({self._pending})
            self._pending = None

    def _take(self, most_bytes: int = _FETCH_BYTES) -> bool:
        """Fetch what is parsed already; tell whether there is anything to do."""
        try:
            fetched = 0
            while fetched < most_bytes:
                piece = self._content.read_nowait(-1)
                if not piece:
                    break
                fetched += len(piece)
                self._keep(piece)
            if self._content.at_eof():
                self._ended = True
        except Exception as error:  # noqa: BLE001 - whatever broke the stream, the body is cut
            self._fail(error)
        return bool(self._chunks) or self._ended or self._failure is not None

    def _fail(self, error: BaseException) -> None:
        """Note that the body is cut, and keep what had arrived: aiohttp holds it back once the stream has failed."""
        if self._failure is None:
            for piece in self._content._buffer:  # noqa: SLF001 - no public way; a test fails if it goes away
                self._keep(bytes(piece))
        self._failure = error

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._chunks.append(memoryview(piece))
