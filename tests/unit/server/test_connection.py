"""How many connections are let in, in all and from one address."""

import asyncio
import ipaddress

import pytest
from aiohttp import web

from server.connection import HardenedHandler, HardenedServer
from tests.support.aio import async_test


async def _answer(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


def _server(connections: int, per_address: int, header_timeout_seconds: float = 1) -> HardenedServer:
    return HardenedServer(
        web.Server(_answer),
        header_timeout_seconds=header_timeout_seconds,
        connections=connections,
        connections_per_address=per_address,
        trusted_proxies=(ipaddress.ip_network("10.0.0.0/8"),),
    )


class _Door:
    """Lets connections in as they come; the test says which of them have a request."""

    def __init__(self, connections: int, per_address: int) -> None:
        self.server = _server(connections, per_address)

    def come(self, address: str | None, *, busy: bool = True) -> HardenedHandler | None:
        """Connect; returns the connection if it was let in."""
        handler = self.server()
        if not self.server.admit(handler, None if address is None else self.server.counted_as(address)):
            return None
        handler._name = None if address is None else self.server.counted_as(address)  # noqa: SLF001 - as connecting does
        if busy:
            handler._messages.append((None, None))  # type: ignore[arg-type]  # noqa: SLF001 - a request that waits
        return handler


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
    """One client, or one IPv6 customer, cannot take all places; what is closed is free again."""
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
    """The deadline for headers is the same behind other requests; whole ones alone may wait for the next."""
    loop = asyncio.get_running_loop()
    hardened = _server(100, 100)
    listening = await loop.create_server(hardened, "127.0.0.1", 0)
    address = listening.sockets[0].getsockname()

    async def closes(packets: list[bytes], within_seconds: float) -> bool:
        reader, writer = await asyncio.open_connection(*address)
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
    try:
        # Twice as long as half headers may take; a busy machine may close those later.
        whole = [closes(packets, 2) for packets in _COMPLETE]
        halves = [closes(packets, 20) for packets in together + apart]
        closed = await asyncio.gather(*whole, *halves)
        assert closed == [False] * len(whole) + [True] * len(halves)
    finally:
        listening.close()
        await hardened.shutdown(1)


@async_test
async def test_shutdown_does_not_wait_for_a_connection_that_was_only_just_accepted() -> None:
    """It has no request that could end."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    class Ending(HardenedHandler):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            hardened.pre_shutdown()
            loop.create_task(hardened.shutdown(10)).add_done_callback(ended.set_result)

    hardened = _server(1, 1, header_timeout_seconds=60)
    listening = await loop.create_server(lambda: Ending(hardened, loop=loop), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    async with asyncio.timeout(5):
        await ended
    writer.close()
    listening.close()
