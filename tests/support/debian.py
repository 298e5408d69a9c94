"""A machine of its own: a bare Debian with systemd as its first process, in namespaces of this machine.

It has no network but its own `lo`. Packages that it installs later were fetched when it was made.
"""

import contextlib
import ctypes
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.programs import require_program

_NETWORK = 0x40000000  # CLONE_NEWNET; source: setns(2)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
_BARE = "systemd,systemd-sysv,dbus,ca-certificates"


def make_root(root: Path, *, name: str, fetched: Sequence[str] = ()) -> None:
    """Make a bare Debian with a name; packages that are only fetched can be installed without a network."""
    fetch = f'chroot "$1" apt-get install --yes --download-only -o APT::Install-Recommends=true {" ".join(fetched)}'
    kept = ["--skip=cleanup/apt/lists,cleanup/apt/cache", f"--customize-hook={fetch}"] if fetched else []
    command = [str(require_program("mmdebstrap")), "--quiet", "--variant=minbase", f"--include={_BARE}", *kept]
    subprocess.run([*command, "bookworm", str(root)], check=True, capture_output=True)
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost {name}\n", "ascii")


class Machine:
    """One that runs."""

    def __init__(self, root: Path, leader: int) -> None:
        """Know its first process as it is called here."""
        self.root, self._leader = root, leader

    def run(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run commands as root; the first that fails ends them."""
        inside = [str(require_program("nsenter")), f"--target={self._leader}", "--all", "env", "-i", "--chdir=/root"]
        bash = ["bash", "-O", "expand_aliases", "-euo", "pipefail", "-c", script]
        done = subprocess.run(
            [*inside, "HOME=/root", f"PATH={_PATH}", *bash],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        return done

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Have this thread, and those that it starts meanwhile, connect in the machine's network."""
        change = ctypes.CDLL(None, use_errno=True).setns
        with (
            Path("/proc/thread-self/ns/net").open("rb") as ours,
            Path(f"/proc/{self._leader}/ns/net").open("rb") as its,
        ):
            assert change(its.fileno(), _NETWORK) == 0, os.strerror(ctypes.get_errno())
            try:
                yield
            finally:
                assert change(ours.fileno(), _NETWORK) == 0


@contextlib.contextmanager
def booted(root: Path) -> Iterator[Machine]:
    """Run a root file system's systemd until it has started everything; skip the test where there are no cgroups."""
    group = _control_group()
    command = [str(require_program("systemd-nspawn")), "--quiet", "--register=no", "--keep-unit", "--private-network"]
    command += ["--console=pipe", f"--directory={root}", "--boot"]
    enter = 'echo $$ >"$0/cgroup.procs"; exec "$@"'
    running = subprocess.Popen(
        ["bash", "-euc", enter, group, *command],
        env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield _wait_until_started(root, running)
    finally:
        running.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(60)
        running.kill()
        running.communicate()
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def _control_group() -> Path:
    """Make a control group of its own; the systemd inside makes others below it."""
    mounted = re.findall(r"^\S+ (\S+) cgroup2 ", Path("/proc/self/mounts").read_text("utf-8"), re.MULTILINE)
    group = Path(mounted[0] if mounted else "/sys/fs/cgroup") / f"machine-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no systemd can run here: {error}")
    return group


def _wait_until_started(root: Path, running: subprocess.Popen[str]) -> Machine:
    deadline = time.monotonic() + 120
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    state = ""
    while time.monotonic() < deadline and running.poll() is None:
        for leader in children.read_text("ascii").split():
            machine = Machine(root, int(leader))
            state = machine.run("systemctl is-system-running --wait", check=False).stdout.strip()
            if state in {"running", "degraded"}:
                return machine
        time.sleep(0.1)
    running.kill()
    pytest.fail(f"the machine did not start, {state!r}: {running.communicate()[0]}")
