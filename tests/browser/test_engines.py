"""The whole way in Firefox and WebKitGTK, with a server that is killed in the middle; and Chromium, itself killed."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.bad_link import BadLink
from tests.browser.visitor import SCREENS, file_of, received, sha256_of
from tests.browser.webdriver import ENTER, Driver, chromium, firefox, webkit
from tests.support.programs import BUILT_PAGE, require_program
from tests.support.server_process import Drop, ServerProcess, run_warm

pytestmark = pytest.mark.timeout(240)
MIB = 1 << 20
_FILES = "input[type=file]:not([webkitdirectory])"


@pytest.mark.parametrize("browser", [firefox, webkit])
def test_whole_way_in_another_engine_survives_a_killed_server(
    tmp_path: Path, browser: Callable[[Path], contextlib.AbstractContextManager[Driver]]
) -> None:
    """Code, choose, send, a server that dies and comes again, done, and a receipt that verifies."""
    require_program(BUILT_PAGE)
    files = [file_of(tmp_path / "genome.bin", 24 * MIB + 5), file_of(tmp_path / "letter é.txt", 5, seed=2)]
    (tmp_path / "browser").mkdir()
    with (
        ServerProcess(tmp_path) as server,
        BadLink(server.port, bytes_per_second=MIB) as line,
        browser(tmp_path / "browser") as driver,
    ):
        drop = server.create_drop(name="Second opinion")

        def at(state: str) -> None:
            driver.wait_for(f"main[data-state={state}]")
            driver.picture(SCREENS / f"{browser.__name__}-{state}.png")

        driver.open(drop.page_url.replace(f":{server.port}/", f":{line.port}/"))
        at("code")
        driver.type("#code", str(drop.code).lower() + ENTER)
        at("about")
        driver.click("button.main")
        at("choose")
        driver.type(_FILES, "\n".join(map(str, files)))
        driver.click("button.main")
        driver.wait_for("main[data-part=review]")
        driver.click("button.main")
        driver.wait_for("[role=progressbar]:not([aria-valuenow='0'])")
        at("sending")
        server.kill9()
        at("waiting")
        server.start()
        line.change(bytes_per_second=0)
        at("done")
        assert received(server, drop.id) == {path.name: sha256_of(path) for path in files}
        driver.click("main button")
        receipt = _downloaded(driver.downloads)
        assert driver.complaints == []
        key = server.cli_json("keys", "show")["key"]
    for path in files:
        checked = run_warm("verify-receipt", str(receipt), str(path), "--key", key, folder=tmp_path)
        assert checked.returncode == 0, checked.stderr


def _send(driver: Driver, link: str, file: Path) -> None:
    driver.open(link)
    driver.click("main[data-state=about] button.main")
    driver.type(_FILES, str(file))
    driver.click("#chosen ~ .acts button.main")
    driver.click("main[data-part=review] button.main")


def test_chromium_put_to_sleep_and_then_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """What sleeps finds its connections cut; what is killed finds the part by its profile, and sends the rest."""
    require_program(BUILT_PAGE)
    file = file_of(tmp_path / "genome.bin", 64 * MIB + 5)
    (tmp_path / "browser").mkdir()
    with ServerProcess(tmp_path) as server, BadLink(server.port, bytes_per_second=MIB) as line:
        drop = server.create_drop(name="Second opinion")
        link = f"{drop.page_url}#{drop.code}".replace(f":{server.port}/", f":{line.port}/")
        with chromium(tmp_path / "browser") as driver:
            _send(driver, link, file)
            driver.wait_for("[role=progressbar]:not([aria-valuenow='0'])")
            family = _family(tmp_path / "browser" / "profile")
            for process in family:
                os.kill(process, signal.SIGSTOP)
            line.break_off()
            stored = server.uploads(drop)[0]["offset"]
            line.mend()
            for process in family:
                os.kill(process, signal.SIGCONT)
            _until_more_is_stored(server, drop, stored)
            os.kill(family[0], signal.SIGKILL)
        line.change(bytes_per_second=0)
        (begun,) = server.uploads(drop)
        with chromium(tmp_path / "browser") as driver:
            _send(driver, link, file)
            driver.wait_for("main[data-state=done]")
            assert driver.complaints == []
        assert [row["id"] for row in server.uploads(drop)] == [begun["id"]]
        assert received(server, drop.id) == {file.name: sha256_of(file)}


def _family(profile: Path) -> list[int]:
    """Return the processes of the browser that has a profile, itself first."""
    named = f"--user-data-dir={profile}".encode()
    running = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if named in path.read_bytes()]
    family = [min(running)]
    for process in family:  # it grows meanwhile
        family += map(int, Path(f"/proc/{process}/task/{process}/children").read_text("ascii").split())
    return family


def _until_more_is_stored(server: ServerProcess, drop: Drop, stored: int) -> None:
    deadline = time.monotonic() + 120
    while server.uploads(drop)[0]["offset"] <= stored:
        assert time.monotonic() < deadline, "nothing goes on"
        time.sleep(0.5)


def _downloaded(folder: Path) -> Path:
    """Wait for a receipt to be there whole."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = [path for path in folder.glob("receipt*") if path.suffix == ".txt" and path.stat().st_size]
        if found:
            return found[0]
        time.sleep(0.1)
    message = f"no receipt was downloaded: {sorted(folder.glob('*'))}"
    raise AssertionError(message)
