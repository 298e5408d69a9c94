"""Commands by another user than the store's owner: refused in a sentence, and nothing of theirs is left.

The owner is a user of the kernel without a name, which may read everything, so that it finds the program wherever a
checkout lies, and write only its own files.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import typer.main
from typer.core import TyperGroup as Group

from server.cli.main import app
from storage.files.marker import NAME
from tests.support.programs import require_program
from tests.support.server_process import ServerProcess, program

_OWNER = 424_242
_UPLOAD, _DROP = "0" * 32, "0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11"
_ARGUMENTS: dict[str, list[str]] = {
    "audit accept": ["--yes"],
    "audit export": ["--output", "-"],
    "audit verify": [],
    "backup": ["out"],
    "doctor": [],
    "drop close": [_DROP],
    "drop export": [_DROP, "--output", "out"],
    "drop create": ["--name", "by another user"],
    "drop edit": [_DROP, "--name", "by another user"],
    "drop list": [],
    "drop new-code": [_DROP],
    "drop purge": [_DROP, "--yes"],
    "drop reopen": [_DROP],
    "drop show": [_DROP],
    "import tusd": ["nowhere", "--drop", _DROP],
    "keys rotate": [],
    "migrate": [],
    "outbox list": [],
    "outbox resend": ["--all-dead"],
    "serve": [],
    "store adopt": [],
    "store check": [],
    "store sweep": [],
    "store trust-clock": ["--yes"],
    "token create": ["--name", "by another user", "--scope", "drops:read"],
    "token list": [],
    "token revoke": ["5f0c0b6d3a5e4f0e"],
    "upload delete": [_UPLOAD, "--yes"],
    "upload export": [_UPLOAD, "--output", "out"],
    "upload list": [],
    "upload receipt": [_UPLOAD],
    "upload show": [_UPLOAD],
}
_OPENS_NO_STORE = {"check-config", "init", "keys generate", "keys show", "verify-certificate", "verify-receipt"}


def _commands(group: Group, above: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, Group):
            yield from _commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}"


def _as_owner(*arguments: str) -> list[str]:
    """Return what runs a command as the owner."""
    rights = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
    return [str(require_program("setpriv")), f"--reuid={_OWNER}", "--clear-groups", *rights, *arguments]


def _give(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user)


def _found(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return owner, size and time of every file, so that whatever is made or written shows."""
    return {
        str(path): (path.lstat().st_uid, path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    """Return a server that does not run, whose files are another user's."""
    if os.geteuid() != 0:
        pytest.skip("giving files to another user needs root")
    server = ServerProcess(tmp_path_factory.mktemp("foreign"))
    _give(server.data, _OWNER)
    return server


def test_every_command_is_listed_here() -> None:
    """So that a new one is tried too."""
    root = typer.main.get_command(app)
    assert isinstance(root, Group)
    assert set(_commands(root)) == set(_ARGUMENTS) | _OPENS_NO_STORE


@pytest.mark.parametrize("command", [*_ARGUMENTS, "keys rotate --signing", "keys rotate --dry-run"])
def test_command_by_another_user_is_refused_and_leaves_nothing(foreign: ServerProcess, command: str) -> None:
    """Root could write everything, and its files would be closed to the owner: the refusal names the owner."""
    before = _found(foreign.data)
    done = foreign.cli(*command.split(), *_ARGUMENTS.get(command, []), check=False)
    said = done.stderr.decode()
    assert done.returncode == 1, said
    assert len(said.strip().splitlines()) == 1, said
    assert f"belongs to #{_OWNER}, and this runs as root" in said
    assert f"sudo -u '#{_OWNER}' dropoff-tus" in said
    assert f"setpriv --reuid={_OWNER}" in said
    assert _found(foreign.data) == before
    assert not (foreign.folder / "out").exists()


@pytest.mark.parametrize("place", ["store/uploads", "keys", "catalog.sqlite3"])
def test_one_foreign_place_of_the_store_is_enough(tmp_path: Path, place: str) -> None:
    """The store, the keys and the catalog may lie apart: whichever is another's, nothing is begun."""
    if os.geteuid() != 0:
        pytest.skip("giving files to another user needs root")
    server = ServerProcess(tmp_path)
    path = server.data / place
    os.chown(path / NAME if path.is_dir() else path, _OWNER, _OWNER)
    done = server.cli("drop", "create", "--name", "x", check=False)
    assert (done.returncode, f"{path}" in done.stderr.decode()) == (1, True)


def test_catalog_is_not_made_by_another_user(tmp_path: Path) -> None:
    """A new catalog would be root's, beside a store that is not."""
    if os.geteuid() != 0:
        pytest.skip("giving files to another user needs root")
    server = ServerProcess(tmp_path)
    _give(server.data, _OWNER)
    catalog = server.data / "catalog.sqlite3"
    catalog.unlink()
    assert server.cli("migrate", check=False).returncode == 1
    assert not catalog.exists()


def test_folders_of_a_volume_may_be_anybody_s(tmp_path: Path) -> None:
    """The owner is who made the ids, since the folder that a volume is mounted on is often another user's."""
    if os.geteuid() != 0:
        pytest.skip("giving files to another user needs root")
    server = ServerProcess(tmp_path)
    for folder in (server.data, server.data / "store", server.data / "keys"):
        os.chown(folder, _OWNER, _OWNER)
    assert server.cli("drop", "list", check=False).returncode == 0


@pytest.fixture
def owners_folder() -> Iterator[Path]:
    """Return a folder of the owner's that it can reach."""
    if os.geteuid() != 0:
        pytest.skip("running as another user needs root")
    with TemporaryDirectory() as name:
        os.chown(name, _OWNER, _OWNER)
        yield Path(name)


@pytest.mark.timeout(120)
def test_owner_serves_and_works_beside_root_which_is_refused(owners_folder: Path) -> None:
    """A server runs as the owner. Root is refused, and the owner is not; received files stay the owner's."""
    server = ServerProcess(owners_folder)
    _give(server.data, _OWNER)
    server.prefix = _as_owner()
    with server:
        site, content = server.drop.site, os.urandom(50_000)
        url = site.create(len(content))
        assert site.patch(url, 0, content[:20_000]).status == 204
        for command in (["upload", "list"], ["store", "sweep"], ["keys", "rotate"], ["drop", "create", "--name", "x"]):
            assert server.cli(*command, check=False).returncode == 1
        assert site.patch(url, 20_000, content[20_000:]).status == 204
        export = ("upload", "export", url, "--output", "-", "--config", str(server.config))
        done = subprocess.run(_as_owner(*program(), *export), capture_output=True, cwd=owners_folder, check=False)
        assert done.stdout == content, done.stderr.decode()
    owners = {path: path.lstat().st_uid for path in server.data.rglob("*")}
    assert set(owners.values()) == {_OWNER}, owners
    for path in (server.data / "store" / "uploads" / NAME, server.data / "keys" / NAME):
        os.chown(path, 0, 0)
    done = subprocess.run(
        _as_owner(*program(), "drop", "list", "--config", str(server.config)), capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"belongs to root, and this runs as #424242" in done.stderr
