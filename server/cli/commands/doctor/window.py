"""How much of an upload a server takes over HTTP/2 in one round trip.

Only the frames that this needs, so that `doctor` runs without a library for HTTP/2. Source: RFC 9113, sections 4.1,
6.5.2 and 6.9; RFC 7541, section 6.2.2 (literal header fields without indexing).
"""

import contextlib
import ssl
import struct
import time
from collections.abc import Iterator, Mapping
from typing import cast

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _RST_STREAM, _SETTINGS, _WINDOW_UPDATE = 1, 3, 4, 8
_ACK, _END_HEADERS = 1, 4
_INITIAL_WINDOW_SIZE, _CANCEL = 4, 8
_DEFAULT_WINDOW = 65535
_PREFIX = 127


def upload_window(connection: ssl.SSLSocket, headers: Mapping[str, str], seconds: float) -> int:
    """Begin a request with a body, send none of it, and return how many bytes the other side would take at once.

    Args:
        connection: Has agreed on `h2`.
        headers: Of the request, the pseudo-headers first, all lower case.
        seconds: How long to wait for the window to grow.

    Raises:
        OSError: The connection broke.
    """
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
    connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + _frame(_HEADERS, _END_HEADERS, 1, block))
    whole, initial, grown = _DEFAULT_WINDOW, _DEFAULT_WINDOW, 0
    for kind, flags, stream, content in _frames(connection, time.monotonic() + seconds):
        if kind == _SETTINGS and not flags & _ACK:
            for place in range(0, len(content), 6):
                name, value = struct.unpack_from("!HI", content, place)
                initial = value if name == _INITIAL_WINDOW_SIZE else initial
        elif kind == _WINDOW_UPDATE:
            more = cast("int", struct.unpack("!I", content)[0])
            whole, grown = (whole + more, grown) if stream == 0 else (whole, grown + more)
        elif stream == 1:
            break  # an answer: no more of the body is wanted
    with contextlib.suppress(OSError):
        connection.sendall(_frame(_RST_STREAM, 0, 1, struct.pack("!I", _CANCEL)))
    return min(whole, initial + grown)


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "big") + struct.pack("!BBI", kind, flags, stream) + content


def _text(text: str) -> bytes:
    raw = text.encode("latin-1")
    if len(raw) < _PREFIX:
        return bytes([len(raw)]) + raw
    rest, more = len(raw) - _PREFIX, bytearray([_PREFIX])
    while rest >= 1 << 7:
        more.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*more, rest]) + raw


def _frames(connection: ssl.SSLSocket, deadline: float) -> Iterator[tuple[int, int, int, bytes]]:
    buffer = b""
    while (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            piece = connection.recv(1 << 16)
        except TimeoutError:
            return
        if not piece:
            return
        buffer += piece
        while len(buffer) >= 9 + (length := int.from_bytes(buffer[:3], "big")):
            kind, flags, stream = struct.unpack_from("!BBI", buffer, 3)
            yield kind, flags, stream & 0x7FFFFFFF, buffer[9 : 9 + length]
            buffer = buffer[9 + length :]
