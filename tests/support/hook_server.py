"""A real receiver of hooks: aiohttp in a thread of its own, which answers as a test says and keeps what it got."""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - what JSON gives
        """Return the body as JSON."""
        return json.loads(self.body)

    def verify(self, secret: bytes) -> None:
        """Check as docs/reference/webhooks.md tells receivers to."""
        got = {name.lower(): value for name, value in self.headers.items()}
        signed = f"{got['webhook-id']}.{got['webhook-timestamp']}.".encode() + self.body
        digest = hmac.new(secret, signed, hashlib.sha256).digest()
        assert f"v1,{base64.b64encode(digest).decode()}" in got["webhook-signature"].split()
        assert abs(time.time() - int(got["webhook-timestamp"])) < 60


class HookServer:
    """Listens on 127.0.0.1. `answer` is called with each request, in the server's thread; None is 200."""

    def __init__(self, answer: Handler | None = None) -> None:
        """Take the first answer; nothing runs yet."""
        self.answer = answer
        self.received: list[Received] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self.port = 0

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self.port}/hooks"

    def wait_for(self, count: int, *, timeout_seconds: float = 20) -> list[Received]:
        """Wait until so many requests came, and return all."""
        deadline = time.monotonic() + timeout_seconds
        while len(self.received) < count:
            assert time.monotonic() < deadline, f"{len(self.received)} of {count} requests came"
            time.sleep(0.01)
        return list(self.received)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.received.append(Received(request.path, dict(request.headers), await request.read()))
        return web.Response() if self.answer is None else await self.answer(request)
