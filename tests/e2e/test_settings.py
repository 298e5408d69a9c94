"""Effects of the configuration that show over HTTP: each module-wide server runs with other settings."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.answers import assert_head, assert_refused
from tests.support.server_process import ServerProcess
from tests.support.tus_raw import TUS, Response, TusSite, metadata

_ORIGIN = "https://upload.example"


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server with everything on that is off by default, and little patience with silent bodies."""
    settings = {
        "TUS__CORS_ORIGINS": _ORIGIN,
        "TUS__DOWNLOAD": "true",
        "TUS__TERMINATE_FINISHED": "true",
        "TUS__BODY_IDLE_TIMEOUT": "1s",
        "SERVER__TRUSTED_PROXIES": "127.0.0.1",
    }
    with ServerProcess(tmp_path_factory.mktemp("configured"), environment=settings) as running:
        yield running


@pytest.fixture(scope="module")
def site(configured: ServerProcess) -> TusSite:
    """Return the first drop-off of that server."""
    return configured.drop.site


# ---- CORS ----------------------------------------------------------------------------------------


def _names(answer: Response, header: str) -> set[str]:
    return {name.strip().lower() for name in answer.needed(header).split(",")}


def test_cors_preflight_allows_what_clients_send(site: TusSite) -> None:
    """A browser may send the headers and methods of every tus extension, and the code."""
    answer = site.request("OPTIONS", site.upload_url, {"Origin": _ORIGIN, "Access-Control-Request-Method": "PATCH"})
    assert answer.status in {200, 204}
    assert answer.needed("Access-Control-Allow-Origin") == _ORIGIN
    assert {"post", "head", "patch", "delete", "options"} <= _names(answer, "Access-Control-Allow-Methods")
    allowed = _names(answer, "Access-Control-Allow-Headers")
    assert {
        *(
            "tus-resumable",
            "upload-length",
            "upload-metadata",
            "upload-offset",
            "upload-concat",
            "content-type",
        ),
        *("upload-defer-length", "upload-checksum", "x-http-method-override", "x-request-id", "dropoff-code"),
    } <= allowed


def test_cors_headers_are_on_every_answer_also_errors(site: TusSite) -> None:
    """A browser that cannot read a refusal cannot act on it."""
    url = site.create(5)
    origin = {"Origin": _ORIGIN}
    answers = [
        site.post({"Upload-Length": "5", **origin}),
        site.post({"Upload-Length": "x", **origin}),
        site.post({"Upload-Length": "5", "Dropoff-Code": "wrong", **origin}),
        site.head(url, origin),
        site.head(f"{site.upload_url}{'0' * 32}", origin),
        site.patch(url, 3, b"x", origin),
        site.request("PUT", url, {"Tus-Resumable": TUS, **origin}),
        site.request("GET", url, origin),
    ]
    for answer in answers:
        assert answer.needed("Access-Control-Allow-Origin") == _ORIGIN, answer
        assert "origin" in _names(answer, "Vary")
        assert {
            *("location", "upload-offset", "upload-length", "upload-metadata", "upload-expires"),
            *("tus-resumable", "tus-version", "tus-max-size", "tus-extension", "tus-checksum-algorithm"),
            *("retry-after", "dropoff-upload-id", "dropoff-receipt"),
        } <= _names(answer, "Access-Control-Expose-Headers")


def test_cors_of_other_origin_is_not_allowed(site: TusSite) -> None:
    """An origin that is not listed, or only looks alike, reads nothing; caches learn that it matters."""
    for origin in ("https://evil.example", f"{_ORIGIN}.evil.example", "null", "http://upload.example"):
        answer = site.post({"Upload-Length": "5", "Origin": origin})
        assert answer.header("Access-Control-Allow-Origin") is None
        assert "origin" in _names(answer, "Vary")


def _preflight(site: TusSite, origin: str) -> Response:
    asked = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Private-Network": "true"}
    return site.request("OPTIONS", site.upload_url, {"Origin": origin, **asked})


