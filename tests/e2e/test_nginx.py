"""The virtual host that we ship: real uploads through a real nginx, what it logs, and what it says in a restart."""

import contextlib
import hashlib
import http.client
import itertools
import json
import os
import random
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.received import assert_received
from tests.support.nginx import Proxy
from tests.support.programs import require_program
from tests.support.server_process import ServerProcess, token_of
from tests.support.tus_raw import OCTETS, TUS, RawConnection, TusSite, metadata, request_bytes


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Run a server that trusts its proxy, and nginx in front of it."""
    settings = {"SERVER__TRUSTED_PROXIES": "127.0.0.1"}
    with ServerProcess(tmp_path_factory.mktemp("behind"), environment=settings) as server:
        made = Proxy(tmp_path_factory.mktemp("nginx"), server)
        with made.running():
            yield made


@pytest.fixture(scope="module")
def site(proxy: Proxy) -> TusSite:
    """Return the drop-off behind nginx."""
    return proxy.site


def test_nginx_accepts_the_virtual_host(proxy: Proxy) -> None:
    """`nginx -t` finds no error and warns of nothing."""
    done = subprocess.run([*proxy.command, "-t"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"[warn]" not in done.stderr
    assert b"[emerg]" not in done.stderr


def test_nginx_keeps_others_from_the_api_where_it_is_told_to(proxy: Proxy, tmp_path: Path) -> None:
    """With the comment signs taken from the block for /api/, addresses not in it get 403, and uploads go on."""
    guarded = Proxy(tmp_path, proxy.server)
    host = tmp_path / "dropoff-tus.conf"
    before, _, block = host.read_text("utf-8").partition("    # location /api/ {\n")
    block, _, after = block.partition("    # }\n")
    block = block.replace("# ", "").replace("192.0.2.0/24", "127.0.0.2")
    host.write_text(f"{before}location /api/ {{\n{block}}}\n{after}", "utf-8")
    with guarded.running():
        statuses = {}
        for address in ("127.0.0.1", "127.0.0.2"):
            connection = http.client.HTTPSConnection(
                "127.0.0.1", guarded.port, source_address=(address, 0), context=guarded.tls
            )
            connection.request("GET", "/api/v1/openapi.json")
            statuses[address] = connection.getresponse().status
            connection.close()
        assert statuses == {"127.0.0.1": 403, "127.0.0.2": 401}
        assert guarded.site.post({"Upload-Length": "5"}).status == 201


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_nginx_takes_neither_code_nor_content_without_tls(proxy: Proxy, site: TusSite, host: str) -> None:
    """People are redirected to the page by TLS; confidential requests are refused, unread, and reach no server."""
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("there is no IPv6")
    url = site.create(5)
    path = urlsplit(url).path
    code = {"Dropoff-Code": site.code}
    before = proxy.server.logged().count('"request"')
    refused: list[tuple[str, str, dict[str, str | None], bytes]] = [
        ("POST", f"/files/{proxy.server.drop.id}/", site.post_headers({"Upload-Length": "5"}), b""),
        ("POST", f"/files/{proxy.server.drop.id}", {**site.post_headers(), "Content-Type": OCTETS}, bytes(3_000_000)),
        ("PATCH", path, site.patch_headers(0), b"hello"),
        ("PATCH", f"/{path}", site.patch_headers(0), b"hello"),
        ("HEAD", path, {"Tus-Resumable": TUS}, b""),
        ("GET", path, code, b""),
        ("GET", f"/d/{proxy.server.drop.id}/info", code, b""),
        ("GET", "/api/v1/drops", {"Authorization": "Bearer x"}, b""),
    ]
    for method, target, headers, body in refused:
        with RawConnection(host, proxy.plain_port) as connection:
            with contextlib.suppress(ConnectionError):
                connection.send(request_bytes(method, target, {"Host": "x", **headers}, body))
            answer = connection.read_response(to_head=method == "HEAD")
        assert (answer.status, answer.header("Location")) == (403, None), target
        assert method == "HEAD" or b"use https://" in answer.body
    for target in ("/", f"/d/{proxy.server.drop.id}", "/d/x?y=z"):
        with RawConnection(host, proxy.plain_port) as connection:
            connection.send(request_bytes("GET", target, {"Host": "other.example"}))
            answer = connection.read_response()
        assert (answer.status, answer.header("Location")) == (301, f"https://drop.example.org{target}")
    assert proxy.server.logged().count('"request"') == before + 1
    assert site.head(url).offset == 0
    assert token_of(url) not in proxy.logs


def test_nginx_lets_certificates_be_renewed_without_tls(proxy: Proxy) -> None:
    """The certificate's authority looks for a file there."""
    folder = proxy.prefix / ".well-known" / "acme-challenge"
    folder.mkdir(parents=True)
    (folder / "x").write_bytes(b"answer")
    with RawConnection("127.0.0.1", proxy.plain_port) as connection:
        connection.send(request_bytes("GET", "/.well-known/acme-challenge/x", {"Host": "x"}))
        assert connection.read_response().body == b"answer"


