"""A change of version under load, as docs/operate/upgrade.md has it: no client that retries fails, no byte is lost."""

import contextlib
from pathlib import Path

import pytest

from tests.e2e.test_systemd import Manager
from tests.support.retrying_clients import RetryingClients
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(180)


def _next(server: ServerProcess, folder: Path) -> ServerProcess:
    """Return another server on the same socket; nothing runs yet."""
    folder.mkdir()
    return server.beside(folder)


def test_change_of_version_under_load_fails_no_client_that_retries(tmp_path: Path) -> None:
    """The new server starts before the old one has ended, or after it; the socket is open all the time."""
    (tmp_path / "data").mkdir()
    with Manager(tmp_path / "data") as manager:
        server, clients = manager.server, RetryingClients(manager.server.drop.site)
        with contextlib.ExitStack() as stack, clients.running():
            clients.wait_for_more(4)
            overlapping = _next(server, tmp_path / "overlapping")
            stack.callback(overlapping.close)
            overlapping.start()
            server.stop()
            clients.wait_for_more(4)
            overlapping.stop()
            last = _next(server, tmp_path / "last")
            stack.callback(last.close)
            last.start()
            clients.wait_for_more(4)
        assert clients.failures == []
        server.cli("drop", "export", server.drop.id, "--output", str(tmp_path / "out"))
        found = {path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert {url for url, content in clients.done.items() if content not in found} == set()
        assert server.cli_json("store", "check")["findings"] == []
