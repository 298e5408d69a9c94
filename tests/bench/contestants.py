"""The servers that the bench races: this product, tusd with and without hooks, @tus/server, and the bound."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tests.bench import tools
from tests.support.postgres import PostgresServer
from tests.support.programs import find_program
from tests.support.server_process import REPOSITORY, free_port_pair, program

_READY_SECONDS = 30
_STOP_SECONDS = 20
_LARGE_BYTES = 1 << 20
NAMES = ("product", "base", "tusd", "tusd-hooks", "tusd-filehooks", "tusjs", "bare")
_DURABILITIES = ("fsync", "os")
_DIGESTS = ("sha256", "blake3", "none")
_KEY_TYPES = ("hybrid", "x25519")
_CATALOGS = ("sqlite", "postgresql")
_WORKERS = ("workers2", "workers4")
_HOOKED = ("pre-create", "post-finish")


class Contestant(ABC):
    """A server on a port of 127.0.0.1, with a folder of its own below the bench's."""

    code = ""
    """The drop-off's code, where there is one."""

    def __init__(self, name: str, folder: Path) -> None:
        """Take a name and an empty folder; nothing runs yet."""
        self.name, self.folder = name, folder
        self.port = free_port_pair()
        self.path = "/files/"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log: IO[bytes] | None = None

    @abstractmethod
    def start(self, settings: Mapping[str, str]) -> None:
        """Start and wait until it accepts; settings are the product's, by `SECTION__KEY`."""

    @property
    @abstractmethod
    def uploads(self) -> Path:
        """Return the folder below which the bytes of uploads lie."""

    def empty(self) -> None:
        """Free the blocks of what was uploaded, and keep the files.

        ext4 does not use an inode again for minutes after its file was removed, and each new file has to step over all
        such: removing files between rounds would slow down everybody's next ones.
        """
        for folder, _, names in os.walk(self.uploads):
            for name in names:
                path = Path(folder, name)
                if path.stat().st_size > _LARGE_BYTES:
                    os.truncate(path, 0)

    @property
    def pids(self) -> list[int]:
        """Return the processes whose memory counts."""
        return [process.pid for process in self._processes]

    @property
    def working_pids(self) -> list[int]:
        """Return the processes whose time counts."""
        return self.pids

    @property
    def ended(self) -> str | None:
        """Return what a process that ended by itself said last; None if all run."""
        if all(process.poll() is None for process in self._processes):
            return None
        return (self.folder / "log").read_text("utf-8", "replace")[-300:]

    def stop(self) -> None:
        """End it and wait."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        if self._log is not None:
            self._log.close()

    def _spawn(self, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        if self._log is None or self._log.closed:
            self._log = (self.folder / "log").open("ab")
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=self.folder,
            env={**_outer_environment(), **environment},
        )
        self._processes.append(process)
        return process

    def _wait_until_open(self, port: int) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            with contextlib.suppress(urllib.error.HTTPError):  # any answer will do
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
                        return
                except (urllib.error.URLError, ConnectionError) as error:
                    if isinstance(error, urllib.error.HTTPError):
                        return
                    if time.monotonic() > deadline or any(one.poll() is not None for one in self._processes):
                        said = (self.folder / "log").read_text("utf-8", "replace")[-600:]
                        raise tools.MissingError(f"{self.name} does not start: {said}") from error
                    time.sleep(0.05)


class Product(Contestant):
    """This program, made with `init` and run with `serve`."""

    def __init__(self, name: str, folder: Path, command: list[str], options: list[str]) -> None:
        """Make its folder with `init`, and its tables in a PostgreSQL of its own if a variant wants them there.

        Args:
            name: The contestant's.
            folder: An empty one.
            command: The command that runs the program.
            options: Words of the variant: durability, digest, key type, catalog, workers.
        """
        super().__init__(name, folder)
        self.command = command
        self._postgres: PostgresServer | None = None
        self._settings: dict[str, str] = {}
        for word in options:
            if word in _DURABILITIES:
                self._settings["STORE__DURABILITY"] = word
            elif word in _DIGESTS:
                self._settings["STORE__DIGEST"] = word
            elif word in _WORKERS:
                self._settings["SERVER__WORKERS"] = word.removeprefix("workers")
        key_type = next((word for word in options if word in _KEY_TYPES), None)
        key_options = ["--key-type", key_type] if key_type else []
        made = self._ask("init", "--dir", str(folder / "data"), "--listen", f"127.0.0.1:{self.port}", *key_options)
        self.config = Path(made["config"])
        drop: dict[str, str] = made["drop"]
        if "postgresql" in options:
            drop = self._move_to_postgresql()
        self.path = urlsplit(drop["upload_url"]).path
        self.code, self.drop_id = drop["code"], drop["id"]

    def start(self, settings: Mapping[str, str]) -> None:
        """Run `serve`."""
        self._spawn([*self.command, "serve", "--config", str(self.config)], **self.environment(settings))
        self._wait_until_open(self.port)

    def restart(self) -> None:
        """End the server, and run it again as it is configured."""
        super().stop()
        self.start({})

    def stop(self) -> None:
        """End it, and its PostgreSQL."""
        super().stop()
        if self._postgres is not None:
            self._postgres.close()
            self._postgres = None

    @property
    def working_pids(self) -> list[int]:
        """Return its process, and PostgreSQL's, which works for it."""
        if self._postgres is None:
            return self.pids
        first_line = (self._postgres.folder / "data/postmaster.pid").read_text("ascii").splitlines()[0]
        return [*self.pids, int(first_line)]

    @property
    def data(self) -> Path:
        """Return the folder of store, keys and catalog."""
        return self.folder / "data"

    @property
    def uploads(self) -> Path:
        """Return the store."""
        return self.data / "store"

    def environment(self, settings: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment for its commands: the variant's settings, and more if given."""
        overrides = {f"DROPOFF_TUS__{name}": value for name, value in {**self._settings, **(settings or {})}.items()}
        return {**_outer_environment(), **overrides}

    def export_command(self, location: str) -> list[str]:
        """Return the command that writes an upload's plain bytes to its standard output."""
        url = f"http://127.0.0.1:{self.port}{location}"
        return [*self.command, "upload", "export", url, "--output", "-", "--config", str(self.config)]

    def _move_to_postgresql(self) -> dict[str, str]:
        """Start a PostgreSQL with the settings it ships with, and make tables and a drop-off there."""
        if find_program("initdb") is None:
            raise tools.MissingError("PostgreSQL is missing (apt-get install postgresql)")
        self._postgres = PostgresServer(("listen_addresses=''",))
        try:
            self._postgres.sql("CREATE DATABASE bench")
            self._settings["CATALOG__URL"] = self._postgres.url("bench")
            self._command("migrate", "--config", str(self.config))
            drop: dict[str, str] = self._ask("drop", "create", "--name", "bench", "--config", str(self.config))
        except BaseException:
            self.stop()
            raise
        return drop

    def _command(self, *arguments: str) -> bytes:
        done = subprocess.run(
            [*self.command, *arguments], cwd=self.folder, env=self.environment(), capture_output=True, check=False
        )
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise tools.MissingError(f"`dropoff-tus {arguments[0]}` ended with {done.returncode}: {said[-400:]}")
        return done.stdout

    def _ask(self, *arguments: str) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self._command(*arguments, "--json"))