def test_cors_of_listed_origins_allows_credentials_and_what_the_site_is_told(tmp_path: Path) -> None:
    """However an origin was written, an app's too; and a page of the internet may reach into a private network."""
    written = "HTTPS://Portal.Example.ORG:443, http://[0:0:0:0:0:0:0:1]:3000, capacitor://localhost"
    settings = {"TUS__CORS_ORIGINS": written, "PRE_CREATE__HEADERS": "Cookie, X-Portal-User"}
    with ServerProcess(tmp_path, environment=settings) as server:
        site = server.drop.site
        for origin in ("https://portal.example.org", "http://[::1]:3000", "capacitor://localhost"):
            asked = _preflight(site, origin)
            assert {"x-portal-user", "cookie", "dropoff-code"} <= _names(asked, "Access-Control-Allow-Headers")
            assert asked.needed("Access-Control-Allow-Private-Network") == "true"
            refused = site.post({"Upload-Length": "x", "Origin": origin})
            for answer in (asked, refused):
                assert answer.needed("Access-Control-Allow-Origin") == origin
                assert answer.needed("Access-Control-Allow-Credentials") == "true"
            assert refused.header("Access-Control-Allow-Private-Network") is None
        for origin in ("https://portal.example.org:443", "https://other.example", "null", "*"):
            assert not [
                name for name, _ in _preflight(site, origin).headers if name.lower().startswith("access-control")
            ]
        usual = {"Origin": "https://portal.example.org", "Access-Control-Request-Method": "PATCH"}
        asked = site.request("OPTIONS", site.upload_url, usual)
        assert asked.header("Access-Control-Allow-Private-Network") is None


def test_cors_of_all_origins_allows_neither_credentials_nor_private_networks(tmp_path: Path) -> None:
    """Only those that are listed by name may act for whoever sits before the browser."""
    settings = {"TUS__CORS_ORIGINS": "*, https://portal.example.org", "PRE_CREATE__HEADERS": "X-Portal-User"}
    with ServerProcess(tmp_path, environment=settings) as server:
        for origin in ("https://anything.example", "null", "*"):
            answer = _preflight(server.drop.site, origin)
            assert answer.needed("Access-Control-Allow-Origin") == origin
            assert "x-portal-user" in _names(answer, "Access-Control-Allow-Headers")
            assert answer.header("Access-Control-Allow-Credentials") is None
            assert answer.header("Access-Control-Allow-Private-Network") is None
        answer = _preflight(server.drop.site, "https://portal.example.org")
        assert answer.needed("Access-Control-Allow-Credentials") == "true"


# ---- Location ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "start"),
    [
        ({"Host": "a.example"}, "http://a.example/files/"),
        ({"Host": "a.example:8080"}, "http://a.example:8080/files/"),
        ({"Host": "a.example", "X-Forwarded-Proto": "https"}, "https://a.example/files/"),
        (
            {"Host": "a.example", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "b.example:443"},
            "https://b.example/files/",
        ),
        ({"Host": "a.example", "X-Forwarded-Proto": "gopher"}, "http://a.example/files/"),
        (
            {
                "Host": "a.example",
                "Forwarded": 'for=1.2.3.4;proto=https;host="c.example"',
                "X-Forwarded-Proto": "http",
                "X-Forwarded-Host": "b.example",
            },
            "https://c.example/files/",
        ),
    ],
    ids=["host", "port", "proto", "default-port", "unknown-proto", "forwarded-wins"],
)
def test_location_follows_the_trusted_proxy(site: TusSite, headers: dict[str, str], start: str) -> None:
    """Behind a configured proxy the upload's URL is the one that the client can reach."""
    assert site.post({"Upload-Length": "5", **headers}).needed("Location").startswith(start)


def test_location_ignores_forwarded_headers_of_strangers(limited: ServerProcess) -> None:
    """Without a configured proxy anybody could send these headers."""
    headers = {
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "Forwarded": "host=evil.example",
    }
    location = limited.drop.site.post({"Upload-Length": "5", **headers}).needed("Location")
    assert "evil.example" not in location
    assert not location.startswith("https:")


# ---- GET, DELETE of what is finished -------------------------------------------------------------


def test_download_returns_the_file_as_an_attachment(site: TusSite) -> None:
    """With `tus.download` the code reads a finished upload back, never as something a browser would run."""
    url = site.upload(b"<script>hello</script>", {"Upload-Metadata": metadata(filename='ä";\r\n.html')})
    answer = site.request("GET", url, {"Dropoff-Code": site.code})
    assert (answer.status, answer.body) == (200, b"<script>hello</script>")
    assert answer.needed("Content-Type") == "application/octet-stream"
    assert answer.needed("Content-Disposition").startswith("attachment")
    assert "filename*=UTF-8''%C3%A4" in answer.needed("Content-Disposition")
    assert answer.needed("Content-Security-Policy") == "sandbox; default-src 'none'"
    assert answer.needed("X-Content-Type-Options") == "nosniff"


