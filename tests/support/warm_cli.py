"""The command line without its start-up time: imported once, forked for each command.

A Python program with a web server and a database toolkit in it takes a second to import, which hundreds of
commands in the end-to-end tests would each pay. Here a process imports it once and forks for every command, which
then runs the program's own `main` with arguments, environment, folder and output of its own, as a new process
would. Run as a script it is that process: a JSON line in, the exit status out.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class WarmCommandLine:
    """Runs commands of the program in forks of one process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start the process.

        Args:
            environment: Variables for the import, such as PYTHONPATH; commands have their own.
        """
        self._environment = dict(environment)
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
            text=True,
            start_new_session=True,
        )

    def run(
        self, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one command to its end."""
        outputs = [folder / f"cli.{os.getpid()}.{name}" for name in ("stdout", "stderr")]
        order = {
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": dict(environment),
            "outputs": [str(path) for path in outputs],
        }
        try:
            status = self._order(order)
        except BaseException:
            # A test's time ran out in here. The answer that is still to come must not be taken for the next one's.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = self._start()
            raise
        stdout, stderr = (path.read_bytes() for path in outputs)
        for path in outputs:
            path.unlink()
        return subprocess.CompletedProcess(list(arguments), status, stdout, stderr)

    def _order(self, order: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._process.communicate()


def preload() -> None:
    """Import what a command would import when it runs."""
    for module in ("server.cli.main", "storage.catalog.migration", "alembic.command"):
        importlib.import_module(module)
    for command in importlib.import_module("server.cli.main").PLACES.values():
        command.load()


def _serve() -> None:
    preload()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run(json.loads(line))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{status}\n")
        sys.stdout.flush()


def _run(order: dict[str, Any]) -> None:
    from server.cli.main import main  # noqa: PLC0415 - imported before the fork

    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    for number, path in enumerate(("/dev/null", *order["outputs"])):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["dropoff-tus", *order["arguments"]]
    main()
    sys.exit(0)


if __name__ == "__main__":
    # Started by path, so that this folder is first on sys.path; it holds nothing the program should import.
    sys.path.pop(0)
    _serve()
