"""The program without its start-up time: imported once, forked for each command and each server.

A Python program with a web server and a database toolkit in it takes a second of a core to import, which hundreds of
commands and servers of the tests would each pay. Here one process imports it and forks; the child runs the program's
own `main` with arguments, environment, folder and streams of its own, as a new process would; root's child becomes the
user that asked. Run as a script it is that process.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

DIE_AT_BYTE = "DROPOFF_TUS_TEST_DIE_AT_BYTE"
"""The variable with the number of the written byte after which a forked server kills itself."""

_FAILPOINT = "DROPOFF_TUS_FAILPOINT"
_MOST_BYTES = 1 << 20
_NOTHING = Path(os.devnull)
_SCRIPT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
    asked.connect({place!r})
    order = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(asked, [order], [0, 1, 2])
    asked.recv(16)
    sys.exit(int(asked.recv(16) or b"1") & 0xFF)
"""


class WarmProcess:
    """A started program; has what tests use of `subprocess.Popen`."""

    def __init__(self, asked: socket.socket) -> None:
        """Take the connection on which its process id comes now, and its status in the end."""
        self._asked = asked
        self.pid = int(asked.recv(16))
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its status, for a signal below 0.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        if self.returncode is None:
            self._asked.settimeout(timeout)
            try:
                self.returncode = int(self._asked.recv(16) or b"1")
            except (BlockingIOError, TimeoutError) as error:
                raise subprocess.TimeoutExpired(["dropoff-tus"], timeout or 0) from error
            self._asked.close()
        return self.returncode

    def poll(self) -> int | None:
        """Return its status, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended, and its status is on the way
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.send_signal(signal.SIGKILL)


class WarmProgram:
    """Starts the program in forks of one process."""

    def __init__(self, folder: Path, preloaded: str = "") -> None:
        """Start the process, below a library.

        Args:
            folder: Its socket comes to lie there, and a program `dropoff-tus`, for a PATH.
            preloaded: The library, or none.
        """
        self._place = str(folder / "warm")
        script = folder / "dropoff-tus"
        script.write_text(_SCRIPT.format(python=sys.executable, place=self._place), "utf-8")
        script.chmod(0o755)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(self._place)
            listener.listen(64)
            # A warning is an error, as in pytest's own filterwarnings. It ends with its standard input.
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), str(listener.fileno())],
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,
                env={
                    **os.environ,
                    "PYTHONPATH": str(Path(__file__).parents[2]),
                    "PYTHONWARNINGS": "error",
                    "LD_PRELOAD": preloaded,
                },
                start_new_session=True,
            )

    def start(
        self, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], streams: Sequence[int]
    ) -> WarmProcess:
        """Start the program with standard streams that are already open."""
        asked = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        asked.connect(self._place)
        order = json.dumps([list(arguments), str(folder), dict(environment)]).encode()
        socket.send_fds(asked, [order], list(streams))
        return WarmProcess(asked)

    def run(
        self, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one command to its end and return what it wrote."""
        outputs = [folder / f"cli.{os.getpid()}.{name}" for name in ("stdout", "stderr")]
        with _NOTHING.open("rb") as empty, outputs[0].open("wb") as out, outputs[1].open("wb") as err:
            streams = [empty.fileno(), out.fileno(), err.fileno()]
            process = self.start(arguments, folder=folder, environment=environment, streams=streams)
            try:
                status = process.wait()
            except BaseException:
                process.kill()  # a test's time ran out in here
                raise
        done = subprocess.CompletedProcess(list(arguments), status, *(path.read_bytes() for path in outputs))
        for path in outputs:
            path.unlink()
        return done

    def close(self) -> None:
        """End the process; what it started goes on."""
        self._process.communicate()


def _serve(listener: socket.socket) -> None:
    for module in ("server.cli.main", "storage.catalog.migration", "alembic.command", "server.lifespan"):
        importlib.import_module(module)
    main = importlib.import_module("server.cli.main")
    main._Place.load = functools.cache(main._Place.load)  # noqa: SLF001 - what a process makes of it once
    for command in main.PLACES.values():
        command.load()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while listener.fileno() in select.select([listener.fileno(), 0], [], [])[0]:
        asked, _ = listener.accept()
        # One process waits for another, so that several may run at a time.
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            _keep(asked)
        asked.close()


def _keep(asked: socket.socket) -> None:
    order, streams, _, _ = socket.recv_fds(asked, _MOST_BYTES, 3)
    child = os.fork()
    if not child:
        _, user, group = struct.unpack("3i", asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        asked.close()
        _run(order, streams, user, group)
    for stream in (0, 1, 2, *streams):
        os.close(stream)
    with contextlib.suppress(OSError):  # nobody may be left who asks
        asked.send(str(child).encode())
        asked.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    os._exit(0)


def _run(order: bytes, streams: list[int], user: int, group: int) -> None:
    from server.cli.main import main  # noqa: PLC0415 - imported before the fork

    arguments, folder, environment = json.loads(order)
    for number, opened in enumerate(streams):
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if user != os.geteuid():
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
    _prepare_death()
    sys.argv = ["dropoff-tus", *arguments]
    try:
        main()
        status: object = 0
    except SystemExit as error:
        status = error.code
    _end(status)


def _end(status: object) -> None:
    """End as the interpreter would, but without taking a hundred modules apart, which would be half of a command."""
    threading._shutdown()  # type: ignore[attr-defined] # noqa: SLF001 - waits for threads
    atexit._run_exitfuncs()  # noqa: SLF001 - which nothing else runs
    gc.collect()  # what was left open warns now
    if isinstance(status, int | None):
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status or 0)
    sys.exit(status)  # type: ignore[arg-type] # with a text, or output that nobody takes


def _prepare_death() -> None:
    from storage import failpoints  # noqa: PLC0415 - imported before the fork
    from storage.files import durable  # noqa: PLC0415

    if point := os.environ.get(_FAILPOINT):
        failpoints.hook = failpoints._killer(point)  # noqa: SLF001 - what a start would make of the environment
    last = int(os.environ.get(DIE_AT_BYTE, "0"))
    if not last:
        return

    class DyingCalls(durable.Calls):
        """Writes up to a byte, and dies."""

        left = last
        turn = threading.Lock()  # a checkpoint of the audit may be written beside an upload

        def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
            with self.turn:
                count = super().pwrite(descriptor, data[: self.left], offset)
                self.left -= count
                if not self.left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return count

    durable.calls = DyingCalls()


if __name__ == "__main__":
    # Started by path, so that this folder is first on sys.path; it holds nothing the program should import.
    sys.path.pop(0)
    with socket.socket(fileno=int(sys.argv[1])) as given:
        _serve(given)
