"""The whole way through the upload page, before a real server."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.visitor import Visitor, file_of, link_to, received, sha256_of
from tests.support.nginx import Proxy
from tests.support.server_process import ServerProcess, run_warm

pytestmark = pytest.mark.timeout(120)
MIB = 1 << 20


def test_page_is_shown_with_little_work(server: ServerProcess, visitor: Visitor) -> None:
    """So little that it is usable within a second on a processor a quarter as fast, however busy this one is."""
    session = visitor.page.context.new_cdp_session(visitor.page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    visitor.open(str(server.drop.page_url))
    metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    assert 0 < metrics["TaskDuration"] < 1 / 4


def test_code_of_link_leaves_the_address_bar_each_time_it_is_opened(server: ServerProcess, visitor: Visitor) -> None:
    """The fragment goes at once, also where the same tab opens the link again; a wrong one leads to the field."""
    address = server.drop.page_url
    page = visitor.page
    visitor.open(f"{address}#AAAA-BBBB-CCCC-DDDD")
    expect(page.get_by_role("alert")).to_contain_text("The code or the link is not right.")
    assert page.url == address
    for _ in range(2):
        page.goto(f"{address}#{server.drop.code}")
        visitor.wait_for("about")
        expect(page).to_have_url(address)


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


def test_keyboard_alone_leads_through_the_whole_way(server: ServerProcess, visitor: Visitor, tmp_path: Path) -> None:
    """Each step has its heading in focus, and all that is to be done is reached by Tab and done by Enter or Space."""
    drop = server.create_drop(name="Second opinion")
    files = [file_of(tmp_path / "scan.bin", MIB), file_of(tmp_path / "letter.txt", 100, seed=2)]
    page, keyboard = visitor.page, visitor.page.keyboard
    visitor.open(drop.page_url)
    visitor.tab_to("Code")
    keyboard.type(str(drop.code).lower())
    keyboard.press("Enter")
    visitor.wait_for("about")
    expect(page.locator("h1")).to_be_focused()
    visitor.tab_to("Start")
    keyboard.press("Enter")
    visitor.wait_for("choose")
    expect(page.locator("h1")).to_be_focused()
    visitor.tab_to("Choose files")
    with page.expect_file_chooser() as choosing:
        keyboard.press("Enter")
    choosing.value.set_files([*files, _unwanted(tmp_path)])
    visitor.tab_to("Remove unwanted.txt")
    keyboard.press("Space")
    expect(page.get_by_role("button", name="Remove unwanted.txt")).to_have_count(0)
    visitor.tab_to("Continue with 2 files")
    keyboard.press("Enter")
    visitor.wait_for("choose", "review")
    expect(page.locator("h1")).to_be_focused()
    visitor.tab_to("Your name")
    keyboard.type("Jane van Dam")
    visitor.tab_to("A message to the team")
    keyboard.type("As we said on the phone.")
    visitor.tab_to("Send 2 files")
    keyboard.press("Enter")
    visitor.wait_for("done")
    expect(page.locator("h1")).to_be_focused()
    visitor.tab_to("Download the receipt")
    with page.expect_download() as downloading:
        keyboard.press("Enter")
    assert downloading.value.suggested_filename.startswith("receipt")
    assert received(server, drop.id) == {path.name: sha256_of(path) for path in files}
    for row in server.uploads(drop):
        shown = server.cli_json("upload", "show", row["id"])
        assert (shown["sender"], shown["message"]) == ("Jane van Dam", "As we said on the phone.")


def _unwanted(folder: Path) -> Path:
    return file_of(folder / "unwanted.txt", 5)


def test_return_shows_what_arrived_without_names(server: ServerProcess, visitor: Visitor, tmp_path: Path) -> None:
    """The same browser is told later what it sent, and gets its receipt again."""
    link, _ = link_to(server)
    visitor.open(link)
    visitor.send([file_of(tmp_path / "scan.bin", MIB)])
    visitor.wait_for("done")
    again = visitor.another_page()
    again.open(link)
    again.wait_for("about")
    expect(again.page.locator("main")).to_contain_text("From this browser: 1 file, 1 MB, complete")
    assert "scan.bin" not in again.text
    assert again.complaints == []


def test_whole_way_through_the_shipped_nginx_is_one_connection_of_http2(
    server: ServerProcess, visitor: Visitor, tmp_path: Path
) -> None:
    """A folder and a file of several blocks, over TLS."""
    drop = server.create_drop(name="Second opinion")
    folder = tmp_path / "study"
    folder.mkdir()
    files = [file_of(folder / f"{number}.bin", 1000, seed=number) for number in range(40)]
    files.append(file_of(folder / "large.bin", 9 * MIB + 5))
    prefix = tmp_path / "nginx"
    prefix.mkdir()
    proxy = Proxy(prefix, server)
    with proxy.running():
        visitor.open(f"{proxy.origin}/d/{drop.id}#{drop.code}")
        visitor.send(folder)
        visitor.wait_for("done", milliseconds=60_000)
        protocols = visitor.page.evaluate("performance.getEntriesByType('resource').map(each => each.nextHopProtocol)")
        visitor.page.close()
    assert set(protocols) == {"h2"}
    assert received(server, drop.id) == {path.name: sha256_of(path) for path in files}
    assert str(drop.code) not in proxy.logs
