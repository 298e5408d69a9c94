"""The actor of a command in the audit: the user that ran it, and the person behind it, with the source of the name."""

import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server_process import ServerProcess, program, run_warm

_ME = pwd.getpwuid(os.getuid()).pw_name
_LOGIN = Path("/proc/self/loginuid")
_NO_LOGIN = str(2**32 - 1)
_CREATE = ("drop", "create", "--name", "x")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Set a server up. It is stopped, so that nobody but commands writes to the audit."""
    with ServerProcess(tmp_path_factory.mktemp("person")) as running:
        running.stop()
        yield running


def _who(server: ServerProcess) -> list[str]:
    return [row["who"] for row in server.cli_json("audit", "export", "--json")["rows"]]


@pytest.mark.parametrize(
    ("options", "environment", "person"),
    [
        ([], {}, ""),
        ([], {"SUDO_USER": "ada"}, "/sudo:ada"),
        ([], {"SUDO_USER": "not/a:name\n"}, ""),
        ([], {"SUDO_USER": _ME, "DROPOFF_TUS_AS": "Ada Lovelace"}, "/as:Ada Lovelace"),
        ([], {"SUDO_USER": _ME}, ""),
        (["--as", "ada@example.org"], {"SUDO_USER": "bob", "DROPOFF_TUS_AS": "eve"}, "/as:ada@example.org"),
    ],
)
def test_audit_names_the_person_behind_the_user(
    server: ServerProcess, options: list[str], environment: dict[str, str], person: str
) -> None:
    """By what the person said, else by sudo; the row says which."""
    arguments = (*options, *_CREATE, "--config", str(server.config))
    done = run_warm(*arguments, folder=server.folder, environment={"SUDO_USER": "", **environment})
    assert done.returncode == 0, done.stderr
    who = _who(server)[-1]
    # The user of these tests may have logged in as somebody else.
    logged_in = _LOGIN.exists() and _LOGIN.read_text() != _NO_LOGIN
    assert (who.split("/login:")[0] if logged_in else who) == f"operator:{_ME}{person}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can log somebody in")
def test_audit_names_who_logged_in_whatever_is_said(server: ServerProcess) -> None:
    """The kernel's word for it stands beside the person's own."""
    script = 'echo "$1" >/proc/self/loginuid || exit 77; shift; exec "$@"'
    login = ("bash", "-c", script, "login", str(pwd.getpwnam("nobody").pw_uid), *program())
    for options, person in (
        ([], "/login:nobody"),
        (["--as", "ada"], "/as:ada/login:nobody"),
        (["--as", "nobody"], "/as:nobody"),
    ):
        command = (*login, *options, *_CREATE, "--config", str(server.config))
        done = subprocess.run(command, env={**os.environ, "SUDO_USER": ""}, capture_output=True, check=False)
        if done.returncode == 77:
            pytest.skip("this kernel keeps no login uid, or lets nobody change it")
        assert done.returncode == 0, done.stderr
        assert _who(server)[-1] == f"operator:{_ME}{person}"


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "x" * 65, "new\nline", " ada"])
def test_name_that_the_audit_cannot_have_is_refused_before_anything_is_done(server: ServerProcess, name: str) -> None:
    """It could pass for something else in the rows."""
    before = _who(server)
    for arguments in (("--as", name, *_CREATE), ("drop", "--as", name, *_CREATE[1:])):
        refused = server.cli(*arguments, check=False)
        assert (refused.returncode, b"write a name of at most 64" in refused.stderr) == (2, True), refused.stderr
    assert _who(server) == before
