"""The real server while another program holds its SQLite file for long."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator

import pytest

from tests.e2e.answers import assert_refused
from tests.support.server_process import ServerProcess


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server."""
    with ServerProcess(tmp_path_factory.mktemp("locked")) as server:
        yield server


@pytest.mark.parametrize("asked", ["creation", pytest.param("finish", marks=pytest.mark.slow)])
def test_file_locked_by_another_writer_refuses_what_writes_and_nothing_else(running: ServerProcess, asked: str) -> None:
    """503 with Retry-After for what writes; bytes go on, and once it is free all completes by itself."""
    site = running.drop.site
    url = site.create(10)
    (path,) = running.data.glob("catalog*.sqlite3")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert site.patch(url, 0, b"hello").status == 204
        assert site.head(url).offset == 5
        page = site.request("GET", f"{running.drop.page_url}/info", {"Dropoff-Code": site.code})
        assert page.status == 200
        answer = site.post({"Upload-Length": "5"}) if asked == "creation" else site.patch(url, 5, b"world")
        refused = assert_refused(answer, 503, "ERR_CATALOG_UNAVAILABLE")
        assert int(refused.needed("Retry-After")) >= 1
        if asked == "finish":
            assert site.head(url).status == 423
        other.execute("ROLLBACK")
    if asked == "creation":
        assert site.patch(url, 5, b"world").status == 204
    deadline = time.monotonic() + 20
    while (answer := site.head(url)).status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert answer.offset == 10
    assert running.row(url)["state"] == "complete"
    assert running.export(site.upload(b"after")) == b"after"
    assert "Traceback" not in running.logged()
