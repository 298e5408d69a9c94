"""`audit export` and `audit verify` beside a real server: each act is in it, and each change of it is found."""

import contextlib
import json
import os
import pwd
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.cli.opening import operator
from tests.support.server_process import ServerProcess, upload_id_of

pytestmark = pytest.mark.timeout(180)
_ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server for this module, with downloads."""
    with ServerProcess(tmp_path_factory.mktemp("audit"), environment={"TUS__DOWNLOAD": "true"}) as running:
        yield running


def _rows(server: ServerProcess) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = server.cli_json("audit", "export", "--json")["rows"]
    return rows


def _sql(server: ServerProcess, statement: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(server.data / "catalog.sqlite3", isolation_level=None)) as database:
        return list(database.execute(statement))


def test_audit_of_an_upload_tells_who_did_what(server: ServerProcess, tmp_path: Path) -> None:
    """Clients, operators and the server have their names, from the creation to the download, the export and the end."""
    drop = server.create_drop()
    url = drop.site.create(5)
    assert drop.site.patch(url, 0, b"hello").status == 204
    assert drop.site.request("GET", url, {"Dropoff-Code": drop.code}).body == b"hello"
    for code in ("WRONG", "WRONG", "WRONG"):
        assert drop.site.request("GET", url, {"Dropoff-Code": code}).status == 403
    server.cli("upload", "export", url, "--output", str(tmp_path / "out"))
    server.cli("upload", "delete", url, "--yes")
    server.cli("drop", "new-code", drop.id)
    server.cli("drop", "close", drop.id)
    server.stop()
    server.start()
    found = [row for row in _rows(server) if row.get("drop") == drop.id]
    me, upload = operator().who, upload_id_of(url)
    assert me.split("/")[0] == f"operator:{_ME}"
    assert [(row["who"], row["act"]) for row in found] == [
        (me, "drop.create"),
        ("client", "upload.create"),
        ("client", "upload.complete"),
        ("client", "upload.download"),
        (me, "upload.export"),
        (me, "upload.delete"),
        (me, "drop.new_code"),
        (me, "drop.close"),
        ("server", "code.wrong"),
    ]
    assert {row["upload"] for row in found if row["act"].startswith("upload.")} == {upload}
    assert [row["bytes"] for row in found if "bytes" in row] == [5, 5, 5, 5, 5]
    assert found[-1]["count"] == 3
    assert found[1]["from"] == found[3]["from"]
    assert len(found[2]["final"]) == 64
    assert server.cli_json("audit", "verify")["whole"] is True


def test_audit_that_was_tampered_with_is_refused(server: ServerProcess, tmp_path: Path) -> None:
    """A whole audit agrees with earlier exports in both forms; without its last row, or with a hole, it does not."""
    server.stop()  # it would sign a checkpoint within a minute
    lines, document, later = tmp_path / "lines", tmp_path / "document", tmp_path / "later"
    done = server.cli_json("audit", "export", "--output", str(lines), "--json")
    document.write_bytes(server.cli("audit", "export", "--json").stdout)
    anchors = ("--anchor", str(lines), "--anchor", str(document))
    server.cli("audit", "verify", *anchors)
    server.cli("token", "create", "--name", "t", "--scope", "drops:read")
    assert server.cli_json("audit", "verify", "--json")["unsigned"] == 1
    server.cli("audit", "export", "--since", str(done["last"]), "--output", str(later))
    row, checkpoint = later.read_text().splitlines()
    assert json.loads(row)["seq"] == done["last"] + 1
    assert f'"prev":"{done["hash"]}"' in checkpoint
    verified = server.cli_json("audit", "verify", *anchors, "--anchor", str(later), "--json")
    assert (verified["rows"], verified["unsigned"]) == (done["count"] + 1, 0)
    kept = _sql(server, f"SELECT record FROM audit WHERE seq = {done['last'] + 1}")[0][0]
    _sql(server, f"DELETE FROM audit WHERE seq = {done['last'] + 1}")
    for options in ((), anchors, ("--anchor", str(later))):
        refused = server.cli("audit", "verify", *options, check=False)
        assert refused.returncode == 1
        assert b"there were 1, and there are 0" in refused.stderr
    _sql(server, f"INSERT INTO audit VALUES ({done['last'] + 1}, '{kept}')")
    server.cli("audit", "verify", "--anchor", str(later))
    _sql(server, "DELETE FROM audit WHERE seq = 1")
    refused = server.cli("audit", "verify", "--json", check=False)
    assert refused.returncode == 1
    assert "are not those that were signed" in json.loads(refused.stdout)["problem"]
    assert b"no checkpoint was signed" in server.cli("audit", "export", check=False).stderr


def test_audit_that_nothing_ever_signed_is_a_finding_once_it_is_old(tmp_path: Path) -> None:
    """Before the first minute is over there is nothing to find; a day later there is, until something is signed."""
    with ServerProcess(tmp_path) as server:
        server.stop()
        (server.data / "keys" / "audit" / "last-checkpoint").unlink(missing_ok=True)
        _sql(server, "DELETE FROM checkpoints")
        assert server.cli_json("audit", "verify", "--json")["checkpoints"] == 0
        ((text,),) = _sql(server, "SELECT record FROM audit WHERE seq = 1")
        old = json.dumps(json.loads(text) | {"at": "2026-01-01T00:00:00.000Z"}, sort_keys=True, separators=(",", ":"))
        _sql(server, f"UPDATE audit SET record = '{old}' WHERE seq = 1")
        refused = server.cli("audit", "verify", check=False)
        assert refused.returncode == 1
        assert b"no checkpoint was ever signed" in refused.stderr
        server.cli("audit", "export")
        assert server.cli_json("audit", "verify", "--json")["checkpoints"] == 1


def test_anchor_that_is_none_is_refused(server: ServerProcess, tmp_path: Path) -> None:
    """A file of another kind, one that this server did not sign, and a missing one give sentences."""
    other = tmp_path / "other"
    for content in ("", "hello", "}\n", '{"a": 1}', "[" * 100_000 + "\n}\n"):
        other.write_text(content)
        refused = server.cli("audit", "verify", "--anchor", str(other), check=False)
        assert refused.returncode == 1
        assert b"Traceback" not in refused.stderr
        assert b"other" in refused.stderr
    assert b"choose another name" in server.cli("audit", "export", "--output", str(other), check=False).stderr
    assert server.cli("audit", "verify", "--anchor", str(tmp_path / "none"), check=False).returncode == 1
