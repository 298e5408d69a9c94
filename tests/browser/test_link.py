"""The page of a real server: the code of the link, and the shortest way through."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.site import open_page
from tests.support.server_process import ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, built: Path) -> Iterator[ServerProcess]:
    """Run a server with the page that was built."""
    assert built.exists()
    environment = {"PAGE__INSTITUTE": "Noorderhaven Institute for Genetics", "PAGE__EMAIL": "data@noorderhaven.example"}
    with ServerProcess(tmp_path_factory.mktemp("server"), environment=environment) as running:
        yield running


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """Open a page of an ordinary screen."""
    opened = open_page(chromium, fixed_time=False)
    yield opened
    opened.context.close()


def test_code_of_link_leaves_the_address_bar_each_time_it_is_opened(page: Page, server: ServerProcess) -> None:
    """The fragment goes at once, also where the same tab opens the link again; a wrong one leads to the field."""
    link = f"{server.drop.page_url}#{server.drop.code}"
    page.goto(f"{server.drop.page_url}#AAAA-BBBB-CCCC-DDDD")
    expect(page.get_by_role("alert")).to_contain_text("The code or the link is not right.")
    assert page.url == server.drop.page_url
    page.goto(link)
    expect(page.locator("main")).to_have_attribute("data-state", "about")
    assert page.url == server.drop.page_url
    page.goto(link)
    expect(page).to_have_url(server.drop.page_url)


def test_file_goes_the_whole_way_to_its_receipt(page: Page, server: ServerProcess, tmp_path: Path) -> None:
    """From the link to the receipt with three presses, under the server's own policy."""
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text) if message.type == "error" else None)
    page.goto(f"{server.drop.page_url}#{server.drop.code}")
    page.get_by_role("button", name="Start").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose files").click()
    chooser.value.set_files({"name": "scan.txt", "mimeType": "text/plain", "buffer": b"a scan"})
    page.get_by_role("button", name="Continue with 1 file").click()
    page.get_by_role("button", name="Send 1 file").click()
    expect(page.locator("h1")).to_have_text("Everything has arrived")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the receipt").click()
    kept = tmp_path / "receipt.txt"
    download.value.save_as(kept)
    assert '"path":"scan.txt"' in kept.read_text(encoding="utf-8")
    assert refused == []
