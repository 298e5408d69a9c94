"""The operators' API at the real server, beside its command line, which must tell the same."""

import hashlib
import http.client
import json
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api_client import Api, ApiAnswer
from tests.support.programs import require_program
from tests.support.server_process import Drop, ServerProcess, upload_id_of
from tests.support.tus_raw import TusSite, metadata

_LIMIT = 5
_CONTENT = random.Random(7).randbytes(200_000)
_NAME = 'Bericht "final"\r\nX: ü✓\u202e.pdf; filename=x'
_NOBODY = "0" * 32
_NO_DROP = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server with CORS for pages, behind a trusted proxy (us)."""
    settings = {
        "LIMITS__WRONG_CODES_PER_HOUR": str(_LIMIT),
        "SERVER__TRUSTED_PROXIES": "127.0.0.1",
        "TUS__CORS_ORIGINS": "https://portal.example.org",
    }
    with ServerProcess(tmp_path_factory.mktemp("api"), environment=settings) as running:
        yield running


@pytest.fixture(scope="module")
def api(server: ServerProcess) -> Api:
    """Return a client that may do everything."""
    return Api.with_scopes(server)


def _upload(site: TusSite, content: bytes = _CONTENT, name: str = _NAME) -> str:
    url = site.post({"Upload-Length": str(len(content)), "Upload-Metadata": metadata(filename=name)}).needed("Location")
    assert site.patch(url, 0, content).status == 204
    return upload_id_of(url)


@pytest.fixture(scope="module")
def upload(server: ServerProcess) -> str:
    """Return the id of a finished upload."""
    return _upload(server.drop.site)


def _assert_problem(answer: ApiAnswer, status: int, code: str) -> ApiAnswer:
    assert (answer.status, answer.json["code"]) == (status, code), answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["status"] == status
    assert {"type", "title", "detail"} <= answer.json.keys()
    return answer


def _assert_secure(answer: ApiAnswer) -> None:
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["server"] == "dropoff-tus"
    assert "x-request-id" in answer.headers
    assert not [name for name in answer.headers if name.startswith("access-control-")]


# ---- tokens ---------------------------------------------------------------------------------------------------

_NEEDS = [
    ("GET", "/drops", "drops:read"),
    ("POST", "/drops", "drops:write"),
    ("GET", f"/drops/{_NO_DROP}", "drops:read"),
    ("PATCH", f"/drops/{_NO_DROP}", "drops:write"),
    ("POST", f"/drops/{_NO_DROP}/close", "drops:write"),
    ("GET", f"/drops/{_NO_DROP}/content", "uploads:download"),
    ("POST", f"/drops/{_NO_DROP}/purge", "uploads:delete"),
    ("POST", f"/drops/{_NO_DROP}/reopen", "drops:write"),
    ("POST", f"/drops/{_NO_DROP}/new-code", "drops:write"),
    ("GET", "/uploads", "uploads:read"),
    ("GET", f"/uploads/{_NOBODY}", "uploads:read"),
    ("GET", f"/uploads/{_NOBODY}/receipt", "uploads:read"),
    ("GET", f"/uploads/{_NOBODY}/content", "uploads:download"),
    ("DELETE", f"/uploads/{_NOBODY}", "uploads:delete"),
]


def test_every_route_asks_for_its_scope_and_no_other_will_do(server: ServerProcess) -> None:
    """Each operation takes the one scope that the documentation gives it, and nothing is open without a token."""
    _assert_problem(Api(server, None)("GET", "/openapi.json"), 401, "ERR_UNAUTHORIZED")
    described = Api.with_scopes(server, "uploads:read")("GET", "/openapi.json").json["paths"]
    told = sum(len(operations) for operations in described.values())
    assert told == len(_NEEDS)
    everything = {scope for _, _, scope in _NEEDS}
    without = {scope: Api.with_scopes(server, *(everything - {scope})) for scope in everything}
    only = {scope: Api.with_scopes(server, scope) for scope in everything}
    for method, path, scope in _NEEDS:
        _assert_problem(Api(server, None)(method, path), 401, "ERR_UNAUTHORIZED")
        refused = _assert_problem(without[scope](method, path), 403, "ERR_SCOPE_MISSING")
        assert f'error="insufficient_scope", scope="{scope}"' in refused.headers["www-authenticate"]
        assert only[scope](method, path).status not in {401, 403}, (method, path)


def test_token_revoked_by_another_process_is_refused_at_once(server: ServerProcess) -> None:
    """The very next request after `token revoke` is refused, as an unknown token is, to the letter."""
    made = server.cli_json("token", "create", "--name", "short", "--scope", "drops:read")
    api, client = Api(server, made["token"]), {"X-Forwarded-For": "192.0.2.7"}
    assert api("GET", "/drops", headers=client).status == 200
    assert server.cli_json("token", "revoke", made["id"])["revoked_at"] is not None
    revoked = _assert_problem(api("GET", "/drops", headers=client), 401, "ERR_UNAUTHORIZED")
    unknown = Api(server, "dropoff_" + "0" * 64)("GET", "/drops", headers=client)
    assert revoked.body == unknown.body
    assert revoked.headers["www-authenticate"] == unknown.headers["www-authenticate"]
    assert 'error="invalid_token"' in revoked.headers["www-authenticate"]
    _assert_secure(revoked)


def test_token_that_expires_is_refused_then(server: ServerProcess) -> None:
    """A token ends when it was said to."""
    api = Api.with_scopes(server, "drops:read", options=("--expires", "2s"))
    client = {"X-Forwarded-For": "192.0.2.8"}
    time.sleep(2.1)
    _assert_problem(api("GET", "/drops", headers=client), 401, "ERR_UNAUTHORIZED")


def test_wrong_tokens_answer_429_and_a_right_one_is_let_in(server: ServerProcess, api: Api) -> None:
    """Guessing is slowed per address, and keeps nobody out."""
    client = {"X-Forwarded-For": "192.0.2.9"}
    statuses = [Api(server, f"wrong {number}")("GET", "/drops", headers=client).status for number in range(_LIMIT + 1)]
    assert statuses == [401] * _LIMIT + [429]
    slowed = _assert_problem(Api(server, "x")("GET", "/drops", headers=client), 429, "ERR_TOO_MANY_WRONG_TOKENS")
    assert int(slowed.headers["retry-after"]) > 0
    assert api("GET", "/drops", headers=client).status == 200


def test_token_list_shows_no_secret(server: ServerProcess) -> None:
    """A code that was shown once is not shown again."""
    made = server.cli_json("token", "create", "--name", "listed", "--scope", "drops:read", "--expires", "1d")
    rows = [row for row in server.cli_json("token", "list") if row["id"] == made["id"]]
    assert rows == [{key: value for key, value in made.items() if key != "token"}]
    said = server.cli("token", "list").stdout.decode()
    assert made["id"] in said
    assert made["token"] not in said


# ---- drop-offs ------------------------------------------------------------------------------------------------


def test_drop_created_is_what_the_command_line_shows_and_takes_uploads(server: ServerProcess, api: Api) -> None:
    """A drop-off made over HTTP is one like any other."""
    wanted = {
        "name": "Kohorte ✓",
        "max_uploads": 3,
        "max_total_bytes": 2**40,
        "expires_at": "2090-01-31T12:00:00+01:00",
        "allowed_types": ["text/*"],
        "name_patterns": ["*.csv"],
        "retain_seconds": 86400,
        "contact": "Registry, room 7",
    }
    made = api("POST", "/drops", wanted)
    assert made.status == 201
    drop = Drop(**made.json)
    shown = server.cli_json("drop", "show", drop.id)
    assert shown == api("GET", f"/drops/{drop.id}").json
    assert shown["expires_at"] == "2090-01-31T11:00:00Z"
    assert {**shown, "expires_at": wanted["expires_at"]} == {**shown, **wanted}
    headers = {"Upload-Length": "5", "Upload-Metadata": metadata(filename="a.csv", filetype="text/csv")}
    assert drop.site.post(headers).status == 201
    assert api("GET", f"/drops/{drop.id}").json["uploads"] == 1
    assert api("GET", "/drops").json["drops"] == server.cli_json("drop", "list")
    _assert_secure(made)


def test_drop_closed_reopened_and_given_a_code_holds_at_once(server: ServerProcess, api: Api) -> None:
    """Each change has its effect on the next creation."""
    drop = server.create_drop()
    length = {"Upload-Length": "5"}
    assert api("POST", f"/drops/{drop.id}/close").json["closed"] is True
    assert drop.site.post(length).status == 403
    assert api("POST", f"/drops/{drop.id}/reopen").json["closed"] is False
    assert drop.site.post(length).status == 201
    renewed = Drop(**api("POST", f"/drops/{drop.id}/new-code").json)
    assert drop.site.post(length).status == 403
    assert renewed.site.post(length).status == 201


def test_drop_closed_now_ends_what_is_open(server: ServerProcess, api: Api) -> None:
    """With `now`, an upload that has begun is gone within seconds."""
    drop = server.create_drop()
    url = drop.site.post({"Upload-Length": "5"}).needed("Location")
    assert api("POST", f"/drops/{drop.id}/close", {"now": True}).status == 200
    deadline = time.monotonic() + 20
    while drop.site.head(url).status != 410:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("body", "status", "at"),
    [
        (b"", 415, None),
        (b"{", 400, None),
        (b"[]", 422, "body"),
        ({}, 422, "name"),
        ({"name": ""}, 422, "name"),
        ({"name": " "}, 422, "name"),
        ({"name": "x", "colour": "red"}, 422, "colour"),
        ({"name": "x", "max_uploads": "3"}, 422, "max_uploads"),
        ({"name": "x", "max_uploads": -1}, 422, "max_uploads"),
        ({"name": "x", "max_upload_bytes": 2**63}, 422, "max_upload_bytes"),
        ({"name": "x", "mode": "open"}, 422, "mode"),
        ({"name": "x", "id": "7"}, 422, "id"),
        ({"name": "x", "expires_at": "2001-01-01T00:00:00Z"}, 422, "expires_at"),
        ({"name": "x", "expires_at": "7d"}, 422, "expires_at"),
        ({"name": "x", "expires_at": 1}, 422, "expires_at"),
        ({"name": "x", "allowed_types": ["csv"]}, 422, "allowed_types"),
        ({"name": "x", "recipients": ["age1nonsense"]}, 422, "recipients"),
        ({"name": "x" * 70_000}, 413, None),
    ],
)
def test_drop_that_cannot_be_is_refused_with_the_place(api: Api, body: object, status: int, at: str | None) -> None:
    """Each mistake is reported with its member, and no drop-off is made."""
    before = len(api("GET", "/drops").json["drops"])
    headers = {"Content-Type": "text/plain"} if body == b"" else None
    refused = api("POST", "/drops", body or {} if body != b"" else b"x", headers)
    assert refused.status == status, refused
    assert [mistake["at"] for mistake in refused.json.get("errors", [])] == ([at] if at else [])
    _assert_secure(refused)
    assert len(api("GET", "/drops").json["drops"]) == before


def test_drop_with_a_taken_id_is_refused(server: ServerProcess, api: Api) -> None:
    """No drop-off takes another one's place."""
    _assert_problem(api("POST", "/drops", {"name": "x", "id": server.drop.id}), 409, "ERR_DROPOFF_EXISTS")


