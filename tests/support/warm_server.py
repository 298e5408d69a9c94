"""The real server without its start-up time: imported once, forked for each start, so that it can be killed often.

Run as a script it is the process that forks: a JSON line in, the child's process id out. The child runs the program's
own `main`, and may die by SIGKILL at a failpoint or once it has written a number of bytes.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_READY_SECONDS = 120


class WarmServer:
    """Starts `serve` in forks of one process, and kills it."""

    def __init__(self, root: Path) -> None:
        """Import the program from its root folder."""
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root)},
            text=True,
        )

    def start(self, config: str, output: Path, *, failpoint: str = "", die_at_byte: int = 0) -> int:
        """Start a server, wait until it is ready, and return its process id.

        Args:
            config: Its configuration file.
            output: Where its output goes.
            failpoint: `name:count`, or none.
            die_at_byte: The number of the written byte after which it dies; 0 for never.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        output.unlink(missing_ok=True)
        order = {"config": config, "output": str(output), "failpoint": failpoint, "die_at_byte": die_at_byte}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        process = int(self._process.stdout.readline())
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline and self.is_running(process):
            if output.exists() and any(line.startswith("ready ") for line in output.read_text().splitlines()):
                return process
            time.sleep(0.01)
        if failpoint or die_at_byte:
            return process  # it died while starting, as it should
        said = output.read_text()[-2000:] if output.exists() else ""
        message = f"the server did not start: {said}"
        raise AssertionError(message)

    @staticmethod
    def is_running(process: int) -> bool:
        """Tell whether a server runs; the process that forked it takes its end."""
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self, process: int) -> None:
        """End a server as a power cut would end it, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        deadline = time.monotonic() + _READY_SECONDS
        while self.is_running(process):
            assert time.monotonic() < deadline, "it does not die"
            time.sleep(0.005)

    def close(self) -> None:
        """End the process that forks."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait(_READY_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _serve() -> None:
    # These imports are what we are here for; `serve` does them when it runs.
    for module in ("server.cli.main", "server.cli.commands.serve", "server.lifespan"):
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run(json.loads(line))
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


def _run(order: dict[str, Any]) -> None:
    from server.cli.main import main  # noqa: PLC0415 - imported before the fork
    from storage import failpoints  # noqa: PLC0415
    from storage.files import durable  # noqa: PLC0415

    class DyingCalls(durable.Calls):
        """Writes up to a byte, and dies."""

        left = order["die_at_byte"]

        def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
            count = super().pwrite(descriptor, data[: self.left], offset)
            self.left -= count
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
            return count

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if order["die_at_byte"]:
        durable.calls = DyingCalls()
    if order["failpoint"]:
        failpoints.hook = failpoints._killer(order["failpoint"])  # noqa: SLF001 - what the environment would make
    for number, (path, flags) in enumerate((("/dev/null", os.O_RDONLY), *[(order["output"], os.O_WRONLY)] * 2)):
        opened = os.open(path, flags | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["dropoff-tus", "serve", "--config", order["config"]]
    main()
    sys.exit(0)


if __name__ == "__main__":
    sys.path.pop(0)
    _serve()
