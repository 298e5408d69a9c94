"""The real program as a subprocess: made with `init`, run with `serve`, asked through its command line.

Nothing of the product is imported, so these tests hold for an installed program too: the variable
DROPOFF_TUS_TEST_PROGRAM names another one than the console script beside the interpreter.
"""

import atexit
import contextlib
import copy
import functools
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, cast
from urllib.parse import urlsplit

from tests.support.tus_raw import TusSite
from tests.support.warm import WarmProcess, WarmProgram

REPOSITORY = Path(__file__).resolve().parents[2]
_PROGRAM_VARIABLE = "DROPOFF_TUS_TEST_PROGRAM"
_WORKERS_VARIABLE = "DROPOFF_TUS_TEST_WORKERS"
_UPLOAD_ID_DOMAIN = b"dropoff-tus/upload-id/v1\n"
_NOTHING = Path(os.devnull)
_PORTS = range(20000, 32000)  # below the range that outgoing connections take their ports from


class UploadRow(TypedDict):
    """One row of `upload list --json`."""

    id: str
    drop_id: str
    state: str
    filename: str | None
    relative_path: str | None
    sealed_by: str | None
    sender: str | None
    length: int | None
    offset: int
    sha256: str | None
    created_at: str
    completed_at: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Drop:
    """The answer of `drop create --json`; the code is shown only now."""

    id: str
    name: str
    upload_url: str
    page_url: str
    code: str | None = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """Return the header with the code, for clients that take extra headers."""
        return {} if self.code is None else {"Dropoff-Code": self.code}

    @property
    def site(self) -> TusSite:
        """Return the drop-off for the raw client."""
        return TusSite(self.upload_url, self.code)


class ProgramError(AssertionError):
    """The program ended otherwise than a test expects; the text is what it said."""


