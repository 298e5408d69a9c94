"""docs/operate/production.md and upgrade.md, followed to the letter on a bare Debian, with a real systemd.

The commands are read out of the pages; certbot speaks with a real ACME server. It needs root and control groups.
"""

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e import test_production
from tests.e2e.test_production import make_archives
from tests.support.certificate import make_certificate
from tests.support.debian import Machine, booted, make_root
from tests.support.documents import run_by
from tests.support.programs import PEBBLE, require_program
from tests.support.retrying_clients import RetryingClients
from tests.support.server_process import program
from tests.support.tus_raw import TusSite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
_NAME = "receive.example.net"
_INSTALLED = ("python3", "python3-venv", "nginx", "certbot")
_ACME = {
    "listenAddress": "127.0.0.1:14000",
    "managementListenAddress": "127.0.0.1:15000",
    "certificate": "/acme/cert.pem",
    "privateKey": "/acme/key.pem",
    "httpPort": 80,
    "tlsPort": 443,
}


def _commands(page: str) -> list[str]:
    """Return a page's blocks, with the words replaced that a reader replaces."""
    found = run_by(test_production.__file__, f"docs/operate/{page}")
    return [block.replace("drop.example.org", _NAME).replace("YOUR.NAME", _NAME) for block in found]


_DROP_OFF = next(line for block in _commands("production.md") for line in block.splitlines() if "alias" in line)


@dataclass(slots=True)
class Production:
    """The machine once the page was followed."""

    machine: Machine
    said: str
    tls: ssl.SSLContext

    @property
    def site(self) -> TusSite:
        """Return the first drop-off."""
        found = re.search(rf"https://{_NAME}/d/(\S+)#(\S+)", self.said)
        assert found is not None, self.said
        return TusSite(f"https://{_NAME}:443/files/{found[1]}/", found[2], self.tls)

    def drop_off(self, command: str) -> str:
        """Run the page's own short form of a command."""
        return self.machine.run(f"{_DROP_OFF}\ndrop-off {command}\n").stdout

    def assert_received(self, clients: RetryingClients, folder: str) -> None:
        """Compare all that the clients were told is there."""
        assert clients.failures == []
        self.drop_off(f"drop export {self.site.upload_url.split('/')[-2]} --output {folder}")
        found = {path.read_bytes() for path in (self.machine.root / folder.strip("/")).iterdir()}
        assert {url for url, content in clients.done.items() if content not in found} == set()


def _follow(machine: Machine, commands: list[str]) -> str:
    """Run blocks in one shell, print how long they took, and return what they said."""
    script = "".join(f'{block}echo "@ $EPOCHREALTIME" {shlex.quote(block.splitlines()[0])}\n' for block in commands)
    said = machine.run(f'exec 2>&1; echo "@ $EPOCHREALTIME"\n{script}').stdout
    times = re.findall(r"^@ (\S+) ?(.*)$", said, re.MULTILINE)
    for (before, _), (after, command) in itertools.pairwise(times):
        print(f"{float(after) - float(before):6.1f} s  {command}")  # noqa: T201 - the figures
    print(f"{float(times[-1][0]) - float(times[0][0]):6.1f} s in all")  # noqa: T201 - likewise
    return said


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """Make the machine, and follow the page on it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    make_archives(folder, light=False)
    install, identity, *rest = _commands("production.md")
    environment = {**os.environ, "PATH": f"{Path(program()[0]).parent}:{os.environ['PATH']}"}
    made = subprocess.run(
        ["bash", "-c", identity], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    recipient = re.search(r"age1\w+", made.stdout)
    assert recipient is not None, made
    with tempfile.TemporaryDirectory(prefix="production.") as name:
        root = Path(name) / "root"
        make_root(root, name=_NAME, fetched=_INSTALLED)
        for archive in folder.glob("*.tar.gz"):
            shutil.copy(archive, root / "root")
        _put_authority(root)
        with booted(root) as machine:
            tls = ssl.create_default_context(cadata=_start_authority(machine))
            said = _follow(machine, [install, *(block.replace("age1…", recipient[0]) for block in rest)])
            with machine.network(), pytest.MonkeyPatch.context() as patch:
                _resolve_here(patch)
                yield Production(machine, said, tls)


def _resolve_here(patch: pytest.MonkeyPatch) -> None:
    """Have the machine's name lead to `lo`."""
    real = socket.getaddrinfo
    patch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: real("127.0.0.1" if host == _NAME else host, *rest, **more)
    )


