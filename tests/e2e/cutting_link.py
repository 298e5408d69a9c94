"""A bad link: it forwards TCP to the server and cuts one connection after so many bytes."""

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Self

_BLOCK_BYTES = 65536


class CuttingLink:
    """Forwards to a port on this machine; the first connection that carries enough is cut, no later one."""

    def __init__(self, port: int, *, cut_after_bytes: int) -> None:
        """Listen on a free port.

        Args:
            port: The server's.
            cut_after_bytes: The bytes that one connection may carry to the server before it is cut, headers included.
        """
        self._target = port
        self._cut_after_bytes = cut_after_bytes
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.port: int = self._listener.getsockname()[1]
        self.cuts = 0  # 1 once the cut has happened

    def __enter__(self) -> Self:
        """Begin to accept."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything, which ends the threads."""
        with self._lock:
            for connection in (self._listener, *self._open):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()

    def through(self, url: str) -> str:
        """Return a server's URL as it looks from behind the link."""
        return url.replace(f":{self._target}/", f":{self.port}/", 1)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            with self._lock:
                self._open |= {near, far}
            threading.Thread(target=self._forward_up, args=(near, far), daemon=True).start()
            threading.Thread(target=self._forward_down, args=(far, near), daemon=True).start()

    def _forward_up(self, near: socket.socket, far: socket.socket) -> None:
        carried = 0
        with contextlib.suppress(OSError):
            while block := near.recv(_BLOCK_BYTES):
                far.sendall(block)
                carried += len(block)
                if carried >= self._cut_after_bytes and self._may_cut():
                    # A reset, as of a firewall or a train's tunnel: bytes in flight are lost.
                    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self._end(near, far)
                    return
            far.shutdown(socket.SHUT_WR)

    def _forward_down(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := far.recv(_BLOCK_BYTES):
                near.sendall(block)
        self._end(near, far)

    def _may_cut(self) -> bool:
        with self._lock:
            first, self.cuts = self.cuts == 0, 1
            return first

    def _end(self, *connections: socket.socket) -> None:
        with self._lock:
            self._open -= set(connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
