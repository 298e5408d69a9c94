"""Changing drop-offs, by the command line and by the API alike; lists in pages; and tokens for one drop-off."""

import hashlib
import http.client
import io
import json
import os
import sqlite3
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, cast

import pytest

from tests.support.api_client import EVERY_SCOPE, Api
from tests.support.server_process import Drop, ServerProcess, run_warm, upload_id_of
from tests.support.tus_raw import TusSite, metadata

pytestmark = pytest.mark.timeout(180)
_NO_DROP, _NO_UPLOAD = "00000000-0000-4000-8000-000000000000", "0" * 32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server for this module."""
    settings = {
        "LIMITS__WRONG_CODES_PER_HOUR": "0",
        "DROPOFFS__RETAIN": "90d",
        "DROPOFFS__CONTACT": "Ada",
        "DROPOFFS__NOTIFY": "c@example.org,d@example.org",
    }
    with ServerProcess(tmp_path_factory.mktemp("api-drops"), environment=settings) as running:
        yield running


@pytest.fixture(scope="module")
def api(server: ServerProcess) -> Api:
    """Return a client that may do everything."""
    return Api.with_scopes(server)


def _rows(server: ServerProcess) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = server.cli_json("audit", "export", "--json")["rows"]
    return rows


def test_drop_off_takes_what_is_configured_whoever_makes_it(server: ServerProcess, api: Api) -> None:
    """Retention, contact and notified addresses: by `init`, by the command line, and by the API."""
    made = [server.drop.id, server.create_drop().id, api("POST", "/drops", {"name": "x"}).json["id"]]
    for drop_id in made:
        shown = api("GET", f"/drops/{drop_id}").json
        assert (shown["retain_seconds"], shown["contact"]) == (90 * 86400, "Ada")
        assert shown["notify"] == ["c@example.org", "d@example.org"]
    assert "dropoffs.notify: section [mail] names no server" in server.cli_json("check-config")["remarks"][-1]


def test_drop_off_that_says_otherwise_takes_nothing_of_what_is_configured(server: ServerProcess, api: Api) -> None:
    """Every default can be overruled at the creation, lists by an empty value, by the command line as by the API."""
    before = server.environment
    server.environment = {
        **before,
        "DROPOFFS__SEALED": "true",
        "DROPOFFS__EXPIRES": "30d",
        **{f"DROPOFFS__{key}": "7" for key in ("MAX_UPLOAD_BYTES", "MAX_TOTAL_BYTES", "MAX_UPLOADS")},
        "DROPOFFS__ALLOWED_TYPES": "text/csv",
        "DROPOFFS__NAME_PATTERNS": "*.csv",
    }
    limits = dict.fromkeys(("max_upload_bytes", "max_total_bytes", "max_uploads", "retain_seconds"), 0)
    lists: dict[str, list[str]] = {key: [] for key in ("allowed_types", "name_patterns", "notify")}
    empty = {"mode": "managed", "expires_at": None, "contact": "", **limits, **lists}
    try:
        configured = server.create_drop()
        overruled = server.create_drop(
            *("--managed", "--expires", "0", "--contact", "", "--retain", "0", "--notify", ""),
            *("--max-upload-bytes", "0", "--max-total-bytes", "0", "--max-uploads", "0"),
            *("--allow-type", "", "--allow-name", "", "--recipient", ""),
        )
    finally:
        server.environment = before
    shown = api("GET", f"/drops/{configured.id}").json
    assert [key for key, value in empty.items() if shown[key] == value] == []
    for drop_id in (overruled.id, api("POST", "/drops", {"name": "x", **empty}).json["id"]):
        shown = api("GET", f"/drops/{drop_id}").json
        assert {**shown, **empty} == shown


def test_drop_edited_over_http_and_by_the_command_line_is_the_same(server: ServerProcess, api: Api) -> None:
    """All that can be said at the creation can be changed later, on either way, and empties again."""
    (recipient,) = [server.cli_json("keys", "generate", "--output", str(server.data / "other"), "--json")["recipient"]]
    wanted = {
        "name": "Kohorte ✓",
        "opens_at": "2089-01-01T00:00:00Z",
        "expires_at": "2090-01-31T12:00:00Z",
        "mode": "sealed",
        "recipients": [recipient],
        "max_upload_bytes": 1000,
        "max_total_bytes": 2**40,
        "max_uploads": 3,
        "allowed_types": ["text/*", "image/png"],
        "name_patterns": ["*.csv"],
        "notify": ["a@example.org", "b@example.org"],
        "retain_seconds": 86400,
        "contact": "Registry, room 7",
    }
    options = [
        *("--name", "Kohorte ✓", "--opens", "2089-01-01T00:00:00Z", "--expires", "2090-01-31T12:00:00Z", "--sealed"),
        *("--recipient", recipient, "--max-upload-bytes", "1kB", "--max-total-bytes", "1TiB", "--max-uploads", "3"),
        *("--allow-type", "text/*", "--allow-type", "image/png", "--allow-name", "*.csv", "--retain", "1d"),
        *("--notify", "a@example.org", "--notify", "b@example.org", "--contact", "Registry, room 7"),
    ]
    empty: dict[str, object] = {
        "opens_at": None,
        "expires_at": None,
        "mode": "managed",
        **{key: [] for key in ("recipients", "allowed_types", "name_patterns", "notify")},
        **dict.fromkeys(("max_upload_bytes", "max_total_bytes", "max_uploads", "retain_seconds"), 0),
        "contact": "",
    }
    emptying = [
        *("--opens", "0", "--expires", "0", "--managed", "--retain", "0", "--contact", ""),
        *("--recipient", "", "--allow-type", "", "--allow-name", "", "--notify", ""),
        *("--max-upload-bytes", "0", "--max-total-bytes", "0", "--max-uploads", "0"),
    ]
    one, other, third = server.create_drop(), server.create_drop(), api("POST", "/drops", {**wanted}).json["id"]
    fixed = {key: api("GET", f"/drops/{one.id}").json[key] for key in ("id", "created_at", "has_code", "closed")}
    for change, said in ((wanted, options), ({**empty, "name": "y"}, [*emptying, "--name", "y"])):
        by_http = api("PATCH", f"/drops/{one.id}", change)
        assert by_http.status == 200, by_http
        by_hand = server.cli_json("drop", "edit", other.id, *said)
        assert {**by_http.json, **change, **fixed} == by_http.json
        own = ("id", "created_at", "upload_url", "page_url")
        for shown in (by_hand, *([api("GET", f"/drops/{third}").json] if change is wanted else [])):
            assert [(k, v) for k, v in shown.items() if k not in own] == [
                (k, v) for k, v in by_http.json.items() if k not in own
            ]
        assert server.cli_json("drop", "show", one.id) == by_http.json
    edits = [row for row in _rows(server) if row["act"] == "drop.edit" and row["drop"] == one.id]
    assert edits[0]["who"].startswith("token:")
    assert set(edits[0]["result"].split()) == wanted.keys()


def test_drop_edited_holds_for_the_next_upload(server: ServerProcess, api: Api) -> None:
    """A running server follows at once and accepts the signed terms: the next upload is sealed."""
    drop = server.create_drop()
    first = drop.site.create(5)
    assert api("PATCH", f"/drops/{drop.id}", {"max_upload_bytes": 4, "mode": "sealed"}).status == 200
    assert drop.site.post({"Upload-Length": "5"}).status == 413
    second = drop.site.create(4)
    assert drop.site.patch(second, 0, b"seal").status == 204
    assert drop.site.patch(first, 0, b"hello").status == 204
    answers = [api("GET", f"/uploads/{upload_id_of(url)}/content").status for url in (first, second)]
    assert answers == [200, 403]


@pytest.mark.parametrize("way", ["http", "command line"])
def test_drop_edited_to_need_no_code_lets_anyone_in_until_it_has_one_again(
    server: ServerProcess, api: Api, way: str
) -> None:
    """From the next request on, both ways; the old code does not come back; and the audit tells each change once."""
    drop = server.create_drop()
    anyone, old = TusSite(drop.upload_url, None), drop.site
    assert anyone.post({"Upload-Length": "1"}).status == 403
    assert anyone.request("GET", f"{drop.page_url}/info", {}).status == 403
    for _ in range(2):
        if way == "http":
            edited = api("PATCH", f"/drops/{drop.id}", {"has_code": False}).json
        else:
            said = server.cli("drop", "edit", drop.id, "--no-code").stderr
            assert b"no code is needed any more: anyone who has the URL can upload" in said
            assert b"new-code" in said
            edited = server.cli_json("drop", "show", drop.id)
        assert edited["has_code"] is False
        assert [site.post({"Upload-Length": "1"}).status for site in (anyone, old)] == [201, 201]
    assert anyone.request("GET", f"{drop.page_url}/info", {}).status == 200
    code = api("POST", f"/drops/{drop.id}/new-code").json["code"]
    assert [site.post({"Upload-Length": "1"}).status for site in (anyone, old)] == [403, 403]
    assert TusSite(drop.upload_url, code).post({"Upload-Length": "1"}).status == 201
    acts = ("drop.edit", "drop.new_code")
    told = [(row["act"], row.get("result")) for row in _rows(server) if row["act"] in acts and row["drop"] == drop.id]
    assert told == [("drop.edit", "has_code"), ("drop.new_code", None)]


def test_parts_of_before_the_mode_was_changed_are_not_joined(server: ServerProcess, api: Api) -> None:
    """A sealed whole must not have parts that the server can read, nor the other way round."""
    drop = server.create_drop()
    part = drop.site.create(3, {"Upload-Concat": "partial"})
    assert drop.site.patch(part, 0, b"abc").status == 204
    api("PATCH", f"/drops/{drop.id}", {"mode": "sealed"})
    refused = drop.site.post({"Upload-Concat": f"final;{part}"})
    assert (refused.status, b"mode was changed" in refused.body) == (400, True)
    api("PATCH", f"/drops/{drop.id}", {"mode": "managed"})
    assert drop.site.post({"Upload-Concat": f"final;{part}"}).status == 201


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"id": _NO_DROP}, "id"),
        ({"has_code": True}, "has_code"),
        ({"max_uploads": None}, "max_uploads"),
        ({"opens_at": "2001-01-01T00:00:00Z"}, "opens_at"),
        ({"recipients": ["age1nonsense"]}, "recipients"),
        ({"allowed_types": ["csv"]}, "allowed_types"),
        ({"notify": ["nobody"]}, "notify"),
    ],
)
def test_drop_edit_that_cannot_be_is_refused_with_the_place(
    server: ServerProcess, api: Api, body: dict[str, object], at: str
) -> None:
    """Nothing is changed, and the mistake is reported with its member."""
    before = api("GET", f"/drops/{server.drop.id}").json
    refused = api("PATCH", f"/drops/{server.drop.id}", body)
    assert (refused.status, [mistake["at"] for mistake in refused.json["errors"]]) == (422, [at])
    assert api("GET", f"/drops/{server.drop.id}").json == before


def test_drop_edit_without_a_change_says_what_to_write(server: ServerProcess) -> None:
    """One sentence each: nothing said, a mistake by its option, an unknown drop-off."""
    for arguments, why in (
        ((server.drop.id,), b"name a change"),
        ((server.drop.id, "--opens", "yesterday"), b"--opens"),
        ((server.drop.id, "--recipient", "age1x"), b"--recipient"),
        ((_NO_DROP, "--name", "x"), b"no such drop-off"),
    ):
        refused = server.cli("drop", "edit", *arguments, check=False)
        assert (refused.returncode, why in refused.stderr, b"Traceback" in refused.stderr) == (1, True, False)


def test_drops_in_pages_are_those_of_the_command_line(server: ServerProcess, api: Api) -> None:
    """All pages together, in their order; a cursor of another form is refused."""
    for _ in range(2):
        server.create_drop()
    found: list[object] = []
    cursor: str | None = ""
    while cursor is not None:
        page = api("GET", "/drops?limit=2" + (f"&cursor={cursor}" if cursor else "")).json
        assert 1 <= len(page["drops"]) <= 2
        found += page["drops"]
        cursor = page["next_cursor"]
    assert found == server.cli_json("drop", "list")
    assert len(found) > 2
    assert api("GET", "/drops?cursor=1-x").status == 400


# ---- tokens for one drop-off ------------------------------------------------------------------------------------


def _finished(drop: Drop) -> str:
    headers = {"Upload-Length": "5", "Upload-Metadata": metadata(filename="a.txt")}
    url = drop.site.post(headers).needed("Location")
    assert drop.site.patch(url, 0, b"hello").status == 204
    return upload_id_of(url)


def test_token_of_one_drop_off_finds_nothing_of_another(server: ServerProcess) -> None:
    """Another's and an absent one have one answer to the letter; its own it may use as any."""
    drop, other = server.create_drop(), server.create_drop()
    mine, foreign = _finished(drop), _finished(other)
    api = Api.with_scopes(server, options=("--drop", drop.id))
    for method, path, body in (
        ("GET", "/drops/{drop}", None),
        ("PATCH", "/drops/{drop}", {"name": "taken"}),
        ("POST", "/drops/{drop}/close", None),
        ("POST", "/drops/{drop}/purge", None),
        ("POST", "/drops/{drop}/reopen", None),
        ("POST", "/drops/{drop}/new-code", None),
        ("GET", "/uploads?drop_id={drop}", None),
        ("GET", "/uploads/{upload}", None),
        ("GET", "/uploads/{upload}/receipt", None),
        ("GET", "/uploads/{upload}/content", None),
        ("DELETE", "/uploads/{upload}", None),
    ):
        hidden = api(method, path.format(drop=other.id, upload=foreign), body)
        absent = api(method, path.format(drop=_NO_DROP, upload=_NO_UPLOAD), body)
        assert (hidden.status, hidden.body) == (404, absent.body), (method, path)
        assert absent.status == 404
        assert {*hidden.headers} == {*absent.headers}
    assert [row["id"] for row in api("GET", "/uploads").json["uploads"]] == [mine]
    listed = api("GET", "/drops").json
    assert ([one["id"] for one in listed["drops"]], listed["next_cursor"]) == ([drop.id], None)
    refused = api("POST", "/drops", {"name": "x"})
    assert (refused.status, refused.json["code"]) == (403, "ERR_SCOPE_MISSING")
    assert api("GET", f"/uploads/{mine}/content").body == b"hello"
    assert api("DELETE", f"/uploads/{mine}").status == 200
    assert api("PATCH", f"/drops/{drop.id}", {"name": "mine"}).json["name"] == "mine"
    assert server.cli_json("upload", "show", foreign)["state"] == "complete"
    assert server.cli_json("drop", "show", other.id)["name"] == "test"


