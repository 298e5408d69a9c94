"""`doctor` through the public URL: straight, through our nginx configuration, and through proxies set up badly."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.api_client import Api
from tests.support.hook_server import HookServer
from tests.support.programs import require_program
from tests.support.server_process import ServerProcess, free_port_pair

_MAIN = """
daemon off;
master_process off;
pid nginx.pid;
error_log error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path .; proxy_temp_path .; fastcgi_temp_path .; uwsgi_temp_path .; scgi_temp_path .;
    {hosts}
}}
"""
_HOST = """
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{server_port};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            {settings}
        }}
    }}
"""
_GOOD = "client_max_body_size 0; proxy_request_buffering off;"
_SETTINGS = {
    "good": _GOOD,
    "buffering": "client_max_body_size 0;",
    "body size": "proxy_request_buffering off;",
    "request header": f"{_GOOD} proxy_set_header Dropoff-Code '';",
    "response header": f"{_GOOD} proxy_hide_header Upload-Expires;",
    "method": f"{_GOOD} limit_except GET POST HEAD OPTIONS {{ deny all; }}",
    "other site": f"{_GOOD} proxy_hide_header Tus-Version;",
}


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, dict[str, str]]]:
    """Run one server with an nginx in front, which has an address for each way to set it up."""
    with ServerProcess(tmp_path_factory.mktemp("doctor")) as server:
        ports = {name: free_port_pair() for name in _SETTINGS}
        hosts = "".join(
            _HOST.format(port=ports[name], server_port=server.port, settings=settings)
            for name, settings in _SETTINGS.items()
        )
        prefix = tmp_path_factory.mktemp("nginx")
        (prefix / "nginx.conf").write_text(_MAIN.format(hosts=hosts), "utf-8")
        command = [str(require_program("nginx")), "-p", str(prefix), "-e", "error.log", "-c", "nginx.conf"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as nginx:
            try:
                deadline = time.monotonic() + 10
                while not (prefix / "nginx.pid").exists() and time.monotonic() < deadline:
                    time.sleep(0.02)
                yield server, {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
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


def test_doctor_of_a_healthy_server_makes_an_upload_and_leaves_nothing(
    proxied: tuple[ServerProcess, dict[str, str]],
) -> None:
    """Behind nginx, every step is done; the upload is shredded, the drop-off closed, and used again the next time."""
    server, urls = proxied
    server.environment = {"SERVER__PUBLIC_URL": urls["good"]}
    checks = _checks(server)
    assert {name for name, check in checks.items() if check["status"] == "problem"} == set()
    done = {"reach", "clock", "public_url", "buffering", "upload", "export", "monitoring", "space", "keys"}
    assert done <= checks.keys()
    assert checks["root identity"]["status"] == "warning"
    assert urls["good"] in checks["upload"]["detail"]
    assert {row["state"] for row in server.uploads()} == {"deleted"}
    said = server.cli("doctor").stdout.decode()
    assert re.search(r"^ok +export: the bytes read back are the sent ones$", said, re.MULTILINE)
    assert not re.search(r"[0-9a-f]{32}", said)
    ours = [drop for drop in server.cli_json("drop", "list") if drop["name"] == "dropoff-tus doctor"]
    assert [drop["closed"] for drop in ours] == [True]


def test_doctor_asks_and_tells_nobody_outside(tmp_path: Path) -> None:
    """A site that gets questions or events would take the doctor's upload for somebody's."""
    secret = tmp_path / "secret"
    secret.write_text("a secret that is long enough")
    secret.chmod(0o600)

    async def take(_request: web.Request) -> web.StreamResponse:
        return web.json_response({})

    events = ("created", "complete", "rejected", "terminated", "expired", "deleted")
    with HookServer(take) as site:
        settings = {
            "WEBHOOK__URL": site.url,
            "WEBHOOK__SECRET": str(secret),
            "WEBHOOK__EVENTS": ",".join(f"upload.{event}" for event in events),
            "WEBHOOK__ALLOW_PRIVATE_ADDRESSES": "127.0.0.1",
            "PRE_CREATE__WEBHOOK": site.url,
            "PRE_CREATE__ALLOW_PRIVATE_ADDRESSES": "127.0.0.1",
        }
        with ServerProcess(tmp_path, environment=settings) as server:
            for _ in range(2):
                assert {name for name, check in _checks(server).items() if check["status"] == "problem"} == set()
            assert server.cli_json("outbox", "list") == []
            server.drop.site.upload(b"content")
            told = site.wait_for(3)
    assert sorted(request.json["Type"] for request in told) == ["post-create", "post-finish", "pre-create"]
    assert all(server.drop.id in request.json["Event"]["HTTPRequest"]["URI"] for request in told)


def test_drop_off_of_the_doctor_is_nobody_elses(tmp_path: Path) -> None:
    """Through it uploads would come in of which nobody is asked or told."""
    with ServerProcess(tmp_path) as server:
        _checks(server)
        (probe,) = [drop["id"] for drop in server.cli_json("drop", "list") if drop["name"] == "dropoff-tus doctor"]
        for line in (f"edit {probe} --no-code", f"new-code {probe}", f"create --name x --id {probe}"):
            done = server.cli("drop", *line.split(), check=False)
            assert done.returncode == 1
            assert "is that of `dropoff-tus doctor`" in done.stderr.decode(), line
        api = Api.with_scopes(server, "drops:write")
        for method, path, body in (
            ("POST", "/drops", {"name": "x", "id": probe}),
            ("PATCH", f"/drops/{probe}", {"has_code": False}),
            ("POST", f"/drops/{probe}/new-code", None),
        ):
            assert api(method, path, body).status == 422


@pytest.mark.parametrize(
    ("setting", "check", "advice"),
    [
        ("buffering", "buffering", "proxy_request_buffering off"),
        ("body size", "send", "client_max_body_size 0"),
        ("request header", "create", "let the proxy pass the header Dropoff-Code"),
        ("response header", "headers", "let the proxy pass response headers"),
        ("method", "send", "let it pass POST, HEAD, PATCH"),
        ("other site", "reach", "let the proxy forward /files/"),
    ],
)
def test_doctor_names_what_a_proxy_does_wrong(
    proxied: tuple[ServerProcess, dict[str, str]], setting: str, check: str, advice: str
) -> None:
    """And what to write in nginx."""
    server, urls = proxied
    server.environment = {"SERVER__PUBLIC_URL": urls[setting]}
    checks = _checks(server)
    assert check in checks, checks
    assert advice in checks[check]["advice"], checks


def test_doctor_names_a_wrong_address_and_what_is_wrong_on_this_machine(tmp_path: Path) -> None:
    """A public URL that clients are not told, an open folder, a full disk, a store that others can see."""
    with ServerProcess(tmp_path, environment={"SERVER__PUBLIC_URL": "https://elsewhere.example"}) as server:
        (server.data / "store").chmod(0o755)
        server.environment = {"STORE__FREE_SPACE_FLOOR": "1PiB", "LIMITS__CONNECTIONS": "1000000000"}
        checks = _checks(server)
        assert checks["descriptors"]["status"] == "warning"
        assert checks["public_url"]["status"] == "problem"
        assert "set server.public_url" in checks["public_url"]["advice"]
        assert checks["space"]["status"] == "problem"
        assert checks["store.dir"]["advice"].startswith("chmod 700")
        shutil.rmtree(server.data / "secrets" / "ingest", ignore_errors=True)
        assert _problems(server)["keys.ingest_dir"].startswith("make it: mkdir -m 700")
        server.stop()
        server.environment = {}
        assert {"monitoring", "reach"} <= _problems(server).keys()
