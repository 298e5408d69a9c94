"""Names that are meant to mislead, and folders: shown as what they are, and stored cleaned."""

import re
import unicodedata
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, expect

from tests.browser.visitor import Visitor, link_to
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(120)
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""Control and bidirectional characters; the page's own text has line ends and tabs."""

HOSTILE = {
    "invoice\u202efdp.exe": "invoicefdp.exe",
    "two\nlines\x1b[2J\x00.txt": "twolines[2J.txt",
    "\u2066\u2067hidden\u2069.txt": "hidden.txt",
    "<img src=x onerror=alert(1)>.txt": "<img src=x onerror=alert(1)>.txt",
    "\"quotes\" & 'more' `ticks` $(x).txt": "\"quotes\" & 'more' `ticks` $(x).txt",
    "👩‍🔬🇳🇱 data.csv": "👩‍🔬🇳🇱 data.csv",
    "e\u0301te\u0301.txt": "\u00e9t\u00e9.txt",
    "x" * 400 + ".vcf.gz": "x" * 238 + "~" + "x" * 9 + ".vcf.gz",
    "..": "_",
    "\\..\\..\\autoexec.bat": "....autoexec.bat",
    "Приложение 資料 نسخة.txt": "Приложение 資料 نسخة.txt",
    "{{page}} {n} *bold*.txt": "{{page}} {n} *bold*.txt",
}
"""Names, and what arrives."""


def test_hostile_names_are_shown_safely_and_arrive_cleaned(server: ServerProcess, visitor: Visitor) -> None:
    """No name acts, none turns the text around it, none is too long for the window, and what is sent is seen."""
    link, drop_id = link_to(server)
    files = [FilePayload(name=name, mimeType="", buffer=str(number).encode()) for number, name in enumerate(HOSTILE)]
    visitor.open(link)
    visitor.choose(files)
    page = visitor.page
    cleaned = sum(unicodedata.normalize("NFC", came) != sent for came, sent in HOSTILE.items())
    expect(page.locator("main")).to_contain_text(f"{cleaned} names hold characters that are not allowed")
    page.get_by_text("Show the names as they are sent").click()
    for sent in HOSTILE.values():
        expect(page.locator("main bdi").get_by_text(sent, exact=True).first).to_be_visible()
    assert not _UNSAFE.search(visitor.text)
    assert page.locator("main img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    visitor.press()
    visitor.wait_for("choose", "review")
    visitor.press()
    visitor.wait_for("done", milliseconds=60_000)
    rows = server.cli_json("upload", "list", "--drop", drop_id)
    assert sorted(row["filename"] for row in rows) == sorted(HOSTILE.values())
    assert all(row["state"] == "complete" for row in rows)


def test_hostile_names_of_folders_arrive_as_cleaned_paths(
    server: ServerProcess, visitor: Visitor, tmp_path: Path
) -> None:
    """The folders' names are cleaned as the files' are, and no path leads out."""
    folder = tmp_path / "study\u202e\x1b"
    inner = folder / "<b>deep</b>" / "e\u0301"
    inner.mkdir(parents=True)
    (inner / "\u2067a\n.txt").write_bytes(b"x")
    (folder / "plain.txt").write_bytes(b"y")
    link, drop_id = link_to(server)
    visitor.open(link)
    visitor.send(folder)
    visitor.wait_for("done", milliseconds=60_000)
    rows = server.cli_json("upload", "list", "--drop", drop_id)
    assert {row["relative_path"]: row["filename"] for row in rows} == {
        "study/<b>deep</b>/\u00e9/a.txt": "a.txt",
        "study/plain.txt": "plain.txt",
    }


def test_folder_that_is_dropped_arrives_with_its_paths(server: ServerProcess, visitor: Visitor, tmp_path: Path) -> None:
    """As a desktop drops it: all is found, though browsers give 100 entries at a time, and an empty folder is told."""
    folder = _folder_of(tmp_path / "study", 230)
    (folder / "empty").mkdir()
    loose = tmp_path / "letter.txt"
    loose.write_text("loose")
    link, drop_id = link_to(server)
    visitor.open(link)
    visitor.wait_for("about")
    visitor.press()
    visitor.wait_for("choose")
    session = visitor.page.context.new_cdp_session(visitor.page)
    data = {"items": [], "files": [str(folder), str(loose)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 700, "y": 400, "data": data})
    expect(visitor.page.get_by_role("button", name="Continue with 231 files")).to_be_visible()
    expect(visitor.page.locator("main")).to_contain_text("1 empty folder")
    visitor.press()
    visitor.wait_for("choose", "review")
    visitor.press()
    visitor.wait_for("done", milliseconds=60_000)
    assert _received(server, drop_id) == {**_paths(folder, tmp_path), "letter.txt": 5}


def _paths(folder: Path, above: Path) -> dict[str, int]:
    """Return path and size of each file below a folder."""
    return {str(path.relative_to(above)): path.stat().st_size for path in folder.rglob("*.txt")}


def _received(server: ServerProcess, drop_id: str) -> dict[str, int]:
    """Return path and size of what arrived, each of it once and complete."""
    rows = server.cli_json("upload", "list", "--drop", drop_id)
    assert all(row["state"] == "complete" for row in rows)
    found = {row["relative_path"] or row["filename"]: row["length"] for row in rows}
    assert len(found) == len(rows)
    return found


def _folder_of(folder: Path, count: int) -> Path:
    for number in range(count):
        inner = folder / f"patient {number // 100:03}"
        inner.mkdir(parents=True, exist_ok=True)
        (inner / f"scan {number:05}.txt").write_text(f"content of {number}")
    return folder


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(2000, marks=pytest.mark.timeout(300)),
        pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_folder_of_many_files_arrives_whole(
    server: ServerProcess, visitor: Visitor, tmp_path: Path, count: int
) -> None:
    """All of them, each once, with its path, and the page counts them right."""
    folder = _folder_of(tmp_path / "study", count)
    link, drop_id = link_to(server)
    visitor.open(link)
    visitor.choose(folder)
    expect(visitor.page.get_by_role("heading", level=2)).to_contain_text(f"{count:,} files")
    visitor.press()
    visitor.wait_for("choose", "review")
    visitor.press()
    visitor.wait_for("done", milliseconds=count * 100)
    assert f"{count:,} files" in visitor.text
    assert _received(server, drop_id) == _paths(folder, tmp_path)
