"""A stricter HTTP connection: deadlines for heads and for readers, and silent answers to malformed requests.

Relies on aiohttp's `RequestHandler` having `connection_made`, `connection_lost`, `data_received`, `finish_response`,
`force_close`, `handle_error`, `pause_writing`, `resume_writing` and `_parser`; tests/unit/server/http/test_aiohttp.py
fails if that changes.
"""

import asyncio
import contextlib
import logging
import socket
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE, RequestHandler, RequestPayloadError

from dropoff_tus.messages import TUS_VERSION
from server.http.admission import Admission
from server.http.heads import HeadParser
from server.http.reader import Reader
from server.repeats import repeats

_log = logging.getLogger(__name__)
_log.addFilter(repeats)
SERVER_NAME = "dropoff-tus"  # aiohttp would tell its version and Python's
_HURRIED_SECONDS = 0.1
# The path is not known, so these must do for all routes.
_REFUSAL_HEADERS = {"X-Content-Type-Options": "nosniff", "Tus-Resumable": TUS_VERSION, "Server": SERVER_NAME}
# aiohttp's own logger would print tracebacks with headers in them, codes included.
quiet_logger = logging.getLogger("server.quiet")
quiet_logger.setLevel(logging.CRITICAL + 1)
quiet_logger.propagate = False