def _put_authority(root: Path) -> None:
    """Put an ACME server there, which stands for Let's Encrypt; certbot knows it by its configuration."""
    folder = root / "acme"
    folder.mkdir()
    make_certificate(folder)
    shutil.copy(require_program(PEBBLE), folder / "pebble")
    (folder / "config.json").write_text(json.dumps({"pebble": _ACME}))
    shutil.copy(folder / "cert.pem", root / "usr/local/share/ca-certificates/acme.crt")
    settings = root / "root/.config/letsencrypt/cli.ini"
    settings.parent.mkdir(parents=True)
    settings.write_text("server = https://localhost:14000/dir\nnon-interactive = true\n")


def _start_authority(machine: Machine) -> str:
    """Start it, have the machine trust it and what it signs, and return its root certificate."""
    settings = "--setenv=PEBBLE_VA_NOSLEEP=1 --setenv=PEBBLE_WFE_NONCEREJECT=0"
    machine.run(f"systemd-run --quiet --unit=acme {settings} /acme/pebble -config /acme/config.json")
    trusting = ssl.create_default_context(cafile=str(machine.root / "acme/cert.pem"))

    def ask() -> str:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen("https://localhost:15000/roots/0", context=trusting) as answer,
        ):
            return str(answer.read(), "ascii")
        return ""

    with machine.network():
        certificate = _wait_for(ask)
    (machine.root / "usr/local/share/ca-certificates/signer.crt").write_text(certificate, "ascii")
    machine.run("update-ca-certificates")
    return certificate


