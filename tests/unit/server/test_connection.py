"""How many connections are let in, in all and from one address."""

import ipaddress

import pytest
from aiohttp import web

from server.connection import HardenedServer
from tests.support.aio import async_test


async def _answer(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


def _server(connections: int, per_address: int) -> HardenedServer:
    return HardenedServer(
        web.Server(_answer),
        header_timeout_seconds=1,
        connections=connections,
        connections_per_address=per_address,
        trusted_proxies=(ipaddress.ip_network("10.0.0.0/8"),),
    )


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
    server = _server(100, 2)
    assert server.admit(server.counted_as(first))
    assert server.admit(server.counted_as(same))
    assert not server.admit(server.counted_as(first))
    assert server.admit(server.counted_as(other))
    server.leave(server.counted_as(same))
    assert server.admit(server.counted_as(first))


@async_test
async def test_connections_of_a_proxy_and_of_a_unix_socket_count_only_in_all() -> None:
    """A proxy connects for many clients."""
    server = _server(5, 1)
    admitted = [server.admit(server.counted_as("10.1.1.1")) for _ in range(3)]
    admitted += [server.admit(None) for _ in range(3)]
    assert admitted == [True] * 5 + [False]


@async_test
async def test_connections_without_a_limit_are_all_let_in() -> None:
    """Zero switches each cap off."""
    server = _server(0, 0)
    assert all(server.admit(server.counted_as("192.0.2.1")) for _ in range(5000))