def test_token_for_no_drop_off_is_not_made(server: ServerProcess) -> None:
    """The option is named; a token that was moved to another drop-off in the database is good for nothing."""
    scopes = [part for scope in EVERY_SCOPE for part in ("--scope", scope)]
    refused = server.cli("token", "create", "--name", "x", *scopes, "--drop", _NO_DROP, check=False)
    assert (refused.returncode, b"--drop is no drop-off" in refused.stderr) == (1, True)
    drop = server.create_drop()
    api = Api.with_scopes(server, options=("--drop", drop.id))
    assert api("GET", "/drops").status == 200
    with sqlite3.connect(server.data / "catalog.sqlite3") as database:
        database.execute("UPDATE api_tokens SET drop_id = NULL WHERE drop_id = ?", (drop.id,))
    assert api("GET", "/drops").status == 401


def test_tokens_and_what_is_done_with_them_are_in_the_audit(server: ServerProcess) -> None:
    """Made, used, refused and revoked: each names the token's id, none the token, and clients only by a hash."""
    drop, other = server.create_drop(), server.create_drop()
    upload = _finished(drop)
    options = ("--scope", "drops:write", "--scope", "uploads:download", "--scope", "uploads:delete", "--drop", drop.id)
    made = server.cli_json("token", "create", "--name", "audited", *options)
    api = Api(server, made["token"])
    assert api("GET", f"/uploads/{upload}/content").status == 200
    assert api("GET", "/uploads").status == 403
    assert api("POST", f"/drops/{other.id}/close").status == 404
    assert api("DELETE", f"/uploads/{upload}").status == 200
    assert api("POST", f"/drops/{drop.id}/new-code").status == 200
    assert api("POST", f"/drops/{drop.id}/close").status == 200
    server.cli("token", "revoke", made["id"])
    assert api("POST", f"/drops/{drop.id}/reopen").status == 401
    server.stop()
    server.start()
    rows = [row for row in _rows(server) if made["id"] in (row.get("token"), row["who"].removeprefix("token:"))]
    told = [(row["who"].partition(":")[0], row["act"], row.get("result"), row.get("drop")) for row in rows]
    assert told[:6] == [
        ("operator", "token.create", "drops:write uploads:download uploads:delete", drop.id),
        ("token", "upload.download", None, drop.id),
        ("token", "upload.delete", "was complete", drop.id),
        ("token", "drop.new_code", None, drop.id),
        ("token", "drop.close", None, drop.id),
        ("operator", "token.revoke", None, None),
    ]
    assert {(who, act, result) for who, act, result, _ in told[6:]} == {
        ("server", "token.wrong", "without uploads:read"),
        ("server", "token.wrong", "of another drop-off"),
        ("server", "token.wrong", "revoked"),
    }
    assert len({row["from"] for row in rows if "from" in row}) == 1
    assert {len(row["from"]) for row in rows if "from" in row} == {32}
    text = json.dumps(_rows(server))
    assert made["token"] not in text
    assert "127.0.0.1" not in text
    assert server.cli_json("audit", "verify")["whole"] is True


