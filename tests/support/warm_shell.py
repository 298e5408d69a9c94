"""`dropoff-tus` for shell scripts, without its start-up time: what a script calls asks one process to fork for it.

The script's own standard streams are passed along, so pipes work. Run as a script this is that process.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

_CALL = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
    asked.connect({place!r})
    order = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(asked, [order], [0, 1, 2])
    sys.exit(int(asked.recv(16) or b"1"))
"""
_MOST_BYTES = 1 << 20


class WarmShell:
    """Puts a program `dropoff-tus` into a folder, for a PATH."""

    def __init__(self, folder: Path) -> None:
        """Take an existing folder."""
        place = folder / "warm"
        program = folder / "dropoff-tus"
        program.write_text(_CALL.format(python=sys.executable, place=str(place)), "utf-8")
        program.chmod(0o755)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(place))
        listener.listen()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm_shell", str(listener.fileno())], pass_fds=[listener.fileno()]
        )
        listener.close()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def _serve(listener: socket.socket) -> None:
    from tests.support.warm_cli import preload  # noqa: PLC0415 - what starts this needs nothing of it

    preload()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        asked, _ = listener.accept()
        # One process waits for another, so that several may run at a time.
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            order, streams, _, _ = socket.recv_fds(asked, _MOST_BYTES, 3)
            child = os.fork()
            if not child:
                asked.close()
                _run(order, streams)
            _, status = os.waitpid(child, 0)
            asked.send(str(os.waitstatus_to_exitcode(status) & 0xFF).encode())
            os._exit(0)
        asked.close()


def _run(order: bytes, streams: list[int]) -> None:
    from server.cli.main import main  # noqa: PLC0415 - imported before the fork

    arguments, folder, environment = json.loads(order)
    for number, opened in enumerate(streams):
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["dropoff-tus", *arguments]
    main()
    sys.exit(0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
