"""The server under a service manager: sockets that stay open, readiness, signs of life, and a reload at SIGHUP.

No systemd runs here; the test stands in for it, by the same sockets and variables.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pytest

from tests.support.certificate import make_certificate
from tests.support.programs import require_program
from tests.support.server_process import REPOSITORY, ServerProcess, run_warm
from tests.support.tus_raw import ConnectionCutError

# Which process it is for is known only to that process itself.
_WITH_SOCKETS = 'exec 3<&"$0"; export LISTEN_PID=$$; exec "$@"'


class Manager:
    """Stands in for systemd: keeps the listening socket, and hears what the service tells."""

    def __init__(self, folder: Path, **environment: str) -> None:
        """Set a server up; `start` runs it."""
        self.server = ServerProcess(folder)
        self.listening = socket.create_server(("127.0.0.1", self.server.port))
        self.listening.set_inheritable(True)
        self.heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.heard.settimeout(30)
        self.heard.bind(str(folder / "notify"))
        given = {"NOTIFY_SOCKET": str(folder / "notify"), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "dropoff-tus.socket"}
        self.server.prefix = ("env", *(f"{name}={value}" for name, value in {**given, **environment}.items()))
        self.server.prefix += ("bash", "-c", _WITH_SOCKETS, str(self.listening.fileno()))
        self.server.pass_fds = (self.listening.fileno(),)

    def __enter__(self) -> Self:
        """Start it."""
        self.server.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop it, and close everything."""
        self.server.close()
        self.listening.close()
        self.heard.close()

    def forget(self) -> None:
        """Take all messages that came so far."""
        self.heard.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.heard.recv(4096)
        self.heard.settimeout(30)

    def hear(self, wanted: str) -> list[str]:
        """Return all messages up to the wanted one."""
        messages: list[str] = []
        while not messages or wanted not in messages[-1].splitlines():
            messages.append(self.heard.recv(4096).decode())
        return messages


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """Run a server below a manager."""
    with Manager(tmp_path_factory.mktemp("managed")) as made:
        yield made


@pytest.mark.timeout(180)
def test_service_tells_that_it_is_ready_that_it_lives_and_that_it_stops(tmp_path: Path) -> None:
    """In this order; the signs of life come three times in the watchdog's time."""
    with Manager(tmp_path, WATCHDOG_USEC="600000") as manager:
        assert manager.hear("READY=1") == ["READY=1"]
        began = time.monotonic()
        for _ in range(6):
            manager.hear("WATCHDOG=1")
        assert time.monotonic() - began < 5 * 0.6
        os.kill(manager.server.pid, signal.SIGSTOP)
        stopped = Path(f"/proc/{manager.server.pid}/status")
        _wait_until(lambda: "State:\tT" in stopped.read_text("ascii"))
        manager.forget()
        manager.heard.settimeout(0.6)
        with pytest.raises(TimeoutError):
            manager.heard.recv(4096)
        manager.heard.settimeout(30)
        os.kill(manager.server.pid, signal.SIGCONT)
        manager.server.terminate()
        manager.hear("STOPPING=1")
        assert manager.server.wait() == 0


@pytest.mark.timeout(180)
def test_restart_refuses_no_connection(manager: Manager) -> None:
    """The socket stays open: whoever comes while nobody serves waits, and is served."""
    server, site = manager.server, manager.server.drop.site
    statuses: list[int] = []

    def create() -> None:
        with site.connect(timeout_seconds=90) as connection:
            headers = site.post_headers({"Upload-Length": "1"})
            connection.send(site.message("POST", site.upload_url, headers))
            statuses.append(connection.read_response().status)

    server.stop()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(create) for _ in range(8)]
        time.sleep(0.2)
        assert statuses == []
        server.start()
        for each in waiting:
            each.result()
    assert statuses == [201] * 8


@pytest.mark.timeout(180)
def test_upload_goes_on_over_restarts_without_a_refused_connection(manager: Manager) -> None:
    """A client that only knows 204, 503 and 423 sees nothing else, and no byte is lost."""
    server, site = manager.server, manager.server.drop.site
    content = os.urandom(8_000_000)
    url = site.create(len(content))
    seen: set[int] = set()
    restarted = threading.Event()

    def upload() -> None:
        offset = 0
        while offset < len(content):
            end = len(content) if restarted.is_set() else offset + 20_000
            # Of a killed server a connection may be left, never one that is refused; a slow machine starts slowly.
            with contextlib.suppress(ConnectionCutError, TimeoutError):
                seen.add(site.patch(url, offset, content[offset:end]).status)
                answer = site.head(url)
                seen.add(answer.status)
                offset = answer.offset if answer.status == 200 else offset

    with ThreadPoolExecutor(1) as pool:
        uploading = pool.submit(upload)
        server.restart()
        server.kill9()
        server.start()
        restarted.set()
        uploading.result()
    # 409: the killed server had kept more than it could say.
    assert seen <= {200, 204, 409, 423, 503}
    assert server.export(url) == content


