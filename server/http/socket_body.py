"""A large request body straight from its socket: the worker that seals it receives it, and the event loop only waits.

For a body of known length on plain TCP or a Unix socket, which is what a proxy sends us. The bytes that aiohttp has
parsed are drained first; then its transport is paused and the rest is read from a duplicate of the descriptor, never
past the body's end: a pipelined request stays in the kernel. Back-pressure is the TCP window. When the whole body was
taken, the connection goes on with a fresh parser; else it is closed, and the answer says so.

Relies on aiohttp's `StreamReader.total_bytes`, and on a paused transport not reading;
tests/unit/server/http/test_aiohttp.py fails if that changes.
"""

import asyncio
import contextlib
import os
import socket

from aiohttp import hdrs, web

from server.http.body import Pace, StreamBody, cut_error
from server.http.connection import HardenedHandler

LEAST_BYTES = 1 << 20
"""Below this, taking the socket over costs more than it saves."""
_LOW_WATER_BYTES = 512 << 10
"""While bytes come, the kernel wakes us when so many are there, or the client's end."""
_LOOK_SECONDS = 0.5
"""A client that is slower than that is looked after so often; one that stalls wakes us with its next byte."""

RECEIVED_BY: web.RequestKey[str] = web.RequestKey("received_by", str)
"""`socket` on a request whose body came this way."""
CUT: web.RequestKey[bool] = web.RequestKey("cut", bool)
"""Set on a request of whose body a part was not taken: nothing can follow it on its connection."""


def request_body(request: web.Request, pace: Pace) -> StreamBody:
    """Return the body of a request, by way of its socket where that is faster."""
    headers, protocol, transport = request.headers, request.protocol, request.transport
    length = request.content_length
    if transport is None and not request.content.is_eof():
        # The connection was lost before the handler began, and aiohttp tells nobody.
        request.content.set_exception(ConnectionResetError("the client went away"))
    if (
        length is None
        or length - request.content.total_bytes < LEAST_BYTES
        or len(headers.getall(hdrs.CONTENT_LENGTH, ())) != 1
        or hdrs.TRANSFER_ENCODING in headers
        or not isinstance(protocol, HardenedHandler)
        or transport is None
        or transport.get_extra_info("sslcontext") is not None
    ):
        return StreamBody(request.content, pace)
    return SocketBody(request, protocol, length, pace)


class SocketBody(StreamBody):
    """A body that aiohttp has parsed the beginning of; the rest comes from the socket.

    `wait` runs on the event loop and `receive_into` in a worker, never at the same time: the engine alternates.
    """

    def __init__(self, request: web.Request, protocol: HardenedHandler, length: int, pace: Pace) -> None:
        """Read nothing yet: the first `wait` takes the socket over."""
        super().__init__(request.content, pace)
        self._request, self._protocol = request, protocol
        self._length = self._left = length
        self._tried = self._gone = False
        self._socket: socket.socket | None = None
        self._low_water = 0
        self._seen_bytes = 0

    async def wait(self, timeout_seconds: float) -> None:
        """Return when bytes or the end are there, when woken, or after the timeout."""
        await self._pace.keep(self.received_bytes)
        if not self._tried:
            self._tried = True
            self._socket = self._take_over()
            if self._socket is not None:
                return
        if self._socket is None:
            await super().wait(timeout_seconds)
            return
        if self._chunks or not self._left:
            return
        if self._woken:
            self._woken = False
            return
        stalled, self._seen_bytes = self.received_bytes == self._seen_bytes, self.received_bytes
        self._set_low_water(self._socket, 1 if stalled else min(self._left, _LOW_WATER_BYTES))
        seconds = timeout_seconds if stalled else min(timeout_seconds, _LOOK_SECONDS)
        loop, descriptor = asyncio.get_running_loop(), self._socket.fileno()
        self._waker = loop.create_future()
        loop.add_reader(descriptor, self.wake)
        timer = loop.call_later(seconds, self.wake)
        try:
            await self._waker
        finally:
            timer.cancel()
            loop.remove_reader(descriptor)
            self._waker, self._woken = None, False

    def receive_into(self, buffer: memoryview) -> int | None:
        """Receive from the socket, after what aiohttp had parsed."""
        if self._chunks or self._socket is None:
            return super().receive_into(buffer)
        if not self._left:
            return 0
        try:
            count = self._socket.recv_into(buffer[: self._left])
        except BlockingIOError:
            return None
        except OSError:
            count = 0
        if not count:
            self._gone = True
            raise cut_error()
        self._left -= count
        self.received_bytes += count
        return count

    async def close(self) -> None:
        """Give the connection back to aiohttp: for the next request, or, after a part of the body, for its end."""
        taken_over, self._socket = self._socket, None
        if taken_over is None:
            await super().close()
            return
        self._pace.note(self.received_bytes)
        self._set_low_water(taken_over, 1)
        taken_over.close()
        if self._left:
            self._request[CUT] = True
        else:
            self._protocol.renew_parser()
        if self._gone or not self._left:
            self._content.feed_eof()
        # aiohttp throws away what still comes, for a moment, so that the client sees the answer; then it closes. It
        # would throw the answer away too if it read the client's end.
        if not self._gone and self._protocol.transport is not None:
            self._protocol.transport.resume_reading()

    def _take_over(self) -> socket.socket | None:
        """Drain what is parsed, then pause the transport: in this order, since draining may resume it.

        Returns:
            A duplicate of the socket; None where the rest has to come through the parser: its end, or the client's,
            has come already, or the connection is gone, or no descriptor is left.
        """
        transport = self._protocol.transport
        # The number of a closed descriptor may be another connection's by now.
        if transport is None or transport.is_closing():
            return None
        try:
            duplicate = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        except OSError:
            return None
        self._take(self._length)
        if self._ended or self._failure is not None:
            duplicate.close()
            return None
        transport.pause_reading()
        self._left = self._length - self._content.total_bytes
        self._request[RECEIVED_BY] = "socket"
        return duplicate

    def _set_low_water(self, taken_over: socket.socket, wanted: int) -> None:
        if wanted != self._low_water:
            self._low_water = wanted
            with contextlib.suppress(OSError):
                taken_over.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
