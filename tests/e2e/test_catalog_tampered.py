"""Rows of the catalog changed behind the server, by SQL: refused and named, or without effect on what is stored."""

import asyncio
import contextlib
import functools
import json
import os
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.api_client import Api
from tests.support.postgres import OWNER, PostgresServer
from tests.support.server_process import ServerProcess, run_warm, upload_id_of
from tests.support.tus_raw import TusSite, metadata

pytestmark = pytest.mark.timeout(180)
_CONTENT = b"for its recipient alone" * 100
_HALF = len(_CONTENT) // 2


def _on_both(names: str, *cases: tuple[object, ...]) -> pytest.MarkDecorator:
    """Run each case on SQLite; on PostgreSQL the first one, and the others with the slow tests."""
    on_postgres = [
        pytest.param("postgresql", *case, marks=[pytest.mark.slow] if number else [])
        for number, case in enumerate(cases or ((),))
    ]
    every = [pytest.param("sqlite", *case) for case in cases or ((),)]
    return pytest.mark.parametrize(("server", *names.split()), [*every, *on_postgres], indirect=["server"])


class _Tampered(ServerProcess):
    """A server whose catalog is changed behind it."""

    postgres: PostgresServer | None = None

    def sql(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement with `?` for values, and return its rows."""
        if self.postgres is not None:
            return asyncio.run(_ask(self.postgres, text, values))
        with contextlib.closing(sqlite3.connect(self.data / "catalog.sqlite3", isolation_level=None)) as database:
            return list(database.execute(text, values))


async def _ask(postgres: PostgresServer, text: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(host=str(postgres.folder), user=OWNER, database="tampered")
    try:
        first, *rest = text.split("?")
        numbered = first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))
        return [tuple(row) for row in await connection.fetch(numbered, *values)]
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], _Tampered]]:
    """Run a server on each kind of catalog that is asked for."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def running(kind: str) -> _Tampered:
            postgres: PostgresServer | None = None
            options: tuple[str, ...] = ()
            if kind == "postgresql":
                postgres = stack.enter_context(PostgresServer())
                postgres.sql("CREATE DATABASE tampered")
                options = ("--catalog-url", postgres.url("tampered"))
            made = _Tampered(tmp_path_factory.mktemp(kind), init_options=options)
            made.postgres = postgres
            return stack.enter_context(made)

        yield running


@pytest.fixture
def server(request: pytest.FixtureRequest, servers: Callable[[str], _Tampered]) -> _Tampered:
    """Return the server that a case is for."""
    return servers(request.param)


@contextlib.contextmanager
def _changed(server: _Tampered, table: str, row_id: str, **values: object) -> Iterator[None]:
    """Change columns for the length of a block."""
    names = ", ".join(values)
    assign = f"UPDATE {table} SET ({names}) = ROW({', '.join('?' * len(values))}) WHERE id = ? RETURNING id"
    if server.postgres is None:
        assign = assign.replace("ROW(", "(")
    (before,) = server.sql(f"SELECT {names} FROM {table} WHERE id = ?", row_id)
    assert before != tuple(values.values())
    assert len(server.sql(assign, *values.values(), row_id)) == 1
    yield
    assert len(server.sql(assign, *before, row_id)) == 1


def _terms(server: _Tampered, drop_id: str, **values: object) -> str:
    """Return a drop-off's column of terms with other values, as the database would have them."""
    ((text,),) = server.sql("SELECT terms FROM dropoffs WHERE id = ?", drop_id)
    found = json.loads(text)
    assert values.keys() <= found.keys()
    return json.dumps(found | values, separators=(",", ":"), sort_keys=True)


def _problems(server: _Tampered) -> dict[str, str]:
    done = run_warm("--config", str(server.config), "store", "check", "--json", folder=server.folder)
    return {item["upload_id"]: item["problem"] for item in json.loads(done.stdout)["findings"]}


def _root(server: _Tampered, name: str) -> str:
    """Make a root identity of somebody else's; return its recipient."""
    return str(server.cli_json("keys", "generate", "--output", str(server.folder / name))["recipient"])


def _keys(server: _Tampered, url: str) -> dict[str, bytes]:
    upload_id = upload_id_of(url)
    return {path.name: path.read_bytes() for path in (server.data / "keys" / upload_id[:2]).glob(f"{upload_id}.*")}


@_on_both("what", ("mode",), ("recipients",), ("policy of another",))
def test_drop_off_changed_behind_the_server_takes_nothing(server: _Tampered, what: str) -> None:
    """Mode, recipients, signature, another one's policy: no creation; uploads that have begun go on as signed."""
    drop = server.create_drop("--sealed")
    begun = drop.site.create(len(_CONTENT))
    drop.site.patch(begun, 0, _CONTENT[:_HALF])
    before = set((server.data / "store" / "uploads").glob("??/*"))
    other = server.create_drop()
    ((signature,),) = server.sql("SELECT signature FROM dropoffs WHERE id = ?", other.id)
    values: dict[str, dict[str, object]] = {
        "mode": {"terms": _terms(server, drop.id, mode="managed")},
        "recipients": {"terms": _terms(server, drop.id, recipients=[_root(server, f"{os.urandom(4).hex()}.txt")])},
        "policy of another": {"terms": _terms(server, drop.id, mode="managed"), "signature": signature},
    }
    with _changed(server, "dropoffs", drop.id, **values[what]):
        refused = drop.site.post({"Upload-Length": "5"})
        assert (refused.status, b"ERR_POLICY_TAMPERED" in refused.body) == (500, True)
        assert set((server.data / "store" / "uploads").glob("??/*")) == before
        drop.site.patch(begun, _HALF, _CONTENT[_HALF:])
        _assert_sealed(server, begun)
        keys = _keys(server, begun)
        rotated = server.cli("keys", "rotate", "--drop", drop.id, "--identity", str(_own_root(server)), check=False)
        assert rotated.returncode == 1
        assert b"the drop-off was changed behind the server" in rotated.stderr + rotated.stdout
        assert _keys(server, begun) == keys
    assert drop.site.post({"Upload-Length": "5"}).status == 201


def _own_root(server: _Tampered) -> Path:
    """Return the file with the identity that opens everything here."""
    return server.data / "root-identity.txt"


def _assert_sealed(server: _Tampered, url: str) -> None:
    """Nothing of the server opens it, and the root does."""
    assert not any(".server." in name for name in _keys(server, url))
    done = server.cli("upload", "export", url, "--output", "-", check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    done = server.cli("upload", "export", url, "--output", "-", "--identity", str(_own_root(server)))
    assert done.stdout == _CONTENT


@_on_both(
    "column value said",
    ("mode", "managed", "its mode is managed, the signed log sealed"),
    ("role", "partial", "its role is partial, the signed log regular"),
    ("length", 5, f"its length is 5, the signed log {len(_CONTENT)}"),
    ("drop_id", None, "the catalog says that its drop-off is"),
)
def test_upload_changed_behind_the_server_goes_on_as_it_was_signed(
    server: _Tampered, column: str, value: object, said: str
) -> None:
    """Where it belongs, what it is and when it is whole the log says; `store check` names what was changed."""
    drop, other = server.create_drop("--sealed"), server.create_drop()
    url = drop.site.create(len(_CONTENT))
    drop.site.patch(url, 0, _CONTENT[:_HALF])
    upload_id = upload_id_of(url)
    with _changed(server, "uploads", upload_id, **{column: value or other.id}):
        assert said in _problems(server)[upload_id]
        assert drop.site.head(url).offset == _HALF
        elsewhere = url.replace(drop.id, other.id)
        assert other.site.head(elsewhere).status == 404
        answer = drop.site.request("PATCH", url, drop.site.patch_headers(_HALF), _CONTENT[_HALF:])
        if column == "drop_id":
            # It would be counted as the other's; the bytes are there, and the repetition below finishes it.
            assert (answer.status, b"ERR_UPLOAD_DAMAGED" in answer.body) == (500, True)
            assert upload_id.encode() in answer.body
        else:
            assert answer.status == 204
    assert drop.site.request("PATCH", url, drop.site.patch_headers(len(_CONTENT))).status == 204
    _assert_sealed(server, url)
    assert upload_id not in _problems(server)


@_on_both("state", ("complete",), ("deleted",))
def test_state_changed_behind_the_server_ends_and_completes_nothing(server: _Tampered, state: str) -> None:
    """An upload in progress is neither exported nor lost: the store says what is there."""
    url = server.drop.site.create(len(_CONTENT))
    server.drop.site.patch(url, 0, _CONTENT[:_HALF])
    upload_id = upload_id_of(url)
    # The database's own constraint wants no reservation of what has ended.
    with _changed(server, "uploads", upload_id, state=state, reserved_bytes=0):
        assert f"the catalog calls it {state}, but" in _problems(server)[upload_id]
        done = server.cli("upload", "export", url, "--output", "-", check=False)
        assert (done.returncode, done.stdout) == (1, b"")
        server.cli("store", "sweep")
        assert server.drop.site.head(url).offset == _HALF
    server.drop.site.patch(url, _HALF, _CONTENT[_HALF:])
    assert server.export(url) == _CONTENT


@_on_both("")
def test_earlier_policy_that_is_put_back_is_found_by_the_audit(server: _Tampered) -> None:
    """It was signed once, so the server obeys it; the audit tells that another one was recorded last."""
    drop = server.create_drop()
    columns = ("terms", "signature")
    (earlier,) = server.sql(f"SELECT {', '.join(columns)} FROM dropoffs WHERE id = ?", drop.id)
    server.cli("drop", "edit", drop.id, "--sealed")
    assert server.cli_json("audit", "verify")["changed_drops"] == []
    with _changed(server, "dropoffs", drop.id, **dict(zip(columns, earlier, strict=True))):
        assert drop.site.post({"Upload-Length": "5"}).status == 201
        found = server.cli("audit", "verify", check=False)
        assert found.returncode == 1
        assert b"differ from the last record" in found.stderr
        assert drop.id.encode() in found.stderr
        told = json.loads(server.cli("audit", "verify", "--json", check=False).stdout)
        assert (told["whole"], told["changed_drops"]) == (True, [drop.id])
    assert server.cli_json("audit", "verify")["changed_drops"] == []


@_on_both(
    "field value",
    ("code_mac", None),
    ("retain_seconds", 1),
    ("expires_at", "9999-12-31T23:59:59+00:00"),
    ("name_patterns", ["*"]),
)
def test_term_changed_behind_the_server_lets_nobody_in(server: _Tampered, field: str, value: object) -> None:
    """Nothing is created, edited or shredded on the strength of any term; the audit names the drop-off."""
    drop = server.create_drop()
    finished = upload_id_of(drop.site.upload(_CONTENT))
    column = {field: value} if field == "code_mac" else {"terms": _terms(server, drop.id, **{field: value})}
    with _changed(server, "dropoffs", drop.id, **column):
        refused = drop.site.post({"Upload-Length": "5"})
        assert (refused.status, b"ERR_POLICY_TAMPERED" in refused.body) == (500, True)
        edited = server.cli("drop", "edit", drop.id, "--max-uploads", "3", check=False)
        assert (edited.returncode, b"changed this drop-off in the database" in edited.stderr) == (1, True)
        told = json.loads(server.cli("audit", "verify", "--json", check=False).stdout)
        assert (told["whole"], told["changed_drops"]) == (True, [drop.id])
        if field == "retain_seconds":
            swept = json.loads(server.cli("store", "sweep", "--json", check=False).stdout)
            assert finished not in json.dumps([swept[name] for name in swept if name != "kept"])
        assert server.export(finished) == _CONTENT
    assert drop.site.post({"Upload-Length": "5"}).status == 201


@_on_both("")
def test_changed_terms_hold_when_the_operator_signs_them(server: _Tampered) -> None:
    """`drop edit --confirm` is the way back, whoever changed them."""
    drop = server.create_drop()
    server.sql("UPDATE dropoffs SET terms = ? WHERE id = ?", _terms(server, drop.id, contact="Ada"), drop.id)
    assert drop.site.post({"Upload-Length": "5"}).status == 500
    server.cli("drop", "edit", drop.id, "--confirm")
    assert drop.site.post({"Upload-Length": "5"}).status == 201
    assert server.cli_json("audit", "verify")["changed_drops"] == []


@_on_both("")
def test_code_of_another_drop_off_opens_none_but_its_own(server: _Tampered) -> None:
    """Its hash, copied into another row, is of another drop-off's id."""
    drop, other = server.create_drop(), server.create_drop()
    ((copied,),) = server.sql("SELECT code_mac FROM dropoffs WHERE id = ?", other.id)
    with _changed(server, "dropoffs", drop.id, code_mac=copied):
        answer = TusSite(drop.upload_url, other.code).post({"Upload-Length": "5"})
        assert answer.status == 403


@_on_both("")
def test_closed_drop_off_that_is_reopened_in_the_database_is_found_by_the_audit(server: _Tampered) -> None:
    """The audit recorded last that it was closed."""
    drop = server.create_drop()
    server.cli("drop", "close", drop.id)
    assert server.cli_json("audit", "verify")["changed_drops"] == []
    with _changed(server, "dropoffs", drop.id, closed=0):
        told = json.loads(server.cli("audit", "verify", "--json", check=False).stdout)
        assert told["changed_drops"] == [drop.id]


@_on_both("")
def test_token_of_one_drop_off_gets_nothing_of_another_that_is_moved_to_it(server: _Tampered) -> None:
    """Neither file, name nor receipt, and it deletes nothing; nor does a purge shred what the log says is another's."""
    drop, other = server.create_drop(), server.create_drop()
    upload_id = upload_id_of(other.site.upload(_CONTENT, {"Upload-Metadata": metadata(filename="file.bin")}))
    mine = upload_id_of(drop.site.upload(b"mine"))
    api = Api.with_scopes(server, options=("--drop", drop.id))
    assert api("GET", f"/uploads/{upload_id}").status == 404
    with _changed(server, "uploads", upload_id, drop_id=drop.id):
        for path in ("", "/content", "/receipt"):
            answer = api("GET", f"/uploads/{upload_id}{path}")
            assert (answer.status, answer.json["code"]) == (500, "ERR_CATALOG_TAMPERED")
        assert api("DELETE", f"/uploads/{upload_id}").status == 500
        assert "file.bin" not in json.dumps(api("GET", "/uploads").json)
        purged = server.cli(
            "drop", "purge", drop.id, "--yes", "--output", str(server.folder / "certificate"), "--json", check=False
        )
        told = json.loads(purged.stdout)
        assert purged.returncode == 1, told
        assert [kept["id"] for kept in told["kept"]] == [upload_id]
        assert server.export(upload_id) == _CONTENT
    assert server.export(upload_id) == _CONTENT
    assert server.cli("upload", "export", mine, "--output", "-", check=False).returncode == 1


@_on_both("")
def test_part_that_is_called_managed_in_the_database_is_not_served(server: _Tampered) -> None:
    """A finished part of a sealed drop-off can still be opened by the server, and goes to nobody."""
    drop = server.create_drop("--sealed")
    part = upload_id_of(drop.site.upload(_CONTENT, {"Upload-Concat": "partial"}))
    api = Api.with_scopes(server)
    with _changed(server, "uploads", part, mode="managed"):
        answer = api("GET", f"/uploads/{part}/content")
        assert (answer.status, answer.json["code"]) == (500, "ERR_CATALOG_TAMPERED")


@_on_both("")
def test_token_whose_revocation_is_taken_back_in_the_database_stays_revoked(server: _Tampered) -> None:
    """The revocation is kept beside the keys, and the audit tells."""
    made = server.cli_json("token", "create", "--name", "t", "--scope", "drops:read")
    api = Api(server, made["token"])
    assert api("GET", "/drops").status == 200
    server.cli("token", "revoke", made["id"])
    assert api("GET", "/drops").status == 401
    with _changed(server, "api_tokens", made["id"], revoked_at=None):
        assert api("GET", "/drops").status == 401
        told = json.loads(server.cli("audit", "verify", "--json", check=False).stdout)
        assert told["revived_tokens"] == [made["id"]]
    assert server.cli_json("audit", "verify")["revived_tokens"] == []


@_on_both("")
def test_parts_of_a_finished_concatenation_outlive_their_rows(server: _Tampered) -> None:
    """The catalog forgets that they are claimed and says that they are old: the logs say that the whole needs them."""
    drop = server.create_drop()
    parts = [drop.site.upload(piece, {"Upload-Concat": "partial"}) for piece in (_CONTENT, b"two")]
    final = upload_id_of(drop.site.post({"Upload-Concat": f"final;{' '.join(parts)}"}).needed("Location"))
    with contextlib.ExitStack() as stack:
        for part in parts:
            stack.enter_context(_changed(server, "uploads", upload_id_of(part), final_id=None, completed_at=1))
        server.cli("store", "sweep")
        refused = server.cli("upload", "delete", upload_id_of(parts[0]), "--yes", check=False)
        assert (refused.returncode, b"is a part of another one" in refused.stderr) == (1, True)
        assert server.export(final) == _CONTENT + b"two"


@_on_both("values", ({"completed_at": 1},), ({"completed_at": 1, "state": "complete", "reserved_bytes": 0},))
def test_part_that_the_catalog_calls_old_waits_for_its_concatenation(
    server: _Tampered, values: dict[str, object]
) -> None:
    """Whether and when it was complete its signed log says."""
    site = server.create_drop().site
    url = site.create(len(_CONTENT), {"Upload-Concat": "partial"})
    site.patch(url, 0, _CONTENT[:_HALF] if "state" in values else _CONTENT)
    with _changed(server, "uploads", upload_id_of(url), **values):
        server.cli("store", "sweep")
        assert server.export(url) == _CONTENT if "state" not in values else True
    assert site.head(url).status == 200


@_on_both("")
def test_damaged_upload_takes_along_nothing_that_the_catalog_calls_its_part(server: _Tampered) -> None:
    """Another drop-off's upload, made a part of it by SQL, stays."""
    damaged, victim = (upload_id_of(server.create_drop().site.upload(_CONTENT)) for _ in range(2))
    log = server.data / "store" / "uploads" / damaged[:2] / damaged / "log"
    log.write_bytes(log.read_bytes()[:-20] + b"A" * 19 + b"\n")
    with _changed(server, "uploads", victim, role="partial", final_id=damaged):
        server.cli("upload", "delete", damaged, "--damaged", "--yes")
        assert server.export(victim) == _CONTENT


@_on_both("")
def test_upload_whose_row_was_changed_is_neither_shown_nor_shredded(server: _Tampered) -> None:
    """By the command line nor with a token for all; an operator who means it says `--damaged`."""
    upload_id = upload_id_of(server.create_drop().site.upload(_CONTENT, {"Upload-Metadata": metadata(filename="f")}))
    with _changed(server, "uploads", upload_id, size_bytes=7):
        answer = Api.with_scopes(server)("DELETE", f"/uploads/{upload_id}")
        assert (answer.status, answer.json["code"]) == (500, "ERR_CATALOG_TAMPERED")
        for command in (("show", upload_id), ("delete", upload_id, "--yes")):
            refused = server.cli("upload", *command, check=False)
            assert (refused.returncode, b"its size is 7, the signed log" in refused.stderr) == (1, True)
            assert (b"--damaged" in refused.stderr) == ("delete" in command)
        assert server.export(upload_id) == _CONTENT
    server.cli("upload", "delete", upload_id, "--damaged", "--yes")
    assert server.cli("upload", "export", upload_id, "--output", "-", check=False).returncode == 1


@_on_both("")
def test_drop_off_that_is_ended_in_the_database_keeps_what_is_open(server: _Tampered) -> None:
    """Only an operator's `drop close --now`, which is kept beside the keys, ends uploads."""
    changed, closed = server.create_drop(), server.create_drop()
    kept, gone = (drop.site.create(len(_CONTENT)) for drop in (changed, closed))
    with _changed(server, "dropoffs", changed.id, closed=1, ended=1):
        # Raises the version too, so that the server looks at all drop-offs.
        server.cli("drop", "close", closed.id, "--now")
        deadline = time.monotonic() + 20
        while closed.site.head(gone).status != 410:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert changed.site.head(kept).status == 200


def _monitoring(server: _Tampered, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port + 1}{path}", timeout=20) as answer:
        return str(answer.read().decode())


@_on_both("")
def test_audit_written_anew_without_the_key_is_found_and_never_signed(server: _Tampered, tmp_path: Path) -> None:
    """A row is left out, the rows are rewritten, and the checkpoints are gone: verified with and without an anchor.

    The server does not sign what was forged; an operator who looked at it may, and the audit says who did.
    """
    upload_id = upload_id_of(server.drop.site.upload(_CONTENT))
    export, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    server.cli("audit", "export", "--output", str(export))
    server.stop()
    rows = server.sql("SELECT record FROM audit ORDER BY seq")
    forged = [text for (text,) in rows if not (upload_id in text and '"act":"upload.complete"' in text)]
    assert len(forged) == len(rows) - 1
    server.sql("DELETE FROM checkpoints")
    server.sql("DELETE FROM audit")
    server.sql(
        "DELETE FROM sqlite_sequence" if server.postgres is None else "ALTER TABLE audit ALTER COLUMN seq RESTART"
    )
    for text in forged:
        server.sql("INSERT INTO audit (record) VALUES (?)", text)
    server.start()
    deadline = time.monotonic() + 30
    while "the audit differs from the signed one" not in _monitoring(server, "/readyz"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "dropoff_audit_broken 1.0" in _monitoring(server, "/metrics")
    assert "the database does not have checkpoint" in server.log_text
    assert server.drop.site.post({"Upload-Length": "5"}).status == 201
    for options in ((), ("--anchor", str(export))):
        told = json.loads(server.cli("audit", "verify", "--json", *options, check=False).stdout)
        assert not told["whole"]
        assert "rows were cut off, or rewritten" in told["problem"]
    exported = server.cli("audit", "export", "--output", str(after), check=False)
    assert (exported.returncode, b"no checkpoint was signed" in exported.stderr) == (1, True)
    assert not after.exists()
    assert server.sql("SELECT * FROM checkpoints") == []
    refused = server.cli("audit", "accept", check=False)
    assert (refused.returncode, b"say --yes" in refused.stderr) == (1, True)
    assert server.cli_json("audit", "accept", "--yes")["accepted"] > 1
    assert server.cli_json("audit", "accept", "--yes")["accepted"] is None
    assert server.cli_json("audit", "verify")["whole"]
    assert not json.loads(server.cli("audit", "verify", "--json", "--anchor", str(export), check=False).stdout)["whole"]
    told = server.cli_json("audit", "export", "--json")
    assert [row["who"].split(":")[0] for row in told["rows"] if row["act"] == "audit.accept"] == ["operator"]


@_on_both("table column value", ("dropoffs", "terms", "garbage"), ("api_tokens", "scopes", '["everything"]'))
def test_value_that_cannot_be_is_a_sentence_that_names_its_row(
    server: _Tampered, table: str, column: str, value: str
) -> None:
    """No traceback; and who has nothing to do with the row is not kept out."""
    drop = server.create_drop()
    token = server.cli_json("token", "create", "--name", "t", "--scope", "drops:read")["id"]
    row_id, noun = (drop.id, "drop") if table == "dropoffs" else (token, "token")
    with _changed(server, table, row_id, **{column: value}):
        refused = server.cli(noun, "list", check=False)
        assert (refused.returncode, b"Traceback" in refused.stderr) == (1, False)
        assert f"{row_id} has something in the database that cannot be".encode() in refused.stderr
        assert server.drop.site.post({"Upload-Length": "5"}).status == 201
