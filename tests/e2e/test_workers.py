"""`server.workers`: several processes behave as one server, and one that dies is replaced."""

import hashlib
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.server_process import Drop, ServerProcess, upload_id_of
from tests.support.tus_raw import RawConnection, TusSite

_WORKERS, _LIMIT, _WRONG = 3, 24, 9
_SETTINGS = {
    "SERVER__WORKERS": str(_WORKERS),
    "LIMITS__CONNECTIONS_PER_ADDRESS": str(_LIMIT),
    "LIMITS__WRONG_CODES_PER_HOUR": str(_WRONG),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Start one with several workers."""
    with ServerProcess(tmp_path_factory.mktemp("workers"), environment=_SETTINGS) as server:
        yield server


def _workers(server: ServerProcess) -> set[int]:
    return {int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()}


def _runs(pid: int) -> bool:
    """Tell whether a process runs; one whose end nobody has taken does not."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def _answers(site: TusSite, url: str) -> bool:
    try:
        return site.head(url).status == 200
    except OSError:
        return False


def _wait(until: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _metrics(server: ServerProcess) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port + 1}/metrics", timeout=20) as answer:
        text: str = answer.read().decode()
    return text


def _total(text: str, name: str) -> float:
    return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(rf"{name}[ {{]", line))


def test_metrics_are_those_of_all_workers_whoever_is_asked(server: ServerProcess) -> None:
    """Requests, received bytes and connections are added up; what all see alike is shown once."""
    assert len(_workers(server)) == _WORKERS
    site = server.create_drop().site
    before = _metrics(server)
    for _ in range(12):
        site.upload(b"hello")  # on connections of their own
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(site.connect())
        _wait(lambda: _total(_metrics(server), "tusd_connections_open") == 5)
        for _ in range(2 * _WORKERS):
            text = _metrics(server)
            assert _total(text, "tusd_bytes_received") - _total(before, "tusd_bytes_received") == 60
            assert _total(text, "tusd_uploads_finished") - _total(before, "tusd_uploads_finished") == 12
            assert text.count("\ndropoff_volume_free_bytes{") == before.count("\ndropoff_volume_free_bytes{")
            assert (_total(text, "dropoff_catalog_up"), _total(text, "dropoff_uploads")) == (1, 12)


def _processors(thread: Path) -> str:
    """Return on which processors a thread may run, as the kernel lists them."""
    return (thread / "status").read_text().partition("Cpus_allowed_list:\t")[2].splitlines()[0]


def test_threads_of_a_worker_share_a_processor_and_sealing_has_all(server: ServerProcess) -> None:
    """Threads that need the interpreter wake no other processor; workers in a row take different ones."""
    site, content = server.create_drop().site, os.urandom(1 << 20)
    for _ in range(4 * _WORKERS):
        site.upload(content)  # above what is sealed by a thread that waits for the disk
    every = _processors(Path("/proc/self"))
    assert _processors(Path(f"/proc/{server.pid}")) == every
    homes, others = [], []
    for pid in _workers(server):
        threads = {int(thread.name): _processors(thread) for thread in Path(f"/proc/{pid}/task").iterdir()}
        homes.append(int(threads[pid]))
        assert set(threads.values()) <= {threads[pid], every}
        assert list(threads.values()).count(threads[pid]) > 1  # its log, at least
        others += [allowed for allowed in threads.values() if allowed != threads[pid]]
    processors = os.sched_getaffinity(0)
    assert set(homes) <= processors
    assert len(set(homes)) == min(_WORKERS, len(processors))
    assert others or len(processors) == 1


def test_limit_of_connections_is_for_all_workers_together(server: ServerProcess) -> None:
    """One address has as many as the limit says, however they are spread."""
    site = server.drop.site
    url = site.create(1 << 20)
    headers = site.post_headers(
        {"Upload-Length": "9", "Content-Length": "9", "Content-Type": "application/offset+octet-stream"}
    )
    message = site.message("POST", site.upload_url, headers, b"x")
    _wait(lambda: _total(_metrics(server), "tusd_connections_open") == 0)
    with ExitStack() as stack:
        taken: list[RawConnection] = []
        for _ in range(_LIMIT):
            taken.append(stack.enter_context(RawConnection("127.0.0.1", server.port)))
            # Each has begun a body before the next one comes, so that none can be spared.
            taken[-1].send(message)
            _wait(lambda: _total(_metrics(server), "dropoff_requests_running") == len(taken))
        for _ in range(2 * _WORKERS):
            more = stack.enter_context(RawConnection("127.0.0.1", server.port))
            assert more.is_closed_within(20)
        assert not any(one.is_closed_within(0.01) for one in taken)
    _wait(lambda: _answers(site, url))


