"""The whole way through the upload page, before a real server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.visitor import Visitor, file_of, link_to, received, sha256_of, visiting
from tests.support.programs import BUILT_PAGE, require_program
from tests.support.server_process import ServerProcess, run_warm

MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run one server for the file."""
    require_program(BUILT_PAGE)
    with ServerProcess(tmp_path_factory.mktemp("way")) as running:
        yield running


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Visitor]:
    """Visit with an empty profile."""
    with visiting(chromium) as made:
        yield made


def test_files_sent_arrive_whole_and_their_receipt_verifies(
    server: ServerProcess, visitor: Visitor, tmp_path: Path
) -> None:
    """From the link to the receipt: the code leaves the address bar, and the downloaded file verifies offline."""
    link, drop_id = link_to(server)
    files = [file_of(tmp_path / "scan.bin", 3 * MIB + 17), file_of(tmp_path / "letter é.txt", 5, seed=2)]
    visitor.open(link)
    visitor.send(files)
    visitor.wait_for("done")
    assert link.partition("#")[2] not in visitor.page.url
    assert received(server, drop_id) == {path.name: sha256_of(path) for path in files}
    with visitor.page.expect_download() as downloading:
        visitor.page.get_by_role("button", name="Download the receipt").click()
    receipt = tmp_path / "receipts"
    downloading.value.save_as(receipt)
    key = server.cli_json("keys", "show")["key"]
    for path in files:
        done = run_warm("verify-receipt", str(receipt), str(path), "--key", key, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "scan.bin" not in visitor.text
