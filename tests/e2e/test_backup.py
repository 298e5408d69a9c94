"""`backup` beside a server under load, killed and repeated; restored, everything acknowledged before it is there."""

import contextlib
import hashlib
import itertools
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import PostgresServer
from tests.support.retrying_clients import Clients
from tests.support.server_process import Drop, ServerProcess, run_warm, upload_id_of
from tests.support.tus_raw import ConnectionCutError, TusSite

pytestmark = pytest.mark.timeout(180)


class _Load(Clients):
    """A client for each drop-off, which begins again at any error."""

    def __init__(self, drops: list[Drop]) -> None:
        """Take them."""
        super().__init__(len(drops))
        self._drops = drops

    def _work(self, number: int) -> None:
        drop = self._drops[number]
        for turn in itertools.count(len(self.done)):
            if self._stop.is_set():
                return
            content = hashlib.shake_128(f"{number} {turn}".encode()).digest(1000 + turn % 7 * 20_000)
            half = len(content) // 2
            time.sleep(0.2)  # in all a few dozen uploads: each is copied, verified and exported
            with contextlib.suppress(ConnectionCutError, OSError):
                url = drop.site.create(len(content), {"Upload-Metadata": "filename YQ=="})
                assert drop.site.patch(url, 0, content[:half]).status == 204
                if turn % 5 == 4:
                    continue  # it stays half
                assert drop.site.patch(url, half, content[half:]).status == 204
                self.done[url] = content


@dataclass
class _Site:
    """A server with its load, and how its catalog gets from a backup into a new server's place."""

    server: ServerProcess
    load: _Load
    postgres: PostgresServer | None
    _restored: int = 0

    def backup(self, folder: Path) -> dict[str, Any]:
        """Back up, and return the answer."""
        found: dict[str, Any] = self.server.cli_json("backup", str(folder))
        assert found["findings"] == []
        return found

    def restore(self, backup: Path, folder: Path) -> ServerProcess:
        """Copy a backup back into a fresh folder, with the secret keys from elsewhere; nothing runs yet."""
        restored = self.server.beside(folder)
        restored.folder, restored.data = folder, folder / "data"
        shutil.copytree(backup, restored.data)
        shutil.copytree(self.server.data / "secrets", restored.data / "secrets", dirs_exist_ok=True)
        shutil.rmtree(restored.data / "secrets" / "ingest")
        restored.config = restored.data / "config.toml"
        if self.postgres is not None:
            self._restored += 1
            name = f"restored{self._restored}"
            self.postgres.sql(f"CREATE DATABASE {name}")
            dump = restored.data / "catalog.pgdump"
            arguments = ["--no-owner", f"--host={self.postgres.folder}", "--username=dropoff_owner", f"--dbname={name}"]
            subprocess.run(["pg_restore", *arguments, str(dump)], check=True)
            restored.environment["CATALOG__URL"] = self.postgres.url(name)
        return restored


_BOTH = pytest.mark.parametrize("site", [pytest.param("sqlite", marks=pytest.mark.slow), "postgresql"], indirect=True)
"""On SQLite the test of kills is the short form."""


@pytest.fixture(scope="module", params=["sqlite"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Site]:
    """Run a server with a managed and a sealed drop-off, on SQLite unless a test says otherwise."""
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer()) if request.param == "postgresql" else None
        options: tuple[str, ...] = ()
        if postgres is not None:
            postgres.sql("CREATE DATABASE live")
            options = ("--catalog-url", postgres.url("live"))
        server = stack.enter_context(ServerProcess(tmp_path_factory.mktemp("live"), init_options=options))
        load = _Load([server.drop, server.create_drop("--sealed", name="sealed")])
        yield _Site(server, load, postgres)


def _assert_whole(server: ServerProcess, identity: Path, uploads: dict[str, bytes]) -> None:
    """Export everything once: of each drop-off's files the bytes are those that were sent."""
    found: set[bytes] = set()
    for drop in server.cli_json("drop", "list"):
        folder = server.folder / f"out-{drop['id']}"
        server.cli("drop", "export", drop["id"], "--output", str(folder), "--identity", str(identity))
        found |= {path.read_bytes() for path in folder.iterdir() if not path.name.startswith("manifest")}
    assert {content for content in uploads.values() if content not in found} == set()
    complete = {row["id"] for row in server.uploads() if row["state"] == "complete"}
    assert {upload_id_of(url) for url in uploads} <= complete


