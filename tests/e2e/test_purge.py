"""`drop purge`: nothing of a drop-off's content or keys stays, and a certificate says what went."""

import json
from pathlib import Path

import pytest

from tests.support.server_process import ServerProcess, run_warm, upload_id_of

pytestmark = pytest.mark.timeout(180)


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
