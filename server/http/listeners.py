"""Listening sockets. They are bound before anything is opened, so that a second server changes nothing.

A bound socket listens at once, since only then the kernel refuses it to others; connections wait in its queue until
the server accepts.
"""

import contextlib
import errno
import socket
import stat
from pathlib import Path
from typing import Any

_BACKLOG = 1024
_MOST_UNSENT_BYTES = 128 << 10
_CONNECT_SECONDS = 1.0
_MISSING = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_NO_ADDRESS = (
    "this machine has no such address; write one that it has, or 0.0.0.0 (all of IPv4) or [::] (all, IPv6 and IPv4)"
)
_WHY = {
    errno.EADDRINUSE: "another program listens there; stop it, or write another port",
    errno.EACCES: "the system does not let this user; write a port from 1024 up, or grant CAP_NET_BIND_SERVICE",
    **dict.fromkeys(_MISSING, _NO_ADDRESS),
}
_WHY_UNIX = {
    errno.EADDRINUSE: "another program listens there, or it is no socket; stop it, or write another path",
    errno.EACCES: "this user may not write to its folder; allow that, or write another path",
    errno.ENOENT: "there is no such folder; make it, or write another path",
}


class ListenError(Exception):
    """An address cannot be listened on; the text says which, why and what to do."""

    def __init__(self, name: str, error: OSError, why: dict[int, str]) -> None:
        """Say why, and tell whether somebody else has the address."""
        told = why.get(error.errno or 0) or error.strerror or error
        if isinstance(error, socket.gaierror):
            told = f"no address of that name was found ({told}); write an address"
        super().__init__(f"cannot listen on {name}: {told}. Nothing was begun")
        self.taken = error.errno == errno.EADDRINUSE


def listen_on(host: str, port: int, name: str) -> list[socket.socket]:
    """Listen on every address of a host that this machine has; `::` stands for all of IPv4 as well.

    Args:
        host: A name or an address without brackets.
        port: From 1 to 65535.
        name: Its name in an error, e.g. `server.listen = 127.0.0.1:8080`.

    Raises:
        ListenError: It has none of them, or one cannot be had; then none is kept.
    """
    hosts = ("::", "0.0.0.0") if host == "::" else (host,)  # noqa: S104 - as the operator asks
    with contextlib.ExitStack() as stack:
        sockets: list[socket.socket] = []
        missing: OSError | None = None
        try:
            # Not one socket for both: it would show IPv4 clients by other addresses than those configured.
            for family, address in [address for one in hosts for address in _addresses(one, port)]:
                try:
                    listening = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                    _bind(listening, address)
                except OSError as error:
                    if error.errno not in _MISSING:
                        raise
                    missing = error
                else:
                    sockets.append(listening)
        except OSError as error:
            raise ListenError(name, error, _WHY) from error
        if missing and not sockets:
            raise ListenError(name, missing, _WHY) from missing
        stack.pop_all()
        return sockets


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bind(listening: socket.socket, address: Any) -> None:  # noqa: ANN401 - each family has its own
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    limit_unsent(listening)
    if listening.family == socket.AF_INET6:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listening.setblocking(False)  # noqa: FBT003 - its only argument
    listening.bind(address)
    listening.listen(_BACKLOG)


def limit_unsent(listening: socket.socket) -> None:
    """Let a client that does not read hold no megabytes of the kernel's memory: connections inherit this."""
    if listening.family != socket.AF_UNIX:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _MOST_UNSENT_BYTES)


def listen_on_unix(path: Path, name: str) -> socket.socket:
    """Listen on a unix socket, in place of one that a dead server left behind.

    Raises:
        ListenError: A server listens there, or it is no socket, or the folder does not let us.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
            path.unlink()
        listening.setblocking(False)  # noqa: FBT003 - its only argument
        listening.bind(str(path))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise ListenError(name, error, _WHY_UNIX) from error
    return listening


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            pass
        return True
