"""A person at the upload page: Debian's Chromium before a real server, heeding all that the browser complains of."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, expect

_WAIT_MS = 30_000
_UNREACHED = re.compile(r"Failed to load resource: (net::ERR_|the server responded with a status of)")
"""Chromium's words on every answer that is no success, even one that a test provokes."""


class Visitor:
    """Drives the page as a person does, by what is to be seen on it."""

    def __init__(self, context: BrowserContext) -> None:
        """Open an empty page in a profile."""
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"{error} {error.stack or ''}"))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def _hear(self, message: Any) -> None:  # noqa: ANN401 - Playwright names no type of it
        if message.type in {"error", "warning"} and not _UNREACHED.match(message.text):
            self.complaints.append(message.text)

    def open(self, link: str) -> None:
        """Follow a link, and wait for what it shows."""
        self.page.goto(link)
        self.page.wait_for_selector("main[data-state]")

    def wait_for(self, state: str, part: str | None = None, *, milliseconds: int = _WAIT_MS) -> None:
        """Wait until the page is in a state."""
        selector = f"main[data-state={state}]" + (f"[data-part={part}]" if part else "")
        self.page.wait_for_selector(selector, timeout=milliseconds)

    @property
    def state(self) -> str:
        """The state that the page is in."""
        return self.page.get_attribute("main", "data-state") or ""

    def enter_code(self, code: str) -> None:
        """Type the code and confirm it."""
        self.page.fill("input", code)
        self.page.keyboard.press("Enter")

    def choose(self, files: Sequence[Path | str] | Path) -> None:
        """Go from what this is to the review of some files, or of one folder."""
        self.wait_for_any("about", "choose")
        if self.state == "about":
            self.press()
        self.wait_for("choose")
        folder = isinstance(files, Path) and files.is_dir()
        field = "input[type=file][webkitdirectory]" if folder else "input[type=file]:not([webkitdirectory])"
        chosen = [str(files)] if isinstance(files, Path) else [str(each) for each in files]
        self.page.set_input_files(field, chosen)
        expect(self.page.locator("button.main")).to_be_visible()

    def wait_for_any(self, *states: str) -> None:
        """Wait until the page is in one of these states."""
        self.page.wait_for_selector(", ".join(f"main[data-state={state}]" for state in states), timeout=_WAIT_MS)

    def press(self) -> None:
        """Press the one main button."""
        self.page.locator("button.main").click()

    def send(self, files: Sequence[Path | str] | Path) -> None:
        """Choose, review and send."""
        self.choose(files)
        self.press()
        self.wait_for("choose", "review")
        self.press()

    @property
    def text(self) -> str:
        """All that is to be read."""
        return self.page.inner_text("main")

    def stored_bytes(self) -> int:
        """Return how much of what is sent is stored, as the bar tells it."""
        return round(float(self.page.get_attribute("[role=progressbar]", "aria-valuenow") or 0))


@contextlib.contextmanager
def visiting(browser: Browser, **options: Any) -> Iterator[Visitor]:  # noqa: ANN401 - the context's own options
    """Visit with an empty profile; at the end the browser must have had nothing against the page, nor called others."""
    context = browser.new_context(locale="en-GB", reduced_motion="reduce", ignore_https_errors=True, **options)
    try:
        visitor = Visitor(context)
        yield visitor
        assert visitor.complaints == []
        assert len(visitor.hosts) <= 1, f"others were called: {visitor.hosts}"
    finally:
        context.close()