def _wait_for(ask: Callable[[], str]) -> str:
    deadline = time.monotonic() + 120
    while not (answer := ask()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return answer


def test_page_leads_to_a_server_that_receives(production: Production) -> None:
    """`doctor` finds nothing, and a first upload comes through nginx by TLS and out again."""
    assert "\n0 problems\n" in production.said
    content = os.urandom(300_000)
    url = production.site.upload(content)
    assert production.drop_off(f"upload export {url} --output /var/lib/dropoff-tus/out") is not None
    assert (production.machine.root / "var/lib/dropoff-tus/out").read_bytes() == content


def test_unit_has_its_keys_from_systemd_and_reads_no_other(production: Production) -> None:
    """The service starts while its user may read none of them in /etc; a sealed upload, which writes a key, works."""
    run = production.machine.run
    run("""
        chown root:root /etc/dropoff-tus/signing-key /etc/dropoff-tus/code-key /etc/dropoff-tus/managed-identity.txt
        chmod 0600 /etc/dropoff-tus/signing-key
        systemctl restart dropoff-tus.service
        systemctl is-active dropoff-tus.service
        test -z "$(systemctl --failed --plain --no-legend)"
        chown dropoff-tus:dropoff-tus /etc/dropoff-tus/*
    """)
    assert production.site.upload(b"hello")
    made = json.loads(production.drop_off("drop create --name Sealed --sealed --json"))
    sealed = TusSite(made["upload_url"].replace(_NAME, f"{_NAME}:443"), made["code"], production.tls)
    url = sealed.upload(b"hello")
    shown = production.machine.run(
        f"{_DROP_OFF}\njournalctl -u dropoff-tus --since -1d -o cat | drop-off upload show {url} --history --log -\n"
    )
    assert "PATCH 204" in shown.stdout, shown.stdout


def test_watchdog_restarts_and_clients_go_on(production: Production) -> None:
    """A server that stands still is killed and started again; so is one that was killed."""
    run = production.machine.run
    run("""
        mkdir --parents /etc/systemd/system/dropoff-tus.service.d
        printf '[Service]\\nWatchdogSec=5\\n' >/etc/systemd/system/dropoff-tus.service.d/watchdog.conf
        systemctl daemon-reload
    """)
    for workers in (1, 2):
        run(f"""
            sed --in-place -e '/^workers/d' -e '/^.server.$/a workers = {workers}' /var/lib/dropoff-tus/config.toml
            systemctl restart dropoff-tus.service
        """)
        clients = RetryingClients(production.site)
        with clients.running():
            for ending in ("STOP", "KILL"):
                clients.wait_for_more(4)
                before = _restarts(production)
                run(f"systemctl kill --kill-who=main --signal={ending} dropoff-tus.service")
                while _restarts(production) == before:
                    time.sleep(0.2)
                clients.wait_for_more(4)
        production.assert_received(clients, f"/var/lib/dropoff-tus/watched-{workers}")
    assert "Watchdog timeout" in run("journalctl --unit=dropoff-tus.service").stdout
    run("rm --recursive /etc/systemd/system/dropoff-tus.service.d; systemctl daemon-reload")


def _restarts(production: Production) -> int:
    return int(production.machine.run("systemctl show --property=NRestarts --value dropoff-tus.service").stdout)


def test_reload_and_restart_under_load_fail_no_client(production: Production) -> None:
    """Of the server and of nginx; a wrong configuration is refused with the reason, and the old one holds."""
    run = production.machine.run
    clients = RetryingClients(production.site)
    with clients.running():
        for command in ("reload dropoff-tus", "restart dropoff-tus", "reload nginx"):
            clients.wait_for_more(4)
            run(f"systemctl {command}")
            clients.wait_for_more(4)
        refused = run("""
            cp --archive /var/lib/dropoff-tus/config.toml /tmp/config.toml
            echo '[limits' >>/var/lib/dropoff-tus/config.toml
            ! systemctl reload dropoff-tus
            systemctl is-active dropoff-tus
            cp --archive /tmp/config.toml /var/lib/dropoff-tus/
            systemctl reload dropoff-tus
            journalctl --unit=dropoff-tus.service
        """)
        clients.wait_for_more(4)
    assert "this is not TOML" in refused.stdout
    production.assert_received(clients, "/var/lib/dropoff-tus/reloaded")


def test_renewal_of_the_certificate_loses_no_byte_of_an_upload(production: Production) -> None:
    """By certbot, whose hook reloads nginx; the upload ends over the connection that it began on."""
    site = production.site
    url = site.create(10)

    def shown() -> str:
        return ssl.get_server_certificate((_NAME, 443))

    old = shown()
    with site.connect() as connection:
        connection.send(site.message("PATCH", url, site.patch_headers(0, {"Content-Length": "10"}), b"hello"))
        _wait_for(lambda: "5" if site.head(url).offset == 5 else "")
        production.machine.run(
            "systemctl is-active certbot.timer; certbot renew --force-renewal --no-random-sleep-on-renew"
        )
        _wait_for(lambda: "new" if shown() != old else "")
        connection.send(b"world")
        assert connection.read_response().status == 204
    assert "sha256" in production.drop_off(f"upload show {url} --json")


def test_upgrade_page_is_followed_under_load(production: Production) -> None:
    """No client fails by the change; what came since is there on the way back too, and once the program is gone."""
    machine, clients = production.machine, RetryingClients(production.site)
    *change, back, restore, start, remove = _commands("upgrade.md")
    with clients.running():
        _follow(machine, change)
        clients.wait_for_more(4)
    assert production.machine.run("readlink /opt/dropoff-tus").stdout == "/opt/dropoff-tus-0.2.0\n"
    production.assert_received(clients, "/var/lib/dropoff-tus/upgraded")
    old = next(line for block in change for line in block.splitlines() if line.startswith("old="))
    turn = "".join(back.splitlines(keepends=True)[:2])
    _follow(
        machine, [f"export DROPOFF_TUS_CONFIG=/var/lib/dropoff-tus/config.toml\n{old}\n", restore, turn, start, back]
    )
    assert production.machine.run("readlink /opt/dropoff-tus").stdout == "/opt/dropoff-tus-0.1.0\n"
    production.assert_received(clients, "/var/lib/dropoff-tus/taken-back")
    assert json.loads(production.drop_off("store check --json"))["findings"] == []
    _follow(machine, [remove])
    assert machine.run("ls /opt /usr/local/bin /etc/systemd/system | grep dropoff || :").stdout == ""
    assert machine.run("systemctl --failed --plain --no-legend").stdout == ""
    assert "store" in machine.run("ls /var/lib/dropoff-tus").stdout
