"""`doctor` through the public URL: straight, through our nginx configuration, and through proxies set up badly."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import require_program
from tests.support.server_process import ServerProcess, free_port_pair

_BAD = """
daemon off;
master_process off;
pid nginx.pid;
error_log error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path .; proxy_temp_path .; fastcgi_temp_path .; uwsgi_temp_path .; scgi_temp_path .;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{server_port};
            proxy_http_version 1.1;
            {settings}
        }}
    }}
}}
"""
_GOOD = "client_max_body_size 0; proxy_request_buffering off;"


@contextmanager
def _behind(folder: Path, settings: str) -> Iterator[tuple[ServerProcess, str]]:
    """Run a server with nginx in front; yields it with nginx's address, which is the configured public URL."""
    port = free_port_pair()
    url = f"http://127.0.0.1:{port}"
    (folder / "server").mkdir()
    prefix = folder / "nginx"
    prefix.mkdir()
    with ServerProcess(folder / "server", environment={"SERVER__PUBLIC_URL": url}) as server:
        text = _BAD.format(port=port, server_port=server.port, settings=settings)
        (prefix / "nginx.conf").write_text(text, "utf-8")
        command = [str(require_program("nginx")), "-p", str(prefix), "-e", "error.log", "-c", "nginx.conf"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as nginx:
            try:
                deadline = time.monotonic() + 10
                while not (prefix / "nginx.pid").exists() and time.monotonic() < deadline:
                    time.sleep(0.02)
                yield server, url
            finally:
                nginx.terminate()


def _checks(server: ServerProcess) -> dict[str, dict[str, Any]]:
    """Run the doctor and return what it says, by name; its exit code must agree."""
    done = server.cli("doctor", "--json", "--size", "3MiB", check=False)
    assert b"Traceback" not in done.stderr, done.stderr
    answer = json.loads(done.stdout)
    assert done.returncode == (1 if answer["problems"] else 0)
    return {check["check"]: check for check in answer["checks"]}


def _problems(server: ServerProcess) -> dict[str, str]:
    return {name: check["advice"] for name, check in _checks(server).items() if check["status"] == "problem"}


def test_doctor_of_a_healthy_server_makes_an_upload_and_leaves_nothing(tmp_path: Path) -> None:
    """Behind nginx, every step is done; the upload is shredded, the drop-off closed, and used again the next time."""
    with _behind(tmp_path, _GOOD) as (server, url):
        checks = _checks(server)
        assert {name for name, check in checks.items() if check["status"] == "problem"} == set()
        done = {"reach", "clock", "public_url", "buffering", "upload", "export", "monitoring", "space", "keys"}
        assert done <= checks.keys()
        assert checks["root identity"]["status"] == "warning"
        assert url in checks["upload"]["detail"]
        (row,) = server.uploads()
        assert row["state"] == "deleted"
        assert _problems(server) == {}
        ours = [drop for drop in server.cli_json("drop", "list") if drop["name"] == "dropoff-tus doctor"]
        assert [drop["closed"] for drop in ours] == [True]
        said = server.cli("doctor").stdout.decode()
        assert re.search(r"^ok +export: what is read back is what was sent$", said, re.MULTILINE)
        assert not re.search(r"[0-9a-f]{32}", said)


@pytest.mark.parametrize(
    ("settings", "check", "advice"),
    [
        ("client_max_body_size 0;", "buffering", "proxy_request_buffering off"),
        ("proxy_request_buffering off;", "send", "client_max_body_size 0"),
        (f"{_GOOD} proxy_set_header Dropoff-Code '';", "create", "let the proxy pass the header Dropoff-Code"),
        (f"{_GOOD} proxy_hide_header Upload-Expires;", "headers", "let the proxy pass response headers"),
        (f"{_GOOD} limit_except GET POST HEAD OPTIONS {{ deny all; }}", "send", "let it pass POST, HEAD, PATCH"),
        (f"{_GOOD} proxy_hide_header Tus-Version;", "reach", "let the proxy forward /files/"),
    ],
    ids=["buffering", "body size", "request header", "response header", "method", "other site"],
)
def test_doctor_names_what_a_proxy_does_wrong(tmp_path: Path, settings: str, check: str, advice: str) -> None:
    """And what to write in nginx."""
    with _behind(tmp_path, settings) as (server, _):
        checks = _checks(server)
        assert check in checks, checks
        assert advice in checks[check]["advice"], checks


def test_doctor_names_a_wrong_address_and_what_is_wrong_on_this_machine(tmp_path: Path) -> None:
    """A public URL that clients are not told, an open folder, a full disk, a store that others can see."""
    with ServerProcess(tmp_path, environment={"SERVER__PUBLIC_URL": "https://elsewhere.example"}) as server:
        (server.data / "store").chmod(0o755)
        server.environment = {"STORE__FREE_SPACE_FLOOR": "1PiB"}
        checks = _checks(server)
        assert checks["public_url"]["status"] == "problem"
        assert "set server.public_url" in checks["public_url"]["advice"]
        assert checks["space"]["status"] == "problem"
        assert checks["store.dir"]["advice"].startswith("chmod 700")
        shutil.rmtree(server.data / "secrets" / "ingest", ignore_errors=True)
        assert _problems(server)["keys.ingest_dir"].startswith("make it: mkdir -m 700")
        server.stop()
        server.environment = {}
        assert {"monitoring", "reach"} <= _problems(server).keys()
