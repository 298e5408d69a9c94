"""Output that nobody takes stops nothing: neither requests, nor the end, nor a command's end."""

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server_process import ServerProcess, program
from tests.support.unread import unread_pipe

_UNREAD = {"stdout": (True, False), "stderr": (False, True), "both": (True, True)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Make one server's folder; nothing runs."""
    made = ServerProcess(tmp_path_factory.mktemp("unread"))
    yield made
    made.close()


def test_output_that_nobody_takes_stops_no_request_and_not_the_end(server: ServerProcess) -> None:
    """Uploads go on, many more than the pipe has room for lines of, and SIGTERM ends the server in order."""
    site = server.drop.site
    with unread_pipe() as (_, full):
        command = [*program(), "--config", str(server.config), "serve"]
        with subprocess.Popen(command, stdout=full, stderr=full) as process:
            try:
                _wait_until_it_listens(process, server.port)
                url = site.upload(b"hello")
                assert {site.head(url).offset for _ in range(300)} == {5}
                process.terminate()
                assert process.wait(20) == 0
            finally:
                process.kill()
    assert server.export(url) == b"hello"


@pytest.mark.parametrize(
    ("arguments", "unread"),
    [(["drop", "list"], "stdout"), (["drop", "list", "--json"], "both"), (["outbox", "list"], "stderr")],
)
def test_signal_ends_a_command_whose_output_nobody_takes(
    server: ServerProcess, arguments: list[str], unread: str
) -> None:
    """One signal is enough, also when what was printed is still to be written."""
    with unread_pipe() as (_, full):
        outputs = [full if stuck else subprocess.DEVNULL for stuck in _UNREAD[unread]]
        command = [*program(), "--config", str(server.config), *arguments]
        with subprocess.Popen(command, stdout=outputs[0], stderr=outputs[1]) as process:
            try:
                _wait_until_it_writes(process)
                process.terminate()
                assert process.wait(20) == 128 + signal.SIGTERM
            finally:
                process.kill()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        assert process.poll() is None
        time.sleep(0.02)


def _wait_until_it_writes(process: subprocess.Popen[bytes]) -> None:
    """Wait until it waits for whoever reads the pipe."""
    while "pipe_write" not in Path(f"/proc/{process.pid}/wchan").read_text("ascii"):
        assert process.poll() is None
        time.sleep(0.02)
