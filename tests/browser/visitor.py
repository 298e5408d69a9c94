"""A person at the upload page: Debian's Chromium before a real server, heeding all that the browser complains of."""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, FilePayload, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from tests.support.server_process import ServerProcess

SCREENS = Path(__file__).resolve().parents[2] / "build" / "screens"
"""Where pictures are kept to be looked at."""
_WAIT_MS = 30_000
_MOST_TABS = 40
_UNREACHED = re.compile(r"Failed to load resource: (net::ERR_|the server responded with a status of)")
"""Chromium's words on every answer that is no success, even one that a test provokes."""


class Visitor:
    """Drives the page as a person does, by what is to be seen on it."""

    def __init__(self, context: BrowserContext) -> None:
        """Open an empty page in a profile."""
        self._context = context
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        # So that the browser is told in time to open no window: to be told when a test waits for it may be too late.
        self.page.on("filechooser", lambda _: None)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"{error} {error.stack or ''}"))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def _hear(self, message: Any) -> None:  # noqa: ANN401 - Playwright names no type of it
        if message.type in {"error", "warning"} and not _UNREACHED.match(message.text):
            self.complaints.append(message.text)

    def another_page(self) -> "Visitor":
        """Open one more page in the same profile."""
        return Visitor(self._context)

    def open(self, link: str) -> None:
        """Follow a link, and wait for what it shows."""
        self.page.goto(link)
        self.page.wait_for_selector("main[data-state]")

    def wait_for(self, state: str, part: str | None = None, *, milliseconds: int = _WAIT_MS) -> None:
        """Wait until the page is in a state."""
        selector = f"main[data-state={state}]" + (f"[data-part={part}]" if part else "")
        try:
            self.page.wait_for_selector(selector, timeout=milliseconds)
        except PlaywrightTimeoutError as error:
            message = f"the page did not get to {state} {part or ''}; it is {self.state}, and says:\n{self.text}"
            raise AssertionError(message) from error

    @property
    def state(self) -> str:
        """The state that the page is in."""
        return self.page.get_attribute("main", "data-state") or ""

    def enter_code(self, code: str) -> None:
        """Type the code and confirm it."""
        self.page.fill("input", code)
        self.page.keyboard.press("Enter")

    def offer(self, files: Sequence[Path | str | FilePayload] | Path) -> None:
        """Go from what this is to choosing, and choose some files, or one folder."""
        self.wait_for_any("about", "choose")
        if self.state == "about":
            self.press()
        self.wait_for("choose")
        folder = isinstance(files, Path) and files.is_dir()
        field = "input[type=file][webkitdirectory]" if folder else "input[type=file]:not([webkitdirectory])"
        if isinstance(files, Path):
            self.page.set_input_files(field, files)
        elif all(isinstance(each, dict) for each in files):
            self.page.set_input_files(field, cast("Sequence[FilePayload]", files))
        else:
            self.page.set_input_files(field, [str(each) for each in files])

    def choose(self, files: Sequence[Path | str | FilePayload] | Path) -> None:
        """Choose what can be sent, and see that the page goes on."""
        self.offer(files)
        # Until something is listed, the main button is that which chooses.
        expect(self.page.locator("#chosen ~ .acts button.main")).to_be_visible()

    def wait_for_any(self, *states: str) -> None:
        """Wait until the page is in one of these states."""
        self.page.wait_for_selector(", ".join(f"main[data-state={state}]" for state in states), timeout=_WAIT_MS)

    def press(self) -> None:
        """Press the one main button."""
        self.page.locator("button.main").click()

    def send(self, files: Sequence[Path | str | FilePayload] | Path) -> None:
        """Choose, review and send."""
        self.choose(files)
        self.press()
        self.wait_for("choose", "review")
        self.press()

    def tab_to(self, name: str) -> None:
        """Press Tab until the focus is on a button or a field of this name, as who has no mouse does."""
        wanted = self.page.locator("button, input, textarea, a, summary").and_(
            self.page.get_by_role("button", name=name).or_(self.page.get_by_label(name))
        )
        expect(wanted.first).to_be_visible()
        for _ in range(_MOST_TABS):
            self.page.keyboard.press("Tab")
            if wanted.first.evaluate("(element) => element === document.activeElement"):
                return
        message = f"Tab does not lead to {name}"
        raise AssertionError(message)

    @property
    def text(self) -> str:
        """All that is to be read."""
        return self.page.inner_text("main")

    def stored_percent(self) -> int:
        """Return how much of what is sent is stored, as the bar tells it."""
        return int(self.page.get_attribute("[role=progressbar]", "aria-valuenow") or 0)

    def wait_for_some_stored(self) -> None:
        """Wait until the page tells that some of it is stored, while it is still sending."""
        self.page.wait_for_selector("[role=progressbar]:not([aria-valuenow='0'])", timeout=_WAIT_MS)


@contextlib.contextmanager
def visiting(browser: Browser, *, hosts: int = 1, **options: Any) -> Iterator[Visitor]:  # noqa: ANN401 - the context's own options
    """Visit with an empty profile; at the end the browser must have had nothing against it, nor called more hosts."""
    context = browser.new_context(locale="en-GB", reduced_motion="reduce", ignore_https_errors=True, **options)
    try:
        visitor = Visitor(context)
        yield visitor
        assert visitor.complaints == []
        assert len(visitor.hosts) <= hosts, f"others were called: {visitor.hosts}"
    finally:
        context.close()


def link_to(server: ServerProcess, *options: str) -> tuple[str, str]:
    """Make a drop-off; return the link with its code, and its id."""
    drop = server.create_drop(*options, name="Second opinion")
    return f"{drop.page_url}#{drop.code}", drop.id


def received(server: ServerProcess, drop_id: str) -> dict[str, str]:
    """Return the name and the SHA-256 of each complete upload of a drop-off."""
    rows = server.cli_json("upload", "list", "--drop", drop_id)
    return {row["filename"]: row["sha256"] for row in rows if row["state"] == "complete"}


def file_of(path: Path, size_bytes: int, *, seed: int = 1) -> Path:
    """Write a file whose blocks differ, and return its path."""
    with path.open("wb") as file:
        for number in range(-(-size_bytes // 65536)):
            block = hashlib.sha256(f"{seed} {number}".encode()).digest() * 2048
            file.write(block[: size_bytes - file.tell()])
    return path


def sha256_of(path: Path) -> str:
    """Return a file's digest in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