# ---- uploads --------------------------------------------------------------------------------------------------


def test_uploads_in_pages_are_those_of_the_command_line(server: ServerProcess, api: Api) -> None:
    """All pages together, with the same filters, equal `upload list`."""
    drop = server.create_drop()
    for number in range(5):
        _upload(drop.site, b"x" * number, f"{number}.txt")
    open_one = drop.site.post({"Upload-Length": "5"}).needed("Location")
    found: list[object] = []
    path = f"/uploads?drop_id={drop.id}&limit=2"
    cursor: str | None = ""
    pages = 0
    while cursor is not None:
        page = api("GET", path + (f"&cursor={cursor}" if cursor else "")).json
        assert 1 <= len(page["uploads"]) <= 2
        found += page["uploads"]
        cursor, pages = page["next_cursor"], pages + 1
    assert (found, pages) == (server.uploads(drop), 3)
    states = api("GET", f"/uploads?drop_id={drop.id}&state=open&state=finishing").json["uploads"]
    assert [row["id"] for row in states] == [upload_id_of(open_one)]


@pytest.mark.parametrize(
    ("query", "at"),
    [
        ("colour=red", "colour"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=x", "cursor"),
        ("state=late", "state.0"),
        ("drop_id=x", "drop_id"),
        ("partials=maybe", "partials"),
    ],
)
def test_uploads_with_a_wrong_query_are_refused_with_the_place(api: Api, query: str, at: str) -> None:
    """A filter that is not understood is never passed over: it would show more than was asked for."""
    refused = _assert_problem(api("GET", f"/uploads?{query}"), 400, "ERR_INVALID_REQUEST")
    assert [mistake["at"] for mistake in refused.json["errors"]] == [at]


def test_upload_shown_and_its_receipt_are_those_of_the_command_line(
    server: ServerProcess, api: Api, upload: str
) -> None:
    """One row and one signed line, whoever asks."""
    shown = api("GET", f"/uploads/{upload}").json
    assert shown == server.cli_json("upload", "show", upload)
    assert shown["sha256"] == hashlib.sha256(_CONTENT).hexdigest()
    receipt = api("GET", f"/uploads/{upload}/receipt")
    assert receipt.body.strip() == server.cli("upload", "receipt", upload).stdout.strip()
    assert receipt.headers["content-type"] == "application/octet-stream"
    _assert_secure(receipt)


@pytest.mark.parametrize(
    ("wanted", "status", "start", "stop"),
    [
        (None, 200, 0, 200_000),
        ("bytes=0-0", 206, 0, 1),
        ("bytes=65530-131080", 206, 65530, 131081),
        ("bytes=-7", 206, 199_993, 200_000),
        ("bytes=199999-", 206, 199_999, 200_000),
        ("bytes=5-999999999999999999999999", 206, 5, 200_000),
        ("bytes=-" + "9" * 6000, 206, 0, 200_000),
        ("bytes=0-1,5-6", 200, 0, 200_000),
        ("lines=1-2", 200, 0, 200_000),
        ("bytes=200000-", 416, 0, 0),
        ("bytes=" + "9" * 6000 + "-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
    ],
    ids=str,
)
def test_content_in_ranges(api: Api, upload: str, wanted: str | None, status: int, start: int, stop: int) -> None:
    """Whole or in part, the bytes are those that were sent, and what is not there is refused."""
    answer = api("GET", f"/uploads/{upload}/content", headers={"Range": wanted} if wanted else None)
    assert answer.status == status
    if status == 416:
        assert answer.headers["content-range"] == "bytes */200000"
        _assert_problem(answer, 416, "ERR_RANGE_NOT_SATISFIABLE")
        return
    assert answer.body == _CONTENT[start:stop]
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/200000"


def test_content_of_another_version_is_sent_whole(api: Api, upload: str) -> None:
    """A range is given only of what the client began with (If-Range)."""
    path = f"/uploads/{upload}/content"
    etag = api("HEAD", path).headers["etag"]
    part = {"Range": "bytes=1-2"}
    assert api("GET", path, headers={**part, "If-Range": etag}).body == _CONTENT[1:3]
    assert api("GET", path, headers={**part, "If-Range": '"other"'}).body == _CONTENT


def test_content_is_an_attachment_whatever_its_name(api: Api, upload: str) -> None:
    """A name with quotes, line ends and bidirectional characters stays one encoded value, and nothing is run."""
    answer = api("HEAD", f"/uploads/{upload}/content", headers={"Range": "bytes=0-1"})
    assert (answer.status, answer.headers["content-length"]) == (200, "200000")
    encoded = "Bericht%20%22final%22%0D%0AX%3A%20%C3%BC%E2%9C%93%E2%80%AE.pdf%3B%20filename%3Dx"
    plain = "Bericht _final___X_ ___.pdf_ filename=x"
    assert answer.headers["content-disposition"] == f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "x" not in answer.headers
    _assert_secure(answer)


def test_content_with_an_endless_name_has_headers_that_clients_take(server: ServerProcess, api: Api) -> None:
    """Clients refuse lines of more than 8 KiB, and whoever uploads must not keep anybody from downloading."""
    named = {"Upload-Metadata": metadata(filename="\u540d" * 3500)}
    found = upload_id_of(server.drop.site.upload(b"1", named))
    answer = api("HEAD", f"/uploads/{found}/content")
    told = answer.headers["content-disposition"]
    assert told == f"attachment; filename=\"{found}\"; filename*=UTF-8''" + "%E5%90%8D" * 255


def test_content_and_receipts_are_saved_by_curl_under_names_of_their_own(
    server: ServerProcess, api: Api, tmp_path: Path
) -> None:
    """It reads no encoded name, and without another all would be saved as `content`, each over the one before."""
    curl = str(require_program("curl"))
    site, names = (
        server.drop.site,
        ("one.txt", 'a"b;c.zip', "..\\..\\x", "/etc/y", "\U0001f600" * 300, "", "-z", ".curlrc"),
    )
    bodies = {
        upload_id_of(site.upload(name.encode(), {"Upload-Metadata": metadata(filename=name)})): name for name in names
    }
    for kind in ("content", "receipt"):
        (folder := tmp_path / kind).mkdir()
        urls = [f"{server.url}/api/v1/uploads/{found}/{kind}" for found in bodies]
        command = [curl, "-fsSJ", "-H", f"Authorization: Bearer {api.token}"]
        command += [word for url in urls for word in ("-O", url)]
        subprocess.run(command, cwd=folder, check=True, timeout=30)
        saved = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert len(saved) == len(names)
        if kind == "content":
            assert sorted(saved.values()) == sorted(name.encode() for name in names)
            assert {"one.txt", "a_b_c.zip", "x", "y", "-z", "curlrc"} < set(saved)
        # An existing file is not ours to write over.
        again = subprocess.run([curl, "-sSJO", *command[2:4], urls[0]], cwd=folder, check=False, capture_output=True)
        assert again.returncode
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == saved


def test_content_of_what_is_not_there_is_refused(server: ServerProcess, api: Api) -> None:
    """Unfinished, sealed, unknown: each has its answer, and none has a byte."""
    open_one = upload_id_of(server.drop.site.post({"Upload-Length": "5"}).needed("Location"))
    _assert_problem(api("GET", f"/uploads/{open_one}/content"), 409, "ERR_NOT_FINISHED")
    sealed = _upload(server.create_drop("--sealed").site, b"secret")
    _assert_problem(api("GET", f"/uploads/{sealed}/content"), 403, "ERR_SEALED")
    _assert_problem(api("GET", f"/uploads/{sealed}/receipt"), 403, "ERR_SEALED")
    assert api("GET", f"/uploads/{sealed}").json["filename"] is None
    for name in (_NOBODY, "x", "..%2f..%2fetc%2fpasswd"):
        _assert_problem(api("GET", f"/uploads/{name}/content"), 404, "ERR_UPLOAD_NOT_FOUND")


def test_content_that_does_not_verify_is_cut_off(server: ServerProcess, api: Api) -> None:
    """Damage behind the first piece breaks the connection: no text about it passes for content."""
    content = random.Random(8).randbytes(3_000_000)
    found = _upload(server.drop.site, content)
    data = server.data / "store" / "uploads" / found[:2] / found / "data"
    raw = bytearray(data.read_bytes())
    raw[-1000] ^= 1
    data.write_bytes(raw)
    # Which of them depends on what was still on its way.
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        api("GET", f"/uploads/{found}/content")
    assert "a download was cut off" in server.logged()


def test_content_that_is_deleted_meanwhile_is_cut_off_and_not_called_damaged(server: ServerProcess, api: Api) -> None:
    """The log shows no damage."""
    content = random.Random(9).randbytes(12_000_000)
    found = _upload(server.drop.site, content)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", f"/api/v1/uploads/{found}/content", headers={"Authorization": f"Bearer {api.token}"})
    answer = connection.getresponse()
    assert answer.status == 200
    assert api("DELETE", f"/uploads/{found}").status == 200
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    connection.close()
    (told,) = [line for line in server.logged().splitlines() if "a download was cut off" in line and found in line]
    assert (json.loads(told)["code"], json.loads(told)["level"]) == ("ERR_UPLOAD_GONE", "info")


def test_upload_deleted_is_shredded(server: ServerProcess, api: Api) -> None:
    """After DELETE there is no content for anybody, and deleting again is harmless."""
    found = _upload(server.drop.site, b"gone")
    for _ in range(2):
        assert api("DELETE", f"/uploads/{found}").json == {"id": found, "state": "deleted"}
    assert server.cli_json("upload", "show", found)["state"] == "deleted"
    assert server.cli("upload", "export", found, "--output", "x", check=False).returncode == 1
    _assert_problem(api("GET", f"/uploads/{found}/content"), 410, "ERR_UPLOAD_GONE")
    _assert_problem(api("DELETE", f"/uploads/{_NOBODY}"), 404, "ERR_UPLOAD_NOT_FOUND")


# ---- around it ------------------------------------------------------------------------------------------------


def test_api_is_no_place_for_browsers_of_other_origins(api: Api) -> None:
    """The origins that may upload may not operate: no CORS header, whatever is asked."""
    origin = {"Origin": "https://portal.example.org"}
    _assert_secure(api("GET", "/drops", headers=origin))
    asked = api("OPTIONS", "/drops", headers={**origin, "Access-Control-Request-Method": "GET"})
    _assert_problem(asked, 405, "ERR_METHOD_NOT_ALLOWED")
    _assert_secure(asked)


def test_api_refuses_what_it_does_not_know(api: Api) -> None:
    """Unknown paths and methods are problems too."""
    _assert_problem(api("GET", "/nothing"), 404, "ERR_NOT_FOUND")
    refused = _assert_problem(api("PUT", "/drops", {}), 405, "ERR_METHOD_NOT_ALLOWED")
    assert "POST" in refused.headers["allow"]


def test_api_logs_who_did_what(server: ServerProcess) -> None:
    """Each request's line names the route and the token's id, never the token."""
    made = server.cli_json("token", "create", "--name", "logged", "--scope", "drops:read")
    answer = Api(server, made["token"])("GET", "/drops")
    lines = [json.loads(line) for line in server.logged().splitlines() if answer.headers["x-request-id"] in line]
    assert [(line["route"], line["token_id"], line["status"]) for line in lines] == [("api.listDrops", made["id"], 200)]
    assert made["token"] not in server.logged()


def test_api_logs_refusals_with_their_code(server: ServerProcess) -> None:
    """A wrong token, a missing scope and an invalid request each leave a line that says so."""
    api, client = Api.with_scopes(server, "uploads:read"), {"X-Forwarded-For": "192.0.2.10"}
    refused = [
        Api(server, "wrong")("GET", "/drops", headers=client),
        api("GET", "/drops", headers=client),
        api("GET", "/uploads?colour=red", headers=client),
    ]
    lines = [json.loads(line) for line in server.logged().splitlines() if line.startswith("{")]
    codes = {line["request_id"]: line["code"] for line in lines if line["event"] == "request"}
    told = [codes[answer.headers["x-request-id"]] for answer in refused]
    assert told == ["ERR_UNAUTHORIZED", "ERR_SCOPE_MISSING", "ERR_INVALID_REQUEST"]