@_BOTH
def test_backup_under_load_restores_all_that_was_acknowledged_before(site: _Site, tmp_path: Path) -> None:
    """First and repeated, each time while uploads run: only what is new is copied, and nothing is lost."""
    folder, known = tmp_path / "backup", dict[str, bytes]()
    half = site.server.drop.site.create(10)
    assert site.server.drop.site.patch(half, 0, b"hello").status == 204
    with site.load.running():
        for _ in range(2):
            site.load.wait_for_more(10)
            known = dict(site.load.done)
            assert site.backup(folder)["uploads"] >= len(known)
    names = {path.name for path in folder.rglob("*")}
    assert not names & {"root-identity.txt", "signing-key", "code-key", "managed-identity.txt", "ingest"}
    assert b"AGE-SECRET-KEY-" not in b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    restored = site.restore(folder, tmp_path)
    assert not [problem for problem in _findings(restored).values() if not problem.startswith(_NEWER)]
    with restored:
        assert restored.cli_json("audit", "verify")["whole"] is True
        _assert_whole(restored, site.server.data / "root-identity.txt", known)
        there = half.replace(site.server.url, restored.url)
        assert TusSite(there, None).patch(there, 5, b"world").status == 204
        assert restored.export(half) == b"helloworld"


_NEWER = ("it is finished in the store, but", "it is finished, but", "it has begun", "the server's envelope is missing")
"""The store of a backup is newer than its catalog, and lacks the envelopes of sealed uploads in progress."""


def _findings(server: ServerProcess, *options: str) -> dict[str, str]:
    found = json.loads(server.cli("store", "check", *options, "--json", check=False).stdout)["findings"]
    return {finding["upload_id"]: finding["problem"] for finding in found}


def test_repeated_backup_copies_only_what_is_new_and_drops_what_is_gone(site: _Site, tmp_path: Path) -> None:
    """What was deleted goes; what only disappeared from the store stays in the backup, and is told of."""
    folder, drop = tmp_path / "backup", site.server.create_drop()
    urls = [drop.site.upload(b"hello" * 100) for _ in range(3)]
    gone, lost, kept = map(upload_id_of, urls)
    site.backup(folder)
    deadline = time.monotonic() + 60
    while site.backup(folder)["files"]:
        # Files that have just been written are copied once more.
        assert time.monotonic() < deadline
    site.server.cli("upload", "delete", gone, "--yes")
    assert 0 < site.backup(folder)["files"] < 4
    assert not list(folder.glob(f"keys/*/{gone}.*"))
    left = {path.name: path.stat().st_size for path in folder.glob(f"store/uploads/*/{gone}/*")}
    assert left.get("data", 0) == 0 < left["log"]
    places = [site.server.data / "store" / "uploads" / lost[:2] / lost]
    places += site.server.data.glob(f"keys/*/{lost}.*")
    away = tmp_path / "away"
    away.mkdir()
    for place in places:
        shutil.move(place, away / place.name)
    try:
        done = site.server.cli("backup", str(folder), "--json", check=False)
        assert done.returncode == 1
        (finding,) = json.loads(done.stdout)["findings"]
        assert finding["upload_id"] == lost
        assert "gone from the store; the backup still has them" in finding["problem"]
    finally:
        for place in places:
            shutil.move(away / place.name, place)
    with site.restore(folder, tmp_path) as restored:
        assert {restored.export(found) for found in (lost, kept)} == {b"hello" * 100}


def _kill_at(site: _Site, folder: Path, failpoint: str) -> dict[str, Any]:
    """Run a backup that kills itself; return the mark of the folder."""
    command, environment = (
        ("backup", str(folder), "--config", str(site.server.config)),
        {"DROPOFF_TUS_FAILPOINT": failpoint},
    )
    died = run_warm(*command, folder=site.server.folder, environment=environment)
    assert died.returncode == -signal.SIGKILL
    mark: dict[str, Any] = json.loads((folder / "keys" / "backup.json").read_text())
    return mark


def test_backup_that_is_killed_goes_on_and_never_looks_whole(site: _Site, tmp_path: Path) -> None:
    """Killed at any step of the first run no server starts on it; of a later one a whole backup is there."""
    folder = tmp_path / "backup"
    with site.load.running():
        site.load.wait_for_more(5)
        for failpoint in ("backup-copy:9", "backup-verified"):
            assert _kill_at(site, folder, failpoint)["completed_at"] is None
            assert not list(folder.glob("catalog.[sp]*"))
        unfinished = tmp_path / "unfinished"
        shutil.copytree(folder, unfinished)
        shutil.copytree(site.server.data / "secrets", unfinished / "secrets")
        shutil.copy(site.server.config, unfinished)
        refused = run_warm("upload", "list", "--config", str(unfinished / "config.toml"), folder=tmp_path)
        assert (refused.returncode, b"never finished" in refused.stderr) == (1, True)
        known = dict(site.load.done)
        first = site.backup(folder)
        site.load.wait_for_more(5)
        for failpoint in ("backup-copy:9", "backup-named"):
            assert _kill_at(site, folder, failpoint)["completed_at"] == first["completed_at"]
    with site.restore(folder, tmp_path) as restored:
        _assert_whole(restored, site.server.data / "root-identity.txt", known)
        assert restored.cli_json("audit", "verify")["whole"] is True