class ServerProcess:
    """One server with a folder, a pair of ports and a first drop-off of its own."""

    def __init__(
        self,
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        init_options: Sequence[str] = (),
        forked: bool = True,
    ) -> None:
        """Make the folder's content with `init`; nothing runs yet.

        Args:
            folder: An existing folder; the data, the keys and the logs come to lie below it.
            environment: Overrides, by `SECTION__KEY`, of the configuration.
            init_options: Further options of `init`.
            forked: Fork `serve` from a process that has it imported, where nothing stands against it.
        """
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port_pair()
        self.url = f"http://127.0.0.1:{self.port}"
        workers = os.environ.get(_WORKERS_VARIABLE)
        self.environment = {**({"SERVER__WORKERS": workers} if workers else {}), **(environment or {})}
        self.prefix: Sequence[str] = ()
        """The command that runs `serve`, for instance as another user."""
        self.pass_fds: Sequence[int] = ()
        """The descriptors that it gets besides the usual three."""
        self._forked = forked and not os.environ.get(_PROGRAM_VARIABLE)
        self._out = folder / "serve.stdout"
        self._err = folder / "serve.stderr"
        self._process: subprocess.Popen[bytes] | WarmProcess | None = None
        self._seen_bytes = 0
        options = ("--dir", str(self.data), "--listen", f"127.0.0.1:{self.port}", *init_options)
        made = json.loads(self._run("init", *options, "--json").stdout)
        self.config = Path(made["config"])
        self.drop = Drop(**made["drop"])

    def beside(self, folder: Path) -> Self:
        """Return another `serve` on this one's store and catalog, with ports and logs of its own; nothing runs yet."""
        other = copy.copy(self)
        other._out, other._err = folder / "serve.stdout", folder / "serve.stderr"  # noqa: SLF001 - its own kind
        other._process, other._seen_bytes = None, 0  # noqa: SLF001 - likewise
        other.port = free_port_pair()
        other.url = f"http://127.0.0.1:{other.port}"
        listen = {"SERVER__LISTEN": f"127.0.0.1:{other.port}", "MONITORING__LISTEN": f"127.0.0.1:{other.port + 1}"}
        other.environment = {**self.environment, **listen}
        return other

    def __enter__(self) -> Self:
        """Start at the head of a `with`."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop at its end."""
        self.close()

    def close(self) -> None:
        """Stop if it runs, in order if the server lets us."""
        if self._process is not None:
            with contextlib.suppress(ProgramError):
                self.stop()
        if self._process is not None:
            self.kill9()

    # ---- the process ------------------------------------------------------------------------------------

    def start(self, *, timeout_seconds: float = 30, failpoint: str | None = None) -> None:
        """Run `serve` and wait until it says that it accepts. At a failpoint (`name:count`) it kills itself.

        Raises:
            ProgramError: It ended, or did not get ready in time.
        """
        self.launch(failpoint=failpoint)
        self.wait_until_ready(timeout_seconds=timeout_seconds)

    def launch(self, *, failpoint: str | None = None) -> None:
        """Run `serve` and do not wait."""
        self._seen_bytes = self._out.stat().st_size if self._out.exists() else 0
        environment = {**self._environment(), **({"DROPOFF_TUS_FAILPOINT": failpoint} if failpoint else {})}
        serve = ("serve", "--config", str(self.config))
        with _NOTHING.open("rb") as empty, self._out.open("ab") as out, self._err.open("ab") as err:
            if forker := self._forker():
                streams = [empty.fileno(), out.fileno(), err.fileno()]
                self._process = forker.start(serve, folder=self.folder, environment=environment, streams=streams)
            else:
                self._process = subprocess.Popen(
                    [*self.prefix, *program(), *serve],
                    stdin=empty,
                    stdout=out,
                    stderr=err,
                    cwd=self.folder,
                    pass_fds=self.pass_fds,
                    env=environment,
                )

    def wait_until_ready(self, *, timeout_seconds: float = 30) -> None:
        """Wait until `serve`, once launched, says that it accepts.

        Raises:
            ProgramError: It ended, or did not get ready in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while not self.is_ready:
            if not self.is_running:
                message = f"serve ended with {self._running.returncode}: {self.log_text[-2000:]}"
                self._process = None
                raise ProgramError(message)
            if time.monotonic() > deadline:
                self.kill9()
                message = f"serve did not get ready: {self.log_text[-2000:]}"
                raise ProgramError(message)
            time.sleep(0.02)

    def terminate(self) -> None:
        """Send SIGTERM and do not wait."""
        self._running.send_signal(signal.SIGTERM)

    def wait(self, *, timeout_seconds: float = 20) -> int:
        """Wait for the end after `terminate` and return the exit status.

        Raises:
            ProgramError: It still runs.
        """
        try:
            status = self._running.wait(timeout_seconds)
        except subprocess.TimeoutExpired as error:
            message = f"serve still runs {timeout_seconds} s after SIGTERM: {self.log_text[-2000:]}"
            raise ProgramError(message) from error
        self._process = None
        return status

    def stop(self, *, timeout_seconds: float = 20) -> int:
        """Stop in order and return the exit status."""
        self.terminate()
        return self.wait(timeout_seconds=timeout_seconds)

    def kill9(self) -> None:
        """End it as a power cut would: no handler runs, in none of its workers. It may have ended by itself."""
        self._running.send_signal(signal.SIGSTOP)  # so that it begins no more workers
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for worker in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text("ascii").split():
                os.kill(int(worker), signal.SIGKILL)
        self._running.kill()
        self._running.wait(10)
        self._process = None

    def restart(self, *, environment: Mapping[str, str] | None = None) -> None:
        """Stop if it runs, then start, with other overrides if given."""
        if self._process is not None:
            self.stop()
        if environment is not None:
            self.environment = dict(environment)
        self.start()

    @property
    def is_running(self) -> bool:
        """Tell whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def is_ready(self) -> bool:
        """Tell whether it has said that it accepts."""
        return any(line.startswith(b"ready ") for line in self._out.read_bytes()[self._seen_bytes :].splitlines())

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._running.pid

    @property
    def log_text(self) -> str:
        """Return everything that `serve` wrote, on both streams, since the folder was made."""
        files = [path for path in (self._out, self._err) if path.exists()]
        return "".join(path.read_text("utf-8", "replace") for path in files)

    def logged(self, *, timeout_seconds: float = 20) -> str:
        """Return the same, when all that the running server has logged by now is written, which a thread does."""
        marker = str(uuid.uuid4())
        site = TusSite(self.url, None)
        site.request("OPTIONS", f"{self.url}/files/", {"X-Request-ID": marker})
        deadline = time.monotonic() + timeout_seconds
        while marker not in (text := self.log_text):
            assert time.monotonic() < deadline, text[-2000:]
            time.sleep(0.01)
        return text

    def rss_bytes(self) -> int:
        """Return the resident memory of the process."""
        status = Path(f"/proc/{self.pid}/status").read_text("ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) * 1024

    # ---- the command line -------------------------------------------------------------------------------

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run a command with this server's configuration, without the program's start-up time.

        Raises:
            ProgramError: It failed, and `check` is on.
        """
        return self._run(*arguments, "--config", str(self.config), check=check)

    def cli_json(self, *arguments: str) -> Any:  # noqa: ANN401 - what JSON gives
        """Run a command with `--json` and return what it prints."""
        return json.loads(self.cli(*arguments, "--json").stdout)

    def create_drop(self, *options: str, name: str = "test") -> Drop:
        """Make a drop-off; options are those of `drop create`."""
        return Drop(**self.cli_json("drop", "create", "--name", name, *options))

    def uploads(self, drop: Drop | None = None, *, partials: bool = False) -> list[UploadRow]:
        """List uploads, of one drop-off or of all, with the partial ones or without."""
        chosen = () if drop is None else ("--drop", drop.id)
        rows = self.cli_json("upload", "list", *chosen, *(("--all",) if partials else ()))
        return cast("list[UploadRow]", rows)

    def row(self, upload_url: str, drop: Drop | None = None, *, partials: bool = False) -> UploadRow:
        """Return the one row of an upload, found by the id that belongs to its URL."""
        wanted = upload_id_of(upload_url)
        rows = [row for row in self.uploads(drop, partials=partials) if row["id"] == wanted]
        if len(rows) != 1:
            message = f"{len(rows)} rows for {wanted}"
            raise ProgramError(message)
        return rows[0]

    def export(self, upload: str) -> bytes:
        """Return the plain bytes of an upload, given by id, token or URL, as `upload export` writes them."""
        target = self.folder / f"export-{random.getrandbits(64):016x}"
        try:
            self.cli("upload", "export", upload, "--output", str(target))
            return target.read_bytes()
        finally:
            target.unlink(missing_ok=True)

    @property
    def _running(self) -> subprocess.Popen[bytes] | WarmProcess:
        if self._process is None:
            message = "the server does not run"
            raise ProgramError(message)
        return self._process

    def _forker(self) -> WarmProgram | None:
        """Return the process that `serve` is forked from; None where it has to be started."""
        alone = not self._forked or self.prefix or self.pass_fds or "LD_PRELOAD" in os.environ
        return None if alone else warm()

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DROPOFF_TUS_")}
        kept.pop("DROPOFF_TUS_CONFIG", None)
        overrides = {f"DROPOFF_TUS__{name}": value for name, value in self.environment.items()}
        # As pytest's own filterwarnings; a warning in a request gives a 500.
        return {**kept, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error", **overrides}

    def _run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        if os.environ.get(_PROGRAM_VARIABLE):
            done = subprocess.run(
                [*program(), *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd=self.folder,
                env=self._environment(),
                timeout=60,
                check=False,
            )
        else:
            done = warm().run(arguments, folder=self.folder, environment=self._environment())
        return _checked(done, arguments) if check else done


def run_warm(
    *arguments: str, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command of the program in a folder, without any server's configuration and without its start-up time."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DROPOFF_TUS_")}
    environment = {**kept, "PYTHONPATH": str(REPOSITORY), **(environment or {})}
    return warm().run(arguments, folder=folder, environment=environment)


@functools.cache
def warm(preloaded: str = "") -> WarmProgram:
    """Return the process of this run that commands and servers are forked from, below a library if that is named."""
    folder = Path(tempfile.mkdtemp(prefix="dropoff-warm-"))
    made = WarmProgram(folder, preloaded)
    atexit.register(shutil.rmtree, folder)
    atexit.register(made.close)
    return made


def program() -> list[str]:
    """Return the command that runs the program."""
    if given := os.environ.get(_PROGRAM_VARIABLE):
        return [given]
    script = Path(sys.executable).parent / "dropoff-tus"
    return [str(script)] if script.exists() else [sys.executable, "-m", "server.cli"]


def free_port_pair() -> int:
    """Return a port that is free together with the next one, where monitoring listens."""
    for _ in range(200):
        port = random.choice(_PORTS)
        with contextlib.suppress(OSError), _bound(port), _bound(port + 1):
            return port
    message = "no two free ports side by side"
    raise ProgramError(message)


def token_of(upload_url: str) -> str:
    """Return the secret end of an upload URL."""
    return urlsplit(upload_url).path.rstrip("/").rpartition("/")[2]


def upload_id_of(upload_url: str) -> str:
    """Derive the upload id from an upload URL.

    Source: docs/reference/format.md, Token and id.
    """
    return hashlib.sha256(_UPLOAD_ID_DOMAIN + token_of(upload_url).encode("ascii")).hexdigest()[:32]


def _checked(done: subprocess.CompletedProcess[bytes], arguments: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace")
        message = f"{' '.join(arguments[:2])} ended with {done.returncode}: {said}"
        raise ProgramError(message)
    return done


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.close()
        raise
    return listener