def test_socket_that_does_not_listen_is_refused_with_a_sentence(tmp_path: Path) -> None:
    """As one of a unit with Accept=yes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = ServerProcess(tmp_path)
        server.prefix = ("env", "LISTEN_FDS=1", "bash", "-c", _WITH_SOCKETS, str(theirs.fileno()))
        server.pass_fds = (theirs.fileno(),)
        server.launch()
        assert server.wait() == 1
    assert "Accept=no" in server.log_text


# ---- reload ---------------------------------------------------------------------------------------------------------


def _wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _reload(manager: Manager, *, settings: str) -> str:
    """Put sections at the end of the configuration and reload; return what was logged meanwhile."""
    server = manager.server
    shipped = server.config.read_text("utf-8").partition("# reloaded\n")[0]
    server.config.write_text(f"{shipped}# reloaded\n{settings}", "utf-8")
    before = len(server.log_text)
    manager.forget()
    os.kill(server.pid, signal.SIGHUP)
    assert manager.hear("READY=1")[0].startswith("RELOADING=1\nMONOTONIC_USEC=")
    _wait_until(lambda: "reloaded" in server.log_text[before:])
    return server.log_text[before:]


def test_reload_takes_limits_and_log_and_names_what_needs_a_restart(manager: Manager) -> None:
    """Without ending a connection."""
    site, server = manager.server.drop.site, manager.server
    with site.connect() as connection:
        url = site.create(10)
        connection.send(site.message("PATCH", url, site.patch_headers(0, {"Content-Length": "10"}), b"hello"))
        said = _reload(
            manager, settings='[limits]\nwrong_codes_per_hour = 1\n[log]\nlevel = "error"\n[tus]\ndownload = true\n'
        )
        assert '"needs_a_restart": ["tus.download"]' in said
        wrong = [site.post({"Upload-Length": "1", "Dropoff-Code": "wrong"}).status for _ in range(2)]
        assert wrong == [403, 429]
        quiet = len(server.log_text)
        connection.send(b"world")
        assert connection.read_response().status == 204
    _reload(manager, settings='[log]\nformat = "console"\n')
    said = server.log_text[quiet:]
    assert '"request"' not in said
    assert "needs_a_restart=[]" in said
    _reload(manager, settings="[limits]\nmin_body_rate = 1000000\nconnections_per_address = 1\n")
    with site.connect() as first, site.connect() as second:
        # The older one makes place, since it only waits.
        assert first.is_closed_within(20)
        assert not second.is_closed_within(0.1)
    _reload(manager, settings="")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [("[limits]\nconnections = -1\n", "limits.connections"), ("[limits\n", "this is not TOML")],
    ids=["value", "syntax"],
)
def test_reload_of_a_wrong_configuration_changes_nothing_and_says_why(
    manager: Manager, settings: str, problem: str
) -> None:
    """The server serves on with the old one, and a later reload of a right one is taken."""
    said = _reload(manager, settings=f'[log]\nlevel = "error"\n{settings}')
    assert "was not reloaded; the old one holds" in said
    assert problem in said
    assert manager.server.drop.site.post({"Upload-Length": "1"}).status == 201
    assert "configuration was reloaded" in _reload(manager, settings="")


def test_reload_tells_of_a_certificate_that_cannot_be_used(tmp_path: Path) -> None:
    """It is looked at then, not only when the next client comes; a right one is taken."""
    certificate, key = make_certificate(tmp_path)
    manager = Manager(tmp_path)
    manager.server.environment = {"SERVER__TLS_CERT": str(certificate), "SERVER__TLS_KEY": str(key)}
    with manager:
        manager.hear("READY=1")
        (tmp_path / "next").mkdir()
        new_certificate, new_key = make_certificate(tmp_path / "next")
        shutil.copy(new_certificate, certificate)
        assert "KEY_VALUES_MISMATCH" in _reload(manager, settings="")
        shutil.copy(new_key, key)
        assert "configuration was reloaded" in _reload(manager, settings="")


# ---- the units --------------------------------------------------------------------------------------------------


_UNITS = REPOSITORY / "deploy" / "systemd"
_MOST_EXPOSED = 1.5


def test_units_have_no_mistake_and_leave_little_exposed(tmp_path: Path) -> None:
    """As systemd itself sees them."""
    program = require_program("systemd-analyze")
    for unit in _UNITS.iterdir():
        # Where the program is not installed.
        text = unit.read_text("utf-8").replace("/opt/dropoff-tus/bin/dropoff-tus", "/bin/true")
        (tmp_path / unit.name).write_text(text, "utf-8")
    verified = subprocess.run([program, "verify", *tmp_path.iterdir()], capture_output=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, b"")
    service = str(tmp_path / "dropoff-tus.service")
    threshold = f"--threshold={_MOST_EXPOSED * 10:.0f}"
    looked = subprocess.run(
        [program, "security", "--offline=true", threshold, service], capture_output=True, check=False
    )
    assert looked.returncode == 0, looked.stdout.decode()
    filters = re.findall(r"^SystemCallFilter=(.+)$", (_UNITS / "dropoff-tus.service").read_text("utf-8"), re.MULTILINE)
    assert filters[-1] == "sched_setaffinity"  # or small uploads take twice as long


def test_service_starts_what_the_command_line_has() -> None:
    """Each of the services' command lines is one of the program's."""
    texts = [(_UNITS / f"{name}.service").read_text("utf-8") for name in ("dropoff-tus", "dropoff-tus-backup")]
    program = "(?:/usr/bin/env --unset=CREDENTIALS_DIRECTORY )?/opt/dropoff-tus/bin/dropoff-tus"
    commands = re.findall(rf"^Exec\w+={program} (.+)$", "\n".join(texts), re.MULTILINE)
    assert commands == ["serve", "check-config", "backup /backup/dropoff-tus"]
    for command in commands:
        assert run_warm(*command.split(), "--help", folder=Path("/")).returncode == 0
