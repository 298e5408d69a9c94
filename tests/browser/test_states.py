"""Every state of the page, as people see it: no axe finding under the strict policy, and a screenshot of each."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.site import StatesSite

_ROOT = Path(__file__).resolve().parents[2]
_AXE = _ROOT / "server" / "web" / "page" / "node_modules" / "axe-core" / "axe.min.js"
_SCREENS = _ROOT / "build" / "screens"

_NOW = "2026-11-30T16:50:00+01:00"
_STATES = [
    "01-code", "02-code-wrong", "03-code-throttled", "04-about", "05-about-sealed", "06-choose", "07-choose-files",
    "08-choose-folder", "09-review", "10-sending", "11-paused", "12-offline", "13-busy", "14-sending-failed",
    "15-sending-all", "16-checking", "17-done", "18-come-back", "19-closed", "20-expired", "21-unreadable",
    "22-brand-example", "23-too-many", "24-not-open", "25-failed-many", "26-matched", "27-no-answer",
]  # fmt: skip
_LOOKS = [("desktop", "light"), ("desktop", "dark"), ("phone", "light"), ("phone", "dark")]
_CHECKED = {("desktop", "dark"), ("phone", "light")}
"""These two have both schemes and both layouts; axe takes a second for each."""


def _page(browser: Browser, device: str, scheme: str, locale: str = "en-GB") -> Page:
    """Open an empty page of that size and colour."""
    phone = device == "phone"
    context = browser.new_context(
        viewport={"width": 390, "height": 844} if phone else {"width": 1280, "height": 800},
        is_mobile=phone,
        has_touch=phone,
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
        locale=locale,
        timezone_id="Europe/Amsterdam",
    )
    page = context.new_page()
    page.clock.set_fixed_time(_NOW)
    return page


@pytest.fixture(scope="module")
def looks(chromium: Browser) -> Iterator[dict[tuple[str, str], Page]]:
    """Open a page for each look, for all states."""
    pages = {look: _page(chromium, *look) for look in _LOOKS}
    yield pages
    for page in pages.values():
        page.context.close()


def _show(page: Page, states: StatesSite, state: str) -> list[str]:
    """Show a state and return what the console said against it."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(states.url(state))
    page.wait_for_selector("main[data-state]")
    return said


def _violations(page: Page) -> list[str]:
    page.evaluate(_AXE.read_text(encoding="utf-8") + "; 0")
    found = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{violation['id']}: {node['html'][:200]} {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("state", _STATES)
def test_state(looks: dict[tuple[str, str], Page], states: StatesSite, state: str) -> None:
    """Each state: nothing refused by the policy, no axe finding, nothing wider than the window."""
    _SCREENS.mkdir(parents=True, exist_ok=True)
    for (device, scheme), page in looks.items():
        assert _show(page, states, state) == []
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(path=_SCREENS / f"{state}-{device}-{scheme}.png", full_page=True)
        if (device, scheme) in _CHECKED:
            assert _violations(page) == []
