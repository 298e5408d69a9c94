"""A large request body straight from its socket: the worker that seals it receives it, and the event loop only waits.

For a body of known length on plain TCP or a Unix socket, which is what a proxy sends us. What aiohttp has parsed is
drained first; then its transport is paused and the rest is read from a duplicate of the descriptor, never past the
body's end: a pipelined request stays in the kernel. Back-pressure is the TCP window. When the whole body was taken, the
connection goes on with a fresh parser; else it has to be closed.

Relies on aiohttp's `StreamReader.total_bytes`, and on a paused transport not reading; tests/unit/server/test_aiohttp.py
fails if that changes.
"""

import asyncio
import contextlib
import os
import socket

from aiohttp import hdrs, web

from server.body import Pace, StreamBody, cut_error
from server.connection import HardenedHandler

LEAST_BYTES = 1 << 20
"""Below this, taking the socket over costs more than it saves."""
_LOW_WATER_BYTES = 512 << 10
"""The kernel wakes us when so much is there, or the client's end; a slower client is looked after on time-outs."""
_LOOK_SECONDS = 0.5


def request_body(request: web.Request, pace: Pace) -> StreamBody:
    """Return the body of a request, by way of its socket where that is faster."""
    headers, protocol = request.headers, request.protocol
    length = request.content_length
    plain = (
        length is not None
        and length - request.content.total_bytes >= LEAST_BYTES
        and len(headers.getall(hdrs.CONTENT_LENGTH, ())) == 1
        and hdrs.TRANSFER_ENCODING not in headers
        and isinstance(protocol, HardenedHandler)
        and request.transport is not None
        and request.transport.get_extra_info("sslcontext") is None
    )
    if plain and length is not None and isinstance(protocol, HardenedHandler):
        return SocketBody(request, protocol, length, pace)
    return StreamBody(request.content, pace)


class SocketBody(StreamBody):
    """A body that aiohttp has parsed the beginning of; the rest comes from the socket.

    `wait` runs on the event loop and `receive_into` in a worker, never at the same time: the engine alternates.
    """

    def __init__(self, request: web.Request, protocol: HardenedHandler, length: int, pace: Pace) -> None:
        """Read nothing yet: the first `wait` takes the socket over."""
        super().__init__(request.content, pace)
        self._protocol, self._length = protocol, length
        self._left = length
        self._socket: socket.socket | None = None
        self._low_water = 0

    async def wait(self, timeout_seconds: float) -> None:
        """Return when bytes or the end are there, when woken, or after the timeout."""
        if self._socket is None:
            await self._pace.keep(self.received_bytes)
            if not self._take_over():
                # The end, or the client's, came before; or the connection is gone.
                await super().wait(timeout_seconds)
            return
        await self._pace.keep(self.received_bytes)
        if self._chunks or not self._left:
            return
        if self._woken:
            self._woken = False
            return
        self._set_low_water(self._socket)
        loop, descriptor = asyncio.get_running_loop(), self._socket.fileno()
        self._waker = loop.create_future()
        loop.add_reader(descriptor, self.wake)
        # Fewer bytes than the low-water mark do not wake us, so we look for them now and then.
        timer = loop.call_later(min(timeout_seconds, _LOOK_SECONDS), self.wake)
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
            raise cut_error() from None
        if not count:
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
        with contextlib.suppress(OSError):
            taken_over.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        taken_over.close()
        if not self._left:
            self._content.feed_eof()
            self._protocol.renew_parser()
        # Else aiohttp throws away what still comes, for a moment, so that the client sees the answer; then it closes.
        if self._protocol.transport is not None:
            self._protocol.transport.resume_reading()

    def _take_over(self) -> bool:
        """Drain what is parsed, then pause the transport: in this order, since draining may resume it."""
        self._take(self._length)
        transport = self._protocol.transport
        if self._ended or self._failure is not None or transport is None:
            return False
        transport.pause_reading()
        self._left = self._length - self._content.total_bytes
        self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        return True

    def _set_low_water(self, taken_over: socket.socket) -> None:
        wanted = min(self._left, _LOW_WATER_BYTES)
        if wanted != self._low_water:
            self._low_water = wanted
            with contextlib.suppress(OSError):
                taken_over.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
