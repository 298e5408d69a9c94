"""Several requests for one upload at once, clients that hold connections open, and a server that stops."""

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.answers import assert_head, assert_refused
from tests.e2e.received import assert_received
from tests.support.server_process import Drop, ServerProcess
from tests.support.tus_raw import ConnectionCutError, RawConnection, TusSite, metadata

_HEADER_TIMEOUT_SECONDS = 3
_HALF_CONNECTIONS = 400
_PROMPT_SECONDS = 6  # two are promised; a busy machine adds to them, and what would fail waits for ten or more


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server that lets one address hold fewer connections than will come, and waits for headers three seconds."""
    settings = {
        "LIMITS__HEADER_TIMEOUT": f"{_HEADER_TIMEOUT_SECONDS}s",
        "LIMITS__CONNECTIONS": "2000",
        "LIMITS__CONNECTIONS_PER_ADDRESS": "200",
    }
    with ServerProcess(tmp_path_factory.mktemp("concurrency"), environment=settings) as running:
        yield running


@pytest.fixture(autouse=True)
def _running(server: ServerProcess) -> None:
    """Start the server again if a test that stops it has failed."""
    if not server.is_running:
        server.restart()


@pytest.fixture(scope="module")
def drop(server: ServerProcess) -> Drop:
    """Return the first drop-off of that server."""
    return server.drop


@pytest.fixture(scope="module")
def site(drop: Drop) -> TusSite:
    """Return that drop-off for the raw client."""
    return drop.site


def _stalled_patch(site: TusSite, url: str, offset: int, sent: bytes, length: int) -> RawConnection:
    """Begin a PATCH of a length, send part of it and keep the connection open."""
    connection = site.connect()
    headers = site.patch_headers(offset, {"Content-Length": str(length)})
    connection.send(site.message("PATCH", url, headers, sent))
    return connection


def _wait_for_offset(site: TusSite, url: str, offset: int, *, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while (found := site.head(url).offset) != offset:
        assert time.monotonic() < deadline, f"offset {found}, not {offset}"
        time.sleep(0.05)


# ---- HEAD and PATCH beside a stalled PATCH ----------------------------------------------------


@pytest.mark.parametrize("sent_bytes", [3, 100_000, 3_000_001], ids=["few", "some", "many"])
def test_head_beside_a_stalled_patch_answers_what_arrived(site: TusSite, sent_bytes: int) -> None:
    """A client that lost its link learns within two seconds all that the server received."""
    url = site.create(5_000_000)
    with _stalled_patch(site, url, 0, random.randbytes(sent_bytes), 5_000_000):
        time.sleep(1.5)  # HEAD asks a holder that was silent for a second to commit
        started = time.monotonic()
        answer = assert_head(site.head(url), 200)
        assert time.monotonic() - started < _PROMPT_SECONDS
        assert answer.offset == sent_bytes


def test_head_beside_a_running_patch_does_not_disturb_it(server: ServerProcess, site: TusSite) -> None:
    """Asking how far a healthy upload is does not interrupt it."""
    content = random.randbytes(600_000)
    url = site.create(len(content))
    with site.connect() as connection:
        connection.send(site.message("PATCH", url, site.patch_headers(0, {"Content-Length": "600000"})))
        sender = threading.Thread(
            target=connection.send_slowly,
            args=(content[:-20_000],),
            kwargs={"piece_bytes": 20_000, "pause_seconds": 0.1},
        )
        sender.start()
        while sender.is_alive():
            assert_head(site.head(url), 200)
            time.sleep(0.2)
        sender.join()
        # The end comes after the last HEAD: one that meets the server finishing is rightly told 423.
        connection.send(content[-20_000:])
        answer = connection.read_response()
    assert (answer.status, answer.offset) == (204, 600_000)
    assert server.export(url) == content


@pytest.mark.parametrize("sent_bytes", [3, 2_500_000], ids=["few", "many"])
def test_second_patch_takes_over_from_a_dead_one(
    server: ServerProcess, drop: Drop, site: TusSite, sent_bytes: int
) -> None:
    """A client whose old connection hangs goes on at once on a new one, with nothing lost."""
    content = random.randbytes(sent_bytes + 500_000)
    url = site.create(len(content), {"Upload-Metadata": metadata(filename="takeover.bin")})
    with _stalled_patch(site, url, 0, content[:sent_bytes], len(content)) as dead:
        time.sleep(1.5)
        offset = site.head(url).offset
        assert offset == sent_bytes
        started = time.monotonic()
        assert site.patch(url, offset, content[offset:]).status == 204
        assert time.monotonic() - started < _PROMPT_SECONDS
        assert_refused(dead.read_response(), 409, "ERR_UPLOAD_INTERRUPTED")
    assert_received(server, drop, url, content, filename="takeover.bin")


def test_delete_ends_a_stalled_patch(site: TusSite) -> None:
    """DELETE asks the holder to let go, and the upload is gone."""
    url = site.create(1000)
    with _stalled_patch(site, url, 0, b"hello", 1000) as stalled:
        time.sleep(0.2)
        started = time.monotonic()
        assert site.delete(url).status == 204
        assert time.monotonic() - started < _PROMPT_SECONDS
        assert stalled.read_response().status in {409, 410}
    assert_head(site.head(url), 410)


def test_hopeless_patch_does_not_interrupt_a_running_one(server: ServerProcess, site: TusSite) -> None:
    """A request that is refused for its form or length takes the upload from nobody."""
    url = site.create(10)
    with _stalled_patch(site, url, 0, b"hello", 10) as running:
        time.sleep(0.2)
        assert site.patch(url, 0, b"x", {"Content-Type": "text/plain"}).status == 415
        assert site.patch(url, 0, bytes(11)).status == 413
        running.send(b"world")
        assert running.read_response().status == 204
    assert server.export(url) == b"helloworld"


# ---- races ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, 1_500_000], ids=["small", "large"])
def test_two_patches_racing_at_one_offset_never_interleave(server: ServerProcess, site: TusSite, size: int) -> None:
    """At most one of two racing PATCHes wins, and the stored bytes are the beginning of only one of them."""
    with ThreadPoolExecutor(2) as pool:
        for _ in range(4):
            url = site.create(size)
            barrier = threading.Barrier(2)
            racers = [pool.submit(_race, site, url, bytes([mark]) * size, barrier) for mark in b"AB"]
            statuses = sorted(racer.result() for racer in racers)
            # A large body may be interrupted half-way by the other, whose offset then no longer fits either.
            assert statuses in ([[204, 409]] if size < 65536 else [[204, 409], [409, 409]])
            offset = site.head(url).offset
            assert offset == size or statuses == [409, 409]
            if offset < size:
                assert site.patch(url, offset, b"C" * (size - offset)).status == 204
            stored = server.export(url)
            assert len(stored) == size
            assert set(stored[:offset]) in ({ord("A")}, {ord("B")}, set())


def _race(site: TusSite, url: str, body: bytes, barrier: threading.Barrier) -> int:
    barrier.wait()
    return site.patch(url, 0, body).status


def test_many_clients_at_one_offset_leave_one_winner(server: ServerProcess, site: TusSite) -> None:
    """Eight clients that repeat until the upload is whole end with the bytes that they all meant."""
    content = random.randbytes(400_000)
    url = site.create(len(content))

    def work() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            answer = site.head(url)
            if answer.status == 200 and answer.offset == len(content):
                return
            if answer.status == 200:
                try:
                    site.patch(url, answer.offset, content[answer.offset : answer.offset + 50_000])
                except ConnectionCutError:
                    continue
            time.sleep(random.uniform(0, 0.02))

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work) for _ in range(8)]:
            done.result()
    assert server.export(url) == content


# ---- connections that say nothing -------------------------------------------------------------


def test_half_sent_headers_are_ended_and_disturb_nobody(server: ServerProcess, drop: Drop, site: TusSite) -> None:
    """Hundreds of connections that never finish their headers are closed in time, and others are served.

    Also those of the same address, beyond whose limit the oldest that only waits is closed.
    """
    halves = [site.connect() for _ in range(_HALF_CONNECTIONS)]
    try:
        opened = time.monotonic()
        for number, half in enumerate(halves):
            # Some have said nothing at all, others stop inside a header.
            with contextlib.suppress(ConnectionError):
                half.send(b"" if number % 2 else b"POST /files/x HTTP/1.1\r\nHost: a\r\nDropoff-Co")
        slowest = 0.0
        content = random.randbytes(1000)
        urls = []
        for _ in range(10):
            started = time.monotonic()
            urls.append(site.upload(content, {"Upload-Metadata": metadata(filename="beside.bin")}))
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < _PROMPT_SECONDS
        assert_received(server, drop, urls[-1], content, filename="beside.bin")
        time.sleep(max(0.0, opened + _HEADER_TIMEOUT_SECONDS + 3 - time.monotonic()))
        assert sum(half.is_closed_within(0.01) for half in halves) == _HALF_CONNECTIONS
    finally:
        for half in halves:
            half.close()


def test_headers_that_trickle_in_are_ended_too(site: TusSite) -> None:
    """The deadline is for the headers as a whole: a byte now and then does not extend it."""
    with site.connect() as slow:
        slow.send(b"POST /files/x HTTP/1.1\r\n")
        for _ in range(4 * (_HEADER_TIMEOUT_SECONDS + 3)):
            with contextlib.suppress(ConnectionError):
                slow.send(b"X")
            if slow.is_closed_within(0.25):
                return
    pytest.fail("the connection is still open")


# ---- the server stops ---------------------------------------------------------------------------


@pytest.mark.parametrize("sent_bytes", [3, 3_000_000], ids=["few", "many"])
def test_sigterm_during_patch_keeps_what_arrived_and_answers_503(
    server: ServerProcess, drop: Drop, site: TusSite, sent_bytes: int
) -> None:
    """A stop commits what is in flight, says so, and the upload goes on after the start."""
    content = random.randbytes(sent_bytes + 100_000)
    url = site.create(len(content), {"Upload-Metadata": metadata(filename="stop.bin")})
    with _stalled_patch(site, url, 0, content[:sent_bytes], len(content)) as connection:
        time.sleep(0.3)
        started = time.monotonic()
        server.terminate()
        answer = assert_refused(connection.read_response(), 503)
        assert int(answer.needed("Retry-After")) >= 1
        assert connection.is_closed_within(2)
    assert server.wait() == 0
    assert time.monotonic() - started < 10
    server.start()
    _wait_for_offset(site, url, sent_bytes)
    assert site.patch(url, sent_bytes, content[sent_bytes:]).status == 204
    assert_received(server, drop, url, content, filename="stop.bin")


def test_kill_during_patch_loses_no_acknowledged_byte(server: ServerProcess, drop: Drop, site: TusSite) -> None:
    """Bytes that a 204 or a HEAD has promised are there after a kill, and the upload goes on from there."""
    content = random.randbytes(3_000_000)
    url = site.create(len(content), {"Upload-Metadata": metadata(filename="kill.bin")})
    assert site.patch(url, 0, content[:1_000_000]).status == 204
    with _stalled_patch(site, url, 1_000_000, content[1_000_000:2_000_000], 2_000_000):
        time.sleep(1.5)
        promised = site.head(url).offset
        server.kill9()
    server.start()
    offset = site.head(url).offset
    assert 1_000_000 <= promised <= offset <= 2_000_000
    assert site.patch(url, offset, content[offset:]).status == 204
    assert_received(server, drop, url, content, filename="kill.bin")


def test_second_server_on_the_same_port_says_so_in_a_sentence(server: ServerProcess) -> None:
    """A taken port is an error message, not a traceback, and the first server goes on."""
    done = server.cli("serve", check=False)
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr
    assert str(server.port).encode() in done.stderr
    assert server.drop.site.request("OPTIONS", server.drop.upload_url, {}).status == 204


def test_memory_of_many_stalled_uploads_is_bounded(server: ServerProcess, site: TusSite) -> None:
    """A stalled upload costs kilobytes, not the megabytes that it could have buffered."""
    before = server.rss_bytes()
    stalled = []
    try:
        for _ in range(64):
            url = site.create(10_000_000)
            stalled.append(_stalled_patch(site, url, 0, bytes(1_000_000), 10_000_000))
        time.sleep(1)
        assert (server.rss_bytes() - before) / len(stalled) < 1_500_000
    finally:
        for connection in stalled:
            connection.close()