def test_parts_and_what_they_become_are_in_the_audit(server: ServerProcess) -> None:
    """Each part's creation and completion, with its role, before those of the whole."""
    drop = server.create_drop()
    part = drop.site.create(3, {"Upload-Concat": "partial"})
    assert drop.site.patch(part, 0, b"abc").status == 204
    joined = drop.site.post({"Upload-Concat": f"final;{part}"}).needed("Location")
    rows = [row for row in _rows(server) if row.get("drop") == drop.id][1:]
    assert [(row["act"], row["result"], row["upload"]) for row in rows] == [
        ("upload.create", "partial", upload_id_of(part)),
        ("upload.complete", "partial", upload_id_of(part)),
        ("upload.create", "final", upload_id_of(joined)),
        ("upload.complete", "final", upload_id_of(joined)),
    ]
    assert {row["who"] for row in rows} == {"client"}


def test_drop_purged_over_http_is_as_by_the_command_line(server: ServerProcess, api: Api, tmp_path: Path) -> None:
    """Closed, shredded, and certified by a line that verifies; the audit names the token."""
    drop, other = server.create_drop(), server.create_drop()
    upload, kept = _finished(drop), _finished(other)
    done = api("POST", f"/drops/{drop.id}/purge").json
    assert (done["removed"], done["kept"], done["unread"]) == (1, [], [])
    (tmp_path / "erasure.txt").write_text(done["certificate"] + "\n")
    key = server.cli_json("keys", "show", "--json")["key"]
    verified = run_warm("verify-certificate", str(tmp_path / "erasure.txt"), "--key", key, "--json", folder=tmp_path)
    told = json.loads(verified.stdout)["certificate"]
    assert ([item["id"] for item in told["uploads"]], told["bytes"]) == ([upload], 5)
    assert api("GET", f"/drops/{drop.id}").json["closed"] is True
    assert api("GET", f"/uploads/{upload}").json["state"] == "deleted"
    assert api("GET", f"/uploads/{kept}").json["state"] == "complete"
    last = _rows(server)[-1]
    assert (last["act"], last["drop"], last["who"].partition(":")[0]) == ("drop.purge", drop.id, "token")


