"""The bench's client, against the real server: it must send what it says it sent, or its figures mean nothing."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.bench.tools import load_client
from tests.support.programs import require_program
from tests.support.server_process import Drop, ServerProcess

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile it."""
    require_program("cc")
    return load_client(tmp_path_factory.mktemp("client"))


def _load(client: Path, server: ServerProcess, drop: Drop, **values: int) -> "subprocess.CompletedProcess[str]":
    given = {"port": server.port, "path": f"/files/{drop.id}/", "code": drop.code, **values}
    words = [f"{key}={value}" for key, value in given.items()]
    return subprocess.run(
        [client, "upload", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50, check=False
    )


@pytest.mark.parametrize(
    ("size_bytes", "chunk_bytes"), [(1000, 0), (3_000_000, 0), (3_000_000, 1_200_000)], ids=["small", "whole", "chunks"]
)
def test_bench_client_sends_every_upload_whole(
    client: Path, server: ServerProcess, size_bytes: int, chunk_bytes: int
) -> None:
    """As many uploads as it reports are complete, each with the length that was asked for."""
    drop = server.create_drop()
    done = _load(client, server, drop, connections=2, uploads=3, bytes=size_bytes, chunk=chunk_bytes)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["requests"], result["bytes"]) == (3, 3 * size_bytes)
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["wall"] * 1000
    rows = server.uploads(drop)
    assert [(row["state"], row["length"], row["offset"]) for row in rows] == [("complete", size_bytes, size_bytes)] * 3


def test_bench_client_stops_at_a_refusal(client: Path, server: ServerProcess) -> None:
    """A server that refuses is never measured as a fast one."""
    drop = server.create_drop("--max-uploads", "1")
    done = _load(client, server, drop, uploads=2, bytes=1000)
    assert done.returncode == 3
    assert "POST" in done.stderr