class HardenedServer(web.Server):
    """Lets connections in, and makes their handlers."""

    def __init__(
        self,
        inner: web.Server,
        admission: Admission,
        *,
        header_timeout_seconds: float,
        reader_timeout_seconds: float,
        hurry: asyncio.Event | None = None,
        **handler_arguments: Any,  # noqa: ANN401 - aiohttp's own
    ) -> None:
        """Serve what `inner` serves; once `hurry` is set, `shutdown` waits no longer."""
        super().__init__(inner.request_handler, request_factory=inner.request_factory, **handler_arguments)
        self.arguments = handler_arguments
        self.admission = admission
        self.header_timeout_seconds, self.reader_timeout_seconds = header_timeout_seconds, reader_timeout_seconds
        self._hurry = hurry or asyncio.Event()

    def admit(self, accepted: socket.socket) -> "HardenedHandler | None":
        """Return the protocol for a connection that was accepted just now; None if it is refused.

        Raises:
            OSError: It has gone away again.
        """
        name = self.admission.name_of(accepted)
        if not self.admission.has_place(name):
            return None
        handler = HardenedHandler(self, accepted, name)
        self.admission.enter(handler)
        return handler

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's
        """End all connections: those with a request when it has ended, after the timeout, or at a call to hurry."""
        for guest in [guest for guest in self.admission.guests if not guest.busy or guest.stalled]:
            guest.drop()
        ending = asyncio.create_task(super().shutdown(timeout))
        hurried = asyncio.create_task(self._hurry.wait())
        try:
            await asyncio.wait({ending, hurried}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurried.cancel()
        if not ending.done():
            ending.cancel()
            await asyncio.wait({ending})
            await super().shutdown(_HURRIED_SECONDS)
        else:
            await ending


class HardenedHandler(RequestHandler):
    """One connection."""

    __slots__ = ("_accepted", "_answers", "_came", "_hardened", "_header_timer", "_reader", "_wire", "name")

    def __init__(self, server: HardenedServer, accepted: socket.socket, name: str | None) -> None:
        """Begin the deadline for the first head.

        Args:
            server: Its server.
            accepted: Its socket.
            name: The name that its address counts under.
        """
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, **server.arguments)
        self._hardened, self._accepted, self.name = server, accepted, name
        self._wire: asyncio.Transport | None = None
        self._came = self._answers = 0
        self._reader = Reader(server.reader_timeout_seconds)
        self._header_timer: asyncio.TimerHandle | None = None
        self.renew_parser()
        self._start_timer()

    # ---- from its begin to its end ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, and notice every byte that the client does not take."""
        self._wire = cast("asyncio.Transport", transport)
        self._wire.set_write_buffer_limits(high=1, low=0)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count out, and hold on to nothing."""
        self.leave()
        self._wire = None
        super().connection_lost(exc)

    def leave(self) -> None:
        """Count out, and stop the clocks."""
        self._hardened.admission.leave(self)
        self._stop_timer()
        self._reader.stop()

    def drop(self) -> None:
        """Close at once, whatever is on its way."""
        self.leave()
        if self._wire is not None:
            self._wire.abort()
        else:
            # Its TLS handshake fails by this.
            with contextlib.suppress(OSError):
                self._accepted.shutdown(socket.SHUT_RDWR)

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - aiohttp's
        """End; without a request at once, since aiohttp waits for one where the connection is only just accepted."""
        if not self.busy:
            self.force_close()
        await super().shutdown(timeout)
        if self.busy and self._wire is not None:
            # Cut off. A close would wait until the client has taken what is on its way, and outlive the loop.
            self._wire.abort()

    # ---- requests ---------------------------------------------------------------------------------------------

    @property
    def is_new(self) -> bool:
        """Tell whether no request has come so far."""
        return not self._came

    @property
    def busy(self) -> bool:
        """Tell whether a request is here that has not been answered, or whose client still sends what nobody wants."""
        parser = cast("HeadParser | None", self._parser)
        return self._came > self._answers or (parser is not None and parser.in_body)

    def data_received(self, data: bytes) -> None:
        """Run the deadline for heads from a request's first byte to the end of its head."""
        parser = cast("HeadParser", self._parser)
        if not data:
            # aiohttp goes on parsing what it has put aside.
            super().data_received(data)
        start = 0
        while start < len(data):
            stop = start + parser.piece_bytes(len(data) - start)
            super().data_received(data[start:stop])
            start = stop
        self._came = parser.heads
        if parser.in_head:
            self._start_timer()
        elif not self.is_new:
            self._stop_timer()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer; then the request is no longer here."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            # Malformed requests are answered too.
            self._answers = min(self._answers + 1, self._came)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the request
    ) -> web.StreamResponse:
        """Answer with a fixed text; nothing of the request reaches a log or the answer."""
        _log.info("refused a malformed request", extra={"status": status, "kind": type(exc).__name__})
        if request.writer.output_size > 0:
            text = "the answer has begun already"
            raise ConnectionError(text)
        malformed = status < 500  # noqa: PLR2004
        text = "ERR_MALFORMED_REQUEST: this is not HTTP we accept\n" if malformed else "ERR_INTERNAL: try again later\n"
        response = web.Response(status=status, text=text, headers=_REFUSAL_HEADERS)
        response.force_close()
        return response

    def renew_parser(self) -> None:
        """Read the next request with a fresh parser: the present one still waits for a body that went another way."""
        arguments = self._hardened.arguments
        self._parser = HeadParser(
            self,
            asyncio.get_running_loop(),
            arguments["read_bufsize"],
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=RequestPayloadError,
            auto_decompress=arguments["auto_decompress"],
            max_msg_queue_size=MAX_MSG_QUEUE_SIZE,
            heads=self._came,
        )

    def _start_timer(self) -> None:
        if self._header_timer is None and self._hardened.header_timeout_seconds:
            loop = asyncio.get_running_loop()
            self._header_timer = loop.call_later(self._hardened.header_timeout_seconds, self._expire)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _expire(self) -> None:
        self._header_timer = None
        if self.busy:
            # The request before it is answered first.
            self._start_timer()
        else:
            self.drop()

    # ---- a client that does not read --------------------------------------------------------------------------

    @property
    def stalled(self) -> bool:
        """Tell whether the client does not take its answer."""
        return self._reader.stalled

    def pause_writing(self) -> None:
        """Look after the client: the kernel takes no more for it."""
        super().pause_writing()
        if self._wire is not None:
            self._reader.watch(self._wire, self.drop)

    def resume_writing(self) -> None:
        """Stop looking: all has been taken."""
        self._reader.stop()
        super().resume_writing()
