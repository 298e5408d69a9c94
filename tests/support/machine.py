"""A machine to install on: a shell of root in namespaces of its own, which changes no file of this machine.

What it writes below /etc, /opt, /usr/local and /var stays in memory, and its network has nobody else. Stand-ins take
the place of what needs an index of packages, an authority for certificates, or systemd; `systemctl` goes by
the unit that was installed: it starts its command as its user, without any capability, with its credentials.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.certificate import make_certificate
from tests.support.programs import require_program
from tests.support.server_process import REPOSITORY
from tests.support.warm import WarmProgram

_SET_UP = r"""
set -euo pipefail
shopt -s expand_aliases
mount -t tmpfs machine "$WORK"
for folder in etc opt usr/local var; do
  mkdir -p "$WORK/$folder/new" "$WORK/$folder/work"
  mount -t overlay -o "lowerdir=/$folder,upperdir=$WORK/$folder/new,workdir=$WORK/$folder/work" machine "/$folder"
done
mount -t tmpfs machine /run
"$PYTHON" -c "import runpy, sys; runpy.run_path(sys.argv[1])['up']()" "$CHECKOUT/tests/support/network.py"
mkdir -p /run/lock /var/backup /var/log/nginx
cp "$CERTIFICATE" /usr/local/share/authority.pem
export SSL_CERT_FILE=/usr/local/share/authority.pem CURL_CA_BUNDLE=/usr/local/share/authority.pem
"""
_WARM = r"""
mkdir /opt/venv /opt/checkout /opt/warm
mount --bind "$VENV" /opt/venv
mount --bind "$CHECKOUT" /opt/checkout
(cd /opt/checkout; exec /opt/venv/bin/python -m tests.support.machine) &
cat >/opt/warm/program <<'PROGRAM'
#!/bin/sh
case " $* " in *" serve "*) PYTHONPATH=/opt/checkout exec /opt/venv/bin/python -m server.cli "$@" ;; esac
exec /opt/warm/dropoff-tus "$@"
PROGRAM
chmod 755 /opt/warm/program
until [ -e /opt/warm/ready ]; do sleep 0.05; done
"""
_STAND_INS = {
    "apt-get": "",
    "certbot": """
[ "$5" = --domain ]
mkdir -p "/etc/letsencrypt/live/$6"
cp "$CERTIFICATE" "/etc/letsencrypt/live/$6/fullchain.pem"
cp "$KEY" "/etc/letsencrypt/live/$6/privkey.pem"
""",
    "python3": r"""
mkdir -p "$3/bin"
printf '#!/bin/sh\nls wheels/dropoff_tus-%s-*.whl && ln -s /opt/warm/program "%s/bin/dropoff-tus"\n' \
  "${3##*tus-}" "$3" >"$3/bin/pip"
chmod 755 "$3/bin/pip"
""",
    "systemctl": r"""
action=$1; shift
unit=dropoff-tus.service
# Nothing new can be made beside /var.
each() { sed -n "s/^$1=//p" "/etc/systemd/system/$unit" | sed 's,/backup/,/var/backup/,'; }
run() {
  user=$(each User)
  install -d -o "$user" -m 0700 /run/credentials
  each LoadCredential | while IFS=: read -r name file; do
    install -o "$user" -m 0400 "$file" "/run/credentials/$name"
  done
  cd /
  exec setpriv --reuid="$user" --regid="$(each Group)" --init-groups --bounding-set=-all --no-new-privs \
    env -i CREDENTIALS_DIRECTORY=/run/credentials $(each Environment) $(each ExecStart)
}
start() {
  : >/run/said
  run >/run/said 2>>/run/log &
  echo $! >/run/main
  until grep -q '^ready ' /run/said; do running || { cat /run/log >&2; exit 1; }; sleep 0.05; done
}
running() { [ -e /run/main ] && kill -0 "$(cat /run/main)" 2>/dev/null; }
stop() { ! running || kill "$(cat /run/main)"; while running; do sleep 0.05; done; }
for word; do
  case "$action $word" in
    daemon-reload | *\ --now | *.socket | *.timer) ;;
    reload\ nginx) if [ -s /run/nginx.pid ]; then nginx -s reload; else nginx; fi ;;
    start\ *-backup.service) (unit=$word; run) ;;
    enable\ * | start\ *) start ;;
    disable\ * | stop\ *) stop ;;
    restart\ *) stop; start ;;
    status\ *) running ;;
    *) echo "no stand-in for systemctl $action $word" >&2; exit 1 ;;
  esac
done
""",
}


class Machine:
    """A shell that lives as long as its processes; each step has to succeed."""

    def __init__(self, folder: Path, *, light: bool) -> None:
        """Take an empty folder.

        Args:
            folder: Has the stand-ins and what the shell says.
            light: Nothing is installed; the program is this checkout's, without its start-up time.
        """
        self._said, self._step = folder / "said", folder / "step"
        certificate, key = make_certificate(folder)
        tools, work = folder / "tools", folder / "work"
        tools.mkdir()
        work.mkdir()
        for name, script in {**_STAND_INS, **({} if light else {"python3": 'exec "$PYTHON" "$@"\n'})}.items():
            (tools / name).write_text(f"#!/bin/bash\nset -euo pipefail\n{script}")
            (tools / name).chmod(0o755)
        self._done, done = os.pipe()
        with self._said.open("wb") as said:
            self._shell = subprocess.Popen(
                [
                    require_program("unshare"),
                    "--mount",
                    "--net",
                    "--pid",
                    "--fork",
                    "--kill-child",
                    "--mount-proc",
                    "bash",
                ],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                pass_fds=[done],
                cwd=folder,
                env={
                    "PATH": f"{tools}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "HOME": "/root",
                    "WORK": str(work),
                    "PYTHON": os.path.realpath(sys.executable),
                    "VENV": sys.prefix,
                    "CHECKOUT": str(REPOSITORY),
                    "DONE": str(done),
                    "CERTIFICATE": str(certificate),
                    "KEY": str(key),
                },
            )
        os.close(done)
        self.run(_SET_UP + (_WARM if light else ""))

    def run(self, commands: str) -> str:
        """Run commands and return what they said.

        Raises:
            AssertionError: One of them failed.
        """
        assert self._shell.stdin is not None
        before = self._said.stat().st_size
        with contextlib.suppress(BrokenPipeError):
            self._step.write_text(commands, "utf-8")
            self._shell.stdin.write(f". {self._step} </dev/null\necho >&$DONE\n".encode())
            self._shell.stdin.flush()
        done = os.read(self._done, 1)
        said = self._said.read_bytes()[before:].decode("utf-8", "replace")
        assert done, f"{commands}\n{said[-4000:]}"
        return said

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the shell, and with it all that it has started."""
        self._shell.kill()
        self._shell.communicate()
        os.close(self._done)


if __name__ == "__main__":
    warm = WarmProgram(Path("/opt/warm"))
    Path("/opt/warm/warm").chmod(0o777)
    Path("/opt/warm/ready").touch()
    signal.pause()
