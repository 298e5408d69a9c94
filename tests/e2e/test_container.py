"""The container image, without a registry: the steps of its Containerfile, in a Debian that is made here.

`mmdebstrap` makes the base, bubblewrap runs each step in it, and then the image: with a read-only root, as a user that
it does not know, with no shell asked for.
"""

import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.support.programs import require_program
from tests.support.server_process import REPOSITORY, Drop, free_port_pair, run_warm
from tests.support.tus_raw import metadata

_FOLDER = REPOSITORY / "deploy" / "container"
_STRANGER = 4321


def _instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Containerfile and their arguments."""
    lines = (_FOLDER / "Containerfile").read_text("utf-8").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line and line[0] not in "# "]


@dataclass(slots=True)
class Image:
    """What a stage has made."""

    root: Path
    variables: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def _run_step(root: Path, command: str) -> None:
    """Run a RUN step, as root, with a network."""
    step = [
        str(require_program("bwrap")),
        "--bind",
        str(root),
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/run",
    ]
    step += [
        "--ro-bind",
        "/etc/resolv.conf",
        "/etc/resolv.conf",
        "--clearenv",
        "--setenv",
        "PATH",
        "/usr/sbin:/usr/bin",
    ]
    if authorities := os.environ.get("PIP_CERT"):
        # Of this machine, whose way to the package index may lead through a proxy.
        step += ["--ro-bind", authorities, "/run/authorities", "--setenv", "PIP_CERT", "/run/authorities"]
    done = subprocess.run([*step, "/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _build(folder: Path, context: Path) -> Image:
    """Do what a builder does; the base of both stages is one root file system."""
    base = folder / "base"
    subprocess.run(
        [require_program("mmdebstrap"), "--quiet", "--variant=minbase", "bookworm", base],
        check=True,
        capture_output=True,
    )
    stages: dict[str, Image] = {}
    image = Image(base)
    for name, arguments in _instructions():
        if name == "FROM":
            stage = arguments.partition(" AS ")[2] or "last"
            assert arguments.startswith("docker.io/library/debian:12-slim")
            image = stages[stage] = Image(folder / stage)
            # With its device nodes, which Python would read.
            subprocess.run(["cp", "--archive", base, image.root], check=True)
        elif name == "RUN":
            _run_step(image.root, arguments)
        elif name == "COPY":
            *sources, target = arguments.split()
            origin = context
            if sources[0].startswith("--from="):
                origin = stages[sources.pop(0).removeprefix("--from=")].root
            for pattern in sources:
                for source in sorted(origin.glob(pattern.lstrip("/"))):
                    inside = image.root / target.strip("/")
                    if not source.is_dir():
                        inside.mkdir(parents=True, exist_ok=True)
                    subprocess.run(["cp", "--archive", source, inside], check=True)
        elif name == "ENV":
            image.variables |= dict(item.split("=", 1) for item in shlex.split(arguments))
        else:
            image.settings[name] = arguments
    return image


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """Build it, in a folder that everybody may look into, and take the shells away: nothing may need one."""
    with tempfile.TemporaryDirectory(prefix="container.") as name:
        folder = Path(name)
        folder.chmod(0o755)
        context = folder / "context"
        (context / "dist").mkdir(parents=True)
        shutil.copy(REPOSITORY / "requirements.txt", context)
        wheel = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(context / "dist")]
        subprocess.run(wheel, cwd=REPOSITORY, check=True, capture_output=True)
        began = time.monotonic()
        made = _build(folder, context)
        size = sum(path.lstat().st_size for path in made.root.rglob("*"))
        print(f"built in {time.monotonic() - began:.0f} s; {size >> 20} MiB")  # noqa: T201 - the figures
        for shell in ("sh", "bash", "dash"):
            (made.root / "usr/bin" / shell).unlink()
        yield made


class Container:
    """The image, with a folder for its data and a recipient in a file."""

    def __init__(self, image: Image, folder: Path) -> None:
        """Give the folder to a user that the image does not know."""
        self.image, self.port = image, free_port_pair()
        self.data = folder / "data"
        self.data.mkdir(mode=0o700)
        os.chown(self.data, _STRANGER, _STRANGER)
        self.recipients = folder / "recipients"
        self.recipients.write_text(f"{_ROOT}\n", "ascii")
        self.said = folder / "said"

    def command(self, *arguments: str) -> list[str]:
        """Return what runs the image: a stranger's first process, the root read-only, no code made writable."""
        variables = [part for item in self.image.variables.items() for part in ("--setenv", *item)]
        return [
            *(sys.executable, "-c", _NO_NEW_CODE, str(require_program("setpriv"))),
            *(f"--reuid={_STRANGER}", f"--regid={_STRANGER}", "--clear-groups", "--no-new-privs"),
            *(str(require_program("bwrap")), "--unshare-user", "--unshare-pid", "--unshare-ipc", "--as-pid-1"),
            *("--ro-bind", str(self.image.root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),  # noqa: S108
            *("--bind", str(self.data), "/data", "--tmpfs", "/run"),
            *("--ro-bind", str(self.recipients), "/run/secrets/recipients", "--clearenv", *variables),
            *arguments,
        ]

    def run(self, *arguments: str) -> bytes:
        """Run a command of the program to its end."""
        command = self.command(*json.loads(self.image.settings["ENTRYPOINT"]), *arguments)
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def is_healthy(self) -> bool:
        """Run the image's own check."""
        check = json.loads(self.image.settings["HEALTHCHECK"].partition(" CMD ")[2])
        check = [part.replace("8081", str(self.port + 1)) for part in check]
        return subprocess.run(self.command(*check), capture_output=True, check=False).returncode == 0

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Run what the image runs by itself, and stop it as an engine does."""
        arguments = [*json.loads(self.image.settings["ENTRYPOINT"]), *json.loads(self.image.settings["CMD"])]
        with self.said.open("wb") as said:
            running = subprocess.Popen(self.command(*arguments), stdout=said, stderr=said)
        try:
            deadline = time.monotonic() + 60
            while b"ready " not in self.said.read_bytes():
                assert running.poll() is None, self.said.read_text("utf-8")
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield
            (first,) = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text("ascii").split()
            os.kill(int(first), signal.SIGTERM)
            assert running.wait(30) == 0
        finally:
            running.kill()
            running.wait()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_image_sets_itself_up_and_keeps_uploads_over_a_restart(image: Image) -> None:
    """From `init` to the exported bytes; the code is known only to whoever asked for it."""
    with tempfile.TemporaryDirectory(prefix="container.") as name:
        Path(name).chmod(0o755)
        container = Container(image, Path(name))
        setup = ("init", "--if-missing", "--dir=/data", f"--listen=127.0.0.1:{container.port}")
        for _ in range(2):
            made = json.loads(container.run(*setup, "--recipient=/run/secrets/recipients", "--json"))
            assert made == {"config": "/data/config.toml", "drop": None}
        content = random.randbytes(3 << 20)
        assert not container.is_healthy()
        with container.serving():
            assert container.is_healthy()
            drop = Drop(**json.loads(container.run("drop", "create", "--name", "First", "--json")))
            url = drop.site.create(len(content), {"Upload-Metadata": metadata(filename="a.bin")})
            assert drop.site.patch(url, 0, content[: 1 << 20]).offset == 1 << 20
        with container.serving():
            assert drop.site.patch(url, 1 << 20, content[1 << 20 :]).status == 204
            assert container.run("upload", "export", url, "--output", "-") == content
        container.run("store", "check")


_ROOT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
# Source: PR_SET_MDWE(2const); what MemoryDenyWriteExecute= of a systemd unit asks for. It holds for all that follows.
_NO_NEW_CODE = "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"


# ---- compose --------------------------------------------------------------------------------------------------------


def test_compose_file_runs_commands_that_there_are(tmp_path: Path) -> None:
    """Its `init` is the program's, its containers write to volumes only, and what it mounts from here is here."""
    services = yaml.safe_load((_FOLDER / "compose.yaml").read_text("utf-8"))["services"]
    command = services["init"]["command"]
    here = [part.replace("/data", str(tmp_path / "data")) for part in command if not part.startswith("--catalog-url")]
    (tmp_path / "recipients").write_text(f"{_ROOT}\n", "ascii")
    here = [part.replace("/run/secrets/recipients", str(tmp_path / "recipients")) for part in here]
    done = run_warm(*here, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("init", "dropoff"):
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
    mounted = [volume.split(":")[0] for volume in services["nginx"]["volumes"]]
    assert [path for path in mounted if path.startswith("..") and not (_FOLDER / path).exists()] == []


def test_containerfile_is_for_any_user_and_keeps_one_folder() -> None:
    """Its last stage: no root, and commands without a shell."""
    last = _instructions()
    last = last[max(number for number, (name, _) in enumerate(last) if name == "FROM") :]
    settings = dict(last)
    assert settings["USER"] == "10001:10001"
    assert settings["VOLUME"] == "/data"
    for name in ("ENTRYPOINT", "CMD"):
        assert json.loads(settings[name])
    assert json.loads(settings["HEALTHCHECK"].partition(" CMD ")[2])
