"""A tus client on a bare socket: it sends the given bytes, malformed or half, and reads one response at once.

Nothing here checks the protocol or retries: the tests do. A header given as None is left out, so that a test
can drop one of the usual ones.
"""

import base64
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

TUS = "1.0.0"
OCTETS = "application/offset+octet-stream"

Headers = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Response:
    """One response; `interim` are the 1xx statuses that came before it."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    interim: tuple[int, ...] = ()

    def header(self, name: str) -> str | None:
        """Return the value of a header that may be there once; case does not matter."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        if len(values) > 1:
            message = f"{name} is there {len(values)} times"
            raise ValueError(message)
        return values[0] if values else None

    def needed(self, name: str) -> str:
        """Return the value of a header that must be there."""
        value = self.header(name)
        if value is None:
            message = f"no {name} in a {self.status}: {self.headers!r}"
            raise ValueError(message)
        return value

    @property
    def error_code(self) -> str:
        """Return the first word of an error body: `CODE: message`."""
        return self.body.decode("utf-8", "replace").partition(":")[0]

    @property
    def offset(self) -> int:
        """Return Upload-Offset as a number."""
        return int(self.needed("Upload-Offset"))


class ConnectionCutError(ConnectionError):
    """The server closed before a whole response had come."""


class RawConnection:
    """One TCP connection, blocking, with a deadline for every wait."""

    def __init__(self, host: str, port: int, *, timeout_seconds: float = 20) -> None:
        """Connect."""
        self._socket = socket.create_connection((host, port), timeout=timeout_seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    @classmethod
    def to(cls, url: str, *, timeout_seconds: float = 20, tls: ssl.SSLContext | None = None) -> Self:
        """Connect to the host and port of a URL, by TLS if a context is given."""
        parts = urlsplit(url)
        made = cls(parts.hostname or "", parts.port or 80, timeout_seconds=timeout_seconds)
        if tls is not None:
            made._socket = tls.wrap_socket(made._socket, server_hostname=parts.hostname)
        return made

    @classmethod
    def over(cls, connected: socket.socket) -> Self:
        """Take over a connected socket of another kind: a unix socket, or TLS."""
        connection = cls.__new__(cls)
        connection._socket, connection._buffer = connected, b""  # noqa: SLF001 - its own
        return connection

    def __enter__(self) -> Self:
        """Use as a context; the connection is closed at its end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def send_slowly(self, data: bytes, *, piece_bytes: int, pause_seconds: float) -> None:
        """Send bytes in pieces with a pause after each."""
        for start in range(0, len(data), piece_bytes):
            self.send(data[start : start + piece_bytes])
            time.sleep(pause_seconds)

    def read_response(self, *, to_head: bool = False) -> Response:
        """Read one final response, and the interim ones before it.

        Args:
            to_head: The request was a HEAD: no body follows whatever the headers say.

        Raises:
            ConnectionCutError: The server closed first.
            TimeoutError: Nothing came in time.
        """
        interim: list[int] = []
        while True:
            status, reason, headers = self._read_head()
            if status >= 200:
                break
            interim.append(status)
        body = b"" if to_head or status in {204, 304} else self._read_body(dict(_lowered(headers)))
        return Response(status, reason, headers, body, tuple(interim))

    def wait_at_most(self, seconds: float) -> None:
        """Change the deadline for every wait."""
        self._socket.settimeout(seconds)

    def wait_for_continue(self) -> None:
        """Wait for the interim answer 100, which lets the body be sent."""
        status, _, _ = self._read_head()
        if status != 100:
            message = f"{status} instead of 100"
            raise ValueError(message)

    def is_closed_within(self, seconds: float) -> bool:
        """Tell whether the server closes the connection within a time, whatever it still sends before."""
        deadline = time.monotonic() + seconds
        try:
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(65536):
                    return True
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return False

    def half_close(self) -> None:
        """Say that nothing more will be sent; answers can still come."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Break the connection: the kernel throws unsent bytes away."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        """Close in order."""
        self._socket.close()

    def _read_head(self) -> tuple[int, str, tuple[tuple[str, str], ...]]:
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        _, status, reason = (*first.split(" ", 2), "")[:3]
        pairs = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
        return int(status), reason, pairs

    def _read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            return self._read_chunked()
        if "content-length" in headers:
            return self._take(int(headers["content-length"]))
        try:
            while True:
                self._fill()
        except ConnectionCutError:
            rest, self._buffer = self._buffer, b""
            return rest

    def _read_chunked(self) -> bytes:
        body = b""
        while size := int(self._take_line().split(b";")[0], 16):
            body += self._take(size)
            self._take_line()
        while self._take_line():
            pass
        return body

    def _take_line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._fill()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _take(self, count: int) -> bytes:
        pieces, missing = [self._buffer], count - len(self._buffer)
        while missing > 0:
            self._buffer = b""
            self._fill()
            pieces.append(self._buffer)
            missing -= len(self._buffer)
        whole = b"".join(pieces)
        self._buffer = whole[count:]
        return whole[:count]

    def _fill(self) -> None:
        try:
            data = self._socket.recv(65536)
        except ConnectionResetError as error:
            raise ConnectionCutError(str(error)) from error
        if not data:
            message = f"closed after {self._buffer!r}"
            raise ConnectionCutError(message)
        self._buffer += data


class TusSite:
    """A drop-off as a raw client sees it: its upload URL and its code."""

    def __init__(self, upload_url: str, code: str | None, tls: ssl.SSLContext | None = None) -> None:
        """Keep the address, the code, and what an https URL is trusted by."""
        self.upload_url = upload_url
        self._tls = tls
        self.code = code
        self._host = urlsplit(upload_url).netloc

    def connect(self, *, timeout_seconds: float = 20) -> RawConnection:
        """Open a connection to the server."""
        return RawConnection.to(self.upload_url, timeout_seconds=timeout_seconds, tls=self._tls)

    def message(self, method: str, url: str, headers: Headers, body: bytes = b"") -> bytes:
        """Write a request; Host and, with a body, Content-Length are added unless they are given."""
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        return request_bytes(method, target, {"Host": self._host, **_length_of(body, headers), **headers}, body)

    def request(self, method: str, url: str, headers: Headers, body: bytes = b"") -> Response:
        """Send one request on a connection of its own and read the answer, also if it comes early."""
        with self.connect() as connection:
            # An early refusal closes while we still send; the answer is there to be read anyway.
            with contextlib.suppress(ConnectionError):
                connection.send(self.message(method, url, headers, body))
            return connection.read_response(to_head=method == "HEAD")

    def post_headers(self, headers: Headers | None = None) -> dict[str, str | None]:
        """Return the headers of a creation with the code, changed by what is given."""
        return {"Tus-Resumable": TUS, "Dropoff-Code": self.code, **(headers or {})}

    def patch_headers(self, offset: int, headers: Headers | None = None) -> dict[str, str | None]:
        """Return the headers of a PATCH at an offset, changed by what is given."""
        return {"Tus-Resumable": TUS, "Upload-Offset": str(offset), "Content-Type": OCTETS, **(headers or {})}

    def post(self, headers: Headers | None = None, body: bytes = b"") -> Response:
        """Send a creation."""
        return self.request("POST", self.upload_url, self.post_headers(headers), body)

    def create(self, length: int, headers: Headers | None = None) -> str:
        """Create an upload of a length in bytes and return its URL."""
        answer = self.post({"Upload-Length": str(length), **(headers or {})})
        if answer.status != 201:
            message = f"creation answered {answer.status} {answer.body!r}"
            raise ValueError(message)
        return answer.needed("Location")

    def upload(self, content: bytes, headers: Headers | None = None) -> str:
        """Create an upload, send all of it in one PATCH and return its URL."""
        url = self.create(len(content), headers)
        answer = self.patch(url, 0, content)
        if answer.status != 204:
            message = f"PATCH answered {answer.status} {answer.body!r}"
            raise ValueError(message)
        return url

    def head(self, url: str, headers: Headers | None = None) -> Response:
        """Ask where an upload stands."""
        return self.request("HEAD", url, {"Tus-Resumable": TUS, **(headers or {})})

    def patch(self, url: str, offset: int, body: bytes = b"", headers: Headers | None = None) -> Response:
        """Send bytes at an offset."""
        return self.request("PATCH", url, self.patch_headers(offset, headers), body)

    def delete(self, url: str, headers: Headers | None = None) -> Response:
        """End an upload."""
        return self.request("DELETE", url, {"Tus-Resumable": TUS, **(headers or {})})


def request_bytes(method: str, target: str, headers: Headers, body: bytes = b"") -> bytes:
    """Write a request as bytes; header values are UTF-8, so that a test can send what is not ASCII."""
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(*pieces: bytes, end: bool = True) -> bytes:
    """Write pieces as a chunked body, with or without its end."""
    body = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    return body + (b"0\r\n\r\n" if end else b"")


def metadata(**pairs: str | bytes) -> str:
    """Write an Upload-Metadata header value."""
    encoded = {key: value.encode() if isinstance(value, str) else value for key, value in pairs.items()}
    return ",".join(f"{key} {base64.b64encode(value).decode()}" for key, value in encoded.items())


def _lowered(headers: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    return [(name.lower(), value.lower()) for name, value in headers]


def _length_of(body: bytes, headers: Headers) -> dict[str, str]:
    given = {name.lower() for name in headers}
    return {} if given & {"content-length", "transfer-encoding"} else {"Content-Length": str(len(body))}
