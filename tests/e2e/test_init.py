"""`init` into folders of every kind: it works in place, or says why not and leaves everything as it was."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.postgres import PostgresServer
from tests.support.programs import require_program
from tests.support.server_process import program, run_warm

_STRANGER = 65534
_NOWHERE = "192.0.2.1:8080"  # an address that nothing can have, so nothing has the port


def _init(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    arguments = ("init", "--dir", str(folder), "--listen", _NOWHERE, "--json", *options)
    return run_warm(*arguments, folder=Path("/"), environment=environment)


def _made(folder: Path, *options: str) -> str:
    """Run it, see that what it made can be used, and return the drop-off's id."""
    done = _init(folder, *options)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    listed = run_warm("drop", "list", "--json", "--config", made["config"], folder=Path("/"))
    assert [drop["id"] for drop in json.loads(listed.stdout)] == [made["drop"]["id"]]
    assert (folder / "config.toml").stat().st_mode & 0o777 == 0o600
    assert run_warm("store", "check", "--config", made["config"], folder=Path("/")).returncode == 0
    return str(made["drop"]["id"])


def _tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system, as a container or a host gets one for the data; needs root."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "volume"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=False).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs (a container without CAP_SYS_ADMIN)")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_init_takes_a_mount_point_with_lost_and_found(volume: Path) -> None:
    """It is the root of a file system, which nobody can rename anything over."""
    (volume / "lost+found").mkdir()
    _made(volume)
    assert (volume / "lost+found").is_dir()
    assert b"exists already and was left as it is" in _init(volume).stderr


