"""The pictures of docs/upload, taken on the way through the real page; `make pictures` puts them there."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.bad_link import BadLink
from tests.browser.site import LOGO
from tests.browser.visitor import SCREENS, file_of, visiting
from tests.support.programs import BUILT_PAGE, require_program
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(240)
MIB = 1 << 20
_FILES = {"Consent form.pdf": MIB // 3, "MRI_head_T1.nii.gz": 3 * MIB, "CT_abdomen_2026-10-28.zip": 40 * MIB}
_DROP = ("--receiver", "Radiology, second opinions", "--contact", "data@noorderhaven.example")


def test_pictures_of_the_way_are_taken(chromium: Browser, tmp_path: Path) -> None:
    """As the person sees it who is asked for files: the code, the files, sending with some of it stored, the end."""
    require_program(BUILT_PAGE)
    logo = tmp_path / "logo.svg"
    logo.write_text(LOGO, encoding="utf-8")
    page_of = {
        "PAGE__INSTITUTE": "Noorderhaven Institute for Genetics",
        "PAGE__EMAIL": "data@noorderhaven.example",
        "PAGE__LOGO": str(logo),
    }
    files = [file_of(tmp_path / name, size_bytes) for name, size_bytes in _FILES.items()]
    with (
        ServerProcess(tmp_path, environment=page_of) as server,
        BadLink(server.port, bytes_per_second=4 * MIB) as line,
        visiting(chromium, viewport={"width": 1280, "height": 900}, timezone_id="Europe/Amsterdam") as visitor,
    ):
        drop = server.create_drop(*_DROP, name="Second opinion, MRI scans")

        def picture(name: str) -> None:
            visitor.page.screenshot(path=SCREENS / "docs" / f"{name}.png")

        visitor.open(drop.page_url.replace(f":{server.port}/", f":{line.port}/"))
        visitor.page.fill("input", str(drop.code))
        picture("code")
        visitor.page.keyboard.press("Enter")
        visitor.choose(files)
        picture("choose")
        visitor.press()
        visitor.wait_for("choose", "review")
        visitor.press()
        expect(visitor.page.get_by_role("heading", level=2)).to_have_text("Files: 2 stored, 1 sending")
        expect(visitor.page.locator(".key")).to_contain_text("on its way")
        picture("sending")
        line.change(bytes_per_second=0)
        visitor.wait_for("done", milliseconds=60_000)
        expect(visitor.page.locator(".slip")).to_contain_text("Receipt number")
        picture("done")