def _purges(server: ServerProcess, drop: Drop) -> list[str]:
    return [row["final"] for row in _rows(server) if row["act"] == "drop.purge" and row["drop"] == drop.id]


def _listed(certificate: str) -> set[str]:
    return {item["id"] for item in json.loads(certificate.rpartition(" ")[0])["uploads"]}


def test_purge_over_http_tells_how_far_it_is_and_gives_one_certificate(server: ServerProcess, api: Api) -> None:
    """A request meanwhile joins it; a later one gets the same certificate, until there is something new to shred."""
    drop = server.create_drop()
    uploads = {_finished(drop) for _ in range(20)}
    path = f"/drops/{drop.id}/purge"
    begun = api("POST", f"{path}?wait=0")
    assert (begun.status, begun.json["certificate"]) == (202, None)
    assert int(begun.headers["retry-after"]) >= 1
    seen = [begun.json["removed"]]
    while (answer := api("POST", f"{path}?wait=0")).status == 202:
        assert answer.json["total"] in {0, len(uploads)}
        seen.append(answer.json["removed"])
    assert seen == sorted(seen)
    assert (answer.status, answer.json["removed"], answer.json["total"]) == (200, len(uploads), len(uploads))
    again = api("POST", path)
    assert again.json == answer.json
    assert _listed(again.json["certificate"]) == uploads
    assert len(_purges(server, drop)) == 1
    assert [api("POST", f"{path}?wait={wait}").status for wait in ("-1", "21", "x")] == [400] * 3
    server.cli("drop", "reopen", drop.id)
    uploads.add(_finished(drop))
    assert _listed(api("POST", path).json["certificate"]) == uploads
    assert len(_purges(server, drop)) == 2


