"""Lines that break, servers that die, browsers that close: the page goes on, and tells only what is true."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.visitor import Visitor, file_of, link_to, received, sha256_of, visiting
from tests.support.programs import BUILT_PAGE, require_program
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(240)
MIB = 1 << 20
SIZE_BYTES = 24 * MIB + 5
SLOW = MIB
"""So slow that the first commit, ten seconds after the first byte, comes long before the end."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Run one server for the test, since it may die."""
    require_program(BUILT_PAGE)
    with ServerProcess(tmp_path) as running:
        yield running


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Visitor]:
    """Visit with an empty profile."""
    with visiting(chromium) as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Make a file that takes a while."""
    return file_of(tmp_path / "genome.bin", SIZE_BYTES)


def test_server_killed_in_the_middle_of_a_file_costs_a_wait_and_no_byte(
    server: ServerProcess, visitor: Visitor, file: Path
) -> None:
    """The page says that it waits, goes on by itself when the server is there again, and the file is whole."""
    link, drop_id = link_to(server)
    visitor.open(link)
    visitor.slow_down(SLOW)
    visitor.send([file])
    visitor.wait_for_some_stored()
    server.kill9()
    visitor.wait_for("waiting")
    assert visitor.stored_percent() < 100
    server.start()
    visitor.slow_down(0)
    visitor.wait_for("done", milliseconds=90_000)
    assert received(server, drop_id) == {file.name: sha256_of(file)}


def test_line_that_is_gone_for_a_while_is_waited_for(server: ServerProcess, visitor: Visitor, file: Path) -> None:
    """Offline is told in words, with what is stored; nothing is asked of the person."""
    link, drop_id = link_to(server)
    visitor.open(link)
    visitor.slow_down(SLOW)
    visitor.send([file])
    visitor.wait_for_some_stored()
    visitor.page.context.set_offline(True)
    visitor.wait_for("waiting", "offline")
    assert "offline" in visitor.text
    assert "stored" in visitor.text
    visitor.page.context.set_offline(False)
    visitor.wait_for("done", milliseconds=90_000)
    assert received(server, drop_id) == {file.name: sha256_of(file)}


def test_page_closed_in_the_middle_goes_on_where_it_was(server: ServerProcess, chromium: Browser, file: Path) -> None:
    """The same file, chosen again in the same browser, goes on from what is stored and becomes no second upload."""
    link, drop_id = link_to(server)
    with visiting(chromium) as first:
        first.open(link)
        first.slow_down(SLOW)
        first.send([file])
        first.wait_for_some_stored()
        first.page.close()
        (row,) = server.cli_json("upload", "list", "--drop", drop_id)
        assert 0 < row["offset"] < SIZE_BYTES
        again = first.another_page()
        again.open(link)
        again.send([file])
        again.wait_for("done", milliseconds=90_000)
        assert again.complaints == []
    assert received(server, drop_id) == {file.name: sha256_of(file)}
    assert [each["id"] for each in server.cli_json("upload", "list", "--drop", drop_id)] == [row["id"]]


def test_drop_closed_while_sending_is_said_with_what_became_of_the_bytes(
    server: ServerProcess, visitor: Visitor, file: Path
) -> None:
    """`drop close --now` ends what runs, and the page says so instead of trying for ever."""
    link, drop_id = link_to(server)
    visitor.open(link)
    visitor.slow_down(SLOW)
    visitor.send([file])
    visitor.wait_for_some_stored()
    server.cli("drop", "close", drop_id, "--now")
    visitor.wait_for_any("closed", "failed")
    assert received(server, drop_id) == {}
