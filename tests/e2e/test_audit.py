"""`audit export` and `audit verify` beside a real server: what was done is in it, and what is done to it is found."""

import contextlib
import json
import os
import pwd
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.cli.context import operator
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


def _sql(server: ServerProcess, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(server.data / "catalog.sqlite3", isolation_level=None)) as database:
        database.execute(statement)


def test_audit_of_an_upload_tells_who_did_what(server: ServerProcess, tmp_path: Path) -> None:
    """Clients, operators and the server are told apart, from the creation to the download, the export and the end."""
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
    server.stop()  # it would sign a checkpoint into the chain within a minute
    lines, document, later = tmp_path / "lines", tmp_path / "document", tmp_path / "later"
    done = server.cli_json("audit", "export", "--output", str(lines), "--json")
    document.write_bytes(server.cli("audit", "export", "--json").stdout)
    anchors = ("--anchor", str(lines), "--anchor", str(document))
    server.cli("audit", "verify", *anchors)
    server.drop.site.create(5)
    server.cli("audit", "export", "--since", str(done["count"]), "--output", str(later))
    assert len(later.read_text().splitlines()) == 2
    verified = server.cli_json("audit", "verify", *anchors, "--anchor", str(later), "--json")
    assert verified["rows"] == done["count"] + 1
    last = f"FROM audit WHERE seq = {verified['rows']}"
    with contextlib.closing(sqlite3.connect(server.data / "catalog.sqlite3")) as database:
        kept = database.execute(f"SELECT record {last}").fetchone()[0]
    _sql(server, f"DELETE {last}")
    server.cli("audit", "verify", *anchors)
    refused = server.cli("audit", "verify", "--anchor", str(later), check=False)
    assert refused.returncode == 1
    assert f"row {verified['rows']} is missing".encode() in refused.stderr
    assert b"the end is missing" in refused.stderr
    _sql(server, f"INSERT INTO audit VALUES ({verified['rows']}, '{kept}')")
    server.cli("audit", "verify", "--anchor", str(later))
    _sql(server, "DELETE FROM audit WHERE seq = 1")
    refused = server.cli("audit", "verify", "--json", check=False)
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["problem"] == "row 1 is missing"
    assert b"no checkpoint was signed" in server.cli("audit", "export", check=False).stderr


def test_anchor_that_is_none_is_refused(server: ServerProcess, tmp_path: Path) -> None:
    """A file of another kind, one that this server did not sign, and one that is not there are sentences."""
    other = tmp_path / "other"
    for content in ("", "hello", "}\n", '{"a": 1}', "[" * 100_000 + "\n}\n"):
        other.write_text(content)
        refused = server.cli("audit", "verify", "--anchor", str(other), check=False)
        assert refused.returncode == 1
        assert b"Traceback" not in refused.stderr
        assert b"other" in refused.stderr
    assert b"choose another name" in server.cli("audit", "export", "--output", str(other), check=False).stderr
    assert server.cli("audit", "verify", "--anchor", str(tmp_path / "none"), check=False).returncode == 1
