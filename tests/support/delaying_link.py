"""A long link: it forwards TCP to a server, and every byte arrives so much later, in each direction.

It carries as many bytes at once as it is given, so that only the windows of the protocols above it limit the speed.
"""

import contextlib
import queue
import socket
import threading
import time
from types import TracebackType
from typing import Self

_BLOCK_BYTES = 1 << 20
_MOST_BLOCKS = 256


class DelayingLink:
    """Forwards to a port on this machine, late."""

    def __init__(self, port: int, *, delay_seconds: float) -> None:
        """Listen on a free port; the delay is that of one direction."""
        self._target, self._delay_seconds = port, delay_seconds
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        """Begin to accept."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything, which ends the threads."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                for here, there in ((near, far), (far, near)):
                    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    carried: queue.Queue[tuple[float, bytes]] = queue.Queue(_MOST_BLOCKS)
                    threading.Thread(target=self._take, args=(here, carried), daemon=True).start()
                    threading.Thread(target=_give, args=(there, carried), daemon=True).start()

    def _take(self, here: socket.socket, carried: queue.Queue[tuple[float, bytes]]) -> None:
        block = b"-"
        while block:
            try:
                block = here.recv(_BLOCK_BYTES)
            except OSError:
                block = b""
            carried.put((time.monotonic() + self._delay_seconds, block))


def _give(there: socket.socket, carried: queue.Queue[tuple[float, bytes]]) -> None:
    block = b"-"
    with contextlib.suppress(OSError):
        while block:
            due, block = carried.get()
            time.sleep(max(0.0, due - time.monotonic()))
            there.sendall(block)
        there.shutdown(socket.SHUT_WR)
