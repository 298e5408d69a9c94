"""Debian's Chromium, and the page with a stand-in for its engine."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.site import StatesSite
from tests.support.programs import missing_allowed, require_program

expect.set_options(timeout=30_000)  # a busy machine may stall for long


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Start the browser that is installed; none is ever fetched."""
    program = require_program("chromium")
    with sync_playwright() as playwright:
        # As root, as in CI, Chromium starts only without its sandbox.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def states() -> Iterator[StatesSite]:
    """Serve the page that shows any state, under the real page's headers."""
    if not StatesSite.BUILT.exists():
        message = "the page for tests is missing: make page-dev"
        if missing_allowed():
            pytest.skip(message)
        pytest.fail(message, pytrace=False)
    with StatesSite() as site:
        yield site