def test_init_takes_an_empty_folder_by_a_link_and_makes_missing_ones(tmp_path: Path) -> None:
    """A link to a folder is as good as the folder; beside it nothing is left."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("made/below")
    _made(tmp_path / "link")
    _made(tmp_path / "dangling")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "link", "made", "real"]
    assert (tmp_path / "link").is_symlink()


def test_init_takes_a_folder_of_ours_below_one_that_is_not() -> None:
    """As an administrator hands it out; without that folder it is one sentence, and nothing is made."""
    if os.geteuid() != 0:
        pytest.skip("another user needs root")
    # May read everything, so that it finds the program wherever a checkout lies, and write only its own files.
    rights = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
    as_stranger = [str(require_program("setpriv")), f"--reuid={_STRANGER}", "--clear-groups", *rights, *program()]
    with TemporaryDirectory() as place:
        above = Path(place)
        above.chmod(0o755)
        (above / "ours").mkdir()
        os.chown(above / "ours", _STRANGER, _STRANGER)
        refusal = f"cannot make a folder in {above}: Permission denied".encode()
        for name, status, said in (("ours", 0, b""), ("other/deeper", 1, refusal)):
            command = [*as_stranger, "init", "--dir", str(above / name), "--listen", _NOWHERE, "--json"]
            done = subprocess.run(command, cwd="/", capture_output=True, check=False)
            assert (done.returncode, said in done.stderr) == (status, True), done.stderr
        assert (above / "ours" / "config.toml").exists()
        assert [path.name for path in above.iterdir()] == ["ours"]


@pytest.mark.parametrize("taken", ["file", "folder", "link to a file"])
def test_init_leaves_what_is_there(tmp_path: Path, taken: str) -> None:
    """Any file, with any content."""
    target, mine = tmp_path / "target", tmp_path / "mine"
    if taken == "folder":
        target.mkdir()
        mine = target / "mine"
    mine.write_bytes(b"mine")
    if taken == "file":
        mine.rename(target)
    elif taken != "folder":
        target.symlink_to(mine)
    before = _tree(tmp_path)
    done = _init(target)
    assert (done.returncode, b"exists already and was left as it is" in done.stderr) == (1, True)
    assert _tree(tmp_path) == before


@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_init_that_fails_leaves_nothing_and_a_second_one_works(tmp_path: Path, existing: bool) -> None:
    """Here the catalog is not to be had, when all else stands; a new folder goes with its new parents."""
    target = tmp_path / "a" / "b"
    if existing:
        (target / "lost+found").mkdir(parents=True)
    before = _tree(tmp_path)
    for url in ("postgresql://nobody@127.0.0.1:1/none", "sqlite:////proc/none/catalog.sqlite3"):
        assert _init(target, "--catalog-url", url).returncode == 1
        assert _tree(tmp_path) == before
    done = _init(target, "--catalog-url", "sqlite:///own.sqlite3", DROPOFF_TUS__DROPOFFS__CONTACT="x" * 300)
    assert (done.returncode, _tree(tmp_path)) == (1, before)
    _made(target, "--catalog-url", "sqlite:///own.sqlite3")


# ---- a catalog elsewhere ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """Run a PostgreSQL."""
    with PostgresServer() as server:
        yield server


def _database(postgres: PostgresServer, name: str) -> str:
    postgres.sql(f"CREATE DATABASE {name}")
    return postgres.url(name)


def test_init_with_a_database_works_again_after_each_failure(tmp_path: Path, postgres: PostgresServer) -> None:
    """A failure after the tables were made leaves no drop-off behind that keys signed which are gone."""
    url, target = _database(postgres, "again"), tmp_path / "target"
    done = _init(target, "--catalog-url", url, DROPOFF_TUS__DROPOFFS__CONTACT="x" * 300)
    assert done.returncode == 1
    assert not target.exists()
    postgres.sql("ALTER TABLE audit ADD CHECK (false)", database="again")
    assert _init(target, "--catalog-url", url).returncode == 1
    assert postgres.sql("SELECT id FROM dropoffs", database="again") == []
    shutil.rmtree(target, ignore_errors=True)
    postgres.sql("ALTER TABLE audit DROP CONSTRAINT audit_check", database="again")
    _made(target, "--catalog-url", url)
    done = _init(tmp_path / "second", "--catalog-url", url)
    assert (done.returncode, b"the catalog is in use already" in done.stderr) == (1, True)
    assert not (tmp_path / "second").exists()


def test_init_takes_a_mount_point_with_a_database(volume: Path, postgres: PostgresServer) -> None:
    """Nothing stands between the drop-off in the database and the keys that signed it."""
    _made(volume, "--catalog-url", _database(postgres, "mounted"))


def test_init_keeps_the_keys_once_the_database_has_the_drop_off(tmp_path: Path, postgres: PostgresServer) -> None:
    """A later failure lists what there is, and the drop-off is good."""
    url, target = _database(postgres, "kept"), tmp_path / "target"
    assert _init(target, "--catalog-url", url, DROPOFF_TUS__DROPOFFS__CONTACT="x" * 300).returncode == 1
    postgres.sql("ALTER TABLE catalog_state ADD CHECK (store_id IS NULL)", database="kept")
    done = _init(target, "--catalog-url", url)
    assert (done.returncode, b"was left in" in done.stderr) == (1, True)
    assert b"Traceback" not in done.stderr
    postgres.sql("ALTER TABLE catalog_state DROP CONSTRAINT catalog_state_store_id_check", database="kept")
    config = ("--config", str(target / "config.toml"))
    (drop,) = json.loads(run_warm("drop", "list", "--json", *config, folder=tmp_path).stdout)
    assert run_warm("drop", "new-code", drop["id"], *config, folder=tmp_path).returncode == 0
    assert run_warm("store", "check", *config, folder=tmp_path).returncode == 0


# ---- started each time ----------------------------------------------------------------------------------------------

_ROOT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"


def _init_if_missing(folder: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    return _init(folder, "--if-missing", "--recipient", _ROOT, *options)


def test_init_if_missing_makes_everything_but_a_drop_off_and_then_changes_nothing(tmp_path: Path) -> None:
    """Whoever starts it each time logs what it says, so it says no code; it needs no free address."""
    folder = tmp_path / "data"
    for _ in range(2):
        done = _init_if_missing(folder)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"config": str(folder / "config.toml"), "drop": None}
        (folder / "config.toml").chmod(0o400)
    assert (folder / "config.toml").stat().st_mode & 0o777 == 0o400
    before = _tree(folder)
    assert _init_if_missing(folder, "--catalog-url", "postgresql://nowhere.invalid/x").returncode == 0
    assert _tree(folder) == before
    listed = run_warm("drop", "list", "--json", "--config", str(folder / "config.toml"), folder=Path("/"))
    assert json.loads(listed.stdout) == []


def test_init_if_missing_wants_a_recipient(tmp_path: Path) -> None:
    """A root identity would stay where it opens everything."""
    done = _init(tmp_path / "data", "--if-missing")
    assert done.returncode == 1
    assert b"--if-missing needs --recipient" in done.stderr
    assert not (tmp_path / "data").exists()


def test_init_uses_the_keys_that_are_in_the_folder_for_them(tmp_path: Path) -> None:
    """All of them from a folder that cannot be written, as a container's; those that lack are made."""
    first, second, kept = tmp_path / "first", tmp_path / "second", tmp_path / "kept"
    assert _init_if_missing(first, "--secrets", str(kept)).returncode == 0
    made = {path.name: path.read_bytes() for path in kept.iterdir()}
    assert made.keys() == {"signing-key", "code-key", "managed-identity.txt"}
    for path in kept.iterdir():
        path.chmod(0o400)
    kept.chmod(0o500)
    assert _init_if_missing(second, "--secrets", str(kept)).returncode == 0
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == made
    assert f'signing_key = "{kept}/signing-key"' in (second / "config.toml").read_text("utf-8")
    assert _tree(second / "secrets") == ["ingest"]
    assert run_warm("check-config", "--config", str(second / "config.toml"), folder=Path("/")).returncode == 0


@pytest.mark.parametrize("calls", [2, 8, 14, 19])
def test_init_if_missing_goes_on_where_it_was_killed(tmp_path: Path, calls: int) -> None:
    """Wherever that was; nothing but it touches what was made, and a second one at the same time is refused."""
    folder = tmp_path / "data"
    killed = [sys.executable, "-c", _KILLED, str(calls), "init", "--dir", str(folder), "--listen", _NOWHERE]
    ended = subprocess.run([*killed, "--if-missing", "--recipient", _ROOT], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (folder / "config.toml").exists()
    done = _init_if_missing(folder)
    assert done.returncode == 0, done.stderr
    assert "config.toml.new" not in _tree(folder)
    assert run_warm("check-config", "--config", str(folder / "config.toml"), folder=Path("/")).returncode == 0


_KILLED = """
import os, signal, sys
left = int(sys.argv[1])
def count(event, arguments):
    global left
    if event in {"os.mkdir", "os.rename", "os.link", "os.remove", "sqlite3.connect"} or (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_CREAT | os.O_RDWR)
    ):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
from server.cli.__main__ import main
sys.argv[1:2] = []
sys.addaudithook(count)
main()
"""
