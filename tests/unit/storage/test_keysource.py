"""Where the server's secrets come from, in which order, and what is refused."""

import os
import shlex
import stat
import sys
import threading
from pathlib import Path

import pytest

from storage import durable
from storage.keysource import (
    KeySourceError,
    read_owner_only,
    read_source,
    replace_owner_only,
    source_file,
    write_owner_only,
)

SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test inherit systemd's folder."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    """Return a file that its owner alone can read."""
    path = tmp_path / "signing-key"
    write_owner_only(path, SECRET + "\n")
    return path


def test_file_of_the_owner_alone_is_read(secret_file: Path) -> None:
    """A path is the plainest source."""
    assert read_source("signing-key", str(secret_file)).strip() == SECRET
    assert stat.S_IMODE(secret_file.stat().st_mode) == 0o600
    assert source_file("signing-key", str(secret_file)) == secret_file


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o610, 0o660, 0o777])
def test_file_that_others_can_use_is_refused_with_the_command_that_helps(secret_file: Path, mode: int) -> None:
    """One bit for group or others is enough, and the sentence shows nothing of the key."""
    secret_file.chmod(mode)
    with pytest.raises(KeySourceError, match=f"chmod 600 {secret_file}") as caught:
        read_source("signing-key", str(secret_file))
    assert SECRET not in str(caught.value)
    secret_file.chmod(0o600)
    assert read_source("signing-key", str(secret_file)).strip() == SECRET


def test_link_to_a_file_of_the_owner_alone_is_read(secret_file: Path, tmp_path: Path) -> None:
    """Mounted secrets are links; the mode that counts is the file's."""
    link = tmp_path / "link"
    link.symlink_to(secret_file)
    assert read_source("signing-key", str(link)).strip() == SECRET
    secret_file.chmod(0o644)
    with pytest.raises(KeySourceError, match="chmod 600"):
        read_source("signing-key", str(link))


def test_missing_file_folder_and_pipe_are_sentences(tmp_path: Path) -> None:
    """Whatever is in a key's place, the answer names the key and the path, and does not hang."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("missing", "pipe", "."):
        with pytest.raises(KeySourceError, match="cannot read the code-key at"):
            read_source("code-key", str(tmp_path / name))


def test_command_prints_the_key(secret_file: Path) -> None:
    """A command with arguments and quotes is run without a shell."""
    command = shlex.join([sys.executable, "-c", "import sys; print(open(sys.argv[1]).read())", str(secret_file)])
    assert read_source("signing-key", f"command:{command}").strip() == SECRET
    assert source_file("signing-key", f"command:{command}") is None


@pytest.mark.parametrize("command", ["sh -c 'echo LEAK >&2; echo LEAK; exit 3'", "/nowhere/at/all", "sh -c 'unclosed"])
def test_command_that_fails_is_told_without_its_output(command: str) -> None:
    """Its output may be half a key."""
    with pytest.raises(KeySourceError, match="the command for the code-key failed") as caught:
        read_source("code-key", f"command:{command}")
    assert "LEAK" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_environment_variable_is_removed_after_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """No child process and no dump of the environment finds it afterwards."""
    monkeypatch.setenv("DROP_SECRET", SECRET)
    assert read_source("code-key", "env:DROP_SECRET") == SECRET
    assert "DROP_SECRET" not in os.environ
    with pytest.raises(KeySourceError, match="DROP_SECRET for the code-key is not set"):
        read_source("code-key", "env:DROP_SECRET")


@pytest.mark.parametrize("source", ["file", "command:false", "env:DROP_SECRET"])
def test_credentials_folder_comes_first(
    source: str, secret_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What systemd hands over wins over whatever the configuration says, for the keys that it has."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "code-key").write_text("from systemd")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    configured = str(secret_file) if source == "file" else source
    assert read_source("code-key", configured) == "from systemd"
    assert source_file("code-key", configured) is None
    assert read_source("signing-key", str(secret_file)).strip() == SECRET


def test_new_secret_never_replaces_one(secret_file: Path) -> None:
    """An existing key is left as it is, and nothing lies about."""
    with pytest.raises(KeySourceError, match="exists already and was left as it is"):
        write_owner_only(secret_file, "other")
    write_owner_only(secret_file, "other", existing_ok=True)
    assert read_owner_only(secret_file, "it").strip() == SECRET
    assert [path.name for path in secret_file.parent.iterdir()] == [secret_file.name]


def test_new_secret_is_whole_for_whoever_sees_it(tmp_path: Path) -> None:
    """Of many writers one wins, and a reader never finds half a file."""
    path, text = tmp_path / "secret", "x" * 5000
    seen: list[str] = []

    def write() -> None:
        write_owner_only(path, text, existing_ok=True)
        seen.append(read_owner_only(path, "it"))

    threads = [threading.Thread(target=write) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [text] * 16
    assert [found.name for found in tmp_path.iterdir()] == ["secret"]


def test_replacing_that_dies_before_the_rename_leaves_the_old(
    secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new text appears whole or not at all, and again for the owner alone."""

    def die(point: str) -> None:
        if point == "rename":
            raise KeyboardInterrupt

    monkeypatch.setattr(durable, "failpoint_hook", die)
    with pytest.raises(KeyboardInterrupt):
        replace_owner_only(secret_file, "new")
    assert read_owner_only(secret_file, "it").strip() == SECRET
    monkeypatch.setattr(durable, "failpoint_hook", None)
    replace_owner_only(secret_file, "new")
    assert read_owner_only(secret_file, "it") == "new"
