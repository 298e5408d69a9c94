"""A server whose disk fails when a test says so, and small disks that fill up."""

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import require_program
from tests.support.server_process import ServerProcess, warm
from tests.support.warm import WarmProgram

_INODES = 2000
_SOURCE = Path(__file__).with_name("disk_faults.c")


class FaultyServer(ServerProcess):
    """A server under which `disk_faults.c` is preloaded."""

    def __init__(self, folder: Path, library: Path) -> None:
        """Make it; its disk is well."""
        self.library, self.control = library, folder / "faults"
        self.control.write_text("")
        super().__init__(folder, environment={"STORE__FREE_SPACE_FLOOR": "0"})

    def fail(self, call: str, what: int, path_part: str, *, after: int = 0) -> None:
        """Let a call fail from now on; `disk_faults.c` says how."""
        new = self.control.with_suffix(".new")
        new.write_text(f"{call} {what} {after} {path_part}")
        new.replace(self.control)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the same disk."""
        whole = (*arguments, "--config", str(self.config))
        done = self._forker().run(whole, folder=self.folder, environment=self._environment())
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def heal(self) -> None:
        """Let everything through again."""
        new = self.control.with_suffix(".new")
        new.write_text("")
        new.replace(self.control)

    def _forker(self) -> WarmProgram:
        return warm(str(self.library))

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), "DISK_FAULTS": str(self.control)}


class SmallDisk:
    """A file system of a few MiB, on which a ballast leaves as little room as asked for."""

    def __init__(self, place: Path, size_bytes: int) -> None:
        """Mount it."""
        self.place = place
        self._ballast, self._crowd = place / "ballast", place / "crowd"
        place.mkdir()
        options = f"size={size_bytes},nr_inodes={_INODES}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)

    def leave(self, free_bytes: int) -> None:
        """Fill it up to this many free bytes (whole pages)."""
        self._ballast.unlink(missing_ok=True)
        while True:
            numbers = os.statvfs(self.place)
            with self._ballast.open("wb") as file:
                try:
                    os.posix_fallocate(file.fileno(), 0, max(1, numbers.f_bavail * numbers.f_frsize - free_bytes))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                else:
                    return
            # The server has written meanwhile.

    def use_up_inodes(self) -> None:
        """Make empty files until there can be no more."""
        self._crowd.mkdir()
        with contextlib.suppress(OSError):
            for number in range(_INODES):
                (self._crowd / str(number)).touch()

    def clear(self) -> None:
        """Take the ballast away."""
        self._ballast.unlink(missing_ok=True)
        shutil.rmtree(self._crowd, ignore_errors=True)

    def remount(self, how: str) -> None:
        """Make it read-only (`ro`) or writable again (`rw`)."""
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.place)], check=True)

    def unmount(self) -> None:
        """Take it away."""
        subprocess.run(["umount", "--lazy", str(self.place)], check=True)


@pytest.fixture(scope="session")
def disk_faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the library that makes a disk fail."""
    compiler = require_program("cc")
    library = tmp_path_factory.mktemp("faults") / "disk_faults.so"
    subprocess.run(
        [str(compiler), "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl", "-lpthread"], check=True
    )
    return library


@pytest.fixture(scope="module")
def faulty_server(tmp_path_factory: pytest.TempPathFactory, disk_faults: Path) -> Iterator[FaultyServer]:
    """Run one server a file of tests: unfinished uploads of one are no finding of another."""
    with FaultyServer(tmp_path_factory.mktemp("faulty"), disk_faults) as server:
        yield server


@pytest.fixture
def faulty(faulty_server: FaultyServer) -> Iterator[FaultyServer]:
    """Return a server whose disk is well until told, and afterwards."""
    yield faulty_server
    faulty_server.heal()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Mount a disk of 12 MiB; needs root."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        disk = SmallDisk(tmp_path / "disk", 12 << 20)
    except subprocess.CalledProcessError:
        pytest.skip("this machine lets nobody mount a tmpfs (a container without CAP_SYS_ADMIN)")
    try:
        yield disk
    finally:
        disk.unmount()


@pytest.fixture
def cramped(tmp_path: Path, small_disk: SmallDisk) -> Iterator[ServerProcess]:
    """Run a server whose store, keys and catalog are on the small disk, and its own log elsewhere."""
    folder = small_disk.place / "server"
    folder.mkdir()
    with OutsideLog(folder, tmp_path) as server:
        yield server


class OutsideLog(ServerProcess):
    """A server that logs outside of its folder."""

    def __init__(self, folder: Path, logs: Path) -> None:
        """Make it below folder."""
        super().__init__(folder, environment={"STORE__FREE_SPACE_FLOOR": "0"})
        self._out, self._err = logs / "serve.stdout", logs / "serve.stderr"
