"""`make` and `.ci/packages` before the tests: which Python is taken, and how missing Debian packages come."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Return a folder that is the whole PATH of what is run."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def _run(programs: Path, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=_ROOT,
        env={"PATH": str(programs), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _python(programs: Path, name: str, *, prefix: str, options: str, venv: bool = True) -> None:
    """Make a Python that says of itself how it was built, and notes that an environment was made with it."""
    pretended = programs / f"of-{name}"
    pretended.mkdir()
    lines = [f"import sys, sysconfig; sys.base_prefix = {prefix!r}"]
    lines += [f"sysconfig.get_config_vars()['CONFIG_ARGS'] = {options!r}"]
    lines += [] if venv else ["sys.modules['ensurepip'] = None"]
    (pretended / "sitecustomize.py").write_text("\n".join(lines))
    note = f'[[ $1 == -m ]] && {{ echo "$0" >"{programs}/taken"; exit; }}'
    _script(programs / name, f'{note}\nPYTHONPATH="{pretended}" exec {sys._base_executable} "$@"')  # type: ignore[attr-defined]  # noqa: SLF001


@pytest.mark.parametrize(
    ("newest", "other", "taken"),
    [
        (("/opt/slow", ""), ("/usr", ""), "python3"),  # a distribution's does not say that it is optimised
        (("/opt/slow", ""), ("/opt/fast", "'--with-lto' '--enable-optimizations'"), "python3"),
        (("/opt/fast", "'--enable-optimizations'"), ("/usr", ""), "python3.13"),
        (("/opt/slow", ""), ("/opt/slow", ""), "python3.13"),
        (("/opt/slow", ""), None, "python3.13"),
    ],
)
def test_make_takes_the_newest_python_that_was_built_with_optimisation(
    programs: Path, newest: tuple[str, str], other: tuple[str, str] | None, taken: str
) -> None:
    """One built without is taken where there is no other; which one it took is said."""
    _python(programs, "python3.14", prefix="/usr", options="", venv=False)
    _python(programs, "python3.13", prefix=newest[0], options=newest[1])
    if other is not None:
        _python(programs, "python3", prefix=other[0], options=other[1])
    made = programs / "made"
    done = _run(programs, shutil.which("make") or "make", f"VENV={made}", f"{made}/bin/python")
    assert (done.returncode, done.stderr) == (0, "")
    assert (programs / "taken").read_text() == f"{programs / taken}\n"
    assert f"making {made} with {programs / taken}: Python 3." in done.stdout


def test_make_makes_an_environment_anew_whose_python_is_gone(programs: Path) -> None:
    """As after an upgrade of Debian: packages for the Python of before are of no use to the next."""
    made = programs / "made"
    (made / "bin").mkdir(parents=True)
    (made / "bin/python").symlink_to("/usr/bin/python3.gone")
    (made / ".installed").touch()
    for tool in ("ln", "mkdir", "rm", "touch"):
        (programs / tool).symlink_to(shutil.which(tool) or tool)
    _script(programs / "new", f'echo "$*" >>"{programs}/called"')
    os.utime(programs / "new", (0, 0))  # programs of a distribution are older than what is made with them
    link = f'[[ $1 == -m ]] || exit 0\nmkdir "{made}" "{made}/bin" && exec ln -s "{programs}/new" "{made}/bin/python"'
    _script(programs / "python3", link)
    done = _run(programs, shutil.which("make") or "make", f"VENV={made}", f"{made}/.installed")
    assert done.returncode == 0, done.stderr
    assert "-r requirements.txt" in (programs / "called").read_text()


def _packages(programs: Path, *, uid: int, sudo: bool, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `.ci/packages` on a Debian without age, where apt-get only notes how it was called."""
    _script(programs / "id", f"echo {uid}")
    _script(programs / "true", "exit 0")
    _script(programs / "env", f'echo "$@" >>"{programs}/called"')
    _script(programs / "apt-get", f'echo apt-get "$@" >>"{programs}/called"')
    _script(programs / "sudo", f'echo "sudo $1" >>"{programs}/called"; shift; exec "$@"' if sudo else "exit 1")
    table = (_ROOT / ".ci/packages").read_text().split("PROGRAMS'\n")[1].split("PROGRAMS\n")[0]
    for name in ("python3", *(line.split()[0] for line in table.splitlines())):
        if name != "age" and not (programs / name).exists():
            _script(programs / name, "exit 0")
    return _run(programs, "/bin/bash", ".ci/packages", **environment)


@pytest.mark.parametrize("uid", [0, 1000])
def test_missing_packages_are_installed_by_root_and_by_a_sudo_without_password(programs: Path, uid: int) -> None:
    """Nothing that is there is named; the first line says what is about to be done."""
    done = _packages(programs, uid=uid, sudo=True)
    with_sudo = " with sudo" if uid else ""
    assert (done.returncode, done.stdout) == (0, f"installing Debian packages{with_sudo}: age\n")
    called = (programs / "called").read_text()
    assert "apt-get install -y -qq --no-install-recommends age\n" in called
    assert ("sudo -n\n" in called) is bool(uid)


def test_missing_packages_are_named_where_they_may_not_be_installed(programs: Path) -> None:
    """One line with the command, and nothing is installed."""
    done = _packages(programs, uid=1000, sudo=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "apt-get install age (as root; or ALLOW_MISSING=1" in done.stderr
    assert not (programs / "called").exists()


def test_missing_packages_are_only_named_under_allow_missing(programs: Path) -> None:
    """With ALLOW_MISSING nothing is installed, not even for root."""
    done = _packages(programs, uid=0, sudo=True, ALLOW_MISSING="1")
    assert (done.returncode, done.stdout) == (0, "")
    assert "apt-get install age; the tests that need them are skipped" in done.stderr
    assert not (programs / "called").exists()
