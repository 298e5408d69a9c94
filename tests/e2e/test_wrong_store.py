"""A store that is not mounted, or another one in its place: nothing starts, nothing is made, nothing is forgotten."""

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dropoff_tus.errors import UploadNotFoundError
from server.services import StartError, open_services
from server.settings.config import load_config
from storage.files.marker import NAME
from tests.support.server_process import ProgramError, ServerProcess, upload_id_of

_ROOTS = {"store": "store/uploads", "keys": "keys"}


@dataclass(frozen=True, slots=True)
class _Stopped:
    """A server that does not run, and the URL of the half upload that it has."""

    server: ServerProcess
    half: str

    def root(self, name: str) -> Path:
        """Return the folder that has the id."""
        return self.server.data / _ROOTS[name]

    def reconcile(self, **overrides: str) -> None:
        """Do what a start does, without its time, and find the upload as it was."""
        environment = {f"DROPOFF_TUS__{name}": value for name, value in overrides.items()}

        async def work() -> None:
            async with open_services(load_config(self.server.config, environment)) as services:
                assert (await services.uploads.reconciler.reconcile()).dropped == 0
                assert (await services.store.stat(upload_id_of(self.half))).offset == 5

        asyncio.run(work())

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        """Ask or change the catalog behind the program's back."""
        with contextlib.closing(sqlite3.connect(self.server.data / "catalog.sqlite3", isolation_level=None)) as catalog:
            return catalog.execute(statement).fetchall()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Stopped]:
    """Make a server that has received half an upload, and stop it."""
    server = ServerProcess(tmp_path_factory.mktemp("unmounted"))
    server.start()
    url = server.drop.site.create(10)
    server.drop.site.patch(url, 0, b"hello")
    server.stop()
    yield _Stopped(server, url)
    server.close()


@contextlib.contextmanager
def _not_mounted(stopped: _Stopped, root: str) -> Iterator[Path]:
    """Put an empty folder where a volume was, and the volume back in the end."""
    mounted, away = stopped.server.data / root, stopped.server.data / f"{root}.away"
    mounted.rename(away)
    mounted.mkdir()
    try:
        yield mounted
    finally:
        shutil.rmtree(mounted)
        away.rename(mounted)


def _refusal(server: ServerProcess, *command: str) -> str:
    done = server.cli(*command, check=False)
    assert done.returncode == 1
    assert not done.stdout
    (line,) = done.stderr.decode().splitlines()
    return line


@pytest.mark.parametrize("root", ["store", pytest.param("keys", marks=pytest.mark.slow)])
def test_root_that_is_not_mounted_is_named_and_nothing_is_lost(stopped: _Stopped, root: str) -> None:
    """The server and every command that opens the store refuse; mounted again, the upload goes on."""
    server = stopped.server
    with _not_mounted(stopped, root) as mounted:
        with pytest.raises(ProgramError, match="ended with 1"):
            server.start()
        commands = (
            ("store", "check"),
            ("store", "sweep"),
            ("upload", "list"),
            ("upload", "delete", upload_id_of(stopped.half), "--yes"),
            ("keys", "rotate", "--signing"),
        )
        refusals = [server.log_text.splitlines()[-1], *(_refusal(server, *command) for command in commands)]
        for said in refusals:
            assert f"{stopped.root(root)}" in said
            assert "not mounted" in said
        assert not list(mounted.iterdir())
    stopped.reconcile()
    assert server.row(stopped.half)["state"] == "open"


@pytest.mark.parametrize("root", _ROOTS)
def test_root_that_is_not_mounted_is_not_adopted_either(stopped: _Stopped, root: str) -> None:
    """Not even at the first start after an update, when no folder has an id yet."""
    for name in _ROOTS:
        (stopped.root(name) / NAME).unlink()
    stopped.sql("UPDATE catalog_state SET store_id = NULL")
    with _not_mounted(stopped, root), pytest.raises(StartError, match=f"{stopped.root(root)}.*not mounted"):
        stopped.reconcile()
    stopped.reconcile()


def test_root_of_another_store_is_refused(stopped: _Stopped, tmp_path: Path) -> None:
    """Two servers whose volumes were exchanged do not take each other's uploads for lost."""
    other = ServerProcess(tmp_path)
    with pytest.raises(StartError, match=f"{other.data}.* is of another store"):
        stopped.reconcile(STORE__DIR=str(other.data / "store"))
    stopped.reconcile()


def test_store_and_catalog_from_before_are_adopted_once(stopped: _Stopped) -> None:
    """After an update the next start writes the id, a mere check does not; an older catalog keeps the store's."""
    files = [stopped.root(name) / NAME for name in _ROOTS]
    for file in files:
        file.unlink()
    stopped.sql("UPDATE catalog_state SET store_id = NULL")
    assert stopped.server.cli_json("store", "check")["findings"] == []
    assert not any(file.exists() for file in files)
    stopped.reconcile()
    ((kept,),) = stopped.sql("SELECT store_id FROM catalog_state")
    assert {file.read_text() for file in files} == {f"{kept}\n"}
    stopped.sql("UPDATE catalog_state SET store_id = NULL")
    stopped.reconcile()
    assert stopped.sql("SELECT store_id FROM catalog_state") == [(kept,)]


def test_first_start_of_an_empty_catalog_makes_the_folders(tmp_path: Path) -> None:
    """Neither a folder nor an id has to be there before."""
    fresh = _Stopped(ServerProcess(tmp_path), "")
    for root in ("store", "keys"):
        shutil.rmtree(fresh.server.data / root)
    fresh.sql("UPDATE catalog_state SET store_id = NULL")
    with pytest.raises(UploadNotFoundError):
        fresh.reconcile()
    assert all((fresh.root(name) / NAME).is_file() for name in _ROOTS)
