"""Bodies whose length nobody has said: none until a byte comes, directly and through a proxy that speaks HTTP/2."""

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.answers import assert_refused
from tests.support.nginx import Proxy
from tests.support.programs import require_program
from tests.support.server_process import ServerProcess, token_of
from tests.support.tus_raw import OCTETS, TUS, Headers, TusSite, chunked

_CHUNKED = {"Transfer-Encoding": "chunked"}


def _parts(site: TusSite) -> str:
    urls = [site.upload(piece, {"Upload-Concat": "partial"}) for piece in (b"one", b"two")]
    return "final;" + " ".join(urls)


@pytest.mark.parametrize("type_", [None, "text/plain", "application/x-www-form-urlencoded", OCTETS])
def test_creation_with_an_empty_chunked_body_is_one_without(site: TusSite, type_: str | None) -> None:
    """With any type that a proxy or a library adds to it."""
    url = site.post({"Upload-Length": "5", "Content-Type": type_, **_CHUNKED}, chunked()).needed("Location")
    assert site.head(url).offset == 0
    assert site.patch(url, 0, b"hello").status == 204


@pytest.mark.parametrize("type_", [None, OCTETS])
def test_concatenation_with_an_empty_chunked_body_is_one_without(
    limited: ServerProcess, site: TusSite, type_: str | None
) -> None:
    """It brings no bytes of its own."""
    answer = site.post({"Upload-Concat": _parts(site), "Content-Type": type_, **_CHUNKED}, chunked())
    assert answer.status == 201
    assert limited.export(answer.needed("Location")) == b"onetwo"


def test_empty_chunked_bodies_elsewhere_are_none(site: TusSite) -> None:
    """An empty PATCH, and a DELETE."""
    url = site.create(5)
    assert site.patch(url, 0, chunked(), _CHUNKED).offset == 0
    assert site.delete(url, _CHUNKED | {"Content-Length": None}).status == 204


@pytest.mark.parametrize("type_", [None, "text/plain"])
def test_creation_with_a_byte_of_another_type_is_refused(site: TusSite, type_: str | None) -> None:
    """Nothing that comes is dropped in silence."""
    answer = site.post({"Upload-Length": "5", "Content-Type": type_, **_CHUNKED}, chunked(b"h"))
    assert_refused(answer, 415, "ERR_INVALID_CONTENT_TYPE")


@pytest.mark.parametrize("type_", [None, OCTETS])
def test_concatenation_with_a_byte_is_refused(site: TusSite, type_: str | None) -> None:
    """As one with Content-Length is."""
    answer = site.post({"Upload-Concat": _parts(site), "Content-Type": type_, **_CHUNKED}, chunked(b"h"))
    assert_refused(answer, 403, "ERR_MODIFY_FINAL")


def test_first_byte_is_asked_for_and_waited_for(site: TusSite) -> None:
    """A client that expects 100 gets it, for only the body can tell; and the end may come much later."""
    headers = site.post_headers({"Upload-Length": "5", "Expect": "100-continue", **_CHUNKED})
    with site.connect() as connection:
        connection.send(site.message("POST", site.upload_url, headers))
        connection.wait_for_continue()
        connection.send_slowly(chunked(), piece_bytes=1, pause_seconds=0.05)
        assert connection.read_response().status == 201
        # Nothing of the body is left over for the next request.
        connection.send(site.message("POST", site.upload_url, site.post_headers({"Upload-Length": "1"})))
        assert connection.read_response().status == 201


