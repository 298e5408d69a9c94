"""Every state of the page, as people see it: no axe finding under the strict policy, and a screenshot of each."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.site import STATES, StatesSite, open_page, show
from tests.browser.visitor import SCREENS

_ROOT = Path(__file__).resolve().parents[2]
_AXE = _ROOT / "server" / "web" / "page" / "node_modules" / "axe-core" / "axe.min.js"

_LOOKS = [("desktop", "light"), ("desktop", "dark"), ("phone", "light"), ("phone", "dark")]
_CHECKED = {("desktop", "dark"), ("phone", "light")}
"""These two have both schemes and both layouts; axe takes a second for each."""


@pytest.fixture(scope="module")
def looks(chromium: Browser) -> Iterator[dict[tuple[str, str], Page]]:
    """Open a page for each look, for all states."""
    pages = {look: open_page(chromium, phone=look[0] == "phone", dark=look[1] == "dark") for look in _LOOKS}
    yield pages
    for page in pages.values():
        page.context.close()


def _violations(page: Page) -> list[str]:
    page.evaluate(_AXE.read_text(encoding="utf-8") + "; 0")
    found = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{violation['id']}: {node['html'][:200]} {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("state", STATES)
def test_state_in_each_look_has_no_finding(looks: dict[tuple[str, str], Page], states: StatesSite, state: str) -> None:
    """Each state: nothing refused by the policy, no axe finding, nothing wider than the window."""
    SCREENS.mkdir(parents=True, exist_ok=True)
    for (device, scheme), page in looks.items():
        assert show(page, states.url(state)) == []
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        _picture(page, SCREENS / f"{state}-{device}-{scheme}.png")
        if (device, scheme) in _CHECKED:
            assert _violations(page) == []


def _picture(page: Page, path: Path) -> None:
    """Keep a picture of the whole page, in a window as high: beyond the window Chromium forgets that it is a phone."""
    window = page.viewport_size
    assert window is not None
    height = page.evaluate("() => document.documentElement.scrollHeight")
    page.set_viewport_size({"width": window["width"], "height": height})
    page.screenshot(path=path)
    page.set_viewport_size(window)