class Tusd(Contestant):
    """The Go server, with its file store; with hooks if asked to, whose endpoint and scripts count as a part of it."""

    def __init__(self, name: str, folder: Path, *, hooks: str | None) -> None:
        """Make its folders, and executables for file hooks.

        Args:
            name: The contestant's.
            folder: An empty one.
            hooks: `hooks` for those over HTTP, `filehooks` for scripts that ask the same endpoint, or none.
        """
        super().__init__(name, folder)
        self._program = tools.tusd()
        self._hooks = hooks
        self.uploads.mkdir()
        if hooks:
            self.code = secrets.token_hex(8)
        if hooks == "filehooks":
            script = f"#!{sys.executable}\n{tools.filehook().read_text('utf-8')}"
            self._scripts.mkdir()
            for event in _HOOKED:
                (self._scripts / event).write_text(script, "utf-8")
                (self._scripts / event).chmod(0o700)

    def start(self, settings: Mapping[str, str]) -> None:  # noqa: ARG002 - they are the product's
        """Run the endpoint of the hooks, then tusd."""
        options = ["-host", "127.0.0.1", "-port", str(self.port), "-upload-dir", str(self.uploads)]
        if self._hooks:
            endpoint = self.port + 1
            self._spawn(
                [sys.executable, "-m", "tests.bench.hooks", str(endpoint), str(self.folder / "hooks.sqlite3")],
                PYTHONPATH=str(REPOSITORY),
                BENCH_CODE=self.code,
            )
            self._wait_until_open(endpoint)
            url = f"http://127.0.0.1:{endpoint}/"
            asking = ["-hooks-http", url, "-hooks-http-forward-headers", "Dropoff-Code"]
            options += ["-hooks-dir", str(self._scripts)] if self._hooks == "filehooks" else asking
            options += ["-hooks-enabled-events", ",".join(_HOOKED)]
            self._spawn([str(self._program), *options], BENCH_HOOKS_URL=url)
        else:
            self._spawn([str(self._program), *options])
        self._wait_until_open(self.port)

    @property
    def _scripts(self) -> Path:
        """Return the folder of file hooks."""
        return self.folder / "hooks"

    @property
    def uploads(self) -> Path:
        """Return the folder of the file store."""
        return self.folder / "uploads"