def test_nginx_tells_browsers_to_come_by_tls_only(proxy: Proxy, site: TusSite) -> None:
    """In every answer, the server's and nginx's own; by IPv6 too."""
    hosts = ["127.0.0.1", *(["::1"] if socket.has_dualstack_ipv6() else [])]
    statuses = set()
    for host, target in itertools.product(hosts, (f"/d/{proxy.server.drop.id}", f"/files/x/{'0' * 32}", "/%")):
        connected = socket.create_connection((host, proxy.port), 20)
        with RawConnection.over(proxy.tls.wrap_socket(connected, server_hostname="localhost")) as connection:
            connection.send(request_bytes("GET", target, {"Host": "x"}))
            answer = connection.read_response()
        statuses.add(answer.status)
        assert answer.header("Strict-Transport-Security") == "max-age=31536000", target
    assert site.post({"Upload-Length": "5", "Dropoff-Code": "wrong"}).header("Strict-Transport-Security")
    assert statuses >= {200, 400}


def test_nginx_has_room_for_all_connections_that_the_server_takes(proxy: Proxy, tmp_path: Path) -> None:
    """Each request in progress has two; an nginx as it comes ends at half of 512 or 768."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        upstream.settimeout(20)
        alone = Proxy(tmp_path, proxy.server, upstream_port=upstream.getsockname()[1])
        running = stack.enter_context(alone.running())
        for number in range(450):
            source = (f"127.0.0.{1 + number % 3}", 0)
            client = stack.enter_context(socket.create_connection(("127.0.0.1", alone.port), 20, source))
            secured = stack.enter_context(alone.tls.wrap_socket(client, server_hostname="localhost"))
            secured.sendall(request_bytes("GET", "/", {"Host": "x"}))
            stack.enter_context(upstream.accept()[0])
        (worker,) = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text("ascii").split()
        limits = Path(f"/proc/{worker}/limits").read_text("ascii")
    (files,) = [line.split() for line in limits.splitlines() if line.startswith("Max open files")]
    assert files[3] == str(min(hard, 8192))


def test_nginx_upload_arrives_whole_and_location_is_the_outside(proxy: Proxy, site: TusSite) -> None:
    """An upload in two PATCHes goes through, at the address that the client used."""
    content = random.randbytes(3_000_000)
    url = site.create(len(content), {"Upload-Metadata": metadata(filename="nginx.bin")})
    assert url.startswith(site.upload_url)
    assert site.patch(url, 0, content[:1_000_000]).offset == 1_000_000
    assert site.head(url).offset == 1_000_000
    assert site.patch(url, 1_000_000, content[1_000_000:]).status == 204
    assert_received(proxy.server, proxy.server.drop, url, content, filename="nginx.bin")


def test_nginx_creation_with_upload_arrives_whole(proxy: Proxy, site: TusSite) -> None:
    """A body larger than nginx's own limit and buffers comes with its creation."""
    content = random.randbytes(2_000_000)
    headers = {
        "Upload-Length": str(len(content)),
        "Content-Type": OCTETS,
        "Upload-Metadata": metadata(filename="one.bin"),
    }
    answer = site.post(headers, content)
    assert (answer.status, answer.offset) == (201, len(content))
    assert_received(proxy.server, proxy.server.drop, answer.needed("Location"), content, filename="one.bin")


