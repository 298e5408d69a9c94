"""More than 1 GiB whose running digest a restart has lost: read back in the background, in state `checking`."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server_process import ServerProcess
from tests.support.tus_raw import TusSite, metadata

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_PIECE = bytes(64 << 20)
_PIECES = 17  # 64 MiB more than is read back while the client waits
_SIZE_BYTES = len(_PIECE) * _PIECES


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server."""
    folder: Path = tmp_path_factory.mktemp("checking")
    with ServerProcess(folder, environment={"STORE__DURABILITY": "os"}) as running:
        yield running


@pytest.mark.parametrize("state", ["complete", "rejected"])
def test_more_than_a_gibibyte_is_checked_behind_the_last_answer_after_a_restart(
    server: ServerProcess, state: str
) -> None:
    """204 without a receipt, then `checking`, and then what the digest in the metadata says, whatever was answered."""
    site = server.drop.site
    digest = hashlib.sha256()
    for _ in range(_PIECES):
        digest.update(_PIECE)
    wanted = digest.hexdigest() if state == "complete" else "0" * 64
    url = site.create(_SIZE_BYTES, {"Upload-Metadata": metadata(sha256=wanted)})
    assert site.patch(url, 0, _PIECE).status == 204
    server.restart()
    for number in range(1, _PIECES - 1):
        assert site.patch(url, number * len(_PIECE), _PIECE).status == 204
    answer = site.patch(url, _SIZE_BYTES - len(_PIECE), _PIECE)
    assert answer.status == 204
    assert answer.header("Dropoff-Receipt") is None
    seen = _states(server, url, site, state)
    assert seen in ([state], ["checking", state])
    receipt = site.request("GET", f"{url}/receipt", {})
    if state == "complete":
        assert site.head(url).offset == _SIZE_BYTES
        assert receipt.status == 200
        assert wanted.encode() in receipt.body
    else:
        assert site.head(url).status == 410
        assert receipt.status == 410


def _states(server: ServerProcess, url: str, site: TusSite, end: str) -> list[str]:
    """Watch the states that an upload goes through, and what HEAD says meanwhile."""
    seen: list[str] = []
    deadline = time.monotonic() + 120
    while end not in seen:
        assert time.monotonic() < deadline, seen
        now = server.row(url)["state"]
        if now == "checking":
            assert site.head(url).status in {200, 410}
        if now not in seen:
            seen.append(now)
    return seen