@pytest.mark.parametrize("what", ["client", "server"])
def test_purge_over_http_outlives_its_client_and_is_gone_on_with_after_a_stop(
    server: ServerProcess, api: Api, what: str
) -> None:
    """Without anybody who waits it comes to its end; stopped with the server, the next request completes it."""
    drop = server.create_drop()
    uploads = {_finished(drop) for _ in range(20)}
    path = f"/api/v1/drops/{drop.id}/purge"
    certified: list[str] = []
    with drop.site.connect() as connection:
        connection.send(drop.site.message("POST", path, {"Authorization": f"Bearer {api.token}"}))
        if what == "server":
            while api("GET", f"/drops/{drop.id}").json["uploads"] == len(uploads):
                time.sleep(0.01)
            server.stop()
            assert connection.read_response().status in {200, 503}
            server.start()
    if what == "client":
        deadline = time.monotonic() + 60
        while not (certified := _purges(server, drop)):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    answer = api("POST", f"/drops/{drop.id}/purge")
    assert (answer.status, answer.json["kept"]) == (200, [])
    assert _listed(answer.json["certificate"]) == uploads
    digest = hashlib.sha256(f"{answer.json['certificate']}\n".encode()).hexdigest()
    assert _purges(server, drop)[-1] == digest
    assert what == "server" or certified == [digest]