class TusJs(Contestant):
    """The Node server, with its file store."""

    def __init__(self, name: str, folder: Path) -> None:
        """Make its folder."""
        super().__init__(name, folder)
        self._command = tools.tusjs()
        self.path = "/files"
        self.uploads.mkdir()

    def start(self, settings: Mapping[str, str]) -> None:  # noqa: ARG002 - they are the product's
        """Run it."""
        self._spawn([*self._command, str(self.port), str(self.uploads)])
        self._wait_until_open(self.port)

    @property
    def uploads(self) -> Path:
        """Return the folder of the file store."""
        return self.folder / "uploads"


class Bare(Contestant):
    """Only the ciphers, keys and files: the bound of this Python and processor."""

    def __init__(self, name: str, folder: Path) -> None:
        """Make its folder."""
        super().__init__(name, folder)
        self.uploads.mkdir()

    def start(self, settings: Mapping[str, str]) -> None:  # noqa: ARG002 - they are the product's
        """Run it."""
        command = [sys.executable, "-m", "tests.bench.bare", str(self.port), str(self.uploads)]
        self._spawn(command, PYTHONPATH=str(REPOSITORY))
        self._wait_until_open(self.port)

    @property
    def uploads(self) -> Path:
        """Return the folder it writes into."""
        return self.folder / "uploads"


def make(name: str, folder: Path, *, base: str | None) -> Contestant:
    """Make a contestant by its name, in a folder that is made too.

    Args:
        name: `tusd`, alone or with its hooks, `tusjs`, `bare`, or `product` or `base` with words of a variant, as in
            `product-os-none`.
        folder: Does not exist yet.
        base: The program that `base` runs: another checkout's `.venv/bin/dropoff-tus`.

    Raises:
        tools.MissingError: It cannot run here; the text says why.
        ValueError: There is no such contestant.
    """
    check_name(name)
    kind, *words = name.split("-")
    if kind == "base" and base is None:
        raise tools.MissingError("it needs --base PROGRAM, another checkout's .venv/bin/dropoff-tus")
    folder.mkdir(mode=0o700)
    if kind == "tusd":
        return Tusd(name, folder, hooks=words[0] if words else None)
    if kind == "tusjs":
        return TusJs(name, folder)
    if kind == "bare":
        return Bare(name, folder)
    return Product(name, folder, [base] if kind == "base" and base else program(), words)


def check_name(name: str) -> None:
    """Raise ValueError for a name that no contestant has."""
    kind, *words = name.split("-")
    options = {*_DURABILITIES, *_DIGESTS, *_KEY_TYPES, *_CATALOGS, *_WORKERS}
    known = {"product": options, "base": options, "tusd": {"hooks", "filehooks"}}.get(kind, set[str]())
    if kind not in NAMES or not known.issuperset(words):
        variants = ", ".join((*_DURABILITIES, *_DIGESTS, *_KEY_TYPES, *_CATALOGS, *_WORKERS))
        raise ValueError(
            f"there is no contestant {name}; there are {', '.join(NAMES)}, the first two with any of {variants} "
            "behind a hyphen"
        )


def _outer_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("DROPOFF_TUS_")}
