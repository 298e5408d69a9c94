"""Where the server's secrets come from, in which order, and what is refused."""

import contextlib
import os
import shlex
import stat
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from storage import failpoints
from storage.keyring.keysource import (
    KeySourceError,
    check_owner_only,
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
    """Return a file that only its owner can read."""
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
    """With any file in a key's place, the answer names the key and the path, and does not hang."""
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


class _Source:
    """One way to hand a secret over, as bytes."""

    def __init__(self, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the way, and a folder for its files."""
        self._path = folder / "code-key"
        self.source = {
            "file": str(self._path),
            "credential": "command:false",
            "command": f"command:cat {shlex.quote(str(self._path))}",
        }[kind]
        if kind == "credential":
            monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))

    def read(self, raw: bytes) -> str:
        """Read what somebody wrote."""
        self._path.write_bytes(raw)
        self._path.chmod(0o600)
        return read_source("code-key", self.source)


@pytest.fixture(params=["file", "credential", "command"])
def handed_over(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Source:
    """Return each way to hand a secret over."""
    return _Source(request.param, tmp_path, monkeypatch)


def test_secret_in_any_letters_is_what_was_written(handed_over: _Source) -> None:
    """It is not replaced by one that everybody knows; a byte order mark is no part of it."""
    for text in ("тайный ключ из двадцати девяти", "pässwörd", "密码", "plain"):
        assert handed_over.read(text.encode()) == text
        assert handed_over.read(text.encode("utf-8-sig")) == text


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("секрет\n".encode("utf-16"), "is UTF-16, or no text at all; save it as UTF-8"),
        ("secret".encode("utf-16-le"), "is UTF-16, or no text at all"),
        ("pässwörd".encode("latin-1"), "is not UTF-8 text; save it as UTF-8"),
        ("секрет".encode("cp1251"), "is not UTF-8 text"),
    ],
    ids=["utf-16", "utf-16 without a mark", "latin-1", "cp1251"],
)
def test_secret_in_another_encoding_is_refused_and_not_shown(handed_over: _Source, raw: bytes, said: str) -> None:
    """Whichever way it comes, the sentence names the key and what to do."""
    with pytest.raises(KeySourceError, match=said) as caught:
        handed_over.read(raw)
    assert "code-key" in str(caught.value)
    assert "secret" not in str(caught.value).replace(handed_over.source, "")


_ME, _ROOT, _SOMEBODY = 4242, 0, 4343


@pytest.mark.parametrize(
    ("owner", "read_only", "allowed", "refused"),
    [
        (_ME, False, [0o600, 0o400], [0o440, 0o640, 0o444, 0o620, 0o602, 0o601]),
        # As PostgreSQL's rule for its TLS key.
        (_ROOT, False, [0o400, 0o440, 0o640], [0o444, 0o660, 0o650, 0o604, 0o642]),
        (_SOMEBODY, False, [0o600], [0o640, 0o604]),
        # As Kubernetes and Docker mount secrets.
        (_ROOT, True, [0o400, 0o440, 0o444, 0o644, 0o555], [0o666, 0o777, 0o464]),
        (_SOMEBODY, True, [0o444, 0o440], [0o446]),
        (_ME, True, [0o444, 0o640], [0o622]),
    ],
)
def test_who_may_use_a_secret_file(
    owner: int,
    read_only: bool,
    allowed: list[int],
    refused: list[int],
    secret_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its owner; the group to which root gave it; on a read-only mount whoever sees it. Never a writer."""
    real_stat, real_mount = os.fstat, os.fstatvfs

    def stat_of(descriptor: int) -> os.stat_result:
        found = list(real_stat(descriptor))
        found[stat.ST_UID] = owner
        return os.stat_result(found)

    def mount_of(descriptor: int) -> SimpleNamespace:
        flags = real_mount(descriptor).f_flag & ~os.ST_RDONLY
        return SimpleNamespace(f_flag=flags | (os.ST_RDONLY if read_only else 0))

    monkeypatch.setattr(os, "geteuid", lambda: _ME)
    monkeypatch.setattr(os, "fstat", stat_of)
    monkeypatch.setattr(os, "fstatvfs", mount_of)
    for mode in allowed:
        secret_file.chmod(mode)
        assert read_source("signing-key", str(secret_file)).strip() == SECRET
        check_owner_only(secret_file, "it")
    for mode in refused:
        secret_file.chmod(mode)
        with pytest.raises(KeySourceError, match=r"by others") as caught:
            read_source("signing-key", str(secret_file))
        # Advice that can be followed: nobody changes a mode on a read-only mount.
        assert ("chmod" in str(caught.value)) is not read_only
        # Nor does root's file become readable by anybody but root.
        assert ("chmod 640" in str(caught.value)) is (owner == _ROOT and not read_only)
        assert "CREDENTIALS_DIRECTORY" in str(caught.value)


@pytest.mark.parametrize("source", ["file", "command:false"])
def test_credentials_folder_comes_first(
    source: str, secret_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials of systemd win over the configuration, for the keys that they have."""
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
    assert read_owner_only(secret_file, "it").strip() == SECRET
    assert [path.name for path in secret_file.parent.iterdir()] == [secret_file.name]


def test_new_secret_is_whole_for_whoever_sees_it(tmp_path: Path) -> None:
    """Of many writers one wins, and a reader never finds half a file."""
    path, text = tmp_path / "secret", "x" * 5000
    seen: list[str] = []

    def write() -> None:
        with contextlib.suppress(KeySourceError):
            write_owner_only(path, text)
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
    """The new text appears whole or not at all, and again only for the owner."""

    def die(point: str) -> None:
        if point == "rename":
            raise KeyboardInterrupt

    monkeypatch.setattr(failpoints, "hook", die)
    with pytest.raises(KeyboardInterrupt):
        replace_owner_only(secret_file, "new")
    assert read_owner_only(secret_file, "it").strip() == SECRET
    monkeypatch.setattr(failpoints, "hook", None)
    replace_owner_only(secret_file, "new")
    assert read_owner_only(secret_file, "it") == "new"
