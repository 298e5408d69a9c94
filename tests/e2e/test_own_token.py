"""Creations whose token the client drew: no lost answer makes a second upload, or costs what came."""

import contextlib
import secrets
import sqlite3
import time
from pathlib import Path

import pytest

from tests.e2e.answers import assert_refused
from tests.support.server_process import ServerProcess
from tests.support.tus_raw import OCTETS, TusSite


@pytest.fixture
def token() -> str:
    """Draw one."""
    return secrets.token_hex(16)


def test_creation_has_the_url_that_its_client_knew(site: TusSite, token: str) -> None:
    """Location ends with the token, and the bytes go there."""
    url = site.create(5, {"Dropoff-Token": token})
    assert url == site.upload_url + token
    assert site.patch(url, 0, b"hello").status == 204


def test_second_creation_with_a_token_is_refused_and_changes_nothing(server: ServerProcess, token: str) -> None:
    """It counts nowhere, and the first one is as it was; in another drop-off likewise."""
    drop = server.create_drop("--max-uploads", "2")
    url = drop.site.create(5, {"Dropoff-Token": token})
    drop.site.patch(url, 0, b"hel")
    again = drop.site.post({"Upload-Length": "5", "Dropoff-Token": token})
    assert_refused(again, 409, "ERR_UPLOAD_EXISTS")
    elsewhere = server.drop.site.post({"Upload-Length": "5", "Dropoff-Token": token})
    assert_refused(elsewhere, 409, "ERR_UPLOAD_EXISTS")
    assert drop.site.patch(url, 3, b"lo").status == 204
    assert server.export(url) == b"hello"
    drop.site.create(1)


@pytest.mark.parametrize("text", ["x" * 32, "A" * 32, "0" * 31, "0" * 33, ""])
def test_token_of_another_form_is_refused(site: TusSite, text: str) -> None:
    """Nothing is created."""
    assert_refused(site.post({"Upload-Length": "5", "Dropoff-Token": text}), 400, "ERR_INVALID_TOKEN")


def test_bytes_of_a_creation_that_breaks_off_are_kept(server: ServerProcess, token: str) -> None:
    """The client knows where to ask, and goes on; without a token of its own it could not, and nothing is kept."""
    site, content = server.drop.site, secrets.token_bytes(300_000)
    headers = site.post_headers({"Upload-Length": str(len(content)), "Content-Type": OCTETS, "Dropoff-Token": token})
    with site.connect() as connection:
        connection.send(
            site.message("POST", site.upload_url, {**headers, "Content-Length": str(len(content))}, content[:200_000])
        )
        connection.half_close()
    url = site.upload_url + token
    deadline = time.monotonic() + 20
    while (answer := site.head(url)).status != 200 or not answer.offset:
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
    assert 0 < answer.offset <= 200_000
    assert site.patch(url, answer.offset, content[answer.offset :]).status == 204
    assert server.export(url) == content
    assert token not in server.log_text


def test_creation_with_the_token_of_an_upload_that_the_catalog_lacks_takes_nothing_from_it(
    tmp_path: Path, token: str
) -> None:
    """As with a catalog that was restored from a backup: the upload is there, and its client goes on."""
    with ServerProcess(tmp_path) as server:
        url = server.drop.site.create(10, {"Dropoff-Token": token})
        assert server.drop.site.patch(url, 0, b"01234").status == 204
        server.stop()
        with contextlib.closing(sqlite3.connect(server.data / "catalog.sqlite3")) as catalog, catalog:
            catalog.execute("DELETE FROM uploads")
        server.start()
        for _ in range(2):
            again = server.drop.site.post({"Upload-Length": "10", "Dropoff-Token": token})
            assert_refused(again, 409, "ERR_UPLOAD_EXISTS")
        assert server.drop.site.head(url).offset == 5
        server.cli("store", "adopt")
        assert server.drop.site.patch(url, 5, b"56789").status == 204
        assert server.export(url) == b"0123456789"
