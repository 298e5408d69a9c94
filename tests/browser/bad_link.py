"""A bad line to the server: it forwards TCP as fast as it is told, swallows what comes, and breaks when it is told."""

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self

_BLOCK_BYTES = 65536


class BadLink:
    """Forwards to a port on this machine. Any method may be called while connections run."""

    def __init__(self, port: int, *, bytes_per_second: int = 0, swallows: bool = False) -> None:
        """Listen on a free port.

        Args:
            port: The server's.
            bytes_per_second: How much each connection carries towards the server; 0 for as much as comes.
            swallows: Whether it takes everything at once from the client, as an antivirus program or a proxy does.
        """
        self._target = port
        self._rate = bytes_per_second
        self._swallows = swallows
        self._broken = False
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        """Begin to accept."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything, which ends the threads."""
        self._listener.close()
        self.break_off()

    def change(self, *, bytes_per_second: int) -> None:
        """Let it carry so much from now on."""
        self._rate = bytes_per_second

    def break_off(self) -> None:
        """Cut all connections, and refuse new ones until `mend`."""
        self._broken = True
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let connections through again."""
        self._broken = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if self._broken:
                return
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                with self._lock:
                    self._open |= {client, server}
                back = threading.Thread(target=self._carry, args=(server, client), daemon=True)
                back.start()
                self._swallow(client, server) if self._swallows else self._carry(client, server, slowly=True)
                back.join()
                with self._lock:
                    self._open -= {client, server}

    def _carry(self, source: socket.socket, target: socket.socket, *, slowly: bool = False) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK_BYTES):
                target.sendall(block)
                if slowly and self._rate:
                    time.sleep(len(block) / self._rate)
        # One side has ended, so the other has nothing more to wait for.
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _swallow(self, client: socket.socket, server: socket.socket) -> None:
        """Take all that comes at once, and carry it slowly."""
        taken = bytearray()
        ended = threading.Event()

        def take() -> None:
            with contextlib.suppress(OSError):
                while block := client.recv(_BLOCK_BYTES):
                    taken.extend(block)
            ended.set()

        threading.Thread(target=take, daemon=True).start()
        with contextlib.suppress(OSError):
            sent = 0
            while not (ended.is_set() and sent == len(taken)):
                block = bytes(taken[sent : sent + _BLOCK_BYTES])
                server.sendall(block)
                sent += len(block)
                time.sleep(len(block) / self._rate if block and self._rate else 0.01)
        for each in (client, server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
