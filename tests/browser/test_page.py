"""How the page behaves for people: focus, words, keyboard, dropping, long lists, narrow windows, paper."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.site import STATES, StatesSite, open_page, show

_LANGUAGES = {"en": "Enter your code", "nl": "Vul uw code in", "de": "Geben Sie Ihren Code ein",
              "fr": "Saisissez votre code", "es": "Introduzca su código"}  # fmt: skip
_FRAME_MS = 100
_HOSTILE = '<img src=x onerror="window.hit=1">\u202egpj.exe'


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """Open a page of an ordinary screen."""
    opened = open_page(chromium)
    yield opened
    opened.context.close()


def _asked(page: Page) -> list[str]:
    """Return what the page asked of the engine."""
    asked: list[str] = page.evaluate("() => engine.asked")
    return asked


def _change(page: Page, change: dict[str, Any]) -> None:
    """Let the engine have a new snapshot."""
    page.evaluate("change => engine.set(change)", change)


def _focused(page: Page) -> str:
    """Return the tag and the text of what has the focus."""
    found: str = page.evaluate("() => document.activeElement.tagName + ' ' + document.activeElement.textContent.trim()")
    return found


def test_focus_follows_steps_and_never_progress(page: Page, states: StatesSite) -> None:
    """A new step moves the focus to its heading and changes the title; progress and pauses do neither."""
    show(page, states.url("09-review"))
    assert _focused(page).startswith("BODY")
    _change(page, {"state": "sending", "part": None})
    expect(page.locator("h1")).to_be_focused()
    assert page.title() == "46% – Sending 12 files – Noorderhaven Institute for Genetics"
    page.get_by_role("button", name="Pause all").focus()
    for stored in (5e9, 6e9):
        figures = {"total": 9e9, "stored": stored, "onItsWay": 0, "rate": 1e6, "secondsLeft": 60}
        _change(page, {"figures": figures})
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "66")
    expect(page.get_by_role("button", name="Pause all")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Go on sending")).to_be_focused()
    expect(page.get_by_role("status")).to_have_text("Paused.")
    assert page.title().startswith("Paused, 66%")
    page.keyboard.press("Space")
    assert _asked(page) == ["pause", "resume"]


def test_nothing_glides_while_sending(page: Page, states: StatesSite) -> None:
    """A bar that is painted sixty times a second takes the processor from sending, which was half as fast for it."""
    page.emulate_media(reduced_motion="no-preference")
    show(page, states.url("10-sending"))
    _change(page, {"figures": {"total": 9e9, "stored": 8e9, "onItsWay": 5e8, "rate": 1e6, "secondsLeft": 60}})
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "88")
    assert page.evaluate("document.getAnimations().length") == 0


def test_name_with_spaces_stays_as_typed(page: Page, states: StatesSite) -> None:
    """Text stays as typed, spaces too, whatever the engine makes of it."""
    show(page, states.url("09-review"))
    page.evaluate("() => { engine.setSender = name => engine.set({ sender: { name: name.trim(), message: '' } }); }")
    page.get_by_label("Your name").press_sequentially("Jane van Dam")
    expect(page.get_by_label("Your name")).to_have_value("Jane van Dam")


def test_code_of_link_while_it_is_checked_is_not_asked_for(page: Page, states: StatesSite) -> None:
    """While the link's code is being checked nobody is asked for a code, also where the server keeps them waiting."""
    show(page, states.url("29-code-waits"))
    expect(page.locator("h1")).to_have_text("One moment …")
    assert not page.title().startswith("Error")
    page.get_by_role("button", name="Try now").click()
    assert _asked(page) == ["tryNow"]
    _change(page, {"asking": False, "problem": {"kind": "denied"}})
    expect(page.get_by_label("Code")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_focused()


def test_code_when_wrong_has_focus_and_leads_to_field(page: Page, states: StatesSite) -> None:
    """An error has the focus, comes first in the title, and leads to the field, which keeps what was typed."""
    show(page, states.url("01-code"))
    page.get_by_label("Code").fill("7k3q m9tx 2vbd h5rr")
    page.keyboard.press("Enter")
    assert _asked(page) == ["enterCode 7k3q m9tx 2vbd h5rr"]
    _change(page, {"problem": {"kind": "denied"}})
    expect(page.get_by_role("alert")).to_be_focused()
    assert page.title().startswith("Error: ")
    page.get_by_role("alert").get_by_role("link", name="The code or the link is not right").press("Enter")
    field = page.get_by_label("Code")
    expect(field).to_be_focused()
    expect(field).to_have_value("7k3q m9tx 2vbd h5rr")
    expect(field).to_have_accessible_description(re.compile("Error: The code or the link is not right"))
    expect(field).to_have_attribute("autocorrect", "off")
    assert urlsplit(page.url).fragment == ""


@pytest.mark.parametrize(
    ("state", "button", "asked"),
    [
        ("04-about", "Start", "begin"),
        ("07-choose-files", "Continue with 3 files", "review"),
        ("09-review", "Send 12 files", "send"),
        ("09-review", "Change the files", "back"),
        ("13-busy", "Try now", "tryNow"),
        ("14-sending-failed", "Try all 3 again", "retryAll"),
        ("17-done", "choose more files", "startOver"),
        ("18-come-back", "Send other files instead", "forget"),
        ("20-expired", "Send scan.zip again", "retry"),
        ("21-unreadable", "Leave it out", "leaveOut"),
    ],
)
def test_button_by_keyboard_does_its_act(page: Page, states: StatesSite, state: str, button: str, asked: str) -> None:
    """Each act is reached with Tab and done with Enter."""
    show(page, states.url(state))
    wanted = page.get_by_role("button", name=button)
    for _ in range(40):
        page.keyboard.press("Tab")
        if wanted.evaluate("button => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    assert _asked(page)[-1].split()[0] == asked


def test_choosing_by_button_opens_window_of_browser(page: Page, states: StatesSite) -> None:
    """The buttons open the browser's own window for files and for folders, and the same file can be chosen twice."""
    show(page, states.url("06-choose"))
    for _ in range(2):
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Choose files").click()
        assert chooser.value.is_multiple()
        chooser.value.set_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"a"})
    assert _asked(page) == ["choose a.txt", "choose a.txt"]
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a folder").click()
    assert chooser.value.element.evaluate("input => input.webkitdirectory")


