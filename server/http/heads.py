"""aiohttp's parser of requests, which also says where in a request it is, and refuses a head that is too large.

Relies on aiohttp's `HttpRequestParser.feed_data`, on `StreamReader.total_bytes` and `is_eof`;
tests/unit/server/http/test_aiohttp.py fails if that changes.
"""

from typing import Any

from aiohttp import StreamReader, hdrs
from aiohttp.http import HttpProcessingError, HttpRequestParser

MOST_HEAD_BYTES = 64 << 10
"""aiohttp caps only each line: 128 of 32 KiB are 4 MiB, which it keeps twice."""
_PIECE_BYTES = 4 << 10


class HeadParser(HttpRequestParser):
    """The parser of one connection."""

    def __init__(self, *arguments: Any, heads: int, **more: Any) -> None:  # noqa: ANN401 - aiohttp's own
        """Begin before a request; so many came before it."""
        super().__init__(*arguments, **more)
        self.heads = heads
        """How many have come whole on this connection."""
        self.pending_bytes = 0
        """The bytes since the last whole head, or the last byte or the end of a body."""
        self._body: StreamReader | None = None
        self._body_bytes = 0

    @property
    def in_body(self) -> bool:
        """Tell whether the next byte belongs to a body."""
        return self._body is not None and not self._body.is_eof()

    @property
    def in_head(self) -> bool:
        """Tell whether a head has begun and is not whole."""
        return self.pending_bytes > 0 and not self.in_body

    def feed_data(self, data: bytes, *others: Any, **more: Any) -> Any:  # noqa: ANN401 - aiohttp's own
        """Parse what came.

        Raises:
            HttpProcessingError: It is no HTTP, or more has come than a head may have; then nothing more is kept.
        """
        if self.pending_bytes > MOST_HEAD_BYTES:
            raise HttpProcessingError(code=400, message="the head is too large")
        body, before = self._body, self._body.total_bytes if self._body is not None else 0
        in_body = self.in_body
        found = super().feed_data(data, *others, **more)
        messages = found[0]
        if messages:
            self.heads += len(messages)
            message, self._body = messages[-1]
            self._body_bytes = int(message.headers.get(hdrs.CONTENT_LENGTH, 0))
        goes_on = messages or (in_body and body is not None and (body.is_eof() or body.total_bytes > before))
        self.pending_bytes = 0 if goes_on else self.pending_bytes + len(data)
        return found

    def piece_bytes(self, came: int) -> int:
        """Return how many of the bytes that came to feed at once, so that `in_head` is right after the last of them.

        That shows only if a request ends with the last byte of a piece, or not: so the last byte is a piece by itself,
        unless a body is sure to go on behind it. And a head is not fed far beyond what it may have.
        """
        if self._body is None or self._body.is_eof():
            return max(1, min(came - 1, _PIECE_BYTES))
        return came if self._body.total_bytes + came < self._body_bytes else max(1, came - 1)
