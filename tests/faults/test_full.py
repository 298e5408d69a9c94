"""Volumes that take nothing more, and systems without a place for temporary files: named, whichever it is."""

import errno
import http.client
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.catalog.sqlite import connect
from tests.faults.conftest import SmallDisk
from tests.support.programs import require_program
from tests.support.server_process import ServerProcess, program

_READ_ONLY_ROOT = """
set -e
for folder in / /tmp /var/tmp; do mount --bind $folder $folder; mount -o remount,bind,ro $folder; done
mount --bind "$1" "$1"
mount -o remount,bind,rw "$1"
cd /
shift
exec "$@"
"""


def _ready(server: ServerProcess) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port + 1, timeout=20)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@pytest.fixture(params=["store.dir", "store.keys_dir", "catalog.url"])
def apart(request: pytest.FixtureRequest, tmp_path: Path, small_disk: SmallDisk) -> Iterator[tuple[str, ServerProcess]]:
    """Run a server of whose places one is on a small disk, with the setting that names it."""
    setting: str = request.param
    folder = tmp_path / "server"
    folder.mkdir()
    server = ServerProcess(folder, environment={"STORE__FREE_SPACE_FLOOR": "0"})
    if setting == "catalog.url":
        shutil.copy(server.data / "catalog.sqlite3", small_disk.place)
        server.environment["CATALOG__URL"] = f"sqlite:///{small_disk.place}/catalog.sqlite3"
    else:
        name = {"store.dir": "store", "store.keys_dir": "keys"}[setting]
        shutil.copytree(server.data / name, small_disk.place / name)
        server.environment[setting.upper().replace(".", "__")] = str(small_disk.place / name)
    with server:
        yield setting, server


def _doctor(server: ServerProcess) -> str:
    done = server.cli("doctor", "--json", check=False)
    assert done.returncode == 1, done.stderr
    return done.stdout.decode()


@pytest.mark.timeout(120)
def test_full_volume_is_named_wherever_it_is(apart: tuple[str, ServerProcess], small_disk: SmallDisk) -> None:
    """`/readyz` and `doctor` say which, a creation is 507, and all goes on when there is room."""
    setting, server = apart
    assert _ready(server) == (200, "ready\n")
    small_disk.leave(0)
    status, said = _ready(server)
    assert (status, f"the volume of {setting} is full" in said) == (503, True), said
    assert f"the volume of {setting} is full" in _doctor(server)
    # The catalog's log may have room for some.
    refused = next(
        response for _ in range(50) if (response := server.drop.site.post({"Upload-Length": "10"})).status != 201
    )
    assert (refused.status, refused.error_code) == (507, "ERR_STORAGE_FULL"), refused.body
    small_disk.clear()
    assert _ready(server) == (200, "ready\n")
    assert server.export(server.drop.site.upload(b"0123456789")) == b"0123456789"


@pytest.mark.timeout(120)
def test_used_up_inodes_are_named_wherever_they_are(apart: tuple[str, ServerProcess], small_disk: SmallDisk) -> None:
    """There is room, and no file can be made."""
    setting, server = apart
    small_disk.use_up_inodes()
    status, said = _ready(server)
    assert (status, f"the volume of {setting} has no inodes left" in said) == (503, True), said
    assert f"the volume of {setting} has no inodes left" in _doctor(server)
    if setting != "catalog.url":  # whose files are there already
        refused = server.drop.site.post({"Upload-Length": "10"})
        assert (refused.status, refused.error_code) == (507, "ERR_STORAGE_FULL"), refused.body
    small_disk.clear()
    assert _ready(server) == (200, "ready\n")


@pytest.mark.parametrize("free_kib", [0, 4, 16, 32, 48, 64, 96, 128])
def test_migrate_on_a_full_disk_tells_the_cause(tmp_path: Path, small_disk: SmallDisk, free_kib: int) -> None:
    """With any first failure, and whether the database has undone the rest by itself or not."""
    server = ServerProcess(tmp_path)
    server.environment["CATALOG__URL"] = f"sqlite:///{small_disk.place}/catalog.sqlite3"
    small_disk.leave(free_kib << 10)
    done = server.cli("migrate", check=False)
    said = done.stderr.decode()
    assert done.returncode == 1, said
    assert "cannot rollback" not in said
    assert os.strerror(errno.ENOSPC) in said or "disk is full" in said, said
    small_disk.clear()
    assert server.cli("migrate").returncode == 0


@pytest.fixture
def on_read_only_root(tmp_path: Path) -> list[str]:
    """Return what runs a command on a root that cannot be written, tmp_path excepted, without a temporary folder."""
    unshare = require_program("unshare")
    if os.geteuid() != 0 or subprocess.run([unshare, "-m", "true"], check=False).returncode:
        pytest.skip("mounting needs root")
    return [str(unshare), "-m", "sh", "-c", _READ_ONLY_ROOT, "sh", str(tmp_path)]


def test_sqlite_needs_no_temporary_folder(tmp_path: Path, on_read_only_root: list[str]) -> None:
    """A statement that changes many rows keeps what it needs to undo itself in memory."""
    path = tmp_path / "catalog.sqlite3"
    sqlite3.connect(path).close()
    path.touch()
    connection = connect(path)
    connection.execute("CREATE TABLE one (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
    connection.execute("CREATE TABLE other (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE)")
    connection.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
        "INSERT INTO one SELECT i, printf('%064d', i) FROM n"
    )
    connection.close()
    work = f"""if True:
        from pathlib import Path
        from storage.catalog.sqlite import connect
        database = connect(Path({str(path)!r}))
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO other SELECT * FROM one")
        database.execute("CREATE INDEX other_text ON other (text)")
        database.execute("CREATE TEMP TABLE third AS SELECT * FROM other ORDER BY text DESC")
        database.execute("COMMIT")
    """
    done = subprocess.run([*on_read_only_root, sys.executable, "-c", work], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_migrate_on_a_read_only_root_works_or_tells_the_cause(tmp_path: Path, on_read_only_root: list[str]) -> None:
    """With the catalog's folder writable it needs no other; where that is read-only too, it says so."""
    server = ServerProcess(tmp_path)
    (server.data / "catalog.sqlite3").unlink()
    migrate = [*on_read_only_root, *program(), "--config", str(server.config), "migrate"]
    done = subprocess.run(migrate, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (server.data / "catalog.sqlite3").unlink()
    elsewhere = [*on_read_only_root, "env", f"DROPOFF_TUS__CATALOG__URL=sqlite:////var/tmp/{tmp_path.name}.sqlite3"]
    done = subprocess.run([*elsewhere, *migrate[len(on_read_only_root) :]], capture_output=True, text=True, check=False)
    assert (done.returncode, os.strerror(errno.EROFS) in done.stderr) == (1, True), done.stderr