def test_drop_anywhere_is_taken_only_while_choosing(page: Page, states: StatesSite) -> None:
    """Files may be dropped anywhere while choosing; elsewhere a drop does nothing, above all not leave the page."""
    show(page, states.url("06-choose"))
    drop = """name => {
        const data = new DataTransfer();
        data.items.add(new File(["a"], "a.txt"));
        const options = { dataTransfer: data, bubbles: true, cancelable: true };
        return document.querySelector("header").dispatchEvent(new DragEvent(name, options));
    }"""
    page.evaluate(drop, "dragenter")
    expect(page.locator(".zone")).to_have_class("zone big over")
    assert page.evaluate(drop, "dragover") is False  # taken, so the browser does not open the file
    assert page.evaluate(drop, "drop") is False
    expect(page.locator(".zone")).not_to_have_class("zone big over")
    assert _asked(page) == ["choose drop"]
    show(page, states.url("10-sending"))
    assert page.evaluate(drop, "drop") is False
    assert _asked(page) == []


def test_removing_a_file_keeps_a_place_for_the_focus(page: Page, states: StatesSite) -> None:
    """After a file is taken out the focus is on the next one's button, in the end on a heading, and it is said."""
    show(page, states.url("07-choose-files"))
    page.get_by_role("button", name="Remove scan.zip").press("Enter")
    expect(page.get_by_role("status")).to_have_text("scan.zip was removed.")
    assert _focused(page).startswith("BUTTON Remove سجل")
    page.keyboard.press("Enter")
    assert _focused(page).startswith("BUTTON Remove 2026-11-03")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()


def test_buttons_that_cannot_work_yet_are_left_out(page: Page, states: StatesSite) -> None:
    """While a folder is read, the files that are there already can neither be sent nor taken out."""
    show(page, states.url("07-choose-files"))
    buttons = page.get_by_role("button", name=re.compile("^(Continue with|Remove) "))
    expect(buttons.first).to_be_visible()
    _change(page, {"asking": True, "reading": 3000})
    expect(page.get_by_text("Looking through the folder: 3,000 files")).to_be_visible()
    expect(buttons).to_have_count(0)
    _change(page, {"asking": False, "reading": None})
    expect(buttons.first).to_be_visible()


