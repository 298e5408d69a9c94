"""A PostgreSQL catalog that goes away under the running server, and comes back."""

import time
from collections.abc import Iterator

import pytest

from tests.e2e.answers import assert_head, assert_refused
from tests.support.postgres import PostgresServer
from tests.support.server_process import ServerProcess
from tests.support.tus_raw import Response


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """Run a database cluster."""
    with PostgresServer() as running:
        running.sql("CREATE DATABASE dropoff")
        yield running


@pytest.fixture(scope="module")
def server(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server with its catalog there."""
    settings = {"CATALOG__URL": postgres.url("dropoff")}
    made = ServerProcess(tmp_path_factory.mktemp("away"))
    made.environment = settings
    made.cli("migrate")
    with made:
        made.drop = made.create_drop()
        yield made


def test_catalog_that_went_away_answers_503_and_loses_nothing(postgres: PostgresServer, server: ServerProcess) -> None:
    """POST and the end of an upload are told to come back; bytes are taken meanwhile; then the server finishes."""
    site = server.drop.site
    last, middle = site.create(10), site.create(10)
    assert site.patch(last, 0, b"hello").status == 204
    postgres.stop()
    try:
        _assert_come_back(site.post({"Upload-Length": "5"}))
        info = site.request("GET", f"{server.drop.page_url}/info", {"Dropoff-Code": site.code})
        _assert_come_back(info)
        assert site.patch(middle, 0, b"hello").status == 204
        _assert_come_back(site.patch(last, 5, b"world"))
        assert int(assert_head(site.head(last), 423).needed("Retry-After")) >= 1
    finally:
        postgres.start()
    deadline = time.monotonic() + 30
    while site.head(last).status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert site.patch(middle, 5, b"again").status == 204
    assert (server.export(last), server.export(middle)) == (b"helloworld", b"helloagain")
    assert "the catalog does not answer" in server.log_text
    _assert_no_traceback(server)


def test_server_without_its_catalog_does_not_start_and_says_so(postgres: PostgresServer, server: ServerProcess) -> None:
    """A database that is not there is a sentence, and the command ends."""
    server.stop()
    postgres.stop()
    try:
        done = server.cli("serve", check=False)
        assert done.returncode == 1
        assert done.stderr.startswith(b"dropoff-tus: ")
        assert b"Traceback" not in done.stderr
        assert b"ready" not in done.stdout
    finally:
        postgres.start()
        server.start()


def _assert_come_back(answer: Response) -> None:
    assert_refused(answer, 503, "ERR_CATALOG_UNAVAILABLE")
    assert int(answer.needed("Retry-After")) >= 1


def _assert_no_traceback(server: ServerProcess) -> None:
    assert "Traceback" not in server.log_text
    assert "asyncpg" not in server.log_text
