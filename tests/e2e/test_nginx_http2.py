"""The shipped virtual hosts over HTTP/2 and long lines, at their limits, and before a server in another place."""

import contextlib
import hashlib
import json
import random
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.certificate import make_certificate
from tests.support.delaying_link import DelayingLink
from tests.support.nginx import Proxy
from tests.support.programs import require_program
from tests.support.server_process import ServerProcess
from tests.support.tus_raw import OCTETS, TUS, RawConnection, TusSite, metadata, request_bytes

_MIB = 1 << 20
_VERSIONS = pytest.mark.parametrize("version", ["--http1.1", "--http2"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server that trusts its proxy."""
    with ServerProcess(
        tmp_path_factory.mktemp("behind"), environment={"SERVER__TRUSTED_PROXIES": "127.0.0.1"}
    ) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Run nginx in front of it."""
    made = Proxy(tmp_path_factory.mktemp("nginx"), server)
    with made.running():
        yield made


@dataclass(frozen=True, slots=True)
class Answer:
    """What curl received: the last status (0: none), the version of HTTP, and the offset, if one was told."""

    status: int
    version: str
    offset: int | None


def _curl(proxy: Proxy, version: str, url: str, *arguments: str) -> list[str]:
    """Return the command line of one request to an upload."""
    return [
        *(str(require_program("curl")), "--silent", "--cacert", str(proxy.certificate), version, url),
        *("--header", f"Tus-Resumable: {TUS}", "--header", "Expect:", "--max-time", "600"),
        *("--dump-header", "-", "--output", "/dev/null", "--write-out", "\n%{http_code} %{http_version}", *arguments),
    ]


def _patch(offset: int, file: Path | str) -> tuple[str, ...]:
    headers = ("--header", f"Upload-Offset: {offset}", "--header", f"Content-Type: {OCTETS}")
    return ("--request", "PATCH", *headers, "--upload-file", str(file))


def _run(command: list[str], content: bytes | None = None) -> Answer:
    """Run it, however it ends."""
    said = subprocess.run(command, input=content, stdout=subprocess.PIPE, check=False).stdout.decode()
    status, version = said.splitlines()[-1].split()
    offset = re.search(r"^upload-offset: *(\d+)", said, re.IGNORECASE | re.MULTILINE)
    return Answer(int(status), version, int(offset[1]) if offset else None)


def _wait_for_bytes(site: TusSite, url: str, least: int) -> int:
    deadline = time.monotonic() + 30
    while (answer := site.head(url)).status == 423 or answer.offset < least:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return answer.offset


@contextlib.contextmanager
def _half_sent(proxy: Proxy, version: str, url: str, content: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """Run a client that has sent half of a body, which the server has, and then waits; it is killed at the end."""
    command = _curl(proxy, version, url, *_patch(0, "-"))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sending:
        try:
            assert sending.stdin is not None
            sending.stdin.write(content[: len(content) // 2])
            sending.stdin.flush()
            _wait_for_bytes(proxy.site, url, len(content) // 4)
            yield sending
        finally:
            sending.kill()


def _assert_received(server: ServerProcess, url: str, content: bytes) -> None:
    row = server.row(url)
    assert (row["state"], row["sha256"]) == ("complete", hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("host", ["dropoff-tus.conf", "dropoff-tus-remote.conf"])
def test_nginx_and_gixy_find_nothing_in_a_shipped_host(server: ServerProcess, tmp_path: Path, host: str) -> None:
    """`nginx -t` neither fails nor warns, and gixy has no finding, of the configuration as a whole."""
    made = Proxy(tmp_path, server, host=host, changes=_trusting(tmp_path / "cert.pem") if "remote" in host else None)
    tested = subprocess.run([*made.command, "-t"], capture_output=True, check=False)
    assert tested.returncode == 0, tested.stderr
    assert b"[warn]" not in tested.stderr
    gixy = [str(Path(sys.executable).parent / "gixy"), "--format", "json", str(tmp_path / "nginx.conf")]
    looked = subprocess.run(gixy, capture_output=True, check=False)
    assert json.loads(looked.stdout) == []


def test_upload_over_http2_and_a_long_line_waits_for_few_answers(proxy: Proxy, tmp_path: Path) -> None:
    """32 MiB at 600 ms there and back: 512 times that with nginx's own window, 32 times with one of 1 MiB."""
    content = tmp_path / "content"
    content.write_bytes(random.randbytes(_MIB) * 32)
    url = proxy.site.create(32 * _MIB)
    with DelayingLink(proxy.port, delay_seconds=0.3) as line:
        far = url.replace(f":{proxy.port}/", f":{line.port}/")
        began = time.monotonic()
        answer = _run(_curl(proxy, "--http2", far, *_patch(0, content)))
        seconds = time.monotonic() - began
    assert answer == Answer(204, "2", 32 * _MIB)
    assert seconds < 32 * 0.6 / 1.5
    _assert_received(proxy.server, url, content.read_bytes())


@_VERSIONS
def test_upload_of_unknown_length_arrives_whole(proxy: Proxy, version: str) -> None:
    """Chunked, or in frames without a length; the length is told at the end."""
    content = random.randbytes(3 * _MIB)
    url = proxy.site.post({"Upload-Defer-Length": "1", "Upload-Metadata": metadata(filename="pipe")}).needed("Location")
    assert _run(_curl(proxy, version, url, *_patch(0, "-")), content).offset == len(content)
    told = proxy.site.patch(url, len(content), b"", {"Upload-Length": str(len(content))})
    assert told.status == 204
    _assert_received(proxy.server, url, content)


@_VERSIONS
def test_client_that_is_cut_off_goes_on_where_it_was(proxy: Proxy, version: str) -> None:
    """A killed client loses no byte that had arrived, and the next request has the upload at once."""
    content = random.randbytes(2 * _MIB)
    url = proxy.site.create(len(content))
    with _half_sent(proxy, version, url, content):
        pass
    offset = _wait_for_bytes(proxy.site, url, len(content) // 4)
    assert _run(_curl(proxy, version, url, *_patch(offset, "-")), content[offset:]).status == 204
    _assert_received(proxy.server, url, content)


@pytest.mark.parametrize("ending", ["stop", "kill9"])
def test_client_over_http2_survives_a_restart_in_the_middle(proxy: Proxy, ending: str) -> None:
    """HEAD answers 423 until the server is there again, so that the client goes on and does not begin anew."""
    content = random.randbytes(2 * _MIB)
    url = proxy.site.create(len(content))
    ask = _curl(proxy, "--http2", url, "--head")
    try:
        with _half_sent(proxy, "--http2", url, content):
            getattr(proxy.server, ending)()
            assert _run(ask).status == 423
            # Whoever tries all the same is told to come back.
            assert _run(_curl(proxy, "--http2", url, *_patch(0, "-")), content).status == 503
    finally:
        proxy.server.start()
    offset = _run(ask).offset
    assert offset is not None
    assert offset >= (len(content) // 4 if ending == "stop" else 0)
    assert _run(_curl(proxy, "--http2", url, *_patch(offset, "-")), content[offset:]).status == 204
    _assert_received(proxy.server, url, content)


def test_certificate_is_renewed_by_a_reload_in_the_middle_of_an_upload(server: ServerProcess, tmp_path: Path) -> None:
    """New connections get the new one; the upload ends over the connection that it began on."""
    proxy = Proxy(tmp_path, server)
    (tmp_path / "next").mkdir()
    with proxy.running():
        old_site, old = proxy.site, proxy.certificate.read_text("ascii")
        url = old_site.create(10)
        with old_site.connect() as connection:
            headers = old_site.patch_headers(0, {"Content-Length": "10"})
            connection.send(old_site.message("PATCH", url, headers, b"hello"))
            _wait_for_bytes(old_site, url, 5)
            for made, used in zip(make_certificate(tmp_path / "next"), (proxy.certificate, proxy.key), strict=True):
                shutil.copy(made, used)
            subprocess.run([*proxy.command, "-s", "reload"], check=True, capture_output=True)
            deadline = time.monotonic() + 20
            while (shown := ssl.get_server_certificate(("127.0.0.1", proxy.port))) == old:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert shown == proxy.certificate.read_text("ascii")
            connection.send(b"world")
            assert connection.read_response().status == 204
    assert server.export(url) == b"helloworld"


def test_client_beyond_its_rate_is_delayed_and_never_refused(server: ServerProcess, tmp_path: Path) -> None:
    """Many small files side by side, far above the rate: each of their requests succeeds, later."""
    proxy = Proxy(tmp_path, server)
    proxy.change("http", "rate=200r/s", "rate=40r/s")

    def one(number: int) -> list[int]:
        url = proxy.site.create(2)
        return [proxy.site.patch(url, 0, b"%02d" % number).status, proxy.site.head(url).status]

    with proxy.running(), ThreadPoolExecutor(32) as pool:
        began = time.monotonic()
        assert list(pool.map(one, range(48))) == [[204, 200]] * 48
        assert time.monotonic() - began > 48 * 3 / 40 / 1.5


def test_client_beyond_all_limits_is_answered_as_in_a_restart(server: ServerProcess, tmp_path: Path) -> None:
    """423 for HEAD and 503 for others, both with Retry-After; another address is served."""
    proxy = Proxy(tmp_path, server)
    proxy.change("tls", "limit_conn dropoff_running 256", "limit_conn dropoff_running 2")
    site = proxy.site
    with proxy.running(), contextlib.ExitStack() as stack:
        url = site.create(10)
        for _ in range(2):
            waiting, held = site.create(10), stack.enter_context(site.connect())
            held.send(site.message("PATCH", waiting, site.patch_headers(0, {"Content-Length": "10"}), b"hello"))
            # By the other address, which does not count for this one.
            deadline = time.monotonic() + 20
            while _from_second_address(proxy, waiting) != (200, "5"):
                assert time.monotonic() < deadline
        answers = {"HEAD": site.head(url), "PATCH": site.patch(url, 0, b"x"), "POST": site.post({"Upload-Length": "1"})}
        assert {method: answer.status for method, answer in answers.items()} == {"HEAD": 423, "PATCH": 503, "POST": 503}
        assert {answer.needed("Retry-After") for answer in answers.values()} == {"5"}
        assert _from_second_address(proxy, url) == (200, "0")


def _from_second_address(proxy: Proxy, url: str) -> tuple[int, str | None]:
    """Ask for an upload's offset from another address than that of all other requests."""
    command = _curl(proxy, "--http2", url, "--head", "--interface", "127.0.0.2")
    answer = _run(command)
    return answer.status, None if answer.offset is None else str(answer.offset)


def test_no_answer_has_a_header_twice(proxy: Proxy) -> None:
    """The proxy adds what the server does not set, and nothing else."""
    site = proxy.site
    url = site.create(5)
    seen = set()
    for method, target in (
        ("GET", f"/d/{proxy.server.drop.id}"),
        ("GET", "/d/style.css"),
        ("OPTIONS", "/files/"),
        ("HEAD", urlsplit(url).path),
        ("GET", "/api/v1/drops"),
        ("GET", "/nowhere"),
    ):
        with RawConnection.to(proxy.origin, tls=proxy.tls) as connection:
            connection.send(request_bytes(method, target, {"Host": "localhost", "Tus-Resumable": TUS}))
            answer = connection.read_response(to_head=method == "HEAD")
        names = [name.lower() for name, _ in answer.headers]
        assert len(names) == len(set(names)), names
        assert {"strict-transport-security", "x-content-type-options"} <= set(names), target
        seen |= set(names)
    assert {"content-security-policy", "referrer-policy", "permissions-policy"} <= seen


# ---- a server in another place --------------------------------------------------------------------------------------


def _trusting(authority: Path, name: str = "localhost") -> dict[str, str]:
    return {
        "/etc/ssl/certs/ca-certificates.crt": str(authority),
        "proxy_ssl_name receiver.example.org;": f"proxy_ssl_name {name};",
    }


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, Path]]:
    """Run a server with a certificate of its own, and strict about wrong codes; return its certificate too."""
    folder = tmp_path_factory.mktemp("remote")
    certificate, key = make_certificate(folder)
    made = ServerProcess(
        folder,
        environment={
            "SERVER__TRUSTED_PROXIES": "127.0.0.1",
            "SERVER__TLS_CERT": str(certificate),
            "SERVER__TLS_KEY": str(key),
            "LIMITS__WRONG_CODES_PER_HOUR": "2",
        },
    )
    with made:
        yield made, certificate


def test_remote_server_is_reached_by_tls_and_knows_the_client(
    remote: tuple[ServerProcess, Path], tmp_path: Path
) -> None:
    """An upload arrives at its public address; wrong codes of one client are held against it, not against the proxy."""
    server, authority = remote
    proxy = Proxy(tmp_path, server, host="dropoff-tus-remote.conf", changes=_trusting(authority))
    content = random.randbytes(3 * _MIB)
    with proxy.running():
        url = proxy.site.create(len(content))
        assert url.startswith(proxy.site.upload_url)
        assert _run(_curl(proxy, "--http2", url, *_patch(0, "-")), content).status == 204
        _assert_received(server, url, content)
        other = server.create_drop(name="other")
        refused: list[int] = []
        for drop, source in ((server.drop, 2), (server.drop, 2), (server.drop, 2), (other, 2), (other, 3)):
            headers = ("--header", "Dropoff-Code: wrong", "--header", "Upload-Length: 1")
            forged = ("--header", f"X-Forwarded-For: 192.0.2.{len(refused)}", "--interface", f"127.0.0.{source}")
            there = f"{proxy.origin}/files/{drop.id}/"
            refused.append(_run(_curl(proxy, "--http2", there, "--request", "POST", *headers, *forged)).status)
    assert refused == [403, 403, 429, 429, 403]


@pytest.mark.parametrize("fault", ["authority", "name"])
def test_remote_server_that_cannot_be_verified_gets_nothing(
    remote: tuple[ServerProcess, Path], tmp_path: Path, fault: str
) -> None:
    """Neither one with another authority's certificate, nor one of another name."""
    server, authority = remote
    (tmp_path / "other").mkdir()
    if fault == "authority":
        changes = _trusting(make_certificate(tmp_path / "other")[0])
    else:
        changes = _trusting(authority, "other.example.org")
    proxy = Proxy(tmp_path, server, host="dropoff-tus-remote.conf", changes=changes)
    before = server.cli_json("upload", "list", "--all")
    with proxy.running():
        answer = proxy.site.post({"Upload-Length": "1"})
    assert answer.status == 503
    assert server.cli_json("upload", "list", "--all") == before


@pytest.mark.parametrize("place", ["same machine", "elsewhere"])
def test_doctor_finds_nothing_behind_a_shipped_host(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Over HTTP/1.1, by which it uploads, and over HTTP/2, whose window it measures."""
    if place == "elsewhere":
        server, authority = request.getfixturevalue("remote")
        proxy = Proxy(tmp_path, server, host="dropoff-tus-remote.conf", changes=_trusting(authority))
    else:
        server = request.getfixturevalue("server")
        proxy = Proxy(tmp_path, server)
    monkeypatch.setitem(server.environment, "SERVER__PUBLIC_URL", proxy.origin)
    monkeypatch.setenv("SSL_CERT_FILE", str(proxy.certificate))
    with proxy.running():
        answer = server.cli_json("doctor")
    assert answer["problems"] == 0
    found = {check["check"]: check["status"] for check in answer["checks"]}
    assert {name for name, status in found.items() if status != "ok"} == {"root identity"}
    assert {"reach", "public_url", "body size", "buffering", "http2", "upload", "export"} <= found.keys()


# ---- slow -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
@_VERSIONS
def test_upload_of_5_gib_arrives_whole_with_flat_memory(proxy: Proxy, tmp_path: Path, version: str) -> None:
    """At 50 ms there and back; prints the speed."""
    size, block = 5 << 30, bytes(_MIB)
    file = tmp_path / "large"
    with file.open("wb") as made:
        made.truncate(size)
    digest = hashlib.sha256()
    for _ in range(size // len(block)):
        digest.update(block)
    url = proxy.site.create(size)
    with DelayingLink(proxy.port, delay_seconds=0.025) as line:
        began = time.monotonic()
        answer = _run(_curl(proxy, version, url.replace(f":{proxy.port}/", f":{line.port}/"), *_patch(0, file)))
        seconds = time.monotonic() - began
    print(f"{version}: {size / seconds / 1e6:.0f} MB/s; server {proxy.server.rss_bytes() >> 20} MiB")  # noqa: T201 - the figure
    assert answer.status == 204
    assert proxy.server.row(url)["sha256"] == digest.hexdigest()
    assert proxy.server.rss_bytes() < 400 * _MIB
