"""Our use of aiohttp beyond its documentation. If one of these fails after an update, read the module it names."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from aiohttp.web_protocol import RequestHandler

from dropoff_tus.errors import BodyCutError
from server.http.body import Pace, StreamBody
from server.http.connection import HardenedHandler
from server.http.socket_body import request_body
from tests.support.aio import async_test
from tests.support.certificate import make_certificate
from tests.support.hardened import hardened_server, listening


@pytest.mark.parametrize(
    "name",
    [
        *("connection_made", "connection_lost", "data_received", "finish_response", "force_close", "handle_error"),
        *("pause_writing", "resume_writing", "shutdown"),
    ],
)
def test_request_handler_has_the_methods_that_connection_overrides_or_calls(name: str) -> None:
    """An override of what is no longer called would silently do nothing."""
    assert callable(getattr(RequestHandler, name))


@pytest.mark.parametrize(
    "name",
    ["_parser", "transport"],
)
def test_request_handler_has_the_attributes_that_connection_reads(name: str) -> None:
    """They are slots, so a renamed one would be found here and not in production."""
    slots = {slot for base in RequestHandler.__mro__ for slot in getattr(base, "__slots__", ())}
    assert name in slots


@async_test
async def test_stream_reader_that_failed_still_holds_what_arrived() -> None:
    """`StreamBody` takes the last bytes before a cut from aiohttp's own buffer."""
    loop = asyncio.get_running_loop()
    stream = StreamReader(BaseProtocol(loop), 1 << 16, loop=loop)
    stream.feed_data(b"what ")
    stream.feed_data(b"arrived")
    stream.set_exception(ConnectionResetError())
    body, buffer = StreamBody(stream), bytearray(100)
    await body.wait(1)
    count = body.receive_into(memoryview(buffer))
    assert buffer[:count] == b"what arrived"
    with pytest.raises(BodyCutError):
        body.receive_into(memoryview(buffer))


@async_test
async def test_stream_reader_counts_every_byte_it_was_fed() -> None:
    """The socket has exactly the bytes that the parser has not seen: read or not, its bytes are counted."""
    loop = asyncio.get_running_loop()
    stream = StreamReader(BaseProtocol(loop), 1 << 16, loop=loop)
    stream.feed_data(b"one")
    assert stream.read_nowait() == b"one"
    stream.feed_data(b"three")
    assert stream.total_bytes == 8


# ---- the states of a connection, as aiohttp goes through them ------------------------------------------------


class _Site:
    """A hardened server whose handler reads the body as the product does and keeps all that came."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.handlers: asyncio.Queue[HardenedHandler] = asyncio.Queue()
        self.done: asyncio.Queue[None] = asyncio.Queue()
        self.requests: list[web.BaseRequest] = []

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request.protocol, HardenedHandler)
        self.requests.append(request)
        self.handlers.put_nowait(request.protocol)
        body, buffer, got = StreamBody(request.content), memoryview(bytearray(1 << 16)), b""
        try:
            while True:
                await body.wait(5)
                count = body.receive_into(buffer)
                if count == 0:
                    break
                got += bytes(buffer[: count or 0])
        except BodyCutError:
            pass
        finally:
            await body.close()
            self.bodies.append(got)
            self.done.put_nowait(None)
        return web.Response(text=f"{len(got)}\n")

    @contextlib.asynccontextmanager
    async def listen(self, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
        """Listen on a port of this machine for a while."""
        async with asyncio.timeout(10), listening(hardened_server(self._handle), context) as port:
            yield port


_REQUEST = b"PATCH / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello"


@async_test
async def test_request_that_begins_after_its_connection_was_lost_is_cut_at_once() -> None:
    """The library knows a request that has begun; one that begins later must not wait for a body that never comes."""
    stream = StreamReader(BaseProtocol(asyncio.get_running_loop()), 1 << 16, loop=asyncio.get_running_loop())
    stream.feed_data(b"hello")
    request = make_mocked_request("PATCH", "/", {"Content-Length": "10"}, payload=stream)
    request.protocol.transport = None
    body, buffer = request_body(request, Pace()), bytearray(100)
    async with asyncio.timeout(5):
        await body.wait(60)
    assert body.receive_into(memoryview(buffer)) == len(b"hello")
    with pytest.raises(BodyCutError):
        body.receive_into(memoryview(buffer))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@async_test
async def test_body_whose_connection_is_lost_keeps_what_came(tmp_path: Path, *, tls: bool) -> None:
    """A request that has begun reads what came before the end."""
    certificate, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    site = _Site()
    async with site.listen(context if tls else None) as port:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting if tls else None, server_hostname="localhost" if tls else None
        )
        writer.write(_REQUEST)
        await site.handlers.get()
        writer.close()
        await site.done.get()
        await writer.wait_closed()
    assert site.bodies == [b"hello"]


@async_test
async def test_connection_is_idle_between_requests_and_busy_within() -> None:
    """The header deadline and the check for a client's end follow aiohttp's own course."""
    site = _Site()
    async with site.listen() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(_REQUEST)
            handler = await site.handlers.get()
            assert handler.busy
            writer.write(b"world")
            await reader.readuntil(b"10\n")
            await asyncio.sleep(0.05)
            assert not handler.busy
        writer.close()


@async_test
async def test_paused_transport_reads_nothing_and_its_socket_can_be_read_beside_it() -> None:
    """While a worker receives from a duplicate, the event loop takes no byte; afterwards it goes on reading."""
    seen: list[bytes] = []

    class Reader(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            seen.append(data)

    made: asyncio.Queue[asyncio.Transport] = asyncio.Queue()

    class Paused(Reader):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            made.put_nowait(transport)

    loop = asyncio.get_running_loop()
    listening = await loop.create_server(Paused, "127.0.0.1", 0)
    async with asyncio.timeout(10):
        _, writer = await asyncio.open_connection("127.0.0.1", listening.sockets[0].getsockname()[1])
        transport = await made.get()
        await asyncio.sleep(0)  # uvloop begins to read only now
        transport.pause_reading()
        writer.write(b"for the worker")
        duplicate = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        readable = asyncio.Event()
        loop.add_reader(duplicate.fileno(), readable.set)
        await readable.wait()
        loop.remove_reader(duplicate.fileno())
        await asyncio.sleep(0.05)
        assert seen == []
        assert duplicate.recv(100) == b"for the worker"
        duplicate.close()
        transport.resume_reading()
        writer.write(b"for us")
        while not seen:  # noqa: ASYNC110 - a list without an event
            await asyncio.sleep(0.001)
        assert seen == [b"for us"]
        transport.close()
        writer.close()
    listening.close()


@async_test
async def test_renewed_parser_begins_with_the_next_request() -> None:
    """The old one waits for a body for ever; the new one takes what comes for a request."""
    site = _Site()
    async with site.listen() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_REQUEST)
        handler = await site.handlers.get()
        site.requests[0].content.feed_eof()
        handler.renew_parser()
        await reader.readuntil(b"5\n")
        writer.write(_REQUEST + b"world")
        await reader.readuntil(b"10\n")
        writer.close()
    assert site.bodies == [b"hello", b"helloworld"]
