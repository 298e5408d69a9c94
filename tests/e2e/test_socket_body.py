"""Every way in which a large body, received by a worker straight from its socket, can end.

The server's log says which way a body went, so a test that means the socket's fails if it was not taken.
"""

import base64
import contextlib
import hashlib
import json
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.answers import assert_head, assert_refused
from tests.e2e.received import assert_received
from tests.support.certificate import make_certificate
from tests.support.server_process import ServerProcess, upload_id_of
from tests.support.tus_raw import (
    OCTETS,
    ConnectionCutError,
    RawConnection,
    Response,
    TusSite,
    chunked,
    metadata,
)

_IDLE_SECONDS = 3
_PROMPT_SECONDS = 2
_MIB = 1 << 20
_LENGTH = 6 * _MIB


@pytest.fixture(scope="module")
def unix_socket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the server listens besides."""
    return tmp_path_factory.mktemp("listener") / "socket"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, unix_socket: Path) -> Iterator[ServerProcess]:
    """Run a server that waits only three seconds for a byte."""
    settings = {
        "TUS__BODY_IDLE_TIMEOUT": f"{_IDLE_SECONDS}s",
        "TUS__DOWNLOAD": "true",
        "SERVER__UNIX_SOCKET": str(unix_socket),
    }
    with ServerProcess(tmp_path_factory.mktemp("socket-body"), environment=settings) as running:
        yield running


@pytest.fixture(autouse=True)
def _running(server: ServerProcess) -> None:
    """Start the server again if a test that stops it has failed."""
    if not server.is_running:
        server.restart()


@pytest.fixture
def site(server: ServerProcess) -> TusSite:
    """Return the first drop-off for the raw client."""
    return server.drop.site


@pytest.fixture(scope="module")
def content() -> bytes:
    """Return what most tests send."""
    return random.randbytes(_LENGTH)


def _begin(connection: RawConnection, site: TusSite, url: str, sent: bytes, length: int, offset: int = 0) -> None:
    """Send the headers of a PATCH of a length and part of its body."""
    connection.send(site.message("PATCH", url, site.patch_headers(offset, {"Content-Length": str(length)}), sent))


def _ways(server: ServerProcess, url: str) -> list[str | None]:
    """Return how the bodies of an upload were received, of its requests that have ended."""
    wanted = upload_id_of(url)
    lines = [json.loads(line) for line in server.log_text.splitlines() if wanted in line]
    return [line["received_by"] for line in lines if line.get("method") in {"PATCH", "POST"} and "received_by" in line]


def _until_over(server: ServerProcess, url: str, requests: int = 1) -> list[str]:
    """Wait until so many PATCHes (and creations with bytes) of an upload have ended; return which way they went."""
    deadline = time.monotonic() + 10
    while len(ways := [way for way in _ways(server, url) if way]) < requests:
        assert time.monotonic() < deadline, (_ways(server, url), server.log_text[-2000:])
        time.sleep(0.02)
    return ways


def _taken_over(server: ServerProcess, connections: int = 1) -> None:
    """Wait until workers have taken sockets over: then the process holds two descriptors of each."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        targets: list[str] = []
        for link in Path(f"/proc/{server.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                targets.append(str(link.readlink()))
        sockets = [target for target in targets if target.startswith("socket:")]
        if len(sockets) - len(set(sockets)) >= connections:
            return
        time.sleep(0.02)
    pytest.fail("no socket was taken over")


def _assert_stored(site: TusSite, url: str, content: bytes) -> None:
    """Read a finished upload back, every byte of it verified on the way, and compare."""
    answer = site.request("GET", url, {"Dropoff-Code": site.code})
    assert answer.status == 200
    assert len(answer.body) == len(content)
    assert answer.body == content


def _finish(site: TusSite, url: str, content: bytes) -> None:
    """Go on from where HEAD says, and hold what is stored against what was sent."""
    offset = assert_head(site.head(url), 200).offset
    assert site.patch(url, offset, content[offset:]).status == 204
    _assert_stored(site, url, content)


# ---- the client goes away ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent_bytes", [1, 700_001, 2 * _MIB + 17, _LENGTH - 1])
def test_half_closed_connection_keeps_every_byte_and_is_answered(
    server: ServerProcess, site: TusSite, content: bytes, sent_bytes: int
) -> None:
    """A client that ends its side in the middle of its body gets an answer, and all that it sent is there."""
    url = site.create(_LENGTH)
    with site.connect() as connection:
        _begin(connection, site, url, content[:sent_bytes], _LENGTH)
        _taken_over(server)
        connection.half_close()
        assert_refused(connection.read_response(), 400, "ERR_CONNECTION_RESET")
        assert connection.is_closed_within(2)
    assert site.head(url).offset == sent_bytes
    assert _until_over(server, url) == ["socket"]
    _finish(site, url, content)


def test_disconnects_at_random_offsets_lose_nothing(server: ServerProcess, site: TusSite, content: bytes) -> None:
    """However often the link ends in order, each connection's bytes are kept to the last one."""
    url, offset, patches = site.create(_LENGTH), 0, 0
    while offset < _LENGTH - 2 * _MIB:
        gained = random.randrange(1, _MIB)
        with site.connect() as connection:
            _begin(connection, site, url, content[offset : offset + gained], _LENGTH - offset, offset)
            _taken_over(server)
        offset, patches = offset + gained, patches + 1
        deadline = time.monotonic() + 5
        while (found := site.head(url).offset) != offset:
            assert found < offset
            assert time.monotonic() < deadline, (found, offset)
            time.sleep(0.02)
    assert "socket" in _until_over(server, url)
    _finish(site, url, content)


@pytest.mark.parametrize("sent_bytes", [100_000, 3 * _MIB + 5])
def test_reset_connection_keeps_what_arrived(
    server: ServerProcess, site: TusSite, content: bytes, sent_bytes: int
) -> None:
    """A reset ends the body at once; the received bytes are there, and the upload goes on."""
    url = site.create(_LENGTH)
    connection = site.connect()
    _begin(connection, site, url, content[:sent_bytes], _LENGTH)
    _taken_over(server)
    time.sleep(0.3)  # what is still in the client's kernel is lost in a reset
    connection.reset()
    assert _until_over(server, url) == ["socket"]
    assert site.head(url).offset == sent_bytes
    _finish(site, url, content)


@pytest.mark.slow
def test_connections_that_come_and_break_leave_no_descriptor(
    server: ServerProcess, site: TusSite, content: bytes
) -> None:
    """Broken connections, refused ones and whole ones all give their second descriptor back."""
    before = len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
    for number in range(12):
        url = site.create(_LENGTH)
        connection = site.connect()
        wrong = number % 3 == 0
        _begin(connection, site, url, content[:_MIB], _LENGTH - (1 if wrong else 0), 1 if wrong else 0)
        if number % 2:
            connection.reset()
        else:
            connection.close()
    deadline = time.monotonic() + 10
    while (now := len(list(Path(f"/proc/{server.pid}/fd").iterdir()))) > before + 1:
        assert time.monotonic() < deadline, (before, now)
        time.sleep(0.1)


# ---- the client is slow, or stalls ----------------------------------------------------------------------------


def test_stalled_body_is_ended_with_503_and_kept(server: ServerProcess, site: TusSite, content: bytes) -> None:
    """When no byte comes for too long, the bytes are kept, the client gets an answer, and the connection is closed."""
    url = site.create(_LENGTH)
    with site.connect() as connection:
        _begin(connection, site, url, content[: _MIB + 100], _LENGTH)
        started = time.monotonic()
        answer = assert_refused(connection.read_response(), 503, "ERR_READ_TIMEOUT")
        assert _IDLE_SECONDS - 0.5 < time.monotonic() - started < _IDLE_SECONDS + 15
        assert int(answer.needed("Retry-After")) >= 1
        assert answer.needed("Connection").lower() == "close"
        assert connection.is_closed_within(2)
    assert site.head(url).offset == _MIB + 100
    assert _until_over(server, url) == ["socket"]


def test_slow_body_is_not_timed_out_and_head_sees_all_of_it(
    server: ServerProcess, site: TusSite, content: bytes
) -> None:
    """Bytes that never fill the kernel's low-water mark count too, for the deadline and for HEAD."""
    url = site.create(_LENGTH)
    piece, pieces = 10_000, 5 * (_IDLE_SECONDS + 2)
    slow = piece * pieces
    with site.connect() as connection:
        _begin(connection, site, url, b"", _LENGTH)
        _taken_over(server)
        started = time.monotonic()
        connection.send_slowly(content[:slow], piece_bytes=piece, pause_seconds=0.2)
        assert time.monotonic() - started > _IDLE_SECONDS
        stopped = time.monotonic()
        while (found := assert_head(site.head(url), 200).offset) != slow:
            assert time.monotonic() - stopped < 20, (found, slow)
        connection.send(content[slow:])  # had only the idle timeout told of them, this would be refused
        assert connection.read_response().status == 204
    assert _until_over(server, url) == ["socket"]
    _assert_stored(site, url, content)


def test_head_of_a_stalled_body_sees_the_bytes_in_the_kernel(
    server: ServerProcess, site: TusSite, content: bytes
) -> None:
    """Bytes after a long silence that nobody has received yet are in HEAD's answer within two seconds."""
    url, sent = site.create(_LENGTH), 0
    with site.connect() as connection:
        _begin(connection, site, url, b"", _LENGTH)
        _taken_over(server)
        for size in (1, 300_000, 100):
            connection.send(content[sent : sent + size])
            sent += size
            time.sleep(0.1)
            deadline = time.monotonic() + 20
            while (found := site.head(url).offset) != sent:
                assert time.monotonic() < deadline, (found, sent)
            time.sleep(1)
        connection.send(content[sent:])
        assert connection.read_response().status == 204
    _assert_stored(site, url, content)


def test_stalled_bodies_cost_no_processor_time(server: ServerProcess, site: TusSite, content: bytes) -> None:
    """Sixty clients that have stalled wake the server only for its clocks."""
    stalled: list[RawConnection] = []
    try:
        for url in [site.create(_LENGTH) for _ in range(60)]:
            stalled.append(site.connect())
            _begin(stalled[-1], site, url, content[:1000], _LENGTH)
        _taken_over(server, len(stalled))
        time.sleep(0.7)
        before = _processor_seconds(server)
        time.sleep(0.7)
        assert _processor_seconds(server) - before < 0.03
    finally:
        for connection in stalled:
            connection.close()


def _processor_seconds(server: ServerProcess) -> float:
    fields = Path(f"/proc/{server.pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- others want the upload, or the server stops ------------------------------------------------------------


def test_second_patch_takes_a_running_one_over_without_interleaving(
    server: ServerProcess, site: TusSite, content: bytes
) -> None:
    """The first is interrupted within two seconds, and only the second's bytes follow its last kept one."""
    url = site.create(_LENGTH)
    with site.connect() as first:
        _begin(first, site, url, content[: 2 * _MIB], _LENGTH)
        _taken_over(server)
        time.sleep(1.2)
        offset = assert_head(site.head(url), 200).offset
        assert offset == 2 * _MIB
        started = time.monotonic()
        other = random.randbytes(_LENGTH - offset)
        # The first client is not dead: it goes on sending what it thinks comes next.
        sender = threading.Thread(target=_send_all, args=(first, content[offset : offset + 2 * _MIB]))
        with site.connect() as second:
            _begin(second, site, url, b"", len(other), offset)
            _until_over(server, url)
            assert time.monotonic() - started < _PROMPT_SECONDS
            sender.start()
            second.send(other)
            assert second.read_response().status == 204
        with contextlib.suppress(ConnectionCutError):
            assert_refused(first.read_response(), 409, "ERR_UPLOAD_INTERRUPTED")
        sender.join()
    assert _until_over(server, url, 2) == ["socket", "socket"]
    _assert_stored(site, url, content[:offset] + other)


def _send_all(connection: RawConnection, data: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.send(data)


@pytest.mark.slow
def test_many_patches_fight_for_one_upload_and_nothing_interleaves(site: TusSite, content: bytes) -> None:
    """Clients that interrupt each other in the middle of large bodies end with the bytes that they all meant."""
    url = site.create(_LENGTH)
    deadline = time.monotonic() + 20

    def work() -> None:
        while time.monotonic() < deadline:
            answer = site.head(url)
            if answer.status == 200 and answer.offset == _LENGTH:
                return
            if answer.status == 200:
                with contextlib.suppress(ConnectionCutError):
                    site.patch(url, answer.offset, content[answer.offset :])
            time.sleep(random.uniform(0, 0.02))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()
    _assert_stored(site, url, content)


def test_delete_ends_a_large_body(server: ServerProcess, site: TusSite, content: bytes) -> None:
    """The upload is gone at once, and its client learns that its connection ends."""
    url = site.create(_LENGTH)
    with site.connect() as connection:
        _begin(connection, site, url, content[:_MIB], _LENGTH)
        _taken_over(server)
        assert site.delete(url).status == 204
        answer = connection.read_response()
        assert answer.status in {409, 410}
        assert answer.needed("Connection").lower() == "close"
        assert connection.is_closed_within(2)
    assert_head(site.head(url), 410)


@pytest.mark.slow
def test_closing_the_dropoff_ends_a_large_body(server: ServerProcess, content: bytes) -> None:
    """`drop close --now` reaches the worker, and the client learns that its connection ends."""
    drop = server.create_drop(name="closing")
    url = drop.site.create(_LENGTH)
    with drop.site.connect() as connection:
        _begin(connection, drop.site, url, content[:_MIB], _LENGTH)
        _taken_over(server)
        server.cli("drop", "close", drop.id, "--now")
        # The body may be idle for less than a drop-off's state may be stale.
        deadline, answer = time.monotonic() + 10, None
        while answer is None and time.monotonic() < deadline:
            connection.send(b"x")
            with contextlib.suppress(TimeoutError):
                answer = _response_within(connection, 0.3)
        assert answer is not None
        assert answer.status == 410
        assert answer.needed("Connection").lower() == "close"


def _response_within(connection: RawConnection, seconds: float) -> Response:
    connection.wait_at_most(seconds)
    return connection.read_response()


def test_sigterm_keeps_what_arrived_in_a_large_body(server: ServerProcess, site: TusSite, content: bytes) -> None:
    """A stop answers 503 and closes, while the client still sends; the arrived bytes are durable."""
    url = site.create(_LENGTH)
    with site.connect() as connection:
        _begin(connection, site, url, content[: 2 * _MIB + 3], _LENGTH)
        _taken_over(server)
        time.sleep(0.7)
        server.terminate()
        answer = assert_refused(connection.read_response(), 503, "ERR_SERVER_SHUTDOWN")
        assert answer.needed("Connection").lower() == "close"
        assert connection.is_closed_within(2)
    assert server.wait() == 0
    server.start()
    assert site.head(url).offset == 2 * _MIB + 3
    assert _until_over(server, url) == ["socket"]
    _finish(site, url, content)


# ---- the body's end -----------------------------------------------------------------------------------------


def test_body_past_the_end_is_refused_and_nothing_of_it_is_kept(site: TusSite, content: bytes) -> None:
    """A length that goes past the upload's is known before the first byte."""
    url = site.create(_LENGTH)
    assert_refused(site.patch(url, 0, content + b"x"), 413)
    assert site.head(url).offset == 0


def test_bytes_behind_a_large_body_are_the_next_request(server: ServerProcess, site: TusSite, content: bytes) -> None:
    """Two requests in one stream behind a large PATCH get their right answers, in order."""
    url, other = site.create(2 * _LENGTH), site.create(10)
    with site.connect() as connection:
        connection.send(
            site.message("PATCH", url, site.patch_headers(0), content)
            + site.message("PATCH", url, site.patch_headers(_LENGTH), content)
            + site.message("HEAD", other, {"Tus-Resumable": "1.0.0"})
            + site.message("PATCH", other, site.patch_headers(0), b"0123456789")
        )
        assert [connection.read_response().offset for _ in range(2)] == [_LENGTH, 2 * _LENGTH]
        head = connection.read_response(to_head=True)
        assert (head.status, head.offset, head.header("Upload-Length")) == (200, 0, "10")
        assert connection.read_response().offset == 10
    assert _until_over(server, url, 2) == ["socket", "socket"]
    _assert_stored(site, url, content * 2)
    _assert_stored(site, other, b"0123456789")


def test_small_request_before_a_large_body_in_one_stream(server: ServerProcess, site: TusSite, content: bytes) -> None:
    """The part of a large body that aiohttp parsed while it answered another request is not lost."""
    url, other = site.create(_LENGTH), site.create(5)
    with site.connect() as connection:
        connection.send(
            site.message("PATCH", other, site.patch_headers(0), b"hello")
            + site.message("PATCH", url, site.patch_headers(0), content)
        )
        assert connection.read_response().offset == 5
        assert connection.read_response().offset == _LENGTH
    assert _until_over(server, url) == ["socket"]
    _assert_stored(site, url, content)


def test_many_large_bodies_on_one_connection(server: ServerProcess, site: TusSite) -> None:
    """The connection goes on after each of twelve, also after a wrong checksum."""
    piece = 5 * _MIB
    content = random.randbytes(piece)
    url = site.create(12 * piece)
    with site.connect() as connection:
        for number in range(12):
            wrong = {"Upload-Checksum": f"sha1 {base64.b64encode(bytes(20)).decode()}"}
            if number == 5:
                connection.send(site.message("PATCH", url, site.patch_headers(number * piece, wrong), content))
                assert_refused(connection.read_response(), 460, "ERR_CHECKSUM_MISMATCH")
            connection.send(site.message("PATCH", url, site.patch_headers(number * piece), content))
            answer = connection.read_response()
            assert (answer.status, answer.offset) == (204, (number + 1) * piece)
    assert _until_over(server, url, 13) == ["socket"] * 13
    assert server.row(url)["sha256"] == hashlib.sha256(content * 12).hexdigest()


@pytest.mark.parametrize("name", ["sha1", "sha256"])
def test_checksummed_large_body_is_kept_or_thrown_away_as_a_whole(
    server: ServerProcess, site: TusSite, content: bytes, name: str
) -> None:
    """A wrong one leaves nothing and keeps the connection; a right one is all there."""
    url = site.create(_LENGTH)
    right = base64.b64encode(hashlib.new(name, content).digest()).decode()
    with site.connect() as connection:
        headers = site.patch_headers(0, {"Upload-Checksum": f"{name} {right}"})
        connection.send(site.message("PATCH", url, headers, content[:-1] + bytes([content[-1] ^ 1])))
        assert_refused(connection.read_response(), 460, "ERR_CHECKSUM_MISMATCH")
        connection.send(site.message("HEAD", url, {"Tus-Resumable": "1.0.0"}))
        assert connection.read_response(to_head=True).offset == 0
        connection.send(site.message("PATCH", url, headers, content))
        assert connection.read_response().offset == _LENGTH
    assert _until_over(server, url, 2) == ["socket", "socket"]
    _assert_stored(site, url, content)


def test_checksummed_large_body_that_is_cut_leaves_nothing(
    server: ServerProcess, site: TusSite, content: bytes
) -> None:
    """Bytes that no checksum vouches for are thrown away, also those of an ended segment."""
    url = site.create(_LENGTH)
    right = base64.b64encode(hashlib.sha1(content, usedforsecurity=False).digest()).decode()
    with site.connect() as connection:
        headers = site.patch_headers(0, {"Upload-Checksum": f"sha1 {right}", "Content-Length": str(_LENGTH)})
        connection.send(site.message("PATCH", url, headers, content[:-100]))
        _taken_over(server)
        connection.half_close()
        assert_refused(connection.read_response(), 400)
    assert site.head(url).offset == 0
    _finish(site, url, content)


# ---- other ways to come --------------------------------------------------------------------------------------


def test_creation_with_a_large_body(server: ServerProcess, site: TusSite, content: bytes) -> None:
    """A POST that brings all bytes along is received like a PATCH, and finished."""
    answer = site.post(
        {"Upload-Length": str(_LENGTH), "Content-Type": OCTETS, "Upload-Metadata": metadata(filename="a.bin")}, content
    )
    assert (answer.status, answer.offset) == (201, _LENGTH)
    url = answer.needed("Location")
    assert _until_over(server, url) == ["socket"]
    assert_received(server, server.drop, url, content, filename="a.bin")


def test_deferred_length_with_large_bodies(server: ServerProcess, site: TusSite, content: bytes) -> None:
    """Large bodies of an upload that nobody knows the size of, and one that declares it."""
    answer = site.post({"Upload-Defer-Length": "1"})
    url = answer.needed("Location")
    half = _LENGTH // 2
    assert site.patch(url, 0, content[:half]).offset == half
    assert site.patch(url, half, content[half:], {"Upload-Length": str(_LENGTH)}).offset == _LENGTH
    assert _until_over(server, url, 2) == ["socket", "socket"]
    _assert_stored(site, url, content)


def test_large_body_waits_for_100_continue(server: ServerProcess, site: TusSite, content: bytes) -> None:
    """The go-ahead comes before the socket is taken over, and the body after it is whole."""
    url = site.create(_LENGTH)
    with site.connect() as connection:
        headers = site.patch_headers(0, {"Content-Length": str(_LENGTH), "Expect": "100-continue"})
        connection.send(site.message("PATCH", url, headers))
        connection.wait_for_continue()
        connection.send(content)
        assert connection.read_response().offset == _LENGTH
    assert _until_over(server, url) == ["socket"]
    _assert_stored(site, url, content)


@pytest.mark.parametrize("first_bytes", [0, 1, 300, 200_000])
def test_headers_and_body_may_be_cut_into_packets_anywhere(
    server: ServerProcess, site: TusSite, content: bytes, first_bytes: int
) -> None:
    """If any part of the body comes in the headers' packet, or with only half of them, nothing is lost."""
    url = site.create(_LENGTH)
    whole = site.message("PATCH", url, site.patch_headers(0), content)
    head = len(whole) - len(content)
    with site.connect() as connection:
        connection.send(whole[: head - 10])
        time.sleep(0.05)
        connection.send(whole[head - 10 : head + first_bytes])
        time.sleep(0.05)
        connection.send(whole[head + first_bytes :])
        assert connection.read_response().offset == _LENGTH
    assert _until_over(server, url) == ["socket"]
    _assert_stored(site, url, content)


def test_large_bodies_over_the_unix_socket(
    server: ServerProcess, site: TusSite, unix_socket: Path, content: bytes
) -> None:
    """A proxy on the same machine may use it: a cut, and several bodies on one connection."""
    url = site.create(2 * _LENGTH)
    with _over_unix(unix_socket) as connection:
        _begin(connection, site, url, content[:-1000], _LENGTH)
        _taken_over(server)
        connection.half_close()
        assert_refused(connection.read_response(), 400)
    offset = site.head(url).offset
    assert offset == _LENGTH - 1000
    with _over_unix(unix_socket) as connection:
        for part in (content[offset:] + content[: 3 * _MIB], content[3 * _MIB :]):
            connection.send(site.message("PATCH", url, site.patch_headers(offset), part))
            offset += len(part)
            assert connection.read_response().offset == offset
    assert _until_over(server, url, 3) == ["socket"] * 3
    _assert_stored(site, url, content * 2)


def _over_unix(path: Path) -> RawConnection:
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(20)
    connected.connect(str(path))
    return RawConnection.over(connected)


def test_chunked_large_body_goes_the_parsers_way(server: ServerProcess, site: TusSite, content: bytes) -> None:
    """A body of unknown length is never taken from its socket."""
    url = site.create(_LENGTH)
    headers = site.patch_headers(0, {"Transfer-Encoding": "chunked"})
    pieces = chunked(*(content[start : start + 100_000] for start in range(0, _LENGTH, 100_000)))
    assert site.request("PATCH", url, headers, pieces).offset == _LENGTH
    assert set(_ways(server, url)) == {None}
    _assert_stored(site, url, content)


def test_large_body_over_tls_goes_the_parsers_way(tmp_path: Path, content: bytes) -> None:
    """The wire has ciphertext, so the socket is never taken from TLS; a cut keeps the arrived bytes."""
    certificate, key = make_certificate(tmp_path)
    settings = {"SERVER__TLS_CERT": str(certificate), "SERVER__TLS_KEY": str(key)}
    folder = tmp_path / "server"
    folder.mkdir()
    trusting = ssl.create_default_context(cafile=str(certificate))
    with ServerProcess(folder, environment=settings) as server:
        site = server.drop.site

        def connect() -> RawConnection:
            plain = socket.create_connection(("127.0.0.1", server.port), timeout=20)
            return RawConnection.over(trusting.wrap_socket(plain, server_hostname="localhost"))

        with connect() as connection:
            connection.send(site.message("POST", site.upload_url, site.post_headers({"Upload-Length": str(_LENGTH)})))
            url = connection.read_response().needed("Location")
            _begin(connection, site, url, content[: 2 * _MIB], _LENGTH)
            time.sleep(0.5)
        with connect() as connection:
            offset = 0
            while offset < 2 * _MIB:
                connection.send(site.message("HEAD", url, {"Tus-Resumable": "1.0.0"}))
                offset = connection.read_response(to_head=True).offset
            assert offset == 2 * _MIB
            connection.send(site.message("PATCH", url, site.patch_headers(offset), content[offset:]))
            assert connection.read_response().offset == _LENGTH
        assert set(_ways(server, url)) == {None}
        assert_received(server, server.drop, url, content, filename=None)
