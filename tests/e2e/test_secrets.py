"""Secrets of the real program: from commands, in any letters, on read-only mounts and of another user."""

import os
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.hook_server import HookServer
from tests.support.server_process import REPOSITORY, ServerProcess, program
from tests.support.tus_raw import metadata

_CYRILLIC = "тайный ключ из двадцати девяти букв"
_NAMESPACE = ("unshare", "--map-root-user", "--mount")


def _write(path: Path, text: str) -> str:
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    return str(path)


def _counted(folder: Path, name: str, file: Path) -> str:
    """Return a source that prints a file, and notes that it was asked."""
    code = "import sys; print(open(sys.argv[1]).read()); open(sys.argv[2], 'a').write(sys.argv[3] + '\\n')"
    return "command:" + shlex.join([sys.executable, "-c", code, str(file), str(folder / "asked"), name])


def _asked(folder: Path) -> Counter[str]:
    """Return how often each source was asked since this was last called."""
    path = folder / "asked"
    names = Counter(path.read_text().split()) if path.exists() else Counter()
    path.unlink(missing_ok=True)
    return names


def test_source_is_asked_once_in_a_process(tmp_path: Path) -> None:
    """A command may print a secret only once, or take long; and both kinds of hooks come with a secret."""
    server = ServerProcess(tmp_path)
    hook = Path(_write(tmp_path / "hook", "a secret that is long enough"))
    secrets = server.data / "secrets"
    server.environment = {
        "KEYS__SIGNING_KEY": _counted(tmp_path, "signing_key", secrets / "signing-key"),
        "KEYS__CODE_KEY": _counted(tmp_path, "code_key", secrets / "code-key"),
        "KEYS__MANAGED_IDENTITY": _counted(tmp_path, "managed_identity", secrets / "managed-identity.txt"),
        "WEBHOOK__URL": "https://portal.example/hooks",
        "WEBHOOK__SECRET": _counted(tmp_path, "webhook", hook),
        "PRE_CREATE__WEBHOOK": "https://portal.example/hooks",
        "PRE_CREATE__SECRET": _counted(tmp_path, "pre_create", hook),
        "MAIL__SERVER": "mail.example:587",
        "MAIL__SENDER": "drop@example.org",
        "MAIL__USERNAME": "drop",
        "MAIL__PASSWORD": _counted(tmp_path, "mail", hook),
    }
    keys = dict.fromkeys(("signing_key", "code_key", "managed_identity"), 1)
    all_of_them = keys | dict.fromkeys(("webhook", "pre_create", "mail"), 1)
    with server:
        assert _asked(tmp_path) == all_of_them
        server.cli("check-config")
        assert _asked(tmp_path) == all_of_them
        for line in (
            "drop create --name x",
            "upload list",
            "keys show",
            "store check",
            "audit verify",
            "token create --name x --scope drops:read",
            "doctor --size 1MiB",
        ):
            server.cli(*line.split(), check=False)
            assert set(_asked(tmp_path).values()) <= {1}, line
    server.cli("keys", "rotate", "--signing", "--output", str(tmp_path / "new"))
    assert _asked(tmp_path) == {"signing_key": 1}


def test_webhook_is_signed_with_the_secret_that_was_written(tmp_path: Path) -> None:
    """Letters beyond ASCII are of the secret; else everybody could sign."""
    with HookServer() as hooks:
        settings = {
            "WEBHOOK__URL": hooks.url,
            "WEBHOOK__SECRET": _write(tmp_path / "hook", f"\ufeff{_CYRILLIC}\n"),
            "WEBHOOK__ALLOW_PRIVATE_ADDRESSES": "127.0.0.1",
        }
        with ServerProcess(tmp_path, environment=settings) as server:
            sent = {"Upload-Length": "1", "Upload-Metadata": metadata(filename="a")}
            server.drop.site.post({**sent, "Content-Type": "application/offset+octet-stream"}, b"x")
            (received,) = hooks.wait_for(1)
    received.verify(_CYRILLIC.encode())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1", "koi8-r"])
def test_secret_in_another_encoding_is_named_and_not_used(tmp_path: Path, encoding: str) -> None:
    """`check-config` says so, and `serve` does not start with another secret than the one that was meant."""
    secret = "pässwörd of the hook" if encoding == "latin-1" else "тайныйключ"
    server = ServerProcess(tmp_path)
    path = Path(_write(tmp_path / "hook", ""))
    path.write_bytes(secret.encode(encoding))
    server.environment = {"WEBHOOK__URL": "https://portal.example/hooks", "WEBHOOK__SECRET": str(path)}
    for command in ("check-config", "serve"):
        done = server.cli(command, check=False)
        assert done.returncode == 1
        said = done.stderr.decode()
        assert "webhook.secret: " in said
        assert "UTF-8" in said
        assert secret not in said


@pytest.fixture
def _may_mount() -> None:
    """Skip where the system lets nobody mount; the rule itself is held by `unit/storage/keyring/test_keysource.py`."""
    if subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces are not allowed here")


def _mounted(server: ServerProcess, script: str) -> subprocess.CompletedProcess[str]:
    """Run a command where the secrets' folder is mounted read-only, by a script of sh that gets it as $0."""
    mount = f'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && {script}'
    return subprocess.run(
        [*_NAMESPACE, "sh", "-c", mount, str(server.data / "secrets"), *program()],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "DROPOFF_TUS_CONFIG": str(server.config)},
    )


@pytest.mark.usefixtures("_may_mount")
def test_secrets_of_a_read_only_mount_are_used_as_they_are(tmp_path: Path) -> None:
    """As containers get them: links to files that everybody may read, and no mode can be changed."""
    server = ServerProcess(tmp_path)
    secret = server.data / "secrets" / "signing-key"
    (secret.parent / "..data").mkdir()
    for mode, refused in ((0o444, False), (0o440, False), (0o666, True)):
        secret.unlink() if secret.is_symlink() else secret.rename(secret.parent / "..data" / "signing-key")
        (secret.parent / "..data" / "signing-key").chmod(mode)
        secret.symlink_to("..data/signing-key")
        done = _mounted(server, '"$@" keys show')
        assert (done.returncode != 0) is refused, done.stderr
        if refused:
            assert "mount it with mode 0440" in done.stderr
            assert "CREDENTIALS_DIRECTORY" in done.stderr
            assert "chmod" not in done.stderr
    writable = server.cli("keys", "show", check=False)
    assert writable.returncode == 1
    assert f"run: chmod 600 {secret}; where that cannot be done, mount it read-only, or" in writable.stderr.decode()
