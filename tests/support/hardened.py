"""A hardened server on a port of this machine, without the product around it."""

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

from server.http.admission import Admission
from server.http.connection import HardenedServer, quiet_logger
from server.http.door import Door

HOST = "127.0.0.1"


def hardened_server(
    handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    *,
    connections: int = 100,
    per_address: int = 0,
    header_timeout_seconds: float = 20,
    reader_timeout_seconds: float = 60,
    **arguments: Any,  # noqa: ANN401 - aiohttp's own
) -> HardenedServer:
    """Make a server; 10.0.0.0/8 are its proxies."""
    return HardenedServer(
        web.Server(handle),
        Admission(connections, per_address, (ipaddress.ip_network("10.0.0.0/8"),)),
        header_timeout_seconds=header_timeout_seconds,
        reader_timeout_seconds=reader_timeout_seconds,
        **{
            "logger": quiet_logger,
            "access_log": None,
            "read_bufsize": 1 << 16,
            "auto_decompress": False,
            "max_line_size": 32 << 10,
            "max_field_size": 32 << 10,
            **arguments,
        },
    )


@contextlib.asynccontextmanager
async def listening(server: HardenedServer, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Accept on a free port; at the end whatever still runs has a second."""
    runner = web.ServerRunner(server, shutdown_timeout=1)
    await runner.setup()
    bound = socket.create_server((HOST, 0), backlog=200)
    bound.setblocking(False)
    port = int(bound.getsockname()[1])
    await Door(runner, server, bound, context).start()
    try:
        yield port
    finally:
        await runner.cleanup()