@pytest.mark.parametrize(
    ("wanted", "body", "content_range"),
    [
        ("bytes=0-3", b"abcd", "bytes 0-3/26"),
        ("bytes=23-", b"xyz", "bytes 23-25/26"),
        ("bytes=-2", b"yz", "bytes 24-25/26"),
        ("bytes=20-999", b"uvwxyz", "bytes 20-25/26"),
    ],
)
def test_download_of_a_range_answers_206(site: TusSite, wanted: str, body: bytes, content_range: str) -> None:
    """A broken download goes on where it stopped."""
    url = site.upload(b"abcdefghijklmnopqrstuvwxyz")
    answer = site.request("GET", url, {"Dropoff-Code": site.code, "Range": wanted})
    assert (answer.status, answer.body) == (206, body)
    assert answer.needed("Content-Range") == content_range


def test_download_of_range_past_the_end_answers_416(site: TusSite) -> None:
    """There is nothing behind the last byte."""
    url = site.upload(b"hello")
    answer = site.request("GET", url, {"Dropoff-Code": site.code, "Range": "bytes=5-"})
    assert answer.status == 416
    assert answer.needed("Content-Range") == "bytes */5"


def test_download_without_code_or_before_the_end_is_refused(site: TusSite) -> None:
    """The upload URL by itself reads nothing back, and nobody can read an unfinished upload."""
    url = site.upload(b"hello")
    for headers in ({}, {"Dropoff-Code": "wrong"}):
        answer = site.request("GET", url, headers)
        assert answer.status in {401, 403}
        assert b"hello" not in answer.body
    unfinished = site.create(10)
    assert site.patch(unfinished, 0, b"hello").status == 204
    answer = site.request("GET", unfinished, {"Dropoff-Code": site.code})
    assert answer.status >= 400
    assert b"hello" not in answer.body


def test_terminate_finished_when_allowed_answers_204_then_410(site: TusSite) -> None:
    """With `tus.terminate_finished` the upload URL may take back what was handed in."""
    url = site.upload(b"hello")
    assert site.delete(url).status == 204
    assert_head(site.head(url), 410)


# ---- time, disk, catalog -------------------------------------------------------------------------


@pytest.mark.parametrize("sent_bytes", [3, 1_500_000], ids=["few", "many"])
def test_body_idle_too_long_answers_503_and_keeps_what_arrived(site: TusSite, sent_bytes: int) -> None:
    """The server ends a body that stands still: kept, 503 with Retry-After, closed."""
    url = site.create(2_000_000)
    with site.connect(timeout_seconds=10) as connection:
        headers = site.patch_headers(0, {"Content-Length": "2000000"})
        connection.send(site.message("PATCH", url, headers, bytes(sent_bytes)))
        started = time.monotonic()
        answer = assert_refused(connection.read_response(), 503)
        assert 0.9 < time.monotonic() - started < 20
        assert int(answer.needed("Retry-After")) >= 0
        assert connection.is_closed_within(2)
    assert site.head(url).offset == sent_bytes


def test_expired_upload_answers_410(configured: ServerProcess) -> None:
    """An unfinished upload that nobody went on with is gone after its time; a finished one stays."""
    before = dict(configured.environment)
    configured.restart(environment={**before, "TUS__EXPIRE_AFTER": "2s"})
    try:
        site = configured.drop.site
        finished = site.upload(b"hello")
        url = site.create(5)
        assert site.patch(url, 0, b"hel").status == 204
        deadline = time.monotonic() + 10
        while site.head(url).status == 200 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert_head(site.head(url), 410)
        assert_refused(site.patch(url, 3, b"lo"), 410)
        assert site.head(finished).status == 200
    finally:
        configured.restart(environment=before)


def test_disk_below_its_floor_answers_507(configured: ServerProcess) -> None:
    """Without enough free space nothing new begins, and clients have to come back later."""
    before = dict(configured.environment)
    configured.restart(environment={**before, "STORE__FREE_SPACE_FLOOR": "1000000GiB"})
    try:
        answer = assert_refused(configured.drop.site.post({"Upload-Length": "5"}), 507)
        assert int(answer.needed("Retry-After")) >= 1
    finally:
        configured.restart(environment=before)


def test_catalog_that_does_not_answer_gives_503(configured: ServerProcess, site: TusSite) -> None:
    """While the catalog is locked creation answers 503, but bytes are taken, and later all is well."""
    url = site.create(10)
    (catalog,) = (path for path in configured.data.rglob("*") if _is_sqlite(path))
    with contextlib.closing(sqlite3.connect(catalog, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        answer = assert_refused(site.post({"Upload-Length": "5"}), 503)
        assert int(answer.needed("Retry-After")) >= 1
        assert site.patch(url, 0, b"hello").status == 204
        database.execute("ROLLBACK")
    assert site.patch(url, 5, b"hello").status == 204
    assert configured.export(url) == b"hello" * 2


def _is_sqlite(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"
