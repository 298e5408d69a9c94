"""How many connections are let in, in all and from one address; and how long each may keep others waiting."""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from server.http.admission import Admission
from server.http.connection import HardenedHandler
from server.http.heads import MOST_HEAD_BYTES, HeadParser
from tests.support.aio import async_test, async_test_on_both_loops
from tests.support.certificate import make_certificate
from tests.support.hardened import HOST, hardened_server, listening


async def _answer(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


class _Guest:
    """A connection as it is counted; the test says what it is at."""

    def __init__(self, name: str | None, *, busy: bool) -> None:
        self.name, self.busy, self.is_new, self.stalled = name, busy, not busy, False
        self.leave: Callable[[_Guest], None] = lambda _guest: None

    def drop(self) -> None:
        self.leave(self)


class _Door:
    """Lets connections in as they come."""

    def __init__(self, connections: int, per_address: int) -> None:
        self.admission = Admission(connections, per_address, (ipaddress.ip_network("10.0.0.0/8"),))

    def come(self, address: str | None, *, busy: bool = True) -> _Guest | None:
        """Connect; returns the connection if it was let in."""
        name = self.admission.name_of(_Accepted(address))  # type: ignore[arg-type]
        if not self.admission.has_place(name):
            return None
        guest = _Guest(name, busy=busy)
        guest.leave = self.admission.leave
        self.admission.enter(guest)
        return guest


class _Accepted:
    """A socket of a peer."""

    def __init__(self, address: str | None) -> None:
        self._address = address

    def getpeername(self) -> object:
        return "" if self._address is None else (self._address, 40000)


@pytest.mark.parametrize(
    ("first", "same", "other"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"),
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2"),
    ],
    ids=["ipv4", "ipv6-64", "mapped"],
)
@async_test
async def test_connections_of_one_address_are_capped_and_others_are_let_in(first: str, same: str, other: str) -> None:
    """One client, or one IPv6 customer, cannot take all places; a closed connection's place is free again."""
    door = _Door(100, 2)
    assert door.come(first)
    second = door.come(same)
    assert second
    assert not door.come(first)
    assert door.come(other)
    second.drop()
    assert door.come(first)
    assert not door.come(same)


@async_test
async def test_connections_of_a_proxy_and_of_a_unix_socket_count_only_in_all() -> None:
    """A proxy connects for many clients."""
    door = _Door(5, 1)
    admitted = [door.come(address) is not None for address in ["10.1.1.1"] * 3 + [None] * 3]
    assert admitted == [True] * 5 + [False]


@async_test
async def test_connections_without_a_limit_are_all_let_in() -> None:
    """Zero switches each cap off."""
    door = _Door(0, 0)
    assert all(door.come("192.0.2.1") for _ in range(500))


@pytest.mark.parametrize(("connections", "per_address"), [(3, 0), (0, 3)], ids=["in-all", "per-address"])
@async_test
async def test_connections_that_only_wait_make_place_for_new_ones(connections: int, per_address: int) -> None:
    """The oldest that has no request goes; those with one stay, and when all have one nobody else is let in."""
    door = _Door(connections, per_address)
    working, *waiting = (door.come("192.0.2.1", busy=number == 0) for number in range(3))
    newer = [door.come("192.0.2.1") for _ in range(2)]
    assert all(newer)
    assert not door.come("192.0.2.1")
    assert working
    working.drop()
    assert door.come("192.0.2.1")
    assert all(handler is not None for handler in waiting)


_GET, _HALF = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHo"
_SIZED, _CHUNKED = (
    b"POST / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n" % name for name in (b"Content-Length: 5", b"Transfer-Encoding: chunked")
)
_CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
_COMPLETE = [
    [_GET],
    [_GET, _GET],
    [_GET[:-1], _GET[-1:]],
    [_SIZED, b"hello"],
    [_SIZED + b"hello"],
    [_SIZED[:-1], _SIZED[-1:] + b"hello"],
    [_SIZED + b"he", b"llo"],
    [_CHUNKED + _CHUNKS],
    [_CHUNKED, _CHUNKS[:-1], _CHUNKS[-1:]],
    [_GET, _SIZED + b"hello", _GET],
]


@async_test
async def test_half_headers_behind_whole_requests_end_in_time() -> None:
    """The deadline for headers is the same behind other requests; only after a whole one a connection may wait."""

    async def closes(port: int, packets: list[bytes], within_seconds: float) -> bool:
        reader, writer = await asyncio.open_connection(HOST, port)
        for packet in packets:
            writer.write(packet)
            # Long enough to be a packet of its own, and for the answer.
            await asyncio.sleep(0.05)
        try:
            async with asyncio.timeout(within_seconds):
                while await reader.read(4096):
                    pass
        except TimeoutError:
            return False
        finally:
            writer.close()
        return True

    together = [[*packets[:-1], packets[-1] + _HALF] for packets in _COMPLETE]
    apart = [[*packets, _HALF] for packets in _COMPLETE]
    async with listening(hardened_server(_answer, header_timeout_seconds=1)) as port:
        # Twice as long as half headers may take; a busy machine may close those later.
        whole = [closes(port, packets, 2) for packets in _COMPLETE]
        halves = [closes(port, packets, 20) for packets in together + apart]
        closed = await asyncio.gather(*whole, *halves)
        assert closed == [False] * len(whole) + [True] * len(halves)


@async_test
async def test_shutdown_does_not_wait_for_a_connection_that_was_only_just_accepted() -> None:
    """It has no request that could end."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    ending: list[asyncio.Task[None]] = []

    class Ending(HardenedHandler):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            hardened.pre_shutdown()
            ending.append(loop.create_task(hardened.shutdown(10)))
            ending[0].add_done_callback(ended.set_result)

    hardened = hardened_server(_answer, header_timeout_seconds=60)
    bound = socket.create_server((HOST, 0))
    _, writer = await asyncio.open_connection(*bound.getsockname())
    accepted, _ = bound.accept()
    accepted.setblocking(False)
    handler = Ending(hardened, accepted, None)
    await loop.connect_accepted_socket(lambda: handler, accepted)
    async with asyncio.timeout(5):
        await ended
    writer.close()
    bound.close()


@async_test_on_both_loops
async def test_client_that_still_sends_when_the_server_stops_reads_its_answer() -> None:
    """A refused body is thrown away for a moment: a connection that breaks at once would take the answer with it."""
    server = hardened_server(_answer, lingering_time=1)
    async with asyncio.timeout(20), listening(server) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(_SIZED.replace(b"5", b"5000000") + b"hello")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        stopping = asyncio.create_task(server.shutdown(5))
        await asyncio.sleep(0)
        writer.write(bytes(100_000))
        while await reader.read(1000):
            pass
        await stopping
        writer.transport.abort()


# ---- what strangers may hold ----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _silent(port: int, count: int, sent: bytes = b"") -> AsyncIterator[list[asyncio.StreamReader]]:
    """Hold so many connections that send no more than this."""
    opened = [await asyncio.open_connection(HOST, port) for _ in range(count)]
    try:
        for _, writer in opened:
            writer.write(sent)
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.transport.abort()


async def _answered(port: int, context: ssl.SSLContext | None = None) -> bool:
    reader, writer = await asyncio.open_connection(
        HOST, port, ssl=context, server_hostname="localhost" if context else None
    )
    writer.write(_GET)
    try:
        return (await reader.readline()).startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return False
    finally:
        writer.transport.abort()


@async_test_on_both_loops
async def test_connections_in_their_tls_handshake_are_counted_and_make_place(tmp_path: Path) -> None:
    """Silent ones of one address take its own places only, and of all places none that is wanted."""
    certificate, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    server = hardened_server(_answer, connections=20, per_address=10)
    async with asyncio.timeout(20), listening(server, context) as port, _silent(port, 30) as silent:
        for reader in silent[:20]:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        assert len(server.admission.guests) == 10
        assert [await _answered(port, trusting) for _ in range(3)] == [True] * 3


@async_test_on_both_loops
async def test_tls_handshake_has_the_deadline_of_a_head(tmp_path: Path) -> None:
    """A client that connects and says nothing, or half a handshake, is closed in time, and counted out."""
    certificate, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = hardened_server(_answer, header_timeout_seconds=0.5)
    for sent in (b"", b"\x16\x03\x01\x02\x00\x01\x00"):
        async with asyncio.timeout(20), listening(server, context) as port, _silent(port, 3, sent) as silent:
            for reader in silent:
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            while server.admission.guests:  # noqa: ASYNC110 - a dictionary without an event
                await asyncio.sleep(0.01)


_MANY_HEADERS = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 8000) for number in range(100))


@pytest.mark.parametrize("before", [b"", _GET, _SIZED + b"hello"], ids=["first", "behind-get", "behind-body"])
@async_test
async def test_head_beyond_its_cap_is_refused_and_not_kept(before: bytes) -> None:
    """The sum of a head is limited, not only each header, wherever packets end."""
    server = hardened_server(_answer)
    async with asyncio.timeout(20), listening(server) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(before)
        if before:
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        while not server.admission.guests:  # noqa: ASYNC110 - a dictionary without an event
            await asyncio.sleep(0.01)
        (handler,) = server.admission.guests
        parser = handler._parser  # type: ignore[attr-defined]  # noqa: SLF001 - it counts what it was given
        writer.write((b"GET / HTTP/1.1\r\n" + _MANY_HEADERS)[: MOST_HEAD_BYTES + 2])
        assert b" 400 " in await reader.readline()
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                writer.write(_MANY_HEADERS[:80_000])
                await writer.drain()
        assert parser.pending_bytes <= MOST_HEAD_BYTES + 4096
        writer.transport.abort()


@async_test
async def test_head_beyond_its_cap_in_the_packet_of_another_request_is_not_kept() -> None:
    """A request that is answered meanwhile changes nothing."""
    server = hardened_server(_answer)
    async with asyncio.timeout(20), listening(server) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        while not server.admission.guests:  # noqa: ASYNC110 - a dictionary without an event
            await asyncio.sleep(0.01)
        (handler,) = server.admission.guests
        parser = handler._parser  # type: ignore[attr-defined]  # noqa: SLF001 - it counts what it was given
        with contextlib.suppress(ConnectionError):
            writer.write(_GET + b"GET / HTTP/1.1\r\n" + _MANY_HEADERS)
            await reader.read()
        assert parser.pending_bytes <= MOST_HEAD_BYTES + 4096
        writer.transport.abort()


@async_test
async def test_head_within_its_cap_is_read_however_it_comes() -> None:
    """In one packet or byte by byte, and with bodies of any size before it."""
    lines = _MANY_HEADERS[: MOST_HEAD_BYTES - 4096]
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + lines[: lines.rindex(b"X-")] + b"\r\n"
    async with asyncio.timeout(20), listening(hardened_server(_answer)) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        for _ in range(3):
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000) + head)
            await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        for place in range(0, len(head), 1000):
            writer.write(head[place : place + 1000])
            await writer.drain()
            await asyncio.sleep(0)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.transport.abort()


@async_test
async def test_trailers_beyond_the_cap_of_a_head_are_not_kept() -> None:
    """The trailers of a chunked body have the limits of its head."""
    held: list[HeadParser] = []

    async def hold(request: web.BaseRequest) -> web.StreamResponse:
        held.append(request.protocol._parser)  # type: ignore[arg-type]  # noqa: SLF001 - it counts what it was given
        await request.read()
        return web.Response()

    async with asyncio.timeout(20), listening(hardened_server(hold)) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(_CHUNKED + b"5\r\nhello\r\n0\r\n")
        while not held:  # noqa: ASYNC110 - a list without an event
            await asyncio.sleep(0.01)
        for _ in range(100):
            writer.write(_MANY_HEADERS[:8000] + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0)
        assert held[0].pending_bytes < 6 * MOST_HEAD_BYTES
        writer.transport.abort()
        reader.feed_eof()


# ---- clients that do not read ---------------------------------------------------------------------------------

_LARGE = 8 << 20


async def _large(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=bytes(_LARGE))


@pytest.mark.parametrize("count", [1, 20], ids=["one", "pipelined"])
@async_test_on_both_loops
async def test_client_that_does_not_read_its_answer_is_dropped(count: int) -> None:
    """An answer has a deadline: so long no byte of it may be taken."""
    server = hardened_server(_large, reader_timeout_seconds=1)
    async with asyncio.timeout(20), listening(server) as port, _silent(port, 3, _GET * count):
        while server.requests_count < 3:  # noqa: ASYNC110 - a number without an event
            await asyncio.sleep(0.01)
        while server.admission.guests:  # noqa: ASYNC110 - a dictionary without an event
            await asyncio.sleep(0.01)


@async_test_on_both_loops
async def test_client_that_reads_slowly_gets_all_of_its_answer() -> None:
    """As long as it takes something it may take longer than the deadline."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(40), listening(hardened_server(_large, reader_timeout_seconds=2)) as port:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.setblocking(False)
            await loop.sock_connect(client, (HOST, port))
            await loop.sock_sendall(client, _GET)
            received, began = 0, loop.time()
            while received < _LARGE:
                piece = await loop.sock_recv(client, 1 << 18)
                assert piece, received
                received += len(piece)
                if loop.time() - began < 5:
                    await asyncio.sleep(0.05)


@async_test_on_both_loops
async def test_clients_that_do_not_read_make_place_at_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that has taken nothing for a while goes before a newcomer is refused."""
    monkeypatch.setattr("server.http.reader._STALLED_SECONDS", 0.5)

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        return await _large(_request) if _request.path == "/large" else await _answer(_request)

    server = hardened_server(answer, connections=4)
    large = _GET.replace(b"/ ", b"/large ")
    async with asyncio.timeout(20), listening(server) as port, _silent(port, 4, large):
        while not all(guest.stalled for guest in server.admission.guests):  # noqa: ASYNC110 - flags without an event
            await asyncio.sleep(0.01)
        assert [await _answered(port) for _ in range(8)] == [True] * 8


@async_test_on_both_loops
async def test_shutdown_ends_in_time_with_clients_that_do_not_read() -> None:
    """The time that requests have to end is one time for all that a connection does."""
    server = hardened_server(_large)
    async with asyncio.timeout(20), listening(server) as port, _silent(port, 3, _GET * 20):
        while server.requests_count < 3:  # noqa: ASYNC110 - a number without an event
            await asyncio.sleep(0.01)
        began = asyncio.get_running_loop().time()
        await server.shutdown(2)
        assert asyncio.get_running_loop().time() - began < 3.5