def _wait_for_offset(site: TusSite, url: str, offset: int) -> None:
    deadline = time.monotonic() + 30
    while site.head(url).offset != offset:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_nginx_does_not_hold_a_body_back(site: TusSite) -> None:
    """Bytes reach the server while the client still sends, so that a cut loses nothing."""
    url = site.create(1_000_000)
    with site.connect() as connection:
        headers = site.patch_headers(0, {"Content-Length": "1000000"})
        connection.send(site.message("PATCH", url, headers, bytes(600_000)))
        _wait_for_offset(site, url, 600_000)


def test_nginx_client_that_goes_away_keeps_what_arrived(site: TusSite) -> None:
    """A cut before the proxy is a cut behind it."""
    url = site.create(1_000_000)
    with site.connect() as connection:
        headers = site.patch_headers(0, {"Content-Length": "1000000"})
        connection.send(site.message("PATCH", url, headers, bytes(300_000)))
        time.sleep(0.3)
    _wait_for_offset(site, url, 300_000)


def test_nginx_passes_early_refusals_on(site: TusSite) -> None:
    """A refusal before the body is read reaches the client as it is."""
    length = {"Upload-Length": "5000000", "Content-Type": OCTETS}
    answer = site.post({**length, "Dropoff-Code": "wrong"}, bytes(5_000_000))
    assert (answer.status, answer.error_code) == (403, "ERR_ACCESS_DENIED")


def test_nginx_passes_large_headers_on(site: TusSite) -> None:
    """Metadata of nearly 16 KiB fit through nginx."""
    value = metadata(note=random.randbytes(11_000))
    assert site.head(site.create(5, {"Upload-Metadata": value})).header("Upload-Metadata") == value


def test_nginx_logs_no_token_and_no_code(proxy: Proxy, site: TusSite) -> None:
    """The access log shows what happened, without the right to write; errors quote no request either."""
    url = site.upload(b"hello", {"Upload-Metadata": metadata(filename="secret-name")})
    site.head(url)
    site.patch(url, 0, b"x")
    token = token_of(url)
    spellings = ("/extra", "?token=1", "//", "/../x", "/%2e%2e/", f"/{token}", f"//{token}/", "/receipt", "/receipt/x")
    for odd in spellings:
        site.request("PATCH", url + odd, {"Tus-Resumable": TUS, "Referer": url, "User-Agent": url})
    site.request("HEAD", url.replace("/files/", "//files/", 1), {})
    site.request("HEAD", url.replace("/files/", "/%66iles/", 1), {})
    for elsewhere in ("/", "/x/", "/d/", "/prefix/files/x/", "/FILES/x/", "/files/"):
        site.request("HEAD", proxy.origin + elsewhere + token_of(url), {"X-Request-ID": token_of(url)})
    for broken in (f"HEAD {url} HTTP/9", f"HEAD {url}", f"BREW {url} HTTP/1.1\r\nHost"):
        with site.connect(timeout_seconds=3) as connection:
            connection.send(f"{broken}\r\nDropoff-Code: {site.code}\r\n\r\n".encode())
            connection.is_closed_within(2)
    site.request("HEAD", url, {"X-Long": "A" * 40_000})
    with site.connect() as connection:
        headers = site.patch_headers(5, {"Content-Length": "1000000"})
        connection.send(site.message("PATCH", url, headers, b"cut"))
    time.sleep(0.3)
    logs = proxy.logs
    assert f"/files/{proxy.server.drop.id}/[token] " in logs
    assert f"/files/{proxy.server.drop.id}/[token]/receipt " in logs
    assert token_of(url) not in logs
    assert (site.code or "-") not in logs
    assert token_of(url) not in proxy.server.logged()


