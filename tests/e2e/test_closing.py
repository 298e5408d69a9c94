"""Changes by another process hold for a running server: `drop close --now`, `reopen`, `new-code`."""

import fcntl
import time
from collections.abc import Iterator

import pytest

from tests.e2e.answers import assert_head, assert_refused
from tests.support.server_process import Drop, ServerProcess, upload_id_of
from tests.support.tus_raw import TusSite

_RUNNING_SECONDS = 5.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server."""
    with ServerProcess(tmp_path_factory.mktemp("closing")) as running:
        yield running


@pytest.fixture
def drop(server: ServerProcess) -> Drop:
    """Return a new drop-off."""
    return server.create_drop()


def test_close_now_stops_creation_at_once_and_running_patches_soon(server: ServerProcess, drop: Drop) -> None:
    """The next POST is refused; a PATCH that runs gets its 410 within five seconds; finished uploads stay."""
    site = drop.site
    finished, idle, running = site.upload(b"hello"), site.create(10), site.create(1_000_000)
    with site.connect() as connection:
        headers = site.patch_headers(0, {"Content-Length": "1000000"})
        connection.send(site.message("PATCH", running, headers, b"hello"))
        time.sleep(0.2)
        closed_at = time.monotonic()
        server.cli("drop", "close", drop.id, "--now")
        assert_refused(site.post({"Upload-Length": "5"}), 403, "ERR_DROPOFF_CLOSED")
        assert_refused(connection.read_response(), 410)
        assert time.monotonic() - closed_at < _RUNNING_SECONDS
    _wait_for_410(site, idle, running)
    assert_refused(site.patch(idle, 0, b"hello"), 410)
    assert_head(site.head(finished), 200)
    assert server.export(finished) == b"hello"
    assert {row["state"] for row in server.uploads(drop)} == {"complete", "terminated"}


def test_close_now_and_reopen_takes_new_uploads_only(server: ServerProcess, drop: Drop) -> None:
    """Ended uploads stay so."""
    url = drop.site.create(5)
    server.cli("drop", "close", drop.id, "--now")
    _wait_for_410(drop.site, url)
    server.cli("drop", "reopen", drop.id)
    assert drop.site.post({"Upload-Length": "5"}).status == 201
    assert_head(drop.site.head(url), 410)


def test_new_code_holds_at_once(server: ServerProcess, drop: Drop) -> None:
    """The old code creates nothing more and the new one does; running uploads need no code."""
    url = drop.site.create(5)
    said = server.cli_json("drop", "new-code", drop.id)
    assert_refused(drop.site.post({"Upload-Length": "5"}), 403, "ERR_ACCESS_DENIED")
    assert TusSite(drop.upload_url, said["code"]).post({"Upload-Length": "5"}).status == 201
    assert drop.site.patch(url, 0, b"hello").status == 204


@pytest.mark.slow
def test_close_now_is_repeated_for_an_upload_that_was_in_use(server: ServerProcess, drop: Drop) -> None:
    """An upload that another process held when the drop-off was closed is ended once it is let go."""
    url = drop.site.create(5)
    upload_id = upload_id_of(url)
    with (server.data / "store" / "uploads" / upload_id[:2] / upload_id / "log").open("rb+") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        server.cli("drop", "close", drop.id, "--now")
        time.sleep(13)  # longer than the server waits for a lease
        assert server.row(url, drop)["state"] == "open"
    _wait_for_410(drop.site, url)
    assert server.row(url, drop)["state"] == "terminated"


def _wait_for_410(site: TusSite, *urls: str) -> None:
    deadline = time.monotonic() + 15
    while any(site.head(url).status != 410 for url in urls):
        assert time.monotonic() < deadline
        time.sleep(0.05)
