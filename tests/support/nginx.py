"""nginx with the configuration that we ship."""

import contextlib
import getpass
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.certificate import make_certificate
from tests.support.programs import require_program
from tests.support.server_process import REPOSITORY, ServerProcess, free_port_pair
from tests.support.tus_raw import TusSite

_SHIPPED = REPOSITORY / "nginx"


class Proxy:
    """An nginx with our configuration, all its files below one folder."""

    def __init__(
        self,
        prefix: Path,
        server: ServerProcess,
        *,
        upstream_port: int | None = None,
        host: str = "dropoff-tus.conf",
        changes: Mapping[str, str] | None = None,
    ) -> None:
        """Render what is shipped: only addresses and places differ, and what a test changes besides in the host."""
        self.prefix = prefix
        self.server = server
        self.port = free_port_pair()
        self.plain_port = self.port + 1
        self._nginx = require_program("nginx")
        self.certificate, self.key = make_certificate(prefix)
        self.tls = ssl.create_default_context(cafile=str(self.certificate))
        (prefix / "temp").mkdir()
        shutil.copytree(_SHIPPED / "snippets", prefix / "snippets")
        temporary = "".join(
            f"    {name}_temp_path {prefix}/temp;\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self._render("nginx.conf", {
            "user www-data;": f"user {getpass.getuser()};" if os.geteuid() == 0 else "",
            "worker_processes auto;": "worker_processes 1;",
            "/run/nginx.pid": f"{prefix}/nginx.pid",
            "/var/log/nginx/": f"{prefix}/",
            "http {\n": f"http {{\n{temporary}",
            "/etc/nginx/conf.d/*.conf": f"{prefix}/{host}",
        })  # fmt: skip
        ipv6 = socket.has_dualstack_ipv6()
        upstream = f"server 127.0.0.1:{upstream_port or server.port};"
        self._render(host, {
            f"server {'192.0.2.10:8443' if 'remote' in host else '127.0.0.1:8080'};": upstream,
            " listen 80;": f" listen 127.0.0.1:{self.plain_port};",
            " listen 443 ssl http2;": f" listen 127.0.0.1:{self.port} ssl http2;",
            " listen [::]:80;": f" listen [::1]:{self.plain_port};" if ipv6 else "",
            " listen [::]:443 ssl http2;": f" listen [::1]:{self.port} ssl http2;" if ipv6 else "",
            "/etc/letsencrypt/live/drop.example.org/fullchain.pem": str(self.certificate),
            "/etc/letsencrypt/live/drop.example.org/privkey.pem": str(self.key),
            **(changes or {}),
        })  # fmt: skip
        for name in ("plain", "tls"):
            self._render(f"snippets/dropoff-tus-{name}.conf", {"/var/log/nginx/": f"{prefix}/"})
        self._render("snippets/dropoff-tus-plain.conf", {"/var/www/html": str(prefix)})

    def _render(self, name: str, places: Mapping[str, str]) -> None:
        """Write a file of the configuration, with the places that are here."""
        written = self.prefix / name
        text = (written if written.exists() else _SHIPPED / name).read_text("utf-8")
        for shipped, here in places.items():
            assert shipped in text, shipped
            text = text.replace(shipped, here)
        written.write_text(text, "utf-8")

    def change(self, snippet: str, shipped: str, here: str) -> None:
        """Change a line of a snippet, before it runs."""
        self._render(f"snippets/dropoff-tus-{snippet}.conf", {shipped: here})

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run it."""
        with (self.prefix / "said").open("wb") as said:
            running = subprocess.Popen([*self.command, "-g", "daemon off;"], stdout=said, stderr=said)
        try:
            self._wait_until_it_accepts()
            yield running
        finally:
            running.terminate()
            running.wait(20)

    @property
    def command(self) -> list[str]:
        """Return the command line without an action."""
        return [str(self._nginx), "-p", str(self.prefix), "-c", str(self.prefix / "nginx.conf")]

    @property
    def origin(self) -> str:
        """Return its URL."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def site(self) -> TusSite:
        """Return the drop-off as it looks from outside."""
        return TusSite(f"{self.origin}/files/{self.server.drop.id}/", self.server.drop.code, self.tls)

    @property
    def logs(self) -> str:
        """Return all that nginx has logged."""
        return "".join(path.read_text("utf-8", "replace") for path in self.prefix.glob("*.log"))

    def _wait_until_it_accepts(self) -> None:
        """Wait until the port is open."""
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, self.logs
                time.sleep(0.05)
            else:
                return