def test_nginx_answers_head_in_a_restart_with_423(proxy: Proxy, site: TusSite) -> None:
    """While the server is away clients have to wait, and afterwards go on where they were."""
    url = site.create(10)
    assert site.patch(url, 0, b"hello").status == 204
    proxy.server.stop()
    try:
        away = site.head(url)
        assert away.status == 423
        assert away.needed("Strict-Transport-Security")
        assert int(away.needed("Retry-After")) >= 1
        assert site.patch(url, 5, b"world").status == 503
        assert site.post({"Upload-Length": "5"}).status == 503
    finally:
        proxy.server.start()
    assert site.head(url).offset == 5
    assert site.patch(url, 5, b"world").status == 204
    assert proxy.server.export(url) == b"helloworld"
    assert token_of(url) not in proxy.logs


def test_nginx_and_a_killed_server_make_tus_js_resume_and_not_start_again(
    proxy: Proxy, site: TusSite, tmp_path: Path
) -> None:
    """A browser's client that loses the server in the middle waits, goes on, and never begins a second upload."""
    content = random.randbytes(1_500_000)
    (tmp_path / "source.bin").write_bytes(content)
    seen = proxy.logs.count('"PATCH ')
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(_tus_js, site, proxy.certificate, tmp_path / "source.bin")
        deadline = time.monotonic() + 20
        while proxy.logs.count('"PATCH ') < seen + 3:
            assert time.monotonic() < deadline
            assert not running.done(), running.result()
            time.sleep(0.005)
        proxy.server.kill9()
        time.sleep(1)
        proxy.server.start()
        outcome = running.result()
    assert outcome["outcome"] == "success", outcome
    asked = [(request["method"], request["status"]) for request in outcome["requests"]]
    assert [method for method, _ in asked].count("POST") == 1
    assert {status for method, status in asked if method == "HEAD"} == {200, 423}
    assert {status for method, status in asked if method == "PATCH"} == {204, 503}
    assert_received(proxy.server, proxy.server.drop, outcome["url"], content, filename="killed.bin")
    assert token_of(outcome["url"]) not in proxy.logs


def test_nginx_keeps_connections_to_the_server_open(proxy: Proxy, site: TusSite) -> None:
    """Many requests of many clients share few connections upstream."""
    pid = proxy.server.pid
    for _ in range(20):
        site.head(f"{site.upload_url}{'0' * 32}")
    connections = [link for link in Path(f"/proc/{pid}/fd").iterdir() if "socket:" in _target(link)]
    before = len(connections)
    for _ in range(40):
        site.head(f"{site.upload_url}{'0' * 32}")
    after = len([link for link in Path(f"/proc/{pid}/fd").iterdir() if "socket:" in _target(link)])
    assert after <= before + 1


def test_nginx_passes_many_large_bodies_over_one_connection(proxy: Proxy, site: TusSite) -> None:
    """Behind nginx large bodies are received from the socket, and its connection to us goes on after each."""
    piece = 5 << 20
    content = random.randbytes(piece)
    url = site.create(8 * piece)
    before = _accepted(proxy)
    with site.connect() as connection:
        for number in range(8):
            connection.send(site.message("PATCH", url, site.patch_headers(number * piece), content))
            answer = connection.read_response()
            assert (answer.status, answer.offset) == (204, (number + 1) * piece)
    assert proxy.server.logged().count('"received_by": "socket"') >= 8
    assert _accepted(proxy) <= before + 1
    assert proxy.server.row(url)["sha256"] == hashlib.sha256(content * 8).hexdigest()


def _accepted(proxy: Proxy) -> int:
    """Return how many connections to the server nginx has open."""
    port = f":{proxy.server.port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    return sum(row[1].endswith(port) and row[3] == "01" for row in rows)


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _tus_js(site: TusSite, certificate: Path, file: Path) -> Any:  # noqa: ANN401 - what JSON gives
    """Upload a file in small chunks with a client that retries for a long time."""
    job = {
        "endpoint": site.upload_url,
        "file": str(file),
        "headers": {"Dropoff-Code": site.code},
        "metadata": {"filename": "killed.bin"},
        "options": {"chunkSize": 50_000, "retryDelays": [100] * 200},
    }
    done = subprocess.run(
        [require_program("node"), Path(__file__).parent / "clients" / "upload.mjs"],
        env={**os.environ, "NODE_EXTRA_CA_CERTS": str(certificate)},
        input=json.dumps(job).encode(),
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)
