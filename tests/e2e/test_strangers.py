"""Limits for clients without a code: connections, descriptors, memory, log lines and the time of a stop."""

import contextlib
import json
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificate import make_certificate
from tests.support.server_process import ServerProcess, upload_id_of
from tests.support.tus_raw import ConnectionCutError, RawConnection

_SOFT_LIMIT = 1024
_IS_ANSWER = '"event": "request"'
_GET_PAGE = b"GET /d/x HTTP/1.1\r\nHost: a\r\n\r\n"


@contextlib.contextmanager
def _few_descriptors() -> Iterator[None]:
    """Let what is started within have the soft limit that systems commonly give."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_SOFT_LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module", autouse=True)
def _many_descriptors() -> Iterator[None]:
    """Let this process hold more connections than the server is to have room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server as it is shipped, on a common system."""
    made = ServerProcess(tmp_path_factory.mktemp("strangers"))
    with _few_descriptors():
        made.start()
    yield made
    made.close()


@contextlib.contextmanager
def _crowd(port: int, addresses: int, each: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """Hold connections from several addresses that send no more than this and read nothing."""
    with contextlib.ExitStack() as stack:
        crowd = []
        for number in range(addresses * each):
            source = (f"127.0.1.{1 + number // each}", 0)
            connected = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20, source))
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connected.setblocking(False)
            with contextlib.suppress(OSError):
                connected.send(sent)
            crowd.append(connected)
        yield crowd


def _newcomer_is_answered(port: int, context: ssl.SSLContext | None = None) -> bool:
    """Ask for the page from one address more."""
    try:
        plain = socket.create_connection(("127.0.0.1", port), 5, ("127.0.2.1", 0))
        with plain if context is None else context.wrap_socket(plain, server_hostname="localhost") as connected:
            connected.sendall(_GET_PAGE)
            return connected.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def test_half_heads_of_many_addresses_leave_descriptors_for_others(server: ServerProcess) -> None:
    """Neither the connections that are let in, nor the soft limit that was found, keep anybody out."""
    with _crowd(server.port, 8, 128, _GET_PAGE[:10]):
        assert [_newcomer_is_answered(server.port) for _ in range(5)] == [True] * 5
        url = server.drop.site.upload(b"hello")
    assert server.export(url) == b"hello"


def test_stalled_bodies_of_many_addresses_leave_descriptors_for_others(server: ServerProcess) -> None:
    """Each of them holds several, and they have them."""
    site, length = server.drop.site, 4 << 20
    urls = [site.create(length) for _ in range(270)]
    message = {url: site.message("PATCH", url, site.patch_headers(0, {"Content-Length": str(length)})) for url in urls}
    with _crowd(server.port, 3, 90) as crowd:
        for connected, url in zip(crowd, urls, strict=True):
            connected.send(message[url] + b"x")
        deadline = time.monotonic() + 20
        while len(list(Path(f"/proc/{server.pid}/fd").iterdir())) < 4 * len(crowd):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert _newcomer_is_answered(server.port)
        url = site.upload(b"hello")
        assert server.export(url) == b"hello"


def test_connections_in_their_tls_handshake_keep_nobody_out(tmp_path: Path) -> None:
    """A thousand silent ones of one address take the places of that address."""
    certificate, key = make_certificate(tmp_path)
    settings = {"SERVER__TLS_CERT": str(certificate), "SERVER__TLS_KEY": str(key)}
    trusting = ssl.create_default_context(cafile=str(certificate))
    (tmp_path / "server").mkdir()
    with contextlib.closing(ServerProcess(tmp_path / "server", environment=settings)) as server:
        with _few_descriptors():
            server.start()
        with _crowd(server.port, 1, 1100):
            assert [_newcomer_is_answered(server.port, trusting) for _ in range(5)] == [True] * 5


@pytest.mark.parametrize("path", ["/api/v1/openapi.json", "/d/x"])
def test_clients_that_do_not_read_keep_nobody_out_and_hold_up_no_stop(tmp_path: Path, path: str) -> None:
    """Public answers are small, a client that takes none is closed for others, and a stop does not wait for it."""
    asked = f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    with contextlib.closing(ServerProcess(tmp_path, environment={"LIMITS__CONNECTIONS": "24"})) as server:
        server.start()
        with _crowd(server.port, 1, 24, asked * 3000) as crowd:
            for connected in crowd:
                with contextlib.suppress(OSError):
                    connected.send(asked * 3000)
            deadline = time.monotonic() + 30
            while not _newcomer_is_answered(server.port):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert [_newcomer_is_answered(server.port) for _ in range(12)] == [True] * 12
            before = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - before < 15


def test_heads_of_many_headers_take_little_memory(server: ServerProcess) -> None:
    """The sum of a head is limited: an unfinished one holds no megabytes."""
    before, lines = server.rss_bytes(), b"".join(b"X-%d: %s\r\n" % (number, b"a" * 32_000) for number in range(120))
    with _crowd(server.port, 1, 40, b"GET / HTTP/1.1\r\n") as crowd:
        for connected in crowd:
            connected.settimeout(5)
            with contextlib.suppress(OSError):
                connected.sendall(lines)
        assert _newcomer_is_answered(server.port)
        assert server.rss_bytes() - before < 60 << 20


def test_head_beyond_its_cap_is_refused(server: ServerProcess) -> None:
    """A client that sends more gets the one text for malformed requests."""
    with RawConnection("127.0.0.1", server.port) as connection:
        connection.send((b"GET / HTTP/1.1\r\n" + b"X: %s\r\n" % (b"a" * 9000) * 10)[: (64 << 10) + 2])
        assert connection.read_response().error_code == "ERR_MALFORMED_REQUEST"
        assert connection.is_closed_within(5)


@pytest.mark.parametrize("sent", [_GET_PAGE, b"POST /files/x HTTP/1.1\r\nHost: a\r\n\r\n", b"BREW / HTTP/1.1\r\n\r\n"])
def test_repeated_refusals_and_public_answers_are_counted_not_logged(server: ServerProcess, sent: bytes) -> None:
    """A log that anybody could fill would hide what happened meanwhile, and take the disk."""
    before = len(server.log_text)
    malformed = sent.startswith(b"BREW")
    for _ in range(500 if malformed else 1):
        with server.drop.site.connect() as connection, contextlib.suppress(ConnectionCutError):
            connection.send(sent * (1 if malformed else 500))
            for _ in range(1 if malformed else 500):
                connection.read_response()
    upload_id = upload_id_of(server.drop.site.upload(b"hello"))
    deadline = time.monotonic() + 20
    while len(lines := [line for line in server.log_text.splitlines() if upload_id in line and _IS_ANSWER in line]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [json.loads(line)["status"] for line in lines] == [201, 204]
    assert server.log_text[before:].count("\n") < 150
