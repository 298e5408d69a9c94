"""A stricter HTTP connection: a deadline for headers, caps on connections, and silent answers to malformed requests.

Relies on aiohttp's `RequestHandler` having `connection_made`, `connection_lost`, `data_received`, `eof_received`,
`handle_error`, `_close`, `_current_request`, `_messages`, `_request_factory` and `_waiter`, and on `Server` being the
factory of handlers; tests/unit/server/test_aiohttp.py fails if that changes.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.http import HttpRequestParser
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE, RequestHandler, RequestPayloadError

from dropoff_tus.messages import TUS_VERSION
from server.forwarded import Network, in_networks, throttled_as

_log = logging.getLogger(__name__)
SERVER_NAME = "dropoff-tus"  # aiohttp would tell its version and Python's
# aiohttp needs two turns of the event loop from a request's last header to its handler.
_TURNS_TO_BEGIN = 8
_HURRIED_SECONDS = 0.1
# The path is not known, so these must do for all routes.
_REFUSAL_HEADERS = {"X-Content-Type-Options": "nosniff", "Tus-Resumable": TUS_VERSION, "Server": SERVER_NAME}
# aiohttp's own logger would print tracebacks with headers in them, codes included.
quiet_logger = logging.getLogger("server.quiet")
quiet_logger.setLevel(logging.CRITICAL + 1)
quiet_logger.propagate = False


class HardenedServer(web.Server):
    """Counts connections and makes hardened handlers."""

    def __init__(
        self,
        inner: web.Server,
        *,
        header_timeout_seconds: float,
        connections: int,
        connections_per_address: int,
        trusted_proxies: Sequence[Network],
        hurry: asyncio.Event | None = None,
        **handler_arguments: Any,  # noqa: ANN401 - aiohttp's own
    ) -> None:
        """Serve what `inner` serves; once `hurry` is set, `shutdown` waits no longer."""
        super().__init__(inner.request_handler, request_factory=inner.request_factory, **handler_arguments)
        self._arguments = handler_arguments
        self.header_timeout_seconds = header_timeout_seconds
        self._most, self._most_per_address = connections, connections_per_address
        self._trusted = trusted_proxies
        self._hurry = hurry or asyncio.Event()
        # In the order in which they came.
        self._open: dict[HardenedHandler, None] = {}
        self._by_name: dict[str, dict[HardenedHandler, None]] = {}

    def __call__(self) -> "HardenedHandler":
        """Make the protocol of one connection."""
        return HardenedHandler(self, loop=asyncio.get_running_loop(), **self._arguments)

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's
        """End all connections: those with a request when it has ended, or after the timeout, or when told to hurry."""
        ending = asyncio.create_task(super().shutdown(timeout))
        hurried = asyncio.create_task(self._hurry.wait())
        try:
            await asyncio.wait({ending, hurried}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurried.cancel()
        if not ending.done():
            ending.cancel()
            await asyncio.wait({ending})
            await super().shutdown(_HURRIED_SECONDS)
        else:
            await ending

    def counted_as(self, address: str) -> str | None:
        """Return what a peer's connections are counted under; None for our proxies, who connect for many."""
        return None if in_networks(address, self._trusted) else throttled_as(address)

    def admit(self, handler: "HardenedHandler", name: str | None) -> bool:
        """Let a new connection in, or refuse it; at a limit one that has no request makes place for it.

        So connections that only wait, with half a header or none, keep nobody out.

        Args:
            handler: The connection.
            name: From `counted_as`, or None for a unix socket.
        """
        same = self._by_name.get(name, {}) if name is not None else {}
        if self._most_per_address and len(same) >= self._most_per_address and not self._drop_one(same):
            return False
        if self._most and len(self._open) >= self._most and not self._drop_one(self._open):
            return False
        self._open[handler] = None
        if name is not None:
            self._by_name.setdefault(name, {})[handler] = None
        return True

    def leave(self, handler: "HardenedHandler", name: str | None) -> None:
        """Count a connection out; again is a no-op."""
        self._open.pop(handler, None)
        same = self._by_name.get(name, {}) if name is not None else {}
        same.pop(handler, None)
        if name is not None and not same:
            self._by_name.pop(name, None)

    def _drop_one(self, handlers: "dict[HardenedHandler, None]") -> bool:
        """Close the oldest connection that never had a request, else the oldest that has none now."""
        waiting = [handler for handler in handlers if not handler.busy]
        dropped = next((handler for handler in waiting if handler.is_new), waiting[0] if waiting else None)
        if dropped is not None:
            dropped.drop()
        return dropped is not None


def _more_follows(data: bytes, body_bytes: int, *, is_new: bool) -> bool:
    """Tell whether a packet that ends a request goes on with the beginning of another one.

    Args:
        data: The packet.
        body_bytes: How many bytes of the request's body it brought.
        is_new: It brought the end of the request's headers, too.
    """
    # A chunked body, and a request without one, end in an empty line, and no half headers do.
    if _ends_empty_line(data):
        return False
    before_body = len(data) - body_bytes
    return not _ends_empty_line(data[max(0, before_body - 4) : before_body]) if is_new else before_body > 0


