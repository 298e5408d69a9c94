"""Signals: one that was ignored at the start stays ignored; any other is an orderly stop."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.support.server_process import ServerProcess, program
from tests.support.signals import signals_at_start

_OF_A_TERMINAL = (signal.SIGHUP, signal.SIGINT)


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
        _stop_in_order(server, process, signal.SIGTERM)


@pytest.mark.parametrize("number", _OF_A_TERMINAL, ids=lambda number: number.name)
def test_serve_stops_in_order_at_every_signal_of_a_terminal(
    server: ServerProcess, tmp_path: Path, number: signal.Signals
) -> None:
    """One that closes is as good as SIGTERM: the bytes are committed, and the client gets 503."""
    with _serving(server, tmp_path) as process:
        _stop_in_order(server, process, number)


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
    server: ServerProcess, *arguments: str, output: IO[bytes], ignored: tuple[signal.Signals, ...] = ()
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*program(), "--config", str(server.config), *arguments],
        stdout=output,
        stderr=output,
        preexec_fn=signals_at_start(*ignored),  # noqa: PLW1509 - it calls nothing but signal()
    )


@contextlib.contextmanager
def _serving(
    server: ServerProcess, folder: Path, *, ignored: tuple[signal.Signals, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `serve`, and send what it ignores all the time until it is ready."""
    said = folder / "said"
    with said.open("wb") as out:
        process = _run(server, "serve", output=out, ignored=ignored)
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


def _stop_in_order(server: ServerProcess, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Stop a server by a signal in the middle of a body."""
    site = server.drop.site
    url = site.create(10)
    with site.connect() as connection:
        connection.send(site.message("PATCH", url, site.patch_headers(0, {"Content-Length": "10"}), b"hello"))
        deadline = time.monotonic() + 20
        while site.head(url).offset != 5:
            assert time.monotonic() < deadline
        process.send_signal(number)
        assert connection.read_response().status == 503
    assert process.wait(20) == 0
