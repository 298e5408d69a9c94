"""Requests to addresses from the configuration, with bounds on a hostile or broken receiver.

The address is checked where the socket is made, so it is the one connected to, whatever a name said before. Redirects
are not followed, proxies of the environment and cookies not used, and of an answer the status and so many bytes of the
body are looked at, in so much time.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import AddrInfoType

from server.settings.addresses import Networks, is_allowed

_MOST_ANSWER_BYTES = 128 << 10
"""Room for a head, and for what is read of a body (64 KiB)."""


class OutboundError(Exception):
    """A request got no answer; the text is a fixed phrase, nothing of the address or of the answer."""


class _AddressRefusedError(OSError):
    """The configuration does not allow this address."""


class _BoundedHandler(ResponseHandler):
    """Parses so much of a connection and no more, even of what aiohttp skips: interim answers, extensions of chunks."""

    _left_bytes = _MOST_ANSWER_BYTES

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        taken = data[: self._left_bytes]
        self._left_bytes -= len(taken)
        if taken:
            super().data_received(taken)
        if len(taken) < len(data) and self.transport is not None:
            # Not closed, which would take away what is still to be read of it.
            self.transport.pause_reading()


def _handler(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return _BoundedHandler(loop)


@dataclass(frozen=True, slots=True)
class SiteAnswer:
    """The parts of an answer that count. `body` is None where it is longer than was asked for."""

    status: int
    body: bytes | None


class OutboundClient:
    """Posts to one URL."""

    def __init__(self, url: str, allowed: Networks, timeout_seconds: float) -> None:
        """Take where to, which addresses besides the public ones are allowed, and how long one request may take."""
        self._url, self._allowed = url, allowed
        self._plain = urlsplit(url).scheme != "https"
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes, headers: Mapping[str, str], *, most_bytes: int) -> SiteAnswer:
        """Post JSON and return the answer.

        Raises:
            OutboundError: There was none in time, or it was none of HTTP, or the address is not allowed.
        """
        try:
            async with self._opened().post(
                self._url, data=body, headers={"Content-Type": "application/json", **headers}, allow_redirects=False
            ) as response:
                return SiteAnswer(response.status, await _capped(response.content, most_bytes))
        except TimeoutError:
            raise OutboundError("no answer in time") from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, _AddressRefusedError):
                raise OutboundError("the address is not allowed; see allow_private_addresses") from None
            raise OutboundError("cannot connect") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise OutboundError("the answer is not HTTP, or was cut off") from None

    async def reach(self) -> None:
        """Connect, by TLS if the URL says so, and send nothing.

        Raises:
            OutboundError: It cannot be done, or the address is not allowed.
        """
        parts = urlsplit(self._url)
        port = parts.port or (80 if self._plain else 443)
        problem: OSError | None = None
        try:
            async with asyncio.timeout(self._timeout.total):
                loop = asyncio.get_running_loop()
                for info in await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM):
                    try:
                        await self._touch(info, None if self._plain else parts.hostname)
                    except OSError as error:
                        problem = error
                    else:
                        return
            raise problem or OSError
        except TimeoutError:
            raise OutboundError("no answer in time") from None
        except _AddressRefusedError:
            raise OutboundError("the address is not allowed; see allow_private_addresses") from None
        except ssl.SSLError as error:
            raise OutboundError(f"TLS fails ({getattr(error, 'verify_message', '') or error.reason})") from None
        except OSError as error:
            raise OutboundError(f"cannot connect ({error.strerror or type(error).__name__})") from None

    async def _touch(self, info: AddrInfoType, tls_name: str | None) -> None:
        with self._make_socket(info) as made:
            made.settimeout(0)
            await asyncio.get_running_loop().sock_connect(made, info[4])
            tls = None if tls_name is None else ssl.create_default_context()
            _reader, writer = await asyncio.open_connection(sock=made, ssl=tls, server_hostname=tls_name)
            writer.transport.abort()

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                use_dns_cache=False, socket_factory=self._make_socket, force_close=True, limit=0
            )
            # Each connection has one answer, so what it may bring is bounded with the connection.
            connector._factory = partial(_handler, asyncio.get_running_loop())  # noqa: SLF001 - no other way
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=1 << 14,
                headers={"User-Agent": "dropoff-tus", "Accept-Encoding": "identity"},
            )
        return self._session

    def _make_socket(self, info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _name, place = info
        # An IPv6 address may carry its zone.
        address = ipaddress.ip_address(str(place[0]).partition("%")[0])
        if not is_allowed(address, self._allowed, plain=self._plain):
            raise _AddressRefusedError("not allowed")
        return socket.socket(family, kind, protocol)


async def _capped(content: aiohttp.StreamReader, most_bytes: int) -> bytes | None:
    """Read a body; None once it is longer than most_bytes, the rest unread."""
    body = bytearray()
    while piece := await content.read(most_bytes + 1 - len(body)):
        body += piece
        if len(body) > most_bytes:
            return None
    return bytes(body)