def test_body_that_neither_begins_nor_ends_is_given_up(tmp_path: Path) -> None:
    """After the time that bodies may stand still; and a client that goes away is not waited for."""
    with ServerProcess(tmp_path, environment={"TUS__BODY_IDLE_TIMEOUT": "1s"}) as server:
        site = server.drop.site
        message = site.message("POST", site.upload_url, site.post_headers({"Upload-Length": "5", **_CHUNKED}))
        with site.connect() as connection:
            connection.send(message)
            assert_refused(connection.read_response(), 503, "ERR_READ_TIMEOUT")
        with site.connect() as connection:
            connection.send(message)
            connection.half_close()
            assert connection.is_closed_within(10)
        assert server.uploads() == []


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "HEAD", "GET"])
def test_http_1_0_with_a_chunked_body_is_refused_and_closed(site: TusSite, method: str) -> None:
    """HTTP/1.0 has no such framing, so a proxy in between may see another request begin in it.

    Source: RFC 9112, section 6.1.
    """
    url = site.upload_url if method == "POST" else site.create(5)
    both = {**site.post_headers({"Upload-Length": "5"}), **site.patch_headers(0)}
    framed: Headers = {**both, **_CHUNKED, "Connection": "keep-alive"}
    if method == "POST":
        framed = {**framed, "Upload-Offset": None}
    message = site.message(method, url, framed, chunked(b"hello")).replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
    with site.connect() as connection:
        connection.send(message)
        answer = connection.read_response(to_head=method == "HEAD")
        assert answer.status == (423 if method == "HEAD" else 400)
        assert connection.is_closed_within(5)
    if method != "POST":
        assert site.head(url).offset == 0


# ---- through nginx, which is spoken to in HTTP/2 ------------------------------------------------------------------


@pytest.fixture(scope="module")
def http2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Run a server, and nginx with our virtual host in front of it."""
    with ServerProcess(
        tmp_path_factory.mktemp("behind"), environment={"SERVER__TRUSTED_PROXIES": "127.0.0.1"}
    ) as server:
        proxy = Proxy(tmp_path_factory.mktemp("nginx"), server)
        with proxy.running():
            yield proxy


def _curl(proxy: Proxy, folder: Path, url: str, method: str, headers: Headers, body: bytes) -> tuple[int, str | None]:
    """Send a body from a pipe by HTTP/2, without its length; return the status and the Location."""
    given = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    command = [
        *(str(require_program("curl")), "-gsS", "--http2", "--max-time", "20", "-X", method, "-T", "-"),
        *("--cacert", str(proxy.certificate)),
        *itertools.chain.from_iterable(("-H", one) for one in given),
        *("-o", "said", "-w", "%{http_code}/%{http_version} %header{location}", url),
    ]
    done = subprocess.run(command, input=body, capture_output=True, cwd=folder, check=True)
    spoken, _, location = done.stdout.decode().partition(" ")
    status, _, version = spoken.partition("/")
    assert version == "2"
    return int(status), location or None


@pytest.mark.parametrize(
    ("extra", "body", "status"),
    [
        ({"Upload-Length": "5"}, b"", 201),
        ({"Upload-Length": "5", "Content-Type": "text/plain"}, b"", 201),
        ({"Upload-Length": "5", "Content-Type": "text/plain"}, b"hello", 415),
        ({"Upload-Length": "5", "Content-Type": OCTETS}, b"hello", 201),
        ({"Upload-Concat": "final"}, b"", 201),
        ({"Upload-Concat": "final"}, b"x", 403),
    ],
)
def test_creation_through_a_proxy_that_speaks_http2(
    http2: Proxy, tmp_path: Path, extra: dict[str, str], body: bytes, status: int
) -> None:
    """Without its length a body comes to us chunked, also where there is none."""
    site = http2.server.drop.site
    headers = dict(extra)
    if "Upload-Concat" in headers:
        headers["Upload-Concat"] = _parts(site)
    outside = http2.site.upload_url
    got, location = _curl(
        http2, tmp_path, outside, "POST", {"Tus-Resumable": TUS, "Dropoff-Code": site.code, **headers}, body
    )
    assert got == status, (tmp_path / "said").read_text("utf-8")
    if location is not None and "Upload-Concat" in headers:
        assert http2.server.export(token_of(location)) == b"onetwo"
    elif location is not None:
        assert site.head(site.upload_url + token_of(location)).offset == len(body)
