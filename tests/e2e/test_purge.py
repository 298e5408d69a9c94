"""`drop purge`: nothing of a drop-off's content or keys stays, and a certificate says what went."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server_process import Drop, ServerProcess, run_warm, upload_id_of

pytestmark = pytest.mark.timeout(180)
_KILLED = -9


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server for this module, whose store is damaged by hand."""
    with ServerProcess(tmp_path_factory.mktemp("purge")) as running:
        yield running


def _folder(server: ServerProcess, upload: str) -> Path:
    return server.data / "store" / "uploads" / upload[:2] / upload


def _assert_gone(server: ServerProcess, upload: str) -> None:
    assert list((server.data / "keys" / upload[:2]).glob(f"{upload}.*")) == []
    data = _folder(server, upload) / "data"
    assert not data.exists() or data.stat().st_size == 0


def _finished(drop: Drop, content: bytes = b"hello") -> str:
    url = drop.site.create(len(content))
    assert drop.site.patch(url, 0, content).status == 204
    return upload_id_of(url)


def _joined(drop: Drop) -> tuple[str, str]:
    part = drop.site.create(3, {"Upload-Concat": "partial"})
    assert drop.site.patch(part, 0, b"abc").status == 204
    return upload_id_of(part), upload_id_of(drop.site.post({"Upload-Concat": f"final;{part}"}).needed("Location"))


def _forget(server: ServerProcess, *uploads: str) -> None:
    """Take rows out of the catalog, as in one that was restored from an older copy."""
    with contextlib.closing(sqlite3.connect(server.data / "catalog.sqlite3", isolation_level=None)) as database:
        for upload in uploads:
            database.execute("DELETE FROM uploads WHERE id = ?", (upload,))


def _certificate(server: ServerProcess, file: Path) -> dict[str, Any]:
    key = server.cli_json("keys", "show", "--json")["key"]
    done = run_warm("verify-certificate", str(file), "--key", key, "--json", folder=file.parent)
    told: dict[str, Any] = json.loads(done.stdout)["certificate"]
    return told


def _purge(server: ServerProcess, drop: Drop, file: Path) -> dict[str, Any]:
    done: dict[str, Any] = server.cli_json("drop", "purge", drop.id, "--yes", "--output", str(file), "--json")
    return done


def test_purge_leaves_tombstones_and_a_certificate(server: ServerProcess, tmp_path: Path) -> None:
    """Finished, joined and unfinished uploads lose keys and bytes, others stay; the certificate verifies."""
    drop, other = server.create_drop(), server.create_drop()
    site, out = drop.site, tmp_path / "erasure.txt"
    finished, begun = site.create(5), site.create(9)
    assert site.patch(finished, 0, b"hello").status == 204
    assert site.patch(begun, 0, b"hell").status == 204
    part = site.create(3, {"Upload-Concat": "partial"})
    assert site.patch(part, 0, b"abc").status == 204
    joined = site.post({"Upload-Concat": f"final;{part}"}).needed("Location")
    kept = other.site.create(4)
    assert other.site.patch(kept, 0, b"stay").status == 204
    assert server.cli("drop", "purge", drop.id, check=False).returncode == 1
    done = server.cli_json("drop", "purge", drop.id, "--yes", "--output", str(out), "--json")
    assert (done["removed"], done["kept"]) == (4, [])
    ids = {upload_id_of(url) for url in (finished, begun, part, joined)}
    for upload in ids:
        assert list((server.data / "keys" / upload[:2]).glob(f"{upload}.*")) == []
        assert (server.data / "store/uploads" / upload[:2] / upload / "data").stat().st_size == 0
    assert server.export(kept) == b"stay"
    verify = ("verify-certificate", str(out), "--key", server.cli_json("keys", "show", "--json")["key"])
    told = json.loads(run_warm(*verify, "--json", folder=tmp_path).stdout)["certificate"]
    assert {item["id"] for item in told["uploads"]} == ids
    finals = {item["id"]: item["final"] for item in told["uploads"]}
    assert [finals[upload_id_of(url)] is None for url in (finished, joined, begun)] == [False, False, True]
    rows = server.cli_json("audit", "export", "--json")["rows"]
    mine = [row for row in rows if row.get("drop") == drop.id]
    assert (mine[-1]["act"], mine[-1]["count"], mine[-1]["final"]) == ("drop.purge", 4, done["sha256"])
    complete = next(row for row in mine if row["act"] == "upload.complete" and row["upload"] == upload_id_of(finished))
    assert complete["final"] == finals[upload_id_of(finished)]
    out.write_bytes(out.read_bytes().replace(b'"bytes":5', b'"bytes":6'))
    assert run_warm(*verify, folder=tmp_path).returncode == 1
    again = server.cli_json("drop", "purge", drop.id, "--yes", "--output", str(tmp_path / "again"), "--json")
    assert again["removed"] == 4


