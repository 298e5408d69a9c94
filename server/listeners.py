"""Listening sockets. They are bound before anything is opened, so that a second server changes nothing.

A bound socket listens at once, since only then the kernel refuses it to others; connections wait in its queue until
the server accepts.
"""

import contextlib
import socket
import stat
from pathlib import Path

BACKLOG = 1024
_CONNECT_SECONDS = 1.0


class ListenError(Exception):
    """An address cannot be listened on; the text says which, why and what to do."""


def listen_on(host: str, port: int, name: str) -> list[socket.socket]:
    """Listen on every address of a host.

    Args:
        host: A name or an address without brackets.
        port: From 1 to 65535.
        name: What to call it in an error, e.g. `server.listen = 127.0.0.1:8080`.

    Raises:
        ListenError: One of them cannot be had; then none is kept.
    """
    with contextlib.ExitStack() as stack:
        sockets = []
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, protocol, _, address in dict.fromkeys(found):
                listening = stack.enter_context(socket.socket(family, kind, protocol))
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listening.setblocking(False)  # noqa: FBT003 - its only argument
                listening.bind(address)
                listening.listen(BACKLOG)
                sockets.append(listening)
        except OSError as error:
            raise _refusal(name, error) from error
        stack.pop_all()
        return sockets


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
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise _refusal(name, error) from error
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


def _refusal(name: str, error: OSError) -> ListenError:
    return ListenError(
        f"cannot listen on {name}: {error.strerror or error}; is another server running there? Nothing was opened"
    )
