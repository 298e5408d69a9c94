"""A large body from its socket, on real connections, with asyncio's own event loop and with uvloop."""

import asyncio
import contextlib
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web

from dropoff_tus.errors import BodyCutError
from server.http.body import Pace, StreamBody
from server.http.connection import HardenedHandler
from server.http.socket_body import CUT, LEAST_BYTES, RECEIVED_BY, SocketBody, request_body
from tests.support.aio import async_test_on_both_loops
from tests.support.hardened import hardened_server, listening

_SECONDS = 5
_LENGTH = 3 * LEAST_BYTES


class _Site:
    """Receives bodies as the store does: the event loop waits, a thread receives."""

    def __init__(self) -> None:
        self.bodies: list[StreamBody] = []
        self.received: list[bytearray] = []
        self.begun: asyncio.Queue[web.BaseRequest] = asyncio.Queue()
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.before: Callable[[web.BaseRequest], None] = lambda _request: None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.before(request)
        body = request_body(request, Pace())  # type: ignore[arg-type]  # it needs no application
        got = bytearray()
        self.bodies.append(body)
        self.received.append(got)
        self.begun.put_nowait(request)
        how = "cancelled"
        try:
            how = await self._receive(body, got)
        finally:
            await body.close()
            self.ended.put_nowait(how)
        response = web.Response(text=f"{how} {len(got)}\n")
        if CUT in request:
            response.force_close()
        return response

    async def _receive(self, body: StreamBody, got: bytearray) -> str:
        buffer, loop = memoryview(bytearray(1 << 20)), asyncio.get_running_loop()
        try:
            while True:
                await body.wait(_SECONDS)
                while count := await loop.run_in_executor(None, body.receive_into, buffer):
                    got += buffer[:count]
                if count == 0:
                    return "whole"
        except BodyCutError:
            return "cut"

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncIterator[int]:
        """Listen on a port of this machine for a while."""
        server = hardened_server(self._handle, read_bufsize=1 << 18, lingering_time=0.2)
        async with asyncio.timeout(4 * _SECONDS), listening(server) as port:
            yield port

    async def taken_over(self) -> SocketBody:
        """Wait until the newest body's socket has been taken over, and all that was sent is received."""
        await self.begun.get()
        body = self.bodies[-1]
        assert isinstance(body, SocketBody)
        while body._socket is None:  # noqa: ASYNC110, SLF001 - a flag without an event
            await asyncio.sleep(0.001)
        return body


def _request(length: int = _LENGTH, headers: str = "") -> bytes:
    return f"PATCH / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{headers}\r\n".encode()


@async_test_on_both_loops
async def test_whole_bodies_and_the_requests_behind_them_are_answered_in_order() -> None:
    """Large and small bodies in one stream on one connection: each gets its own bytes."""
    site, bodies = _Site(), [random.randbytes(size) for size in (_LENGTH, 10, _LENGTH + 1, _LENGTH, 0)]
    async with site.listen() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"".join(_request(len(body)) + body for body in bodies))
        for body in bodies:
            assert b"200 OK" in await reader.readline()
            await reader.readuntil(f"whole {len(body)}\n".encode())
        writer.close()
    assert [bytes(got) for got in site.received] == bodies
    assert [type(body) for body in site.bodies] == [SocketBody, StreamBody, SocketBody, SocketBody, StreamBody]


@pytest.mark.parametrize("sent_bytes", [0, 100, 2 * LEAST_BYTES + 7])
@async_test_on_both_loops
async def test_end_in_the_middle_is_a_cut_with_every_byte(sent_bytes: int) -> None:
    """The client closes its side: its bytes are there, it is answered, and its connection is closed."""
    site, content = _Site(), random.randbytes(sent_bytes)
    async with site.listen() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_request() + content)
        await site.taken_over()
        writer.write_eof()
        answer = await reader.read()
        writer.close()
    assert f"cut {sent_bytes}\n".encode() in answer
    assert b"Connection: close" in answer
    assert [bytes(got) for got in site.received] == [content]


@async_test_on_both_loops
async def test_reset_in_the_middle_is_a_cut_with_what_came() -> None:
    """The connection breaks: the bytes that had come are there, and the server goes on."""
    site, content = _Site(), random.randbytes(LEAST_BYTES)
    async with site.listen() as port:
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(_request() + content)
        await site.taken_over()
        while len(site.received[0]) < len(content):  # noqa: ASYNC110 - a thread receives, and tells nobody
            await asyncio.sleep(0.001)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert await site.ended.get() == "cut"
    assert [bytes(got) for got in site.received] == [content]


