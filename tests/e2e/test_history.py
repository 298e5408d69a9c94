"""One upload's life as an operator sees it afterwards: in the lines of the log, and in `upload show --history`."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.server_process import ServerProcess, token_of, upload_id_of
from tests.support.tus_raw import OCTETS, RawConnection, TusSite, metadata

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


def _cuts(server: ServerProcess, url: str, least: int = 1) -> list[dict[str, Any]]:
    """Return the lines of an upload's bodies that were cut off, once there are so many."""
    deadline = time.monotonic() + 20
    while True:
        lines = [json.loads(line) for line in server.log_text.splitlines() if upload_id_of(url) in line]
        found = [line for line in lines if "cut" in line]
        if len(found) >= least:
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


# ---- upload show --history -----------------------------------------------------------------------------------------


def test_history_tells_what_happened_to_an_upload(server: ServerProcess, tmp_path: Path) -> None:
    """Creation, the cut, a takeover, where it stands: from its own log, the audit and the server's log lines."""
    drop = server.create_drop()
    site = drop.site
    url = site.create(_LENGTH, {"Upload-Metadata": metadata(filename="secret-name.txt")})
    with site.connect() as connection:
        _begin(connection, site, url)
        assert site.patch(url, len(_SENT), b"y" * 100).status == 204
        connection.read_response()
    with site.connect() as connection:
        _begin(connection, site, url, 500)
        receiving = server.cli_json("upload", "show", url, "--history")
        connection.half_close()
        _cuts(server, url, 2)
    log = tmp_path / "journal"
    log.write_text("".join(f"Nov 30 17:00:00 host dropoff-tus[1]: {line}\n" for line in server.logged().splitlines()))
    asked = ("upload", "show", url, "--history", "--log", str(log))
    found = server.cli_json(*asked)
    assert (receiving["receiving"], found["receiving"]) == (True, False)
    told = [(each["source"], each["text"]) for each in found["history"] if "HEAD" not in each["text"]]
    assert [each["at"] for each in found["history"]] == sorted(each["at"] for each in found["history"])
    assert ("store", "created: managed, regular, 1000 bytes") in told
    assert ("audit", "upload.create by client: result regular, bytes 1000") in told
    texts = "\n".join(text for source, text in told if source == "log")
    wanted = (
        r"POST 201\n"
        r"PATCH 409 ERR_UPLOAD_INTERRUPTED: the body was cut off, taken over; 400 bytes in .*/s; at 400 \(40.0 %\)\n"
        r"PATCH 204: 100 bytes in .*; at 500 \(50.0 %\)\n"
        r"PATCH 400 ERR_CONNECTION_RESET: the body was cut off, client gone; 400 bytes in .*; at 900 \(90.0 %\)"
    )
    assert re.fullmatch(wanted, texts), texts
    (received,) = [each for each in found["history"] if each.get("kind") == "segs"]
    assert received["text"].startswith("received 0 to 900 (90.0 %), 3 commits")
    assert found["last_byte_at"] == received["at"]
    assert found["now"].startswith("open; 900 of 1000 bytes are here (90.0 %); the last byte came at ")
    assert "no request sends to it now; it expires at" in found["now"]
    shown = server.cli(*asked).stdout.decode()
    assert shown.endswith(f"now: {found['now']}\n")
    history = shown[shown.index("  store  ") :]
    assert "secret-name" not in history
    assert token_of(url) not in shown
    assert str(drop.code) not in shown


def test_history_tells_the_end_of_an_upload(server: ServerProcess) -> None:
    """By whom, and why; of a finished one that it was read; and that the drop-off was closed."""
    drop = server.create_drop()
    finished, ended = drop.site.upload(b"0123456789"), drop.site.create(_LENGTH)
    server.export(finished)
    server.cli("drop", "close", drop.id)
    assert drop.site.delete(ended).status == 204
    found = server.cli_json("upload", "show", finished, "--history")
    texts = [each["text"] for each in found["history"]]
    assert "whole: 10 bytes" in texts
    assert "upload.complete by client: result regular, bytes 10" in texts
    assert any(text.startswith("upload.export by operator:") for text in texts)
    assert any(text.startswith("drop.close by operator:") for text in texts)
    assert found["now"].startswith("complete; 10 of 10 bytes are here (100.0 %)")
    found = server.cli_json("upload", "show", ended, "--history")
    assert "ended: terminated: by the client" in [each["text"] for each in found["history"]]
    assert (found["now"], found["last_byte_at"]) == ("terminated", None)


def test_history_says_what_it_cannot_read(server: ServerProcess, tmp_path: Path) -> None:
    """A log without lines of the upload, or in the form for people; no file; and --log alone."""
    url = server.drop.site.create(_LENGTH)
    for text, said in (("", "no line of the log names this upload"), (f"x {upload_id_of(url)}\n", "not in JSON")):
        (tmp_path / "log").write_text(text)
        done = server.cli("upload", "show", url, "--history", "--log", str(tmp_path / "log"))
        assert said in done.stderr.decode()
    for options, said in (
        (("--history", "--log", str(tmp_path / "none")), "cannot read"),
        (("--log", str(tmp_path / "log")), "--log is for --history"),
    ):
        done = server.cli("upload", "show", url, *options, check=False)
        assert (done.returncode, done.stdout) == (1, b"")
        assert said in done.stderr.decode()


def test_history_has_the_last_check_that_covered_an_upload(server: ServerProcess) -> None:
    """One row for a check of all uploads, and one for each with a finding, however many are whole."""
    drop = server.create_drop()
    whole, damaged = drop.site.upload(b"0123456789"), drop.site.upload(b"0123456789")
    data = server.data / "store" / "uploads" / upload_id_of(damaged)[:2] / upload_id_of(damaged) / "data"
    kept = data.read_bytes()
    rows = [len(_audit_rows(server))]
    server.cli("store", "check")
    data.write_bytes(bytes([kept[0] ^ 1]) + kept[1:])
    try:
        assert server.cli("store", "check", check=False).returncode == 1
    finally:
        data.write_bytes(kept)
    rows.append(len(_audit_rows(server)))
    later = drop.site.upload(b"0123456789")
    assert _checks(server, later) == []
    server.cli("store", "check", whole, "--quick")
    of_all, of_one = _checks(server, whole)
    assert re.fullmatch(
        r"store\.check by operator:.*: result ciphertext, count \d+, findings 1; none about this one", of_all
    )
    assert re.fullmatch(r"store\.check by operator:.*: result quick, count 1, findings 0", of_one)
    (found,) = _checks(server, damaged)
    assert re.fullmatch(r"store\.check by operator:.*: result finding", found)
    assert rows[1] == rows[0] + 3
    assert server.cli_json("audit", "verify")["whole"] is True


def _checks(server: ServerProcess, url: str) -> list[str]:
    history = server.cli_json("upload", "show", url, "--history")["history"]
    return [each["text"] for each in history if "store.check" in each["text"]]


def _audit_rows(server: ServerProcess) -> list[bytes]:
    return server.cli("audit", "export", "--output", "-").stdout.splitlines()
