"""The curl commands of docs/reference/api.md, run as they stand there against the real server."""

import json
import os
import random
import subprocess
import tarfile
from pathlib import Path

from tests.support.api_client import Api
from tests.support.documents import run_by
from tests.support.programs import require_program
from tests.support.server_process import ServerProcess, upload_id_of
from tests.support.tus_raw import metadata


def test_curl_examples_of_the_documentation_work(server: ServerProcess, tmp_path: Path) -> None:
    """Every example succeeds in its order, and the files that it fetches are the ones that were uploaded."""
    require_program("curl")
    drop, content = server.create_drop(), random.Random(3).randbytes(50_000)
    head = {"Upload-Length": str(len(content)), "Upload-Metadata": metadata(filename="scan.zip")}
    url = drop.site.post(head).needed("Location")
    assert drop.site.patch(url, 0, content).status == 204
    (tmp_path / "half.zip").write_bytes(content[:20_000])
    known = {"base": f"{server.url}/api/v1", "token": Api.with_scopes(server).token or "", "drop": drop.id}
    environment = {**os.environ, **known, "upload": upload_id_of(url)}
    said = []
    for command in "".join(run_by(__file__, "docs/reference/api.md")).replace("\\\n", " ").splitlines():
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr, done.stdout)
        said.append(done.stdout)
    assert len(said) == 13
    with tarfile.open(tmp_path / "cohort-7.tar") as archive:
        assert "scan.zip" in archive.getnames()
    assert json.loads(said[0])["code"]
    assert [row["filename"] for row in json.loads(said[7])["uploads"]] == ["scan.zip"]
    assert (tmp_path / "scan.zip").read_bytes() == content
    assert (tmp_path / "half.zip").read_bytes() == content
    assert json.loads((tmp_path / "receipt.txt").read_text("ascii").rpartition(" ")[0])["path"] == "scan.zip"
    assert json.loads(said[-1])["state"] == "deleted"