def test_files_of_another_tab_are_no_failure(page: Page, states: StatesSite) -> None:
    """A file that another tab sends is said to be there, and neither counted as failed nor to be sent again."""
    show(page, states.url("31-other-tab"))
    assert page.title().startswith("9 files are being sent in another tab")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_role("button", name="again")).to_have_count(0)
    _change(page, {"state": "sending", "part": None})
    expect(page.get_by_role("heading", level=2)).to_have_text("Files: 3 stored, 9 in another tab")
    expect(page.get_by_text("Failed.")).to_have_count(0)


def test_name_that_is_markup_is_shown_as_text(page: Page, states: StatesSite) -> None:
    """A name that is markup or turns the direction is shown as it is, kept apart from what stands around it."""
    show(page, states.url("07-choose-files"))
    page.evaluate(
        """name => {
            const row = { ...engine.all[0], name };
            engine.set({ skipped: { files: 1, emptyFolders: 0, unreadable: 0, twice: 0, cleaned: 1 },
              leftOut: [{ ...row, problem: { kind: "type", types: [name], names: [] } }], cleanedPaths: [name] },
              [row]);
        }""",
        _HOSTILE,
    )
    expect(page.locator(".rows bdi").first).to_have_text(_HOSTILE)
    page.locator("summary").click()
    assert page.locator("img:not(.inst img)").count() == 0
    assert page.evaluate("() => window.hit") is None


def test_twenty_thousand_files_cost_less_than_a_frame(page: Page, states: StatesSite) -> None:
    """No snapshot, filter or turn of the list of 20,000 files costs the processor as much as a frame may take."""
    show(page, states.url("15-sending-all"))
    page.evaluate("() => { const rows = many(20000, 9000, true); engine.set({ counts: countsOf(rows, 1) }, rows); }")
    expect(page.get_by_role("button", name="All 20,000")).to_be_visible()
    assert page.locator("li:visible").count() < 120
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent_ms() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return 1000 * next(float(metric["value"]) for metric in metrics if metric["name"] == "TaskDuration")

    costs = []
    for turn in range(8):
        before = spent_ms()
        page.evaluate(
            """async turn => {
                const stored = 21.4e9 + turn * 1e9;
                engine.set({ figures: { ...engine.snap.figures, stored } });
                if (turn % 2) document.querySelector("nav button:nth-child(2)").click();
                await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
            }""",
            turn,
        )
        costs.append(spent_ms() - before)
    assert max(costs) < _FRAME_MS, costs
    page.get_by_role("button", name="Failed 3").click()
    expect(page.locator(".rows li")).to_have_count(3)


def test_list_of_many_comes_in_pages(page: Page, states: StatesSite) -> None:
    """The next hundred come with the focus on their list, which says which they are; the filter starts again."""
    show(page, states.url("14-sending-failed"))
    expect(page.locator(".rows li")).to_have_count(100)
    page.get_by_role("button", name="Next 100").click()
    expect(page.get_by_role("list", name="Files 101 to 200 of 1,204")).to_be_focused()
    page.get_by_role("button", name="Failed 3").click()
    expect(page.get_by_role("list", name="Files 1 to 3 of 3").get_by_role("listitem")).to_have_count(3)
    expect(page.get_by_role("button", name="Next 100")).to_have_count(0)


@pytest.mark.parametrize("language", _LANGUAGES)
def test_language_of_person_is_loaded_alone_and_fits(chromium: Browser, states: StatesSite, language: str) -> None:
    """The person's language is taken, only its words are loaded, and it fits into a narrow window in each state."""
    page = open_page(chromium, locale=language, width=320)
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    errors = show(page, states.url("01-code"))
    expect(page.locator("h1")).to_have_text(_LANGUAGES[language])
    assert page.evaluate("() => document.documentElement.lang") == language
    words = {url.rpartition("/")[2].partition("-")[0] for url in loaded} & set(_LANGUAGES)
    assert words == {language}
    assert {urlsplit(url).netloc for url in loaded} == {urlsplit(states.url("")).netloc}
    for state in STATES:
        page.evaluate("state => put(state)", state)
        text = page.locator("body").inner_text()
        assert "undefined" not in text
        assert "{" not in text
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 320, state
    assert errors == []
    page.context.close()


