"""From SIGTERM to the end: the work that the stop waits for, and how long."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server_process import ServerProcess
from tests.support.tus_raw import RawConnection


@pytest.fixture(scope="module")
def silent() -> Iterator[int]:
    """Return a port where somebody listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, silent: int) -> Iterator[ServerProcess]:
    """Make one server that asks a silent site before an upload begins; each test starts it."""
    settings = {
        "PRE_CREATE__WEBHOOK": f"http://127.0.0.1:{silent}/",
        "PRE_CREATE__ALLOW_PRIVATE_ADDRESSES": "127.0.0.1",
        "PRE_CREATE__TIMEOUT": "60s",
    }
    made = ServerProcess(tmp_path_factory.mktemp("stop"), environment=settings, forked=False)
    yield made
    made.close()


def test_second_signal_ends_the_waiting_and_is_no_failure(server: ServerProcess) -> None:
    """A request may end in its time, but not when the operator asks again; a signal that comes twice asks once."""
    server.start()
    with _waiting_request(server):
        server.terminate()
        server.terminate()
        time.sleep(1.5)
        assert server.is_running
        before = time.monotonic()
        server.terminate()
        assert server.wait() == 0
        assert time.monotonic() - before < 5
    assert "Traceback" not in server.log_text
    assert '"error"' not in server.log_text


def test_signals_until_the_very_end_are_no_failure(server: ServerProcess) -> None:
    """A supervisor that goes on asking while the server ends must not make a clean end look like a kill."""
    for _ in range(3):
        server.start()
        deadline = time.monotonic() + 20
        while server.is_running:
            server.terminate()
            time.sleep(0.005)
            assert time.monotonic() < deadline
        assert server.wait() == 0


def test_idle_connections_are_not_waited_for(server: ServerProcess) -> None:
    """Neither those that wait for another request, nor those that never had one, nor half headers."""
    server.start()
    site, sent = server.drop.site, b"OPTIONS /files/x HTTP/1.1\r\nHost: a\r\n\r\n"
    connections = [site.connect() for _ in range(60)]
    for number, connection in enumerate(connections):
        connection.send((sent, sent[:20], b"")[number % 3])
    for connection in connections[::3]:
        assert connection.read_response().status == 204
    before = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - before < 5
    for connection in connections:
        connection.close()


def test_signal_before_ready_ends_the_start(server: ServerProcess, tmp_path: Path) -> None:
    """Its running work is not finished first: a large store is read for a while, and the next start reads it again."""
    script, key = tmp_path / "key.sh", server.data / "secrets" / "code-key"
    script.write_text(f"touch {tmp_path}/asked\nwhile ! test -e {tmp_path}/go; do sleep 0.05; done\ncat {key}\n")
    server.environment["KEYS__CODE_KEY"] = f"command:sh {script}"
    server.launch()
    while not (tmp_path / "asked").exists():
        assert server.is_running
        time.sleep(0.02)
    server.terminate()
    (tmp_path / "go").touch()
    assert server.wait() == 0
    assert not server.is_ready


def _waiting_request(server: ServerProcess) -> RawConnection:
    """Begin an upload that the silent site is asked about."""
    site = server.drop.site
    connection = site.connect()
    connection.send(site.message("POST", site.upload_url, site.post_headers({"Upload-Length": "5"})))
    time.sleep(0.3)
    return connection
