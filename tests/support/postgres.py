"""A real PostgreSQL for tests: its own cluster in a temporary folder, reached only by a socket.

PostgreSQL refuses to run as root, so where tests do, it runs as the user that Debian's package made, or else as nobody.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.programs import require_program

OWNER = "dropoff_owner"
"""The superuser of the cluster; owns what tests make."""

_SETTINGS = (
    "listen_addresses=''",
    "fsync=off",  # a crash of the process loses nothing by it, and tests cut no power
    "full_page_writes=off",
    "max_connections=150",
    "shared_buffers=16MB",
    "autovacuum=off",
    "deadlock_timeout=50ms",
    "log_min_messages=error",
)


class PostgresServer:
    """One cluster. Its folder is removed by `close`."""

    def __init__(self, settings: Sequence[str] = _SETTINGS) -> None:
        """Make the cluster with `initdb` and start it; settings are for its life."""
        self._settings = settings
        # The folder that has initdb has the rest, also where only initdb is linked to from elsewhere.
        self._programs = require_program("initdb").resolve().parent
        self._as: dict[str, Any] = {}
        # Not pytest's temporary folder, which is only for its user; and a socket's path must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="dropoff-pg-"))
        if os.geteuid() == 0:
            user = _unprivileged()
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        try:
            self._run("initdb", "--pgdata", "data", "--username", OWNER, "--auth=trust", "--encoding=UTF8", "--no-sync")
            # Before the line that trusts everyone: a database that asks for passwords.
            rules = self.folder / "data/pg_hba.conf"
            rules.write_text(f"local with_password all scram-sha-256\n{rules.read_text()}")
            self.start()
        except BaseException:
            shutil.rmtree(self.folder)
            raise

    def __enter__(self) -> Self:
        """Return itself, running."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop it and remove its folder."""
        self.close()

    def url(self, database: str, user: str = OWNER) -> str:
        """Return the catalog URL of a database."""
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def start(self) -> None:
        """Start it and return once it accepts."""
        options = " ".join(f"-c {setting}" for setting in (*self._settings, f"unix_socket_directories={self.folder}"))
        self._run("pg_ctl", "start", "--pgdata=data", "--wait", "--log=log", f"--options={options}")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it: `immediate` as a crash would, `fast` in order."""
        self._run("pg_ctl", "stop", "--pgdata=data", "--wait", f"--mode={mode}")

    def close(self) -> None:
        """Stop it if it runs and remove its folder."""
        if (self.folder / "data/postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder)

    def sql(self, text: str, *, database: str = "postgres") -> list[str]:
        """Run statements as the owner and return the lines of their answer."""
        arguments = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1")
        place = ("--host", str(self.folder), "--username", OWNER, "--dbname", database)
        said = self._run("psql", *arguments, *place, "--command", text)
        return [line for line in said.splitlines() if line]

    def backends(self, database: str) -> list[int]:
        """Return the processes that serve the program's connections to a database."""
        lines = self.sql("SELECT datname, application_name, pid FROM pg_stat_activity")
        rows = [line.split("|") for line in lines]
        return [int(pid) for name, program, pid in rows if (name, program) == (database, "dropoff-tus")]

    def _run(self, name: str, *arguments: str) -> str:
        # pg_ctl's child keeps the streams, so its output goes to a file, or reading it would never end.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [self._programs / name, *arguments],
                cwd=self.folder,
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "HOME": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=60,
                **self._as,
            )
            output.seek(0)
            said = output.read().decode("utf-8", "replace")
        if done.returncode:
            message = f"{name} ended with {done.returncode}: {said[-2000:]}"
            raise AssertionError(message)
        return said


def pause(pids: Sequence[int]) -> None:
    """Stop processes where they are, as a network that swallows everything would look to their clients."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.05)


def resume(pids: Sequence[int]) -> None:
    """Let them go on; those that have ended meanwhile are no matter."""
    for pid in pids:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)


def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