def test_purge_finds_what_the_catalog_has_lost(server: ServerProcess, tmp_path: Path) -> None:
    """Finished, joined and begun uploads without a row go too, other drop-offs' stay, and the answer has all of it."""
    drop, other, out = server.create_drop(), server.create_drop(), tmp_path / "erasure.txt"
    finished, known, foreign = _finished(drop), _finished(drop), _finished(other)
    part, joined = _joined(drop)
    begun = upload_id_of(drop.site.create(9))
    _forget(server, finished, part, joined, begun, foreign)
    done = _purge(server, drop, out)
    ids = {finished, known, part, joined, begun}
    assert (done["removed"], done["damaged"], done["unread"]) == (5, 0, [])
    for upload in ids:
        _assert_gone(server, upload)
    assert (_folder(server, foreign) / "data").stat().st_size > 0
    assert {item["id"] for item in _certificate(server, out)["uploads"]} == ids
    rows = server.cli_json("audit", "export", "--json")["rows"]
    told = {row["upload"]: row["result"] for row in rows if row["act"] == "upload.delete" and row["drop"] == drop.id}
    # A part ends with what it was joined to.
    lost = dict.fromkeys((finished, joined, begun), "was not in the catalog")
    assert told == {known: "was complete", **lost}


@pytest.mark.parametrize("lost", [False, True], ids=["known", "lost"])
def test_purge_shreds_what_is_damaged_and_says_so(server: ServerProcess, tmp_path: Path, lost: bool) -> None:
    """A changed log, one that is gone, bytes that were cut off, a part of a whole: none is passed over."""
    drop, out = server.create_drop(), tmp_path / "erasure.txt"
    whole, changed, cut, logless = (_finished(drop) for _ in range(4))
    part, joined = _joined(drop)
    for upload in (changed, part):
        log = _folder(server, upload) / "log"
        raw = bytearray(log.read_bytes())
        raw[-20] ^= 1
        log.write_bytes(raw)
    (_folder(server, cut) / "data").write_bytes(b"short")
    (_folder(server, logless) / "log").unlink()
    if lost:
        _forget(server, changed, cut, part, joined)
    done = _purge(server, drop, out)
    damaged = {changed, cut, logless, part, joined}
    for upload in damaged:
        _assert_gone(server, upload)
    told = _certificate(server, out)
    assert {item["id"] for item in told["uploads"]} == {whole, *damaged}
    assert {item["id"] for item in told["uploads"] if "damaged" in item} <= damaged
    assert done["damaged"] == sum("damaged" in item for item in told["uploads"]) >= 4
    again = _purge(server, drop, tmp_path / "again")
    assert {item["id"] for item in _certificate(server, tmp_path / "again")["uploads"]} == {whole, *damaged}
    assert (again["removed"], again["unread"]) == (6, [])
    assert {item["id"] for item in server.uploads(drop) if item["state"] != "deleted"} == set()
    if not lost:
        server.cli("store", "check", changed)