def test_wrong_codes_are_slowed_by_all_workers_together(server: ServerProcess) -> None:
    """As many as the limit says pass, not that many at each; the right code always passes."""
    drop = server.create_drop()
    wrong = TusSite(drop.upload_url, "0000-0000-0000-0000")
    statuses = [wrong.post({"Upload-Length": "1"}).status for _ in range(6 * _WRONG)]
    assert 1 <= statuses.count(403) <= _WRONG + _WORKERS
    assert {*statuses} == {403, 429}
    assert drop.site.post({"Upload-Length": "1"}).status == 201


def test_reload_reaches_every_worker(server: ServerProcess) -> None:
    """Each says so in the log."""
    before = server.log_text.count("the configuration was reloaded")
    os.kill(server.pid, signal.SIGHUP)
    _wait(lambda: server.log_text.count("the configuration was reloaded") - before == _WORKERS)


@dataclass
class _Client:
    """Uploads one file after the other in pieces of 64 KiB, and goes on after each break, until it is to stop."""

    drop: Drop
    stop: threading.Event
    made: dict[str, bytes] = field(default_factory=dict)
    problem: BaseException | None = None

    def run(self) -> None:
        """Run in a thread."""
        try:
            while not self.stop.is_set():
                content = os.urandom(1_000_000)
                self.made[self._upload(content)] = content
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.problem = error

    def _upload(self, content: bytes) -> str:
        site, url, offset = self.drop.site, "", 0
        while offset < len(content):
            try:
                url = url or site.create(len(content))
                answer = site.patch(url, offset, content[offset : offset + 65536])
                if answer.status != 204:
                    answer = site.head(url)
                if answer.status in {200, 204}:
                    assert answer.offset >= offset, "acknowledged bytes are gone"
                    offset = answer.offset
                    continue
            except OSError:
                pass
            time.sleep(0.05)
        return url


def test_workers_killed_again_and_again_lose_nothing(server: ServerProcess) -> None:
    """Each is replaced; what was acknowledged stays, and every upload becomes whole."""
    stop = threading.Event()
    clients = [_Client(server.create_drop(), stop) for _ in range(4)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    killed: set[int] = set()
    try:
        for _ in range(4):
            time.sleep(1)
            pid = min(pid for pid in _workers(server) if _runs(pid))
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [client.problem for client in clients] == [None] * len(clients)
    _wait(lambda: server.log_text.count("a worker ended and was replaced") == len(killed))
    _wait(lambda: sum(map(_runs, _workers(server))) == _WORKERS)
    for client in clients:
        url, content = client.made.popitem()
        assert hashlib.sha256(server.export(url)).digest() == hashlib.sha256(content).digest()
        done = {row["id"]: row["state"] for row in server.uploads(client.drop)}
        assert {done[upload_id_of(url)] for url in client.made} <= {"complete"}


def test_stop_ends_all_and_keeps_what_came(server: ServerProcess) -> None:
    """In order on SIGTERM; and without a supervisor no worker stays."""
    site = server.create_drop().site
    url = site.create(10)
    with site.connect() as sending:
        sending.send(site.message("PATCH", url, site.patch_headers(0, {"Content-Length": "10"}), b"hello"))
        _wait(lambda: site.head(url).offset == 5)
        workers = _workers(server)
        assert server.stop() == 0
    assert not any(map(_runs, workers))
    server.start()
    assert site.head(url).offset == 5
    workers = _workers(server)
    server.kill9()
    _wait(lambda: not any(map(_runs, workers)))
    server.start()
    assert site.patch(url, 5, b"world").status == 204


def test_start_that_fails_says_so_once(tmp_path: Path) -> None:
    """And ends with 1: where the address is taken, and where the store is not the catalog's."""
    server = ServerProcess(tmp_path, environment={"SERVER__WORKERS": "4"})
    with socket.create_server(("127.0.0.1", server.port)):
        server.launch()
        assert server.wait() == 1
    assert server.log_text.count("cannot listen") == 1
    (server.data / "store" / "uploads" / "store-id").write_text("00000000-0000-4000-8000-000000000000\n")
    server.launch()
    assert server.wait() == 1
    assert server.log_text.count("dropoff-tus: ") == 2