# ---- a whole drop-off as an archive -----------------------------------------------------------------------------


def _archive(api: Api, drop: Drop, query: str = "") -> dict[str, bytes]:
    answer = api("GET", f"/drops/{drop.id}/content{query}")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-tar")
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
        return {one.name: cast("IO[bytes]", archive.extractfile(one)).read() for one in archive.getmembers()}


def _sent(drop: Drop, *contents: bytes) -> list[str]:
    return [
        upload_id_of(drop.site.upload(content, {"Upload-Metadata": metadata(relativePath=f"d/../{number}")}))
        for number, content in enumerate(contents)
    ]


def test_drop_off_comes_as_an_archive(server: ServerProcess, api: Api) -> None:
    """With cleaned paths and the manifest, recorded; `since`, HEAD, nothing in it; refused where it is sealed."""
    drop = server.create_drop()
    assert {*_archive(api, drop)} == {"manifest.csv", "manifest.json"}
    sent = _sent(drop, b"small", os.urandom(3 << 20), b"")
    drop.site.create(10)
    found = _archive(api, drop)
    assert [hashlib.sha256(found[f"d/{number}"]).hexdigest() for number in range(3)] == [
        row["sha256"] for row in json.loads(found["manifest.json"])
    ]
    assert (found["d/0"], found["d/2"], len(found)) == (b"small", b"", 5)
    recorded = [row for row in _rows(server) if row["act"] == "upload.download" and row.get("drop") == drop.id]
    assert [row["upload"] for row in recorded] == sent
    assert all(row["who"].startswith("token:") for row in recorded)
    assert {*_archive(api, drop, "?since=2999-01-01T00:00:00Z")} == {"manifest.csv", "manifest.json"}
    head = api("HEAD", f"/drops/{drop.id}/content")
    assert (head.status, head.body, "content-length" in head.headers) == (200, b"", False)
    assert "filename=" in head.headers["content-disposition"]
    for path, status, code in (
        (f"/drops/{_NO_DROP}/content", 404, "ERR_DROPOFF_NOT_FOUND"),
        (f"/drops/{drop.id}/content?since=monday", 422, "ERR_INVALID_FIELD"),
        (f"/drops/{drop.id}/content?until=now", 400, "ERR_INVALID_REQUEST"),
    ):
        refused = api("GET", path)
        assert (refused.status, refused.json["code"]) == (status, code)
    sealed = server.create_drop("--sealed")
    _sent(sealed, b"secret")
    refused = api("GET", f"/drops/{sealed.id}/content")
    assert (refused.status, refused.json["code"]) == (403, "ERR_SEALED")