def test_language_chosen_while_sending_changes_only_words(page: Page, states: StatesSite) -> None:
    """A language can be chosen at any step; nothing else changes, and the heading has the focus."""
    show(page, states.url("10-sending"))
    page.get_by_role("button", name="Deutsch").click()
    expect(page.locator("h1")).to_have_text("Schritt 3 von 3 12 Dateien werden gesendet")
    expect(page.locator("h1")).to_be_focused()
    assert page.evaluate("() => document.documentElement.lang") == "de"
    assert page.title().startswith("46\u00a0% – 12 Dateien werden gesendet")
    assert _asked(page) == []


def test_receipt_on_paper_and_as_file_is_whole(page: Page, states: StatesSite) -> None:
    """Paper shows letterhead and receipt, and nothing to press; the download is one file with the receipt's number."""
    show(page, states.url("17-done"))
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the receipt").click()
    assert download.value.suggested_filename == "receipt-9F2C-71D0-A4E8-53B6.txt"
    page.emulate_media(media="print")
    expect(page.get_by_text("9F2C-71D0-A4E8-53B6")).to_be_visible()
    expect(page.locator(".inst")).to_be_visible()
    assert page.locator("button:visible, a:visible, footer:visible").count() == 0


def test_line_that_comes_and_goes_is_told_when_it_rests(page: Page, states: StatesSite) -> None:
    """Changes within fifteen seconds are announced once, as they are then; a person's own act is answered at once."""
    page.clock.install(time="2026-11-30T16:50:00+01:00")
    errors = show(page, states.url("09-review"))
    status = page.get_by_role("status")
    _change(page, {"state": "sending", "part": None})
    expect(status).to_have_text("Sending 12 files. 4.2 of 9 GB stored.")
    page.clock.run_for(16_000)
    _change(page, {"state": "waiting", "part": "offline", "problem": {"kind": "offline"}})
    expect(status).to_have_text("You are offline. 4.2 of 9 GB are stored. Sending goes on by itself.")
    _change(page, {"state": "sending", "part": None, "problem": None})
    _change(page, {"state": "waiting", "part": "offline", "problem": {"kind": "offline"}})
    _change(page, {"state": "sending", "part": None, "problem": None})
    page.clock.run_for(14_000)
    expect(status).to_have_text("You are offline. 4.2 of 9 GB are stored. Sending goes on by itself.")
    page.clock.run_for(2_000)
    expect(status).to_have_text("The line is back. Sending goes on.")
    _change(page, {"state": "waiting", "part": "offline", "problem": {"kind": "offline"}})
    page.get_by_role("button", name="Pause all").click()
    expect(status).to_have_text("Paused.")
    assert errors == []


def test_progress_is_told_in_a_region_that_stays(page: Page, states: StatesSite) -> None:
    """The bar has words of its own, and a region that is always there announces changes that happen by themselves."""
    show(page, states.url("09-review"))
    status = page.get_by_role("status").element_handle()
    _change(page, {"state": "sending", "part": None})
    expect(page.get_by_role("status")).to_have_text("Sending 12 files. 4.2 of 9 GB stored.")
    bar = page.get_by_role("progressbar")
    expect(bar).to_have_accessible_name("Sending 12 files to Radiology, second opinions")
    assert json.loads(bar.get_attribute("aria-valuemax") or "") == 100
    _change(page, {"state": "failed", "part": "expired"})
    assert page.get_by_role("status").evaluate("(now, then) => now === then", status)


@pytest.mark.parametrize("width", [390, 1280])
def test_text_twice_as_large_fits(chromium: Browser, states: StatesSite, width: int) -> None:
    """With letters of twice the size nothing is wider than the window, in the language with the longest words."""
    page = open_page(chromium, locale="de", width=width)
    show(page, states.url("01-code"))
    page.evaluate("() => { document.documentElement.style.fontSize = '200%'; }")
    for state in STATES:
        page.evaluate("state => put(state)", state)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, state
    page.context.close()