def test_purge_names_what_no_drop_off_can_be_told_of(server: ServerProcess, tmp_path: Path) -> None:
    """In no catalog and without a readable beginning it may be anybody's: left as it is, and told."""
    drop, other = server.create_drop(), server.create_drop()
    nobodys = _finished(other)
    _forget(server, nobodys)
    (_folder(server, nobodys) / "log").write_bytes(b"garbage")
    done = _purge(server, drop, tmp_path / "erasure.txt")
    assert (done["removed"], done["unread"]) == (0, [nobodys])
    assert _certificate(server, tmp_path / "erasure.txt")["unread"] == [nobodys]
    assert (_folder(server, nobodys) / "data").stat().st_size > 0
    (_folder(server, nobodys) / "data").write_bytes(b"")
    for path in (server.data / "keys" / nobodys[:2]).glob(f"{nobodys}.*"):
        path.unlink()


def _killed_at(server: ServerProcess, drop: Drop, file: Path, point: str) -> int:
    """Run the purge in a process of its own, which dies at a step; return how it ended."""
    arguments = ("drop", "purge", drop.id, "--yes", "--output", str(file), "--config", str(server.config))
    return run_warm(*arguments, folder=server.folder, environment={"DROPOFF_TUS_FAILPOINT": point}).returncode


def test_purge_killed_at_each_step_goes_on_and_certifies_everything_once(server: ServerProcess, tmp_path: Path) -> None:
    """Around keys, between two uploads, around the certificate: one certificate, of everything, is left."""
    drop, out = server.create_drop(), tmp_path / "erasure.txt"
    finished, lost, broken = (_finished(drop) for _ in range(3))
    part, joined = _joined(drop)
    _forget(server, lost)
    (_folder(server, broken) / "log").write_bytes(b"broken")
    for point in ("before-shred:1", "after-shred-keys:1", "unlink:9", "before-certificate:1", "after-certificate:1"):
        assert _killed_at(server, drop, out, point) == _KILLED, point
    written = out.read_bytes()
    rows = server.cli_json("audit", "export", "--json")["rows"]
    assert not [row for row in rows if row["act"] == "drop.purge" and row["drop"] == drop.id]
    done = _purge(server, drop, out)
    assert out.read_bytes() == written
    ids = {finished, lost, broken, part, joined}
    assert {item["id"] for item in _certificate(server, out)["uploads"]} == ids
    for upload in ids:
        _assert_gone(server, upload)
    for _ in range(2):
        rows = server.cli_json("audit", "export", "--json")["rows"]
        purges = [row["final"] for row in rows if row["act"] == "drop.purge" and row["drop"] == drop.id]
        assert purges == [done["sha256"]]
        assert _purge(server, drop, out)["sha256"] == done["sha256"]


def test_purge_never_writes_over_another_file(server: ServerProcess, tmp_path: Path) -> None:
    """Neither another file, nor another drop-off's certificate, nor one that lacks what came since."""
    drop, other, out = server.create_drop(), server.create_drop(), tmp_path / "out"
    out.write_text("notes")
    upload = _finished(drop)
    arguments = ("drop", "purge", drop.id, "--yes", "--output", str(out))
    assert server.cli(*arguments, check=False).returncode == 1
    out.unlink()
    _purge(server, other, out)
    refused = server.cli(*arguments, check=False)
    assert (refused.returncode, b"exists already" in refused.stderr) == (1, True)
    assert server.cli_json("upload", "show", upload)["state"] == "complete"
    out.unlink()
    _purge(server, drop, out)
    server.cli("drop", "reopen", drop.id)
    _finished(drop)
    before = out.read_bytes()
    refused = server.cli(*arguments, check=False)
    assert (refused.returncode, b"another --output" in refused.stderr) == (1, True)
    assert out.read_bytes() == before
