"""The application and its life as a process."""

import asyncio
import contextlib
import os
import signal
import ssl
import sys
from typing import Any

from aiohttp import web

from server import appkeys, pages, tus
from server.config import Config
from server.connection import HardenedServer, quiet_logger
from server.health import monitoring_app
from server.lifespan import services
from server.middleware import around
from server.services import StartError

_MAX_FIELD_BYTES = 32 << 10
_READ_BYTES = 1 << 18
_LINGER_SECONDS = 1.0
_KEEPALIVE_SECONDS = 75.0
_STOP_SECONDS = 15.0


def create_app(config: Config) -> web.Application:
    """Return the application: routes, the middleware, and what opens its services."""
    app = web.Application(middlewares=[around])
    app[appkeys.CONFIG] = config
    app.cleanup_ctx.append(services)
    app.router.add_route("*", "/files/{tail:.*}", tus.handle, expect_handler=_expect)
    app.router.add_get("/d/{drop_id}", pages.page)
    app.router.add_get("/d/{drop_id}/info", pages.info)
    return app


async def _expect(_request: web.Request) -> None:
    """Leave `Expect: 100-continue` to the body: our checks come before it."""


class Runner(web.AppRunner):
    """Runs the application on hardened connections."""

    def __init__(self, app: web.Application, config: Config) -> None:
        """Keep the settings of connections."""
        super().__init__(app, shutdown_timeout=_STOP_SECONDS)
        self._config = config

    async def _make_server(self) -> web.Server:
        inner = await super()._make_server()
        limits = self._config.limits
        return HardenedServer(
            inner,
            header_timeout_seconds=limits.header_timeout,
            connections=limits.connections,
            connections_per_address=limits.connections_per_address,
            trusted_proxies=self._config.server.trusted_proxies,
            keepalive_timeout=_KEEPALIVE_SECONDS,
            logger=quiet_logger,
            access_log=None,
            max_line_size=_MAX_FIELD_BYTES,
            max_field_size=_MAX_FIELD_BYTES,
            lingering_time=_LINGER_SECONDS,
            read_bufsize=_READ_BYTES,
            auto_decompress=False,
        )


def serve(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    # One large block freed at start raises glibc's mmap threshold, so that body buffers are not mapped anew each time.
    block = bytearray((32 << 20) - 65536)
    del block
    run: Any = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - optional

        run = uvloop.run
    try:
        run(_serve(config))
    except StartError as error:
        print(f"dropoff-tus: {error}", file=sys.stderr)  # noqa: T201 - the command's answer
        return 1
    return 0


async def _serve(config: Config) -> None:
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            os._exit(1)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    runner = Runner(create_app(config), config)
    monitor: web.AppRunner | None = None
    try:
        await runner.setup()
        url = await _listen(runner, config)
        monitor = await _monitor(runner.app, config)
        print(f"ready {url}", flush=True)  # noqa: T201 - the command's answer
        await stopping.wait()
    finally:
        await runner.cleanup()
        if monitor is not None:
            await monitor.cleanup()


async def _listen(runner: web.AppRunner, config: Config) -> str:
    server = config.server
    context: ssl.SSLContext | None = None
    if server.tls_cert and server.tls_key:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(server.tls_cert, server.tls_key)
        except (OSError, ssl.SSLError) as error:
            message = f"server.tls_cert or server.tls_key cannot be used: {error}"
            raise StartError(message) from error
    if server.unix_socket:
        await _start(web.UnixSite(runner, str(server.unix_socket), backlog=1024), str(server.unix_socket))
    scheme = "https" if context else "http"
    await _start(
        web.TCPSite(runner, server.host, server.port, ssl_context=context, backlog=1024), f"{server.host}:{server.port}"
    )
    host = f"[{server.host}]" if ":" in server.host else server.host
    return str(server.public_url or f"{scheme}://{host}:{server.port}").rstrip("/")


async def _start(site: web.BaseSite, name: str) -> None:
    try:
        await site.start()
    except OSError as error:
        message = f"cannot listen on {name}: {error.strerror or error}; is another server running there?"
        raise StartError(message) from error


async def _monitor(app: web.Application, config: Config) -> web.AppRunner | None:
    if not config.monitoring.listen:
        return None
    monitor = web.AppRunner(
        monitoring_app(app[appkeys.METRICS], app[appkeys.STORE], app[appkeys.CATALOG]), access_log=None
    )
    await monitor.setup()
    host, _, port = str(config.monitoring.listen).rpartition(":")
    await _start(web.TCPSite(monitor, host.strip("[]"), int(port)), str(config.monitoring.listen))
    return monitor
