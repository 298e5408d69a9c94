"""One upload's life as an operator sees it afterwards: in the lines of the log, and in `upload show --history`."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.server_process import ServerProcess, upload_id_of
from tests.support.tus_raw import OCTETS, RawConnection, TusSite

_LENGTH = 1000
_SENT = b"x" * 400


def _begin(connection: RawConnection, site: TusSite, url: str, offset: int = 0) -> None:
    """Send a PATCH of the whole rest, and 400 bytes of it; return when they are durable."""
    headers = site.patch_headers(offset, {"Content-Length": str(_LENGTH - offset)})
    connection.send(site.message("PATCH", url, headers, _SENT))
    deadline = time.monotonic() + 20
    while site.head(url).offset < offset + len(_SENT):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _cuts(server: ServerProcess, url: str) -> list[dict[str, Any]]:
    """Return the lines of an upload's bodies that were cut off, once there is one."""
    deadline = time.monotonic() + 20
    while True:
        lines = [json.loads(line) for line in server.log_text.splitlines() if upload_id_of(url) in line]
        found = [line for line in lines if "cut" in line]
        if found:
            return found
        assert time.monotonic() < deadline, lines
        time.sleep(0.02)


def _client_goes(_server: ServerProcess, _site: TusSite, connection: RawConnection, _url: str) -> None:
    connection.half_close()


def _takes_over(_server: ServerProcess, site: TusSite, _connection: RawConnection, url: str) -> None:
    assert site.patch(url, len(_SENT), b"y" * 100).status == 204


def _closes(server: ServerProcess, site: TusSite, _connection: RawConnection, _url: str) -> None:
    server.cli("drop", "close", site.upload_url.rstrip("/").rpartition("/")[2], "--now")


def _waits(_server: ServerProcess, _site: TusSite, _connection: RawConnection, _url: str) -> None:
    """Do nothing, until the server has waited for long enough."""


def _stops(server: ServerProcess, _site: TusSite, _connection: RawConnection, _url: str) -> None:
    server.terminate()


@pytest.mark.parametrize(
    ("cut", "act"),
    [("client gone", _client_goes), ("taken over", _takes_over), ("closed", _closes)],
    ids=["client", "taken-over", "closed"],
)
def test_log_says_why_a_body_was_cut(
    server: ServerProcess, cut: str, act: Callable[[ServerProcess, TusSite, RawConnection, str], None]
) -> None:
    """Beside the bytes that came, the offset that is durable, and the time it took."""
    _assert_cut(server, cut, act)


@pytest.mark.parametrize(("cut", "act"), [("idle", _waits), ("server stopped", _stops)], ids=["idle", "stopped"])
def test_log_says_why_the_server_cut_a_body(
    tmp_path: Path, cut: str, act: Callable[[ServerProcess, TusSite, RawConnection, str], None]
) -> None:
    """The same, for what the server itself decides."""
    with ServerProcess(tmp_path, environment={"TUS__BODY_IDLE_TIMEOUT": "1s" if cut == "idle" else "60s"}) as server:
        _assert_cut(server, cut, act)


def _assert_cut(
    server: ServerProcess, cut: str, act: Callable[[ServerProcess, TusSite, RawConnection, str], None]
) -> None:
    site = server.create_drop().site
    url = site.create(_LENGTH)
    with site.connect() as connection:
        _begin(connection, site, url)
        act(server, site, connection, url)
        # A client that is gone may get none.
        answer = None if cut == "client gone" else connection.read_response()
    if cut == "server stopped":
        assert server.wait() == 0
    (told,) = _cuts(server, url)
    assert (told["method"], told["cut"], told["bytes"], told["offset"]) == ("PATCH", cut, len(_SENT), len(_SENT))
    assert 0 < told["seconds"] < 60
    assert answer is None or (told["status"], told["code"]) == (answer.status, answer.error_code)


def test_log_has_bytes_and_offset_of_each_request(server: ServerProcess) -> None:
    """Of what ended well too; and HEAD says what it answered."""
    site = server.create_drop().site
    created = site.post({"Upload-Length": "10", "Content-Type": OCTETS}, b"0123")
    url = created.needed("Location")
    assert site.patch(url, 4, b"456").status == 204
    assert site.head(url).offset == 7
    assert site.patch(url, 7, b"789").status == 204
    lines = [json.loads(line) for line in server.logged().splitlines() if upload_id_of(url) in line]
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["method"], line.get("bytes"), line["offset"]) for line in requests] == [
        ("POST", 4, 4),
        ("PATCH", 3, 7),
        ("HEAD", None, 7),
        ("PATCH", 3, 10),
    ]


def test_log_names_the_upload_of_a_creation_that_was_cut(server: ServerProcess) -> None:
    """If its client chose the token: then its bytes are kept."""
    site, token = server.create_drop().site, "0123456789abcdef" * 2
    given = {"Upload-Length": "1000", "Content-Type": OCTETS, "Dropoff-Token": token, "Content-Length": "1000"}
    with site.connect() as connection:
        connection.send(site.message("POST", site.upload_url, site.post_headers(given), _SENT))
        connection.half_close()
        (line,) = _cuts(server, f"{site.upload_url.rstrip('/')}/{token}")
    assert (line["method"], line["cut"], line["bytes"], line["offset"]) == ("POST", "client gone", 400, 400)
