"""A large file, 4 GiB in the slow form, plain and sealed: it arrives whole, and the browser's memory stays flat."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.visitor import Visitor, file_of, link_to, received, sha256_of
from tests.support.server_process import ServerProcess

MIB = 1 << 20
_SIZES = [
    pytest.param(256 * MIB, marks=pytest.mark.timeout(300)),
    pytest.param(4096 * MIB, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
]
_MOST_GROWTH = 200 * MIB
"""Room for some chunks beside what a renderer has at the beginning, and for what is not yet collected."""


@pytest.mark.parametrize("size_bytes", _SIZES)
@pytest.mark.parametrize("sealed", [False, True])
def test_large_file_arrives_whole_and_memory_stays_flat(
    *, chromium: Browser, server: ServerProcess, visitor: Visitor, tmp_path: Path, size_bytes: int, sealed: bool
) -> None:
    """The memory is looked at all the time that the file is on its way, also that of the workers that seal."""
    link, drop_id = link_to(server, *["--seal-in-browser"] * sealed)
    file = file_of(tmp_path / "genome.bin", size_bytes)
    visitor.open(link)
    visitor.send([file])
    visitor.wait_for_any("sending", "done")
    measured = []
    while visitor.state != "done":
        assert visitor.state in {"sending", "waiting"}, visitor.text
        measured.append(_renderer_bytes(chromium))
        visitor.page.wait_for_timeout(500)
    assert max(measured) - measured[0] < _MOST_GROWTH, [each // MIB for each in measured]
    if not sealed:
        assert received(server, drop_id) == {file.name: sha256_of(file)}
        return
    (row,) = server.cli_json("upload", "list", "--drop", drop_id)
    opened = tmp_path / "opened"
    identity = server.data / "root-identity.txt"
    server.cli("upload", "export", row["id"], "--output", str(opened), "--identity", str(identity))
    assert sha256_of(opened) == sha256_of(file)


def _renderer_bytes(browser: Browser) -> int:
    """Return what all renderers of the browser have in memory, without what they share."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    total = 0
    for process in processes:
        if process["type"] != "renderer":
            continue
        lines = Path(f"/proc/{process['id']}/status").read_text("ascii").splitlines()
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    return total
