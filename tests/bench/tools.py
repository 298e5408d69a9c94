"""The bench's programs besides Python: the client, which is compiled, and the servers it races against.

Everything is made below `build/bench`, which git ignores, and kept there for the next run.
"""

import functools
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from tests.support.server_process import REPOSITORY

CACHE = REPOSITORY / "build" / "bench"
PEERS = Path(__file__).parent / "peers"
TUSD_VERSION = "v2.9.1"


class MissingError(Exception):
    """Something that a contestant or the bench needs is not here; the text says what."""


def _need(program: str, reason: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise MissingError(f"{program} is missing, {reason}")
    return found


def _run(command: list[str], folder: Path, **environment: str) -> None:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MissingError(f"`{' '.join(command[:3])}` failed: {done.stderr.strip()[-400:]}")


@functools.cache
def load_client(folder: Path) -> Path:
    """Compile the client into a folder.

    Raises:
        MissingError: There is no C compiler, or it fails.
    """
    compiler = _need("cc", "which compiles the client that measures (apt-get install gcc libc6-dev)")
    program = folder / "load"
    _run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(program), str(Path(__file__).parent / "load.c")], folder)
    return program


@functools.cache
def tusd() -> Path:
    """Install tusd unless it is there.

    Raises:
        MissingError: There is no Go, or it cannot install.
    """
    folder = CACHE / f"tusd-{TUSD_VERSION}"
    program = folder / "tusd"
    if not program.exists():
        go = _need("go", "which builds tusd: version 1.25 or newer, from go.dev or a Debian newer than 12")
        folder.mkdir(parents=True, exist_ok=True)
        _run([go, "install", f"github.com/tus/tusd/v2/cmd/tusd@{TUSD_VERSION}"], folder, GOBIN=str(folder))
    return program


def filehook() -> Path:
    """Return the script of tusd's file hooks.

    Raises:
        MissingError: There is no requests, which it imports.
    """
    if importlib.util.find_spec("requests") is None:
        raise MissingError("requests is missing, with which tusd's file hooks ask (pip install requests)")
    return Path(__file__).with_name("filehook.py")


@functools.cache
def tusjs() -> list[str]:
    """Install the Node server unless it is there, and return the command that runs it.

    Raises:
        MissingError: There is no Node or npm, or it cannot install.
    """
    node = _need("node", "which runs @tus/server (apt-get install nodejs)")
    folder = CACHE / "tusjs"
    folder.mkdir(parents=True, exist_ok=True)
    names = ("package.json", "package-lock.json", ".npmrc", "tusjs.mjs")
    changed = [name for name in names if not _same(PEERS / name, folder / name)]
    if changed or not (folder / ".installed").exists():
        npm = _need("npm", "which installs @tus/server (apt-get install npm)")
        (folder / ".installed").unlink(missing_ok=True)
        for name in names:
            shutil.copyfile(PEERS / name, folder / name)
        _run([npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"], folder)
        (folder / ".installed").touch()
    return [node, str(folder / "tusjs.mjs")]


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.read_bytes() == other.read_bytes()
