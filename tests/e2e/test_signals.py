"""Signals: one that was ignored at the start stays ignored; others stop in order, or reload."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.support.server_process import ServerProcess, program
from tests.support.signals import signals_at_start

_OF_A_TERMINAL = (signal.SIGHUP, signal.SIGINT)
_ON_ITS_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server that commands run beside."""
    with ServerProcess(tmp_path_factory.mktemp("beside")) as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    """Make a server's folder; each test runs it."""
    return ServerProcess(tmp_path_factory.mktemp("signals"))


def test_serve_goes_on_at_signals_that_were_ignored_at_its_start(server: ServerProcess, tmp_path: Path) -> None:
    """While it starts, and while it serves; the others end it in order."""
    with _serving(server, tmp_path, ignored=_OF_A_TERMINAL) as process:
        url = server.drop.site.create(10)
        for _ in range(20):
            for number in _OF_A_TERMINAL:
                process.send_signal(number)
            assert server.drop.site.head(url).offset == 0
        _stop_in_order(server, process, process.terminate)


def test_serve_stops_in_order_at_ctrl_c(server: ServerProcess, tmp_path: Path) -> None:
    """It is as good as SIGTERM: the bytes are committed, and the client gets 503."""
    with _serving(server, tmp_path) as process:
        _stop_in_order(server, process, lambda: process.send_signal(signal.SIGINT))


def test_serve_stops_in_order_when_its_terminal_closes(server: ServerProcess, tmp_path: Path) -> None:
    """A reload on the same terminal, while that is open, changes nothing of it."""
    terminal, its_end = os.openpty()
    with _serving(server, tmp_path, terminal=its_end) as process:
        os.close(its_end)
        process.send_signal(signal.SIGHUP)
        assert server.drop.site.post({"Upload-Length": "1"}).status == 201
        _stop_in_order(server, process, lambda: os.close(terminal))


@pytest.mark.parametrize("arguments", ["upload export", "store check", "keys rotate", "drop purge"])
def test_command_goes_on_at_signals_that_were_ignored_at_its_start(
    running: ServerProcess, tmp_path: Path, arguments: str
) -> None:
    """From its first moment to its last, and does what it was to do."""
    drop = running.create_drop(name="signals")
    written = tmp_path / "written"
    more = {
        "upload export": [drop.site.upload(b"hello"), "--output", str(written)],
        "drop purge": [drop.id, "--yes", "--output", str(written)],
    }.get(arguments, ["--json"])
    said = tmp_path / "said"
    with said.open("wb") as out:
        process = _run(running, *arguments.split(), *more, output=out, ignored=_OF_A_TERMINAL)
    while process.poll() is None:
        for number in _OF_A_TERMINAL:
            process.send_signal(number)
        time.sleep(0.005)
    assert process.returncode == 0, said.read_text("utf-8")
    assert written.exists() == ("--output" in more)


def _run(
    server: ServerProcess,
    *arguments: str,
    output: IO[bytes],
    ignored: tuple[signal.Signals, ...] = (),
    terminal: int | None = None,
) -> subprocess.Popen[bytes]:
    if terminal is not None:
        arguments = ("--config", str(server.config), *arguments)
        return subprocess.Popen(
            [sys.executable, "-c", _ON_ITS_TERMINAL, *program(), *arguments],
            stdin=terminal,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return subprocess.Popen(
        [*program(), "--config", str(server.config), *arguments],
        stdout=output,
        stderr=output,
        preexec_fn=signals_at_start(*ignored),  # noqa: PLW1509 - it calls nothing but signal()
    )


@contextlib.contextmanager
def _serving(
    server: ServerProcess, folder: Path, *, ignored: tuple[signal.Signals, ...] = (), terminal: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `serve`, and send what it ignores all the time until it is ready."""
    said = folder / "said"
    with said.open("wb") as out:
        process = _run(server, "serve", output=out, ignored=ignored, terminal=terminal)
    try:
        deadline = time.monotonic() + 30
        while b"ready " not in said.read_bytes():
            assert process.poll() is None, said.read_text("utf-8")
            assert time.monotonic() < deadline
            for number in ignored:
                process.send_signal(number)
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


def _stop_in_order(server: ServerProcess, process: subprocess.Popen[bytes], stop: Callable[[], object]) -> None:
    """Stop a server in the middle of a body."""
    site = server.drop.site
    url = site.create(10)
    with site.connect() as connection:
        connection.send(site.message("PATCH", url, site.patch_headers(0, {"Content-Length": "10"}), b"hello"))
        deadline = time.monotonic() + 20
        while site.head(url).offset != 5:
            assert time.monotonic() < deadline
        stop()
        assert connection.read_response().status == 503
    assert process.wait(20) == 0
