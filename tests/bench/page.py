"""How fast the upload page sends, beside what it cannot get past: `python -m tests.bench.page [--rounds N] [--quick]`.

In Debian's Chromium and before one server, in turns: a large file by the page and by a bare page with only
tus-js-client, in pieces as large; the same file sealed in the browser; many small files by the page and by the bench's
own client on as many connections. The browser is driven by its own commands, since Playwright watches each request.
"""

import argparse
import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from tests.bench import tools
from tests.browser.test_others import Portal
from tests.browser.webdriver import Driver, chromium
from tests.support.server_process import Drop, ServerProcess

_MIB = 1 << 20
_CHUNK = 64 * _MIB
_CONNECTIONS = 6
_SMALL_BYTES = 10_000
_PATIENCE_SECONDS = 3600
_BARE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<input type="file"><button>Send</button><p></p>
<script src="/tus-js-client/dist/tus.min.js"></script>
<script>
  document.querySelector("button").onclick = () => new tus.Upload(document.querySelector("input").files[0], {
    ...JOB,
    onError: (error) => { document.querySelector("p").textContent = `failed: ${error}` },
    onSuccess: () => { document.querySelector("p").className = "complete" },
  }).start()
</script>"""


@contextlib.contextmanager
def _browser() -> Iterator[Driver]:
    """Run a browser with an empty profile for one file or folder."""
    with (
        tempfile.TemporaryDirectory(prefix="page-bench.", ignore_cleanup_errors=True) as folder,
        chromium(Path(folder)) as driver,
    ):
        yield driver


def _timed(driver: Driver, button: str, end: str) -> float:
    """Press a button; return the seconds until there is an element."""
    began = time.monotonic()
    driver.click(button)
    driver.wait_for(end, seconds=_PATIENCE_SECONDS)
    return time.monotonic() - began


def _by_page(drop: Drop, chosen: Path) -> float:
    """Send a file or a folder by the page; return the seconds from the last button to the last answer."""
    with _browser() as driver:
        driver.open(f"{drop.page_url}#{drop.code}")
        driver.click("main[data-state=about] button.main")
        driver.type("input[webkitdirectory]" if chosen.is_dir() else "input:not([webkitdirectory])", str(chosen))
        driver.click("#chosen ~ .acts button.main")
        driver.wait_for("main[data-part=review]")
        return _timed(driver, "button.main", "main[data-state=done]")


def _by_bare_page(portal: Portal, drop: Drop, file: Path) -> float:
    job = {"endpoint": drop.upload_url, "chunkSize": _CHUNK, "headers": drop.headers, "retryDelays": None}
    job["metadata"] = {"filename": file.name}
    with _browser() as driver:
        driver.open(portal.page(_BARE, job))
        driver.type("input", str(file))
        return _timed(driver, "button", "p.complete")


def _by_client(program: Path, drop: Drop, count: int) -> float:
    url = urlsplit(drop.upload_url)
    given = {"port": url.port, "path": url.path, "code": drop.code, "connections": _CONNECTIONS}
    given |= {"uploads": count, "bytes": _SMALL_BYTES}
    command: list[str | Path] = [program, "upload", *(f"{key}={value}" for key, value in given.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall: float = json.loads(done.stdout.splitlines()[-1])["wall"]
    return wall


def _race(name: str, unit: str, amount: float, rounds: int, runs: dict[str, Callable[[], float]]) -> None:
    """Let them take turns; print the median speed of each, and of the first the ratio to the second, round by round."""
    seconds: dict[str, list[float]] = {each: [] for each in runs}
    for number in range(rounds):
        # Not always in the same order: who comes second finds the disk busy with the first one's.
        for each, run in list(runs.items())[:: 1 if number % 2 == 0 else -1]:
            seconds[each].append(run())
    speeds = [f"{each} {amount / median(took):.0f} {unit}" for each, took in seconds.items()]
    first, *others = seconds.values()
    if others:
        ratios = [other / own for own, other in zip(first, others[0], strict=True)]
        speeds.append(f"ratio {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(f"{name}: {'; '.join(speeds)}; load {os.getloadavg()[0]:.0f}", flush=True)


def main() -> None:
    """Run all races."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.page", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("plain", "sealed", "small"))
    parser.add_argument("--quick", action="store_true", help="a quarter of the size, a fifth of the number")
    given = parser.parse_args()
    mebibytes, count = (512, 2000) if given.quick else (2048, 10_000)
    with tempfile.TemporaryDirectory(prefix="page-bench.") as made:
        folder = Path(made)
        (folder / "server").mkdir()
        program = tools.load_client(folder)
        large, small = folder / "large.bin", folder / "small"
        with large.open("wb") as file:
            for _ in range(mebibytes):
                file.write(os.urandom(_MIB))
        small.mkdir()
        for number in range(count):
            (small / f"{number:05}.bin").write_bytes(os.urandom(_SMALL_BYTES))
        portal = Portal()
        with ServerProcess(folder / "server", environment={"TUS__CORS_ORIGINS": portal.origin}, forked=False) as server:

            def drop(*options: str) -> Drop:
                return server.create_drop(*options, name="Bench")

            races: dict[str, tuple[str, int, dict[str, Callable[[], float]]]] = {
                "plain": (
                    "MiB/s",
                    mebibytes,
                    {
                        "page": lambda: _by_page(drop(), large),
                        "tus-js-client": lambda: _by_bare_page(portal, drop(), large),
                    },
                ),
                "sealed": (
                    "MiB/s",
                    mebibytes,
                    {"page": lambda: _by_page(drop("--seal-in-browser"), large)},
                ),
                "small": (
                    "files/s",
                    count,
                    {
                        "page": lambda: _by_page(drop(), small),
                        "client": lambda: _by_client(program, drop(), count),
                    },
                ),
            }
            for name, (unit, amount, runs) in races.items():
                if given.only in {None, name}:
                    _race(name, unit, amount, given.rounds, runs)
        portal.close()


if __name__ == "__main__":
    main()
