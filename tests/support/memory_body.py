"""A request body that a test feeds piece by piece, or all at once."""

import asyncio
from contextlib import suppress

from dropoff_tus.errors import BodyCutError


class MemoryBody:
    """Implements `dropoff_tus.ports.store.Body`."""

    def __init__(self, content: bytes = b"", *, ended: bool = True) -> None:
        """Hold content; with `ended` false more may be fed, or the connection cut."""
        self._content = bytearray(content)
        self._ended = ended
        self._cut = self._awaited = False
        self._changed = asyncio.Event()
        self.taken_bytes = 0

    def feed(self, content: bytes) -> None:
        """Let more bytes arrive."""
        self._content += content
        self._changed.set()

    def end(self) -> None:
        """Let the body end as it should."""
        self._ended = True
        self._changed.set()

    def cut(self) -> None:
        """Let the client go away in the middle."""
        self._cut = True
        self._changed.set()

    async def until_taken(self, count: int) -> None:
        """Wait until that many bytes were received, and the writer, done with them, waits for more."""
        while self.taken_bytes < count or not self._awaited:  # noqa: ASYNC110 - a worker thread takes them, and tells nobody
            await asyncio.sleep(0.001)

    async def wait(self, timeout_seconds: float) -> None:
        """Wait for the test to do something."""
        if self._content or self._ended or self._cut:
            return
        self._awaited = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_seconds)
        self._awaited = False
        self._changed.clear()

    def wake(self) -> None:
        """Make a pending wait return."""
        self._changed.set()

    def receive_into(self, buffer: memoryview) -> int | None:
        """Hand out what has arrived."""
        if self._content:
            count = min(len(buffer), len(self._content))
            buffer[:count] = self._content[:count]
            del self._content[:count]
            self.taken_bytes += count
            return count
        if self._cut:
            raise BodyCutError("the client went away")
        return 0 if self._ended else None