@async_test_on_both_loops
async def test_aborted_transport_leaves_what_is_in_the_kernel_to_be_received() -> None:
    """Our own descriptor outlives aiohttp's: nobody else's bytes can come through it, and it is closed at the end."""
    site = _Site()
    async with site.listen() as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_request() + bytes(1000))
        body = await site.taken_over()
        transport = body._protocol.transport  # noqa: SLF001 - what a failing write does
        assert transport is not None
        transport.abort()
        writer.close()
        assert await site.ended.get() == "cut"
        assert body._socket is None  # noqa: SLF001 - it is closed
    assert site.received == [bytearray(1000)]


@async_test_on_both_loops
async def test_cancelled_handler_leaves_no_reader_and_no_descriptor() -> None:
    """A handler that is cancelled while its body stalls gives everything back, and its connection ends."""
    site = _Site()
    async with site.listen() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_request() + bytes(1000))
        body = await site.taken_over()
        while len(site.received[0]) < 1000 or body._waker is None:  # noqa: ASYNC110, SLF001 - until it waits
            await asyncio.sleep(0.001)
        assert body._socket is not None  # noqa: SLF001 - to see it closed
        descriptor = body._socket.fileno()  # noqa: SLF001
        task = body._request.task  # noqa: SLF001 - aiohttp's own, which it cancels
        task.cancel()
        assert await site.ended.get() == "cancelled"
        assert not asyncio.get_running_loop().remove_reader(descriptor)
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(descriptor)
        assert await reader.read() == b""
        writer.close()


@async_test_on_both_loops
async def test_wake_ends_a_wait_at_once_and_a_later_one_not() -> None:
    """Another request for the upload does not wait for the client; and waking is not remembered twice."""
    site = _Site()
    async with site.listen() as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_request() + bytes(1000))
        body = await site.taken_over()
        while body._waker is None or body._low_water != 1:  # noqa: ASYNC110, SLF001 - until it has stalled
            await asyncio.sleep(0.001)
        first = body._waker  # noqa: SLF001 - what wakes it
        body.wake()
        while body._waker in {None, first}:  # noqa: ASYNC110, SLF001 - until it waits anew
            await asyncio.sleep(0.001)
        second = body._waker  # noqa: SLF001
        await asyncio.sleep(0.05)
        assert body._waker is second  # noqa: SLF001 - it waits still
        writer.close()
        assert await site.ended.get() == "cut"


@async_test_on_both_loops
async def test_closing_connection_is_never_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its descriptor may have been closed, and the number given to another connection."""
    site = _Site()

    def close(request: web.BaseRequest) -> None:
        assert request.transport is not None
        request.transport.abort()

    duplicated: list[int] = []
    site.before = close
    async with site.listen() as port:
        monkeypatch.setattr(os, "dup", duplicated.append)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_request() + bytes(1000))
        assert await site.ended.get() == "cut"
        writer.close()
    assert duplicated == []
    assert site.received == [bytearray(1000)]


@async_test_on_both_loops
async def test_body_without_a_free_descriptor_comes_through_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second descriptor makes it faster; without one, it is still received."""

    def none_left(descriptor: int) -> int:
        raise OSError(24, f"no descriptor is left for {descriptor}")

    site, content = _Site(), random.randbytes(_LENGTH)
    async with site.listen() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        monkeypatch.setattr(os, "dup", none_left)
        writer.write(_request() + content)
        await reader.readuntil(f"whole {_LENGTH}\n".encode())
        monkeypatch.undo()
        writer.close()
    assert RECEIVED_BY not in await site.begun.get()
    assert [bytes(got) for got in site.received] == [content]


@pytest.mark.parametrize(
    "head",
    [
        _request(LEAST_BYTES - 1),
        b"PATCH / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PATCH / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["small", "chunked", "none"],
)
@async_test_on_both_loops
async def test_small_and_chunked_bodies_go_through_the_parser(head: bytes) -> None:
    """Where the socket would be no gain, or cannot be read without its framing."""
    site = _Site()
    async with site.listen() as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        request = await site.begun.get()
        assert isinstance(request.protocol, HardenedHandler)
        assert type(site.bodies[0]) is StreamBody
        writer.close()
        await site.ended.get()
