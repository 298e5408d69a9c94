"""A server's folder as the release before left it: the present program serves it, and takes all that is in it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_client import Api
from tests.support.server_process import Drop, ServerProcess, run_warm
from tests.support.tus_raw import TusSite
from tests.vectors.server.generate import ARCHIVE, content


@pytest.mark.timeout(180)
def test_server_of_the_release_before_is_upgraded_and_loses_nothing(tmp_path: Path) -> None:
    """Migrated and served; what was begun is finished, all of it exported, codes, tokens, receipts and audit hold."""
    server = ServerProcess(tmp_path).beside(tmp_path)
    server.data = tmp_path / "before"
    server.data.mkdir()
    subprocess.run(["tar", "--extract", "--no-same-owner", "--file", ARCHIVE], cwd=server.data, check=True)
    server.config = server.data / "config.toml"
    told: dict[str, Any] = json.loads((server.data / "told.json").read_bytes())
    drops = {drop["id"]: Drop(**drop) for drop in told["drops"]}
    for step in (("migrate", "--dry-run"), ("migrate",), ("check-config",)):
        server.cli(*step)
    with server:
        for upload in told["uploads"]:
            name, offset = upload["name"], upload["offset"]
            site = TusSite(f"{server.url}/files/{upload['drop']}/", drops[upload["drop"]].code)
            url = f"{site.upload_url}{upload['token']}"
            if name == "ended.txt":
                assert site.head(url).status == 410
                continue
            assert site.head(url).offset == offset
            if offset < len(content(name)):
                assert site.patch(url, offset, content(name)[offset:]).status == 204
        for drop in drops.values():
            assert TusSite(f"{server.url}/files/{drop.id}/", drop.code).create(5)
        assert TusSite(f"{server.url}/files/{told['closed']}/", None).post({"Upload-Length": "1"}).status == 403
        rows = Api(server, told["api_token"])("GET", "/uploads").json["uploads"]
        assert [row["state"] for row in rows].count("complete") == 7
        _assert_all_there(server, told)


def _assert_all_there(server: ServerProcess, told: dict[str, Any]) -> None:
    """Export everything, verify every byte, receipt and row."""
    wanted = {upload["name"]: content(upload["name"]) for upload in told["uploads"] if upload["name"][-4:] == ".txt"}
    wanted["joined.txt"] = content("part 1") + content("part 2")
    del wanted["ended.txt"]
    found: dict[str, bytes] = {}
    for drop in told["drops"]:
        folder = server.folder / drop["name"]
        identity = ("--identity", str(server.data / "root-identity.txt"))
        server.cli("drop", "export", drop["id"], "--output", str(folder), *identity)
        found |= {path.name: path.read_bytes() for path in folder.glob("*.txt")}
    assert found == wanted
    receipt, key = server.folder / "receipt", server.folder / "key"
    receipt.write_bytes(server.cli("upload", "receipt", told["joined"]).stdout)
    key.write_bytes(server.cli("keys", "show").stdout)
    verify = ("verify-receipt", str(receipt), str(server.folder / "managed" / "joined.txt"), "--key", str(key))
    assert run_warm(*verify, folder=server.folder).returncode == 0
    assert server.cli_json("store", "check")["findings"] == []
    assert server.cli_json("audit", "verify")["whole"] is True
