"""Where the server takes nothing, or not this: the page says why and what to do, and nothing is sent."""

import re
import uuid
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.visitor import Visitor, file_of, link_to, visiting
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(120)
MIB = 1 << 20


def _says(visitor: Visitor, text: str) -> None:
    expect(visitor.page.locator("main")).to_contain_text(text)


def test_wrong_code_and_unknown_link_get_one_answer_and_the_right_code_goes_on(
    server: ServerProcess, visitor: Visitor
) -> None:
    """Nothing tells whether there is such a drop-off."""
    drop = server.create_drop("--contact", "data@clinic.example")
    said = []
    for page_url in (drop.page_url, drop.page_url.replace(drop.id, str(uuid.uuid4()))):
        visitor.open(page_url)
        visitor.wait_for("code")
        visitor.enter_code("7K3Q-M9TX-2VBD-H5RR")
        expect(visitor.page.get_by_role("alert")).to_contain_text("The code or the link is not right")
        said.append(visitor.text)
    assert said[0] == said[1]
    assert "data@clinic.example" not in said[0]
    visitor.open(drop.page_url)
    visitor.enter_code("7K3Q-M9TX-2VBD-H5RR")
    expect(visitor.page.get_by_role("alert")).to_be_visible()
    visitor.enter_code((drop.code or "").lower().replace("-", " "))
    visitor.wait_for("about")


def test_too_many_wrong_codes_are_told_with_the_time_to_wait(chromium: Browser, tmp_path: Path) -> None:
    """A person waits; the right code is let in meanwhile."""
    with (
        ServerProcess(tmp_path, environment={"LIMITS__WRONG_CODES_PER_HOUR": "2"}) as server,
        visiting(chromium) as visitor,
    ):
        visitor.open(server.drop.page_url)
        alert = visitor.page.get_by_role("alert")
        for _ in range(2):
            with visitor.page.expect_response(f"{server.drop.page_url}/info"):
                visitor.enter_code("7K3Q-M9TX-2VBD-H5RR")
            expect(alert).to_contain_text("The code or the link is not right")
        visitor.enter_code("0000-0000-0000-0000")
        expect(alert).to_contain_text(re.compile(r"Too many wrong codes\s*Try again in \d+ minutes"))
        expect(visitor.page.get_by_label("Code")).to_have_count(0)
        visitor.open(f"{server.drop.page_url}#{server.drop.code}")
        visitor.wait_for("about")


def test_closed_drop_off_says_so_and_whom_to_ask(server: ServerProcess, visitor: Visitor) -> None:
    """Before anything is chosen."""
    link, drop_id = link_to(server, "--contact", "data@clinic.example")
    server.cli("drop", "close", drop_id)
    visitor.open(link)
    visitor.wait_for("closed")
    _says(visitor, "This drop‑off was closed")
    _says(visitor, "Nothing new was sent. Ask data@clinic.example to reopen it.")


def test_drop_off_that_closes_while_files_are_chosen_sends_nothing(
    server: ServerProcess, visitor: Visitor, tmp_path: Path
) -> None:
    """The server is asked once more before the first byte."""
    link, drop_id = link_to(server)
    visitor.open(link)
    visitor.choose([file_of(tmp_path / "scan.zip", 1000)])
    visitor.press()
    visitor.wait_for("choose", "review")
    server.cli("drop", "close", drop_id)
    visitor.press()
    visitor.wait_for("closed")
    _says(visitor, "Nothing new was sent.")
    assert server.cli_json("upload", "list", "--drop", drop_id) == []


def test_more_than_there_is_room_for_cannot_be_sent_until_some_is_removed(
    server: ServerProcess, visitor: Visitor, tmp_path: Path
) -> None:
    """The page tells how much is too much, and which way out there is."""
    link, drop_id = link_to(server, "--max-total-bytes", "3MB", "--contact", "data@clinic.example")
    visitor.open(link)
    visitor.offer([file_of(tmp_path / "large.bin", 2_500_000), file_of(tmp_path / "more.bin", 1_500_000)])
    _says(visitor, "There is room for 3 MB. Remove files of 1 MB, or ask data@clinic.example.")
    expect(visitor.page.locator("button.main")).to_have_count(0)
    visitor.page.get_by_role("button", name="Remove large.bin").click()
    visitor.press()
    visitor.wait_for("choose", "review")
    visitor.press()
    visitor.wait_for("done")
    assert [row["filename"] for row in server.cli_json("upload", "list", "--drop", drop_id)] == ["more.bin"]


