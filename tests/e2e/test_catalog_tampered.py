"""Rows of the catalog changed behind the server, by SQL: refused and named, or without effect on what is stored."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server_process import ServerProcess, run_warm, upload_id_of

_CONTENT = b"for its recipient alone" * 100
_HALF = len(_CONTENT) // 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server."""
    with ServerProcess(tmp_path_factory.mktemp("tampered")) as running:
        yield running


@contextlib.contextmanager
def _changed(server: ServerProcess, table: str, row_id: str, **values: object) -> Iterator[None]:
    """Change columns for the length of a block."""
    names = ", ".join(values)
    assign = f"UPDATE {table} SET ({names}) = ({', '.join('?' * len(values))}) WHERE id = ?"
    with contextlib.closing(sqlite3.connect(server.data / "catalog.sqlite3", isolation_level=None)) as database:
        before = database.execute(f"SELECT {names} FROM {table} WHERE id = ?", [row_id]).fetchone()
        assert before != tuple(values.values())
        assert database.execute(assign, [*values.values(), row_id]).rowcount == 1
        yield
        assert database.execute(assign, [*before, row_id]).rowcount == 1


def _problems(server: ServerProcess) -> dict[str, str]:
    done = run_warm("--config", str(server.config), "store", "check", "--json", folder=server.folder)
    return {item["upload_id"]: item["problem"] for item in json.loads(done.stdout)["findings"]}


def _root(server: ServerProcess, name: str) -> str:
    """Make a root identity of somebody else's; return its recipient."""
    return str(server.cli_json("keys", "generate", "--output", str(server.folder / name))["recipient"])


def _keys(server: ServerProcess, url: str) -> dict[str, bytes]:
    upload_id = upload_id_of(url)
    return {path.name: path.read_bytes() for path in (server.data / "keys" / upload_id[:2]).glob(f"{upload_id}.*")}


@pytest.mark.parametrize("what", ["mode", "recipients", "policy of another"])
def test_drop_off_changed_behind_the_server_takes_nothing(server: ServerProcess, what: str) -> None:
    """Mode, recipients, signature, another one's policy: no creation; what has begun goes on as it was signed."""
    drop = server.create_drop("--sealed")
    begun = drop.site.create(len(_CONTENT))
    drop.site.patch(begun, 0, _CONTENT[:_HALF])
    before = set((server.data / "store" / "uploads").glob("??/*"))
    other = server.create_drop()
    with contextlib.closing(sqlite3.connect(server.data / "catalog.sqlite3")) as database:
        (signature,) = database.execute("SELECT policy_signature FROM dropoffs WHERE id = ?", [other.id]).fetchone()
    values: dict[str, dict[str, object]] = {
        "mode": {"mode": "managed"},
        "recipients": {"recipients": json.dumps([_root(server, f"{os.urandom(4).hex()}.txt")])},
        "policy of another": {"mode": "managed", "policy_signature": signature},
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
        assert b"mode or recipients were changed behind the server" in rotated.stderr + rotated.stdout
        assert _keys(server, begun) == keys
    assert drop.site.post({"Upload-Length": "5"}).status == 201


def _own_root(server: ServerProcess) -> Path:
    """Return the file with the identity that opens everything here."""
    return server.data / "root-identity.txt"


def _assert_sealed(server: ServerProcess, url: str) -> None:
    """Nothing of the server opens it, and the root does."""
    assert not any(".server." in name for name in _keys(server, url))
    done = server.cli("upload", "export", url, "--output", "-", check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    done = server.cli("upload", "export", url, "--output", "-", "--identity", str(_own_root(server)))
    assert done.stdout == _CONTENT


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("mode", "managed", "its mode is managed, the signed log sealed"),
        ("role", "partial", "its role is partial, the signed log regular"),
        ("length", 5, f"its length is 5, the signed log {len(_CONTENT)}"),
        ("drop_id", None, "the catalog says that its drop-off is"),
    ],
)
def test_upload_changed_behind_the_server_goes_on_as_it_was_signed(
    server: ServerProcess, column: str, value: object, said: str
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


@pytest.mark.parametrize("state", ["complete", "deleted"])
def test_state_changed_behind_the_server_ends_and_completes_nothing(server: ServerProcess, state: str) -> None:
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