@pytest.mark.parametrize("at", [0, 2, 3], ids=["first", "small", "large"])
def test_archive_with_a_damaged_file_is_never_taken_for_whole(server: ServerProcess, api: Api, at: int) -> None:
    """An error before the first byte; later the connection breaks before the end of the body."""
    drop = server.create_drop()
    contents = [b"first", os.urandom(3 << 20), b"small", os.urandom(3 << 20)]
    damaged = _sent(drop, *contents)[at]
    data = server.data / "store" / "uploads" / damaged[:2] / damaged / "data"
    raw = bytearray(data.read_bytes())
    raw[-20] ^= 1
    data.write_bytes(raw)
    if at == 0:
        refused = api("GET", f"/drops/{drop.id}/content")
        assert (refused.status, refused.json["code"]) == (500, "ERR_UPLOAD_DAMAGED")
        assert damaged in refused.json["detail"]
    else:
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            api("GET", f"/drops/{drop.id}/content")
        assert '"a download was cut off"' in server.logged()
    server.cli("upload", "delete", damaged, "--yes", "--damaged")
    assert len(_archive(api, drop)) == 5


def test_archive_that_nobody_takes_holds_little_and_lets_go(server: ServerProcess, api: Api) -> None:
    """Its memory is flat whatever the size of the drop-off, and with the client its files go."""
    drop = server.create_drop()
    _sent(drop, *(os.urandom(24 << 20) for _ in range(2)), *(os.urandom(500_000) for _ in range(8)))
    before, files = server.rss_bytes(), Path(f"/proc/{server.pid}/fd")
    opened = len(list(files.iterdir()))
    with ExitStack() as stack:
        for _ in range(4):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            stack.callback(connection.close)
            connection.request(
                "GET", f"/api/v1/drops/{drop.id}/content", headers={"Authorization": f"Bearer {api.token}"}
            )
            assert connection.getresponse().read(1 << 20)
        assert server.rss_bytes() - before < 24 << 20
    deadline = time.monotonic() + 30
    while len(list(files.iterdir())) > opened:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(_archive(api, drop)) == 12
