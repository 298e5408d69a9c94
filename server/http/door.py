"""Connections on their way in: we accept them, since asyncio tells of none before its TLS handshake is over."""

import asyncio
import contextlib
import logging
import socket
import ssl

from aiohttp import web

from server.http.connection import HardenedHandler, HardenedServer

_log = logging.getLogger(__name__)
_AT_ONCE = 8
"""Then it is the turn of those that are in."""
_WAIT_SECONDS = 1.0


class Door(web.BaseSite):
    """Accepts the connections of one listening socket, and counts each before anything else."""

    def __init__(
        self, runner: web.BaseRunner, server: HardenedServer, listening: socket.socket, context: ssl.SSLContext | None
    ) -> None:
        """Open it with `start`."""
        super().__init__(runner)
        self._hardened, self._listening, self._context = server, listening, context
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._later: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """Say where it is, for aiohttp."""
        return str(self._listening.getsockname())

    async def start(self) -> None:
        """Accept from now on."""
        await super().start()
        self._open()

    async def stop(self) -> None:
        """Accept no more, and end what has not begun."""
        self._loop.remove_reader(self._listening.fileno())
        if self._later is not None:
            self._later.cancel()
        self._listening.close()
        for task in self._beginning:
            task.cancel()
        await asyncio.gather(*self._beginning, return_exceptions=True)
        await super().stop()

    def _open(self) -> None:
        self._loop.add_reader(self._listening.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._wait(error)
                return
            accepted.setblocking(False)  # noqa: FBT003 - its only argument
            with contextlib.suppress(OSError):
                handler = self._hardened.admit(accepted)
                if handler is not None:
                    task = self._loop.create_task(self._begin(handler, accepted))
                    self._beginning.add(task)
                    task.add_done_callback(self._beginning.discard)
                    continue
            accepted.close()

    def _wait(self, error: OSError) -> None:
        """Let no more in for a moment: the system has no descriptor or no memory left."""
        _log.warning("no connection can be accepted", extra={"exception": error})
        self._hardened.admission.make_place()
        self._loop.remove_reader(self._listening.fileno())
        self._later = self._loop.call_later(_WAIT_SECONDS, self._open)

    async def _begin(self, handler: HardenedHandler, accepted: socket.socket) -> None:
        """Make the transport, after the TLS handshake; the handler has a deadline for that."""
        try:
            await self._loop.connect_accepted_socket(lambda: handler, accepted, ssl=self._context)
        except BaseException as error:
            accepted.close()
            handler.leave()
            if not isinstance(error, OSError):
                raise
