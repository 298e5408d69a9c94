"""Debian's Chromium, a real server, and the page with a stand-in for its engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.site import StatesSite
from tests.browser.visitor import Visitor, visiting
from tests.support.programs import BUILT_PAGE, missing_allowed, require_program
from tests.support.server_process import ServerProcess

expect.set_options(timeout=30_000)  # a busy machine may stall for long


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Start the browser that is installed; none is ever fetched.

    No longer than for one file: meanwhile Playwright runs an event loop in this thread, and no other one can.
    """
    program = require_program("chromium")
    with sync_playwright() as playwright:
        # As root, as in CI, Chromium starts only without its sandbox.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def _made(page: Path, target: str) -> Path:
    """Return where a page was built, or fail; skip under ALLOW_MISSING=1."""
    if not page.exists():
        message = f"{page.name} was not built: make {target}"
        if missing_allowed():
            pytest.skip(message)
        pytest.fail(message, pytrace=False)
    return page.parent


@pytest.fixture(scope="session")
def built() -> Path:
    """Return the folder with the page that is shipped."""
    return _made(Path(__file__).resolve().parents[2] / "server" / "web" / "built" / "index.html", "page")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run one server, with the real page, for all tests that do it no harm."""
    require_program(BUILT_PAGE)
    with ServerProcess(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Visitor]:
    """Visit with an empty profile."""
    with visiting(chromium) as made:
        yield made


@pytest.fixture(scope="session")
def states() -> Iterator[StatesSite]:
    """Serve the page that shows any state, under the real page's headers."""
    _made(StatesSite.BUILT, "page-dev")
    with StatesSite() as site:
        yield site