def test_drop_off_that_fills_up_meanwhile_says_how_much_room_is_left(
    server: ServerProcess, visitor: Visitor, tmp_path: Path
) -> None:
    """Another one sends between choosing and sending: the answer is the server's, and nothing is tried for ever."""
    drop = server.create_drop("--max-total-bytes", "3MB", "--contact", "data@clinic.example", name="Second opinion")
    visitor.open(f"{drop.page_url}#{drop.code}")
    visitor.choose([file_of(tmp_path / "scan.zip", 2_500_000)])
    visitor.press()
    visitor.wait_for("choose", "review")
    drop.site.upload(bytes(2_000_000))
    visitor.press()
    visitor.wait_for("failed")
    _says(visitor, "there is room for 1 MB.")
    _says(visitor, "Ask data@clinic.example.")
    assert len(server.cli_json("upload", "list", "--drop", drop.id)) == 1


def test_drop_off_that_takes_no_more_files_is_not_said_to_be_closed(
    server: ServerProcess, visitor: Visitor, tmp_path: Path
) -> None:
    """It is full, and not closed: asking to reopen it would lead nowhere."""
    drop = server.create_drop("--max-uploads", "1", "--contact", "data@clinic.example", name="Second opinion")
    visitor.open(f"{drop.page_url}#{drop.code}")
    visitor.choose([file_of(tmp_path / "scan.zip", 1000)])
    visitor.press()
    visitor.wait_for("choose", "review")
    drop.site.upload(b"x")
    visitor.press()
    visitor.wait_for("failed")
    _says(visitor, "The drop‑off takes no more files.")
    _says(visitor, "Ask data@clinic.example.")


def test_too_many_files_cannot_be_sent(server: ServerProcess, visitor: Visitor, tmp_path: Path) -> None:
    """The number has a limit too."""
    link, _ = link_to(server, "--max-uploads", "2")
    visitor.open(link)
    visitor.offer([file_of(tmp_path / f"{number}.bin", 10) for number in range(3)])
    _says(visitor, "There is room for 2 files. Remove 1 file, or ask")
    expect(visitor.page.locator("button.main")).to_have_count(0)


def test_file_that_is_too_large_is_left_out_and_the_rest_sent(
    server: ServerProcess, visitor: Visitor, tmp_path: Path
) -> None:
    """By name, with its size and the limit."""
    link, drop_id = link_to(server, "--max-upload-bytes", "1MB")
    visitor.open(link)
    visitor.choose([file_of(tmp_path / "scan.zip", 2_000_000), file_of(tmp_path / "small.bin", 1000)])
    _says(visitor, "scan.zip is 2 MB. Files must be smaller than 1 MB.")
    visitor.press()
    visitor.wait_for("choose", "review")
    visitor.press()
    visitor.wait_for("done")
    assert [row["filename"] for row in server.cli_json("upload", "list", "--drop", drop_id)] == ["small.bin"]


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (("--allow-name", "*.csv", "--allow-name", "*.vcf"), ".csv or .vcf files"),
        (("--allow-type", "text/csv"), "CSV files"),
    ],
)
def test_file_of_a_wrong_kind_is_left_out_and_the_right_ones_named(
    server: ServerProcess, visitor: Visitor, tmp_path: Path, options: tuple[str, ...], kinds: str
) -> None:
    """Whether the institute names endings or media types."""
    link, drop_id = link_to(server, *options)
    visitor.open(link)
    visitor.choose([file_of(tmp_path / "photo.heic", 1000), file_of(tmp_path / "table.csv", 1000)])
    _says(visitor, f"photo.heic cannot be sent here. Choose {kinds}.")
    visitor.press()
    visitor.wait_for("choose", "review")
    visitor.press()
    visitor.wait_for("done")
    assert [row["filename"] for row in server.cli_json("upload", "list", "--drop", drop_id)] == ["table.csv"]
