"""How uploads end, on the real program: by time never while they are received, parts with their siblings, and why."""

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import pytest

from tests.support.api_client import Api
from tests.support.server_process import ServerProcess, upload_id_of
from tests.support.tus_raw import OCTETS, TusSite

_EXPIRE_SECONDS = 2
_CONTENT = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server where uploads expire within seconds."""
    settings = {"TUS__EXPIRE_AFTER": f"{_EXPIRE_SECONDS}s", "TUS__BODY_IDLE_TIMEOUT": "30s"}
    with ServerProcess(tmp_path_factory.mktemp("idle"), environment=settings) as running:
        yield running


def _checksum(content: bytes) -> dict[str, str | None]:
    return {"Upload-Checksum": f"sha256 {base64.b64encode(hashlib.sha256(content).digest()).decode()}"}


@pytest.mark.parametrize("method", ["PATCH", "POST"])
def test_upload_that_still_arrives_does_not_expire(server: ServerProcess, method: str) -> None:
    """Twice the time without a commit: HEAD says so and no 410, `store sweep` does not touch it, and it completes."""
    site = server.create_drop("--max-uploads", "1").site
    url = None
    headers = site.post_headers({"Upload-Length": str(len(_CONTENT)), "Content-Type": OCTETS})
    if method == "PATCH":
        url = site.create(len(_CONTENT))
        headers = site.patch_headers(0)
    with site.connect(timeout_seconds=60) as connection:
        headers = {**headers, **_checksum(_CONTENT), "Content-Length": str(len(_CONTENT))}
        connection.send(site.message(method, url or site.upload_url, headers))
        began, sent = time.monotonic(), 0
        while time.monotonic() - began < 2 * _EXPIRE_SECONDS:
            connection.send(_CONTENT[sent : sent + 8])
            sent += 8
            if url is not None:
                head = site.head(url)
                assert head.status == 200
                expires = parsedate_to_datetime(head.needed("Upload-Expires")).timestamp()
                assert expires > time.time() - 1
            time.sleep(0.1)
        for options in (("--dry-run",), ()):
            assert not server.cli_json("store", "sweep", *options)["expired"]
        connection.send(_CONTENT[sent:])
        answer = connection.read_response()
    assert answer.status == (204 if method == "PATCH" else 201), answer.body
    row = server.row(url or answer.needed("Location"))
    assert (row["state"], row["sha256"]) == ("complete", hashlib.sha256(_CONTENT).hexdigest())


def test_writer_whose_upload_another_request_ends_is_told_that_its_bytes_go(server: ServerProcess) -> None:
    """DELETE while a PATCH runs: 410 for the writer, with the reason, and not a word of bytes that are kept."""
    site: TusSite = server.create_drop().site
    url = site.create(len(_CONTENT))
    with site.connect() as connection:
        connection.send(site.message("PATCH", url, {**site.patch_headers(0), "Content-Length": "1024"}, b"0123"))
        deadline = time.monotonic() + 20
        while site.head(url).offset < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert site.delete(url).status == 204
        answer = connection.read_response()
    assert (answer.status, answer.error_code) == (410, "ERR_UPLOAD_GONE")
    assert b"by the client" in answer.body
    assert b"the arrived bytes go with it" in answer.body
    assert b"kept" not in answer.body


def test_creation_that_fails_with_its_body_is_told_that_nothing_is_kept(server: ServerProcess) -> None:
    """Its client has no URL to resume at."""
    site = server.create_drop().site
    headers = {"Upload-Length": "5", "Content-Type": OCTETS, **_checksum(b"other")}
    answer = site.post(headers, b"01234")
    assert answer.status == 460
    assert b"nothing of it is kept, create it again" in answer.body
    assert b"resume" not in answer.body
    assert b"go on" not in answer.body


def test_parts_of_a_file_live_as_long_as_the_last_of_them_arrives(server: ServerProcess) -> None:
    """One part is complete at once, the other one trickles for longer than parts live; then they are joined."""
    site = server.create_drop().site
    first, second = (site.create(1024, {"Upload-Concat": "partial"}) for _ in range(2))
    assert site.patch(first, 0, _CONTENT).status == 204
    with site.connect(timeout_seconds=60) as connection:
        connection.send(site.message("PATCH", second, {**site.patch_headers(0), "Content-Length": "1024"}))
        began, sent = time.monotonic(), 0
        while time.monotonic() - began < 1.5 * _EXPIRE_SECONDS:
            connection.send(_CONTENT[sent : sent + 8])
            sent += 8
            time.sleep(0.1)
        assert not server.cli_json("store", "sweep")["expired"]
        connection.send(_CONTENT[sent:])
        assert connection.read_response().status == 204
    final = site.post({"Upload-Concat": f"final;{first} {second}"})
    assert final.status == 201, final.body
    assert server.row(final.needed("Location"))["sha256"] == hashlib.sha256(2 * _CONTENT).hexdigest()


def test_concatenation_of_parts_that_expired_is_answered_410(server: ServerProcess) -> None:
    """Nothing goes on: both go, and their client learns it."""
    site = server.create_drop().site
    parts = [site.create(1024, {"Upload-Concat": "partial"}) for _ in range(2)]
    assert site.patch(parts[0], 0, _CONTENT).status == 204
    deadline = time.monotonic() + 30
    while len(server.cli_json("store", "sweep")["expired"]) < 1 and time.monotonic() < deadline:
        time.sleep(0.5)
    answer = site.post({"Upload-Concat": f"final;{' '.join(parts)}"})
    assert (answer.status, answer.error_code) == (410, "ERR_UPLOAD_GONE")
    assert b"upload it again" in answer.body


def test_every_end_keeps_its_reason_and_is_a_line_of_the_log(server: ServerProcess) -> None:
    """Retention differs from expiry, a rejection says which digest, by command line and API alike."""
    drop = server.create_drop("--retain", "1s")
    site, api = drop.site, Api.with_scopes(server)
    wrong = {"Upload-Metadata": f"sha256 {base64.b64encode(b'0' * 64).decode()}"}
    reasons = {"rejected in a PATCH": "the content does not match the sha256 in its metadata"}
    urls = {"rejected in a PATCH": site.create(4, wrong)}
    assert site.patch(urls["rejected in a PATCH"], 0, b"0123").status == 422
    before = {row["id"] for row in server.uploads(drop)}
    assert site.post({"Upload-Length": "4", "Content-Type": OCTETS, **wrong}, b"0123").status == 422
    (at_creation,) = {row["id"] for row in server.uploads(drop)} - before
    reasons["terminated"] = "by the client"
    urls["terminated"] = site.create(4)
    assert site.delete(urls["terminated"]).status == 204
    reasons["deleted"] = "by the operator"
    urls["deleted"] = site.upload(b"0123")
    assert api("DELETE", f"/uploads/{upload_id_of(urls['deleted'])}").status == 200
    urls["retained"], urls["idle"] = site.upload(b"0123"), site.create(4)
    reasons["retained"], reasons["idle"] = "retention is over", "idle for too long"
    ids = {name: upload_id_of(url) for name, url in urls.items()}
    ids["rejected in a POST"], reasons["rejected in a POST"] = at_creation, reasons["rejected in a PATCH"]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        server.cli_json("store", "sweep")
        if {server.row(urls[name])["state"] for name in ("retained", "idle")} == {"expired"}:
            break
        time.sleep(0.5)
    for name, upload_id in ids.items():
        shown = server.cli_json("upload", "show", upload_id)
        assert shown["state"] == name.split()[0] or (name in {"retained", "idle"} and shown["state"] == "expired")
        assert shown["reason"] == reasons[name], name
        assert api("GET", f"/uploads/{upload_id}").json["reason"] == reasons[name]
    listed = {row["id"]: row["reason"] for row in server.uploads(drop)}
    assert listed == {ids[name]: reasons[name] for name in ids}
    ended = [json.loads(line) for line in server.logged().splitlines() if '"upload ended"' in line]
    said = {line["upload_id"]: line["why"] for line in ended}
    assert {name for name in ids if said.get(ids[name]) == reasons[name]} >= set(ids) - {"retained", "idle"}
    assert server.row(site.upload(b"0123"))["reason"] is None