def _ends_empty_line(data: bytes) -> bool:
    """Tell whether data ends an empty line; the beginning of that may have come before."""
    return b"\r\n\r\n".endswith(data[-4:])


class HardenedHandler(RequestHandler):
    """One connection."""

    __slots__ = (
        "_arguments",
        "_half_closed",
        "_hardened",
        "_head_begun",
        "_header_timer",
        "_make_request",
        "_name",
        "_payload",
    )

    def __init__(self, manager: HardenedServer, **arguments: Any) -> None:  # noqa: ANN401 - aiohttp's own
        """Start with nothing counted."""
        super().__init__(manager, **arguments)
        self._arguments = arguments
        self._hardened = manager
        self._name: str | None = None
        self._half_closed = False
        self._head_begun = False
        self._header_timer: asyncio.TimerHandle | None = None
        self._payload: StreamReader | None = None
        self._make_request = manager.request_factory
        self._request_factory = self._begin

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit, or drop at once."""
        peer = transport.get_extra_info("peername")
        self._name = self._hardened.counted_as(str(peer[0])) if isinstance(peer, tuple) else None
        admitted = self._hardened.admit(self, self._name)
        super().connection_made(transport)
        if admitted:
            self._start_timer()
        else:
            self.drop()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count out."""
        self._stop_timer()
        self._hardened.leave(self, self._name)
        self._lose(exc, _TURNS_TO_BEGIN)

    def _lose(self, exc: BaseException | None, turns: int) -> None:
        """Let a request that came with the end begin first: aiohttp would forget it, and its bytes with it."""
        if turns and self.busy and self._current_request is None:
            asyncio.get_running_loop().call_soon(self._lose, exc, turns - 1)
        else:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Run the header deadline from a request's first byte to the end of its headers."""
        # aiohttp calls itself with no data to go on parsing.
        if data and not self.busy:
            self._start_timer()
        count, before = self._request_count, self._newest_payload()
        between, taken = before is None or before.is_eof(), 0 if before is None else before.total_bytes
        super().data_received(data)
        newest = self._newest_payload()
        if data and newest is not None:
            # aiohttp's payload of requests without a body is one and the same, so they are told apart by their number.
            is_new = self._request_count != count
            body_bytes = newest.total_bytes - (0 if is_new else taken)
            self._head_begun = newest.is_eof() and (
                (between and not is_new) or _more_follows(data, body_bytes, is_new=is_new)
            )
        if self._head_begun:
            self._start_timer()
        elif self.busy:
            self._stop_timer()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - aiohttp's
        """End; without a request at once, since aiohttp waits for one where the connection is only just accepted."""
        if not self.busy:
            self.force_close()
        await super().shutdown(timeout)

    def _newest_payload(self) -> StreamReader | None:
        return self._messages[-1][1] if self._messages else self._payload

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Let requests that are here end, with their bodies cut, instead of dropping what arrived with them."""
        if self.transport is None or not self.busy or self.transport.get_extra_info("sslcontext") is not None:
            return None
        self._half_closed = True
        for payload in (self._payload, *(payload for _, payload in self._messages)):
            if payload is not None and not payload.is_eof():
                payload.set_exception(ConnectionResetError("the client closed its side"))
        self._close_after_the_last()
        return True

    def _begin(self, message: Any, payload: StreamReader, *others: Any) -> web.BaseRequest:  # noqa: ANN401 - aiohttp's
        """Note the body of the request that begins: there is a moment when aiohttp knows it no more, and not yet."""
        self._payload = payload
        self._close_after_the_last()
        return self._make_request(message, payload, *others)

    def _close_after_the_last(self) -> None:
        """Nothing comes after the client's end, so do not wait for it."""
        if self._half_closed and not self._messages:
            self._close = True

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

    @property
    def busy(self) -> bool:
        """Tell whether a request is here: it waits, or has begun and nobody waits for the next one."""
        return bool(self._messages) or (self._payload is not None and self._waiter is None)

    @property
    def is_new(self) -> bool:
        """Tell whether no request has begun here so far."""
        return self._payload is None and not self._messages

    def drop(self) -> None:
        """Close at once, whatever is on its way."""
        self._hardened.leave(self, self._name)
        if self.transport is not None:
            self.transport.abort()

    def renew_parser(self) -> None:
        """Read the next request with a fresh parser: the present one still waits for a body that went another way."""
        arguments = self._arguments
        self._parser = HttpRequestParser(
            self,
            asyncio.get_running_loop(),
            arguments["read_bufsize"],
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=RequestPayloadError,
            auto_decompress=arguments["auto_decompress"],
            max_msg_queue_size=MAX_MSG_QUEUE_SIZE,
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
        if not self.busy:
            self.drop()
        elif self._head_begun:
            # The request before it is answered first.
            self._start_timer()
