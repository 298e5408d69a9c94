"""A clock that jumps a year ahead, under the real program: nothing ends before an operator says that it is right."""

import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.support.programs import require_program
from tests.support.server_process import Drop, ServerProcess, program, upload_id_of

pytestmark = pytest.mark.timeout(180)
_YEAR_SECONDS = 365 * 86400


@dataclass
class _Shifted:
    """A server whose clock is the system's and what a file says, and what was uploaded before it jumped."""

    server: ServerProcess
    file: Path
    kept: str
    idle: str
    full: Drop

    def shift(self, by: str) -> None:
        """Let every process that reads the file jump."""
        other = self.file.with_suffix(".new")
        other.write_text(by)
        other.replace(self.file)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command under that clock, which needs a process of its own."""
        line = [*program(), *arguments, "--config", str(self.server.config)]
        return subprocess.run(line, env=self.environment, capture_output=True, text=True, timeout=60, check=False)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the server."""
        return self.server._environment()  # noqa: SLF001 - the commands' too

    @property
    def states(self) -> list[str]:
        return [self.server.row(url)["state"] for url in (self.kept, self.idle)]

    def ready(self) -> str:
        """Return the answer to monitoring, with 200."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.port + 1}/readyz", timeout=20) as answer:
            return str(answer.read().decode())


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Shifted]:
    """Run a server under a clock that is right still: with a retained upload, an open one and a full drop-off."""
    faketime = require_program("faketime")
    shown = [str(faketime), "-f", "+0d", "printenv", "LD_PRELOAD"]
    library = subprocess.run(shown, capture_output=True, text=True, check=True).stdout.strip()
    folder = tmp_path_factory.mktemp("clock")
    file = folder / "clock"
    file.write_text("+0d")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_PRELOAD", library)
        patch.setenv("FAKETIME_TIMESTAMP_FILE", str(file))
        patch.setenv("FAKETIME_CACHE_DURATION", "1")
        patch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        patch.setenv("NO_FAKE_STAT", "1")
        with ServerProcess(folder) as server:
            keeping = server.create_drop("--retain", "30d")
            full = server.create_drop("--max-uploads", "1")
            full.site.create(4)
            kept, idle = keeping.site.upload(b"0123"), keeping.site.create(4)
            yield _Shifted(server, file, kept, idle, full)


def _until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert holds()


def test_clock_that_jumps_ends_nothing(shifted: _Shifted) -> None:
    """While the server runs, at its next start, and for commands: monitoring, log and `store sweep` name it."""
    server, site = shifted.server, shifted.server.drop.site
    assert shifted.ready() == "ready\n"
    shifted.shift(f"+{_YEAR_SECONDS}")
    _until(lambda: "store trust-clock" in shifted.ready())
    assert shifted.full.site.post({"Upload-Length": "4"}).error_code == "ERR_DROPOFF_FULL"
    head = site.head(shifted.idle)
    assert head.status == 200
    assert parsedate_to_datetime(head.needed("Upload-Expires")).timestamp() < time.time() + _YEAR_SECONDS
    said = server.cli("doctor", "--size", "1MiB", check=False).stdout
    assert b"WARNING monitoring: the server says ready, but nothing is ended by time" in said
    # Records under the wrong clock do not make it right.
    site.upload(b"under the wrong clock")
    server.restart()
    _until(lambda: "nothing is ended by time" in server.log_text)
    assert "store trust-clock" in shifted.ready()
    for options in (("--dry-run",), ()):
        swept = shifted.command("store", "sweep", *options)
        assert (swept.returncode, swept.stdout) == (0, "")
        assert "store trust-clock" in swept.stderr
    assert shifted.states == ["complete", "open"]
    assert server.export(shifted.kept) == b"0123"


def test_operator_who_trusts_the_clock_lets_uploads_end(shifted: _Shifted) -> None:
    """Only with a clear word, which the audit has; then each that ends is a line of the log."""
    server = shifted.server
    shifted.shift(f"+{_YEAR_SECONDS}")
    refused = shifted.command("store", "trust-clock")
    assert (refused.returncode, "--yes" in refused.stderr) == (1, True)
    assert shifted.command("store", "trust-clock", "--yes").returncode == 0
    server.restart()
    assert shifted.ready() == "ready\n"
    _until(lambda: shifted.states == ["expired", "expired"])
    for url, why in ((shifted.kept, "retention is over"), (shifted.idle, "idle for too long")):
        assert any(upload_id_of(url) in line and why in line for line in server.logged().splitlines())
    assert "clock.trust" in {row["act"] for row in server.cli_json("audit", "export")["rows"]}
