"""Lines that break, servers that die, browsers that close: the page goes on, and tells only what is true."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.bad_link import BadLink
from tests.browser.visitor import Visitor, file_of, link_to, received, sha256_of
from tests.support.programs import BUILT_PAGE, require_program
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(240)
_GIVEN_UP_MS = 90_000
"""A browser may go on writing into what is cut; the page gives up what has stored nothing for 30 s."""
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
def file(tmp_path: Path) -> Path:
    """Make a file that takes a while."""
    return file_of(tmp_path / "genome.bin", SIZE_BYTES)


@pytest.fixture
def line(server: ServerProcess) -> Iterator[BadLink]:
    """Put a slow line before the server."""
    with BadLink(server.port, bytes_per_second=SLOW) as link:
        yield link


def _sending(visitor: Visitor, line: BadLink, server: ServerProcess, file: Path) -> tuple[str, str]:
    """Begin to send through a line, until some of it is stored; return the link through it and the drop-off's id."""
    link, drop_id = link_to(server)
    link = link.replace(f":{server.port}/", f":{line.port}/")
    _send(visitor, link, file)
    visitor.wait_for_some_stored()
    return link, drop_id


def _send(visitor: Visitor, link: str, file: Path) -> None:
    visitor.open(link)
    visitor.send([file])


def test_server_killed_in_the_middle_of_a_file_costs_a_wait_and_no_byte(
    server: ServerProcess, line: BadLink, visitor: Visitor, file: Path
) -> None:
    """The page says that it waits, goes on by itself when the server is there again, and the file is whole."""
    _, drop_id = _sending(visitor, line, server, file)
    server.kill9()
    visitor.wait_for("waiting", milliseconds=_GIVEN_UP_MS)
    assert 0 < visitor.stored_percent() < 100
    server.start()
    line.change(bytes_per_second=0)
    visitor.wait_for("done", milliseconds=90_000)
    assert received(server, drop_id) == {file.name: sha256_of(file)}


def test_line_that_breaks_is_waited_for(server: ServerProcess, line: BadLink, visitor: Visitor, file: Path) -> None:
    """What is stored is said meanwhile, and nothing is asked of the person."""
    _, drop_id = _sending(visitor, line, server, file)
    line.break_off()
    visitor.wait_for("waiting", milliseconds=_GIVEN_UP_MS)
    assert "stored" in visitor.text
    line.change(bytes_per_second=0)
    line.mend()
    visitor.wait_for("done", milliseconds=90_000)
    assert received(server, drop_id) == {file.name: sha256_of(file)}


@pytest.mark.parametrize("breaks", [True, False])
def test_browser_that_is_offline_says_so_and_goes_on_when_it_is_not(
    *, server: ServerProcess, line: BadLink, visitor: Visitor, file: Path, breaks: bool
) -> None:
    """The browser tells the page at once, in both directions; what hangs then, and is not cut, is not waited for."""
    _, drop_id = _sending(visitor, line, server, file)
    visitor.page.context.set_offline(True)
    if breaks:
        line.break_off()
    visitor.wait_for("waiting", "offline", milliseconds=20_000)
    assert "You are offline" in visitor.text
    line.change(bytes_per_second=0)
    line.mend()
    visitor.page.context.set_offline(False)
    visitor.wait_for("done", milliseconds=90_000)
    assert received(server, drop_id) == {file.name: sha256_of(file)}


def test_page_closed_in_the_middle_goes_on_where_it_was(
    server: ServerProcess, line: BadLink, visitor: Visitor, file: Path
) -> None:
    """The same file, chosen again in the same browser, goes on from what is stored and becomes no second upload."""
    link, drop_id = _sending(visitor, line, server, file)
    visitor.page.close()
    (row,) = server.cli_json("upload", "list", "--drop", drop_id)
    assert 0 < row["offset"] < SIZE_BYTES
    line.change(bytes_per_second=0)
    again = visitor.another_page()
    _send(again, link, file)
    again.wait_for("done", milliseconds=90_000)
    assert again.complaints == []
    assert received(server, drop_id) == {file.name: sha256_of(file)}
    assert [each["id"] for each in server.cli_json("upload", "list", "--drop", drop_id)] == [row["id"]]


def test_file_that_changed_meanwhile_does_not_go_on_from_the_old_one(
    server: ServerProcess, line: BadLink, visitor: Visitor, file: Path
) -> None:
    """Two contents are never mixed: the changed file is another upload, and arrives as it is now."""
    link, drop_id = _sending(visitor, line, server, file)
    visitor.page.close()
    file_of(file, SIZE_BYTES, seed=2)
    line.change(bytes_per_second=0)
    again = visitor.another_page()
    _send(again, link, file)
    again.wait_for("done", milliseconds=90_000)
    assert received(server, drop_id) == {file.name: sha256_of(file)}


def test_second_tab_does_not_send_what_the_first_one_sends(
    server: ServerProcess, line: BadLink, visitor: Visitor, file: Path
) -> None:
    """It says that another tab does, and the server gets the file once."""
    link, drop_id = _sending(visitor, line, server, file)
    other = visitor.another_page()
    _send(other, link, file)
    expect(other.page.locator("main")).to_contain_text("another tab", timeout=30_000)
    line.change(bytes_per_second=0)
    visitor.wait_for("done", milliseconds=90_000)
    assert received(server, drop_id) == {file.name: sha256_of(file)}
    assert len(server.cli_json("upload", "list", "--drop", drop_id)) == 1
    assert other.complaints == []


def test_proxy_that_swallows_the_file_is_not_believed(server: ServerProcess, visitor: Visitor, file: Path) -> None:
    """What left the browser is on its way; stored is what the server says."""
    with BadLink(server.port, bytes_per_second=SLOW, swallows=True) as line:
        _, drop_id = _sending(visitor, line, server, file)
        expect(visitor.page.locator(".key")).to_contain_text(" MB on its way")
        assert visitor.stored_percent() < 90
        assert visitor.state == "sending"
        line.change(bytes_per_second=0)
        visitor.wait_for("done", milliseconds=90_000)
    assert received(server, drop_id) == {file.name: sha256_of(file)}


def test_drop_closed_while_sending_is_said(server: ServerProcess, line: BadLink, visitor: Visitor, file: Path) -> None:
    """`drop close --now` ends what runs, and the page says so instead of trying for ever."""
    _, drop_id = _sending(visitor, line, server, file)
    server.cli("drop", "close", drop_id, "--now")
    visitor.wait_for("closed", milliseconds=60_000)
    assert "Nothing new was sent" in visitor.text
    assert received(server, drop_id) == {}
