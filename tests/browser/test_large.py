"""A large file, 4 GiB in the slow form, plain and sealed: it arrives whole, and the browser's memory stays flat."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.bad_link import BadLink
from tests.browser.visitor import Visitor, file_of, link_to, received, sha256_of
from tests.support.server_process import ServerProcess

MIB = 1 << 20
_SIZES = [
    pytest.param(256 * MIB, marks=pytest.mark.timeout(300)),
    pytest.param(4096 * MIB, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
]
_SOME = re.compile(r"[1-9]\d* MB")
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


@pytest.fixture
def roomy_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Run a server whose disk claims to have room for two terabytes, since it takes nothing that would not fit."""
    place = tmp_path / "roomy"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2T", "tmpfs", str(place)], check=False).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs (a container without CAP_SYS_ADMIN)")
    try:
        with ServerProcess(place) as running:
            yield running
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.timeout(180)
def test_file_of_a_terabyte_is_sent_piece_by_piece_and_found_again(
    roomy_server: ServerProcess, visitor: Visitor, tmp_path: Path
) -> None:
    """Its size is no matter: some of it is stored, and after a reload the rest goes on from there."""
    server = roomy_server
    link, drop_id = link_to(server)
    file = tmp_path / "genome.bin"
    with file.open("wb") as sparse:
        sparse.truncate(10**12)

    def stored() -> tuple[str, int, int]:
        (row,) = server.cli_json("upload", "list", "--drop", drop_id)
        return row["id"], row["length"], row["offset"]

    with BadLink(server.port, bytes_per_second=16 * MIB) as line:
        link = link.replace(f":{server.port}/", f":{line.port}/")
        visitor.open(link)
        visitor.send([file])
        expect(visitor.page.locator(".now")).to_contain_text(_SOME, timeout=60_000)
        assert "of 1 TB stored" in visitor.text
        visitor.page.close()
        upload, length, offset = stored()
        assert length == 10**12
        assert offset > 0
        again = visitor.another_page()
        again.open(link)
        again.choose([file])
        # The note in the browser may be a moment older than what the closed page said.
        assert "of 1 TB stored" in again.text
        again.press()
        again.wait_for("choose", "review")
        again.press()
        again.wait_for("sending")
        deadline = time.monotonic() + 90
        while stored()[2] <= offset:
            assert time.monotonic() < deadline, again.text
            again.page.wait_for_timeout(500)
        assert stored()[:2] == (upload, length)
        again.page.close()


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
