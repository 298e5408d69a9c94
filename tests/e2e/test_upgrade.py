"""A change of version under load, as docs/operate/upgrade.md has it: no client that retries fails, no byte is lost."""

import contextlib
import hashlib
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_systemd import Manager
from tests.support.server_process import ServerProcess
from tests.support.tus_raw import ConnectionCutError, TusSite

pytestmark = pytest.mark.timeout(180)
_WAIT = frozenset({409, 423, 503})
"""Answers after which a client asks where it stands, and goes on."""


class _Clients:
    """Clients that upload without a pause, and retry as tus-js-client does; any other answer is a failure."""

    def __init__(self, site: TusSite) -> None:
        self._site, self._stop = site, threading.Event()
        self.done: dict[str, bytes] = {}
        self.failures: list[str] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def wait_for_more(self, count: int) -> None:
        target, deadline = len(self.done) + count, time.monotonic() + 60
        while len(self.done) < target and not self.failures:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _work(self, number: int) -> None:
        for turn in itertools.count():
            if self._stop.is_set() or self.failures:
                return
            content = hashlib.shake_128(f"{number} {turn}".encode()).digest(40_000)
            try:
                self.done[self._upload(content)] = content
            except AssertionError as error:
                self.failures.append(str(error))

    def _upload(self, content: bytes) -> str:
        url, offset = "", 0
        while offset < len(content):
            time.sleep(0.1)
            # A connection that was open may end with the old server; a new one is never refused.
            with contextlib.suppress(ConnectionCutError, TimeoutError, ConnectionResetError):
                if not url:
                    answer = self._site.post({"Upload-Length": str(len(content))})
                    assert answer.status in {201, *_WAIT}, answer
                    url = answer.needed("Location") if answer.status == 201 else ""
                    continue
                answer = self._site.patch(url, offset, content[offset : offset + 10_000])
                assert answer.status in {204, *_WAIT}, answer
                answer = self._site.head(url)
                assert answer.status in {200, *_WAIT}, answer
                offset = answer.offset if answer.status == 200 else offset
        return url


def _next(server: ServerProcess, folder: Path) -> ServerProcess:
    """Return another server on the same socket; nothing runs yet."""
    folder.mkdir()
    return server.beside(folder)


def test_change_of_version_under_load_fails_no_client_that_retries(tmp_path: Path) -> None:
    """The new server starts before the old one has ended, or after it; the socket is open all the time."""
    (tmp_path / "data").mkdir()
    with Manager(tmp_path / "data") as manager:
        server, clients = manager.server, _Clients(manager.server.drop.site)
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
