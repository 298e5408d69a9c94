"""The whole way through the upload page, before a real server."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.visitor import Visitor, visiting
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


def _link(server: ServerProcess, *options: str) -> tuple[str, str, str]:
    drop = server.cli_json("drop", "create", "--name", "Second opinion", *options)
    return f"{drop['page_url']}#{drop['code']}", drop["id"], drop["code"]


def _received(server: ServerProcess, drop_id: str) -> dict[str, str]:
    """Return the name and the SHA-256 of each complete upload."""
    rows = server.cli_json("upload", "list", "--drop", drop_id)
    return {row["filename"]: row["sha256"] for row in rows if row["state"] == "complete"}


def _file(path: Path, size_bytes: int, seed: int = 1) -> Path:
    block = hashlib.sha256(bytes([seed])).digest() * 2048
    with path.open("wb") as file:
        for _ in range(size_bytes // len(block)):
            file.write(block)
        file.write(block[: size_bytes % len(block)])
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_files_sent_arrive_whole_and_their_receipt_verifies(
    server: ServerProcess, visitor: Visitor, tmp_path: Path
) -> None:
    """From the link to the receipt: the code leaves the address bar, and the downloaded file verifies offline."""
    link, drop_id, code = _link(server)
    files = [_file(tmp_path / "scan.bin", 3 * MIB + 17), _file(tmp_path / "letter é.txt", 5, seed=2)]
    visitor.open(link)
    visitor.send(files)
    visitor.wait_for("done")
    assert code not in visitor.page.url
    assert _received(server, drop_id) == {path.name: _sha256(path) for path in files}
    with visitor.page.expect_download() as downloading:
        visitor.page.get_by_role("button", name="Download the receipt").click()
    receipt = tmp_path / "receipts"
    downloading.value.save_as(receipt)
    key = server.cli_json("keys", "show")["key"]
    for path in files:
        done = run_warm("verify-receipt", str(receipt), str(path), "--key", key, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "scan.bin" not in visitor.text
