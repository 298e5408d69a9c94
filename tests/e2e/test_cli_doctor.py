"""`doctor` through the public URL: straight, through our nginx configuration, and through proxies set up badly."""

import json
import os
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
from tests.support.certificate import make_certificate
from tests.support.hook_server import HookServer
from tests.support.mail_server import PASSWORD, USER, MailServer
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
    ssl_certificate cert.pem; ssl_certificate_key key.pem;
    client_body_temp_path .; proxy_temp_path .; fastcgi_temp_path .; uwsgi_temp_path .; scgi_temp_path .;
    {hosts}
}}
"""
_HOST = """
    server {{
        listen 127.0.0.1:{port} {listen};
        location / {{
            proxy_pass http://127.0.0.1:{server_port};
            proxy_http_version 1.1;
            {settings}
        }}
    }}
"""
_ORIGIN = "https://page.example"
_PASSED = "proxy_set_header Host $http_host;"
_SECURE = "proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-For $remote_addr;"
_UNBUFFERED = "client_max_body_size 0; proxy_request_buffering off;"
_GOOD = f"{_UNBUFFERED} {_PASSED}"
_SETTINGS = {
    "good": _GOOD,
    "buffering": f"client_max_body_size 0; {_PASSED}",
    "body size": f"proxy_request_buffering off; {_PASSED}",
    "large body": f"proxy_request_buffering off; client_max_body_size 100m; {_PASSED}",
    "host": f"{_UNBUFFERED} proxy_redirect off;",
    "origin twice": f"{_GOOD} add_header Access-Control-Allow-Origin * always;",
    "no origin": f"{_GOOD} proxy_hide_header Access-Control-Allow-Headers;",
    "https, scheme": _GOOD,
    "https, small window": f"{_GOOD} {_SECURE}",
    "https, good": f"{_GOOD} {_SECURE} client_body_buffer_size 8m;",
    "request header": f"{_GOOD} proxy_set_header Dropoff-Code '';",
    "response header": f"{_GOOD} proxy_hide_header Upload-Expires;",
    "method": f"{_GOOD} limit_except GET POST HEAD OPTIONS {{ deny all; }}",
    "other site": f"{_GOOD} proxy_hide_header Tus-Version;",
}


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, dict[str, str]]]:
    """Run one server with an nginx in front, which has an address for each way to set it up."""
    trusting = {"SERVER__TRUSTED_PROXIES": "127.0.0.1", "TUS__CORS_ORIGINS": _ORIGIN}
    with (
        ServerProcess(tmp_path_factory.mktemp("doctor"), environment=trusting) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        ports = {name: free_port_pair() for name in _SETTINGS}
        prefix = tmp_path_factory.mktemp("nginx")
        certificate, _key = make_certificate(prefix)
        # The doctor trusts whom the system does.
        patch.setenv("SSL_CERT_FILE", str(certificate))
        hosts = "".join(
            _HOST.format(
                port=ports[name],
                listen="ssl http2" if name.startswith("https") else "",
                server_port=server.port,
                settings=settings,
            )
            for name, settings in _SETTINGS.items()
        )
        (prefix / "nginx.conf").write_text(_MAIN.format(hosts=hosts), "utf-8")
        command = [str(require_program("nginx")), "-p", str(prefix), "-e", "error.log", "-c", "nginx.conf"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as nginx:
            try:
                deadline = time.monotonic() + 10
                while not (prefix / "nginx.pid").exists() and time.monotonic() < deadline:
                    time.sleep(0.02)
                yield (
                    server,
                    {
                        name: f"{name.partition(',')[0] if ',' in name else 'http'}://127.0.0.1:{port}"
                        for name, port in ports.items()
                    },
                )
            finally:
                nginx.terminate()


def _checks(server: ServerProcess, *options: str) -> dict[str, dict[str, Any]]:
    """Run the doctor and return what it says, by name; its exit code must agree."""
    done = server.cli("doctor", "--json", "--size", "3MiB", *options, check=False)
    assert b"Traceback" not in done.stderr, done.stderr
    assert done.stdout, done.stderr
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
    server.environment = {"SERVER__PUBLIC_URL": urls["good"], "TUS__CORS_ORIGINS": _ORIGIN}
    checks = _checks(server)
    assert {name for name, check in checks.items() if check["status"] == "problem"} == set()
    done = {"reach", "clock", "public_url", "buffering", "upload", "export", "monitoring", "space", "keys", "cors"}
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
        ("large body", "body size", "client_max_body_size 0"),
        ("host", "public_url", "proxy_set_header Host $http_host; proxy_redirect off"),
        ("origin twice", "cors", "no add_header Access-Control-"),
        ("no origin", "cors", "neither add nor take headers"),
        ("https, scheme", "public_url", "proxy_set_header X-Forwarded-Proto $scheme"),
        ("https, small window", "http2", "client_body_buffer_size 8m; http2_body_preread_size 1m"),
    ],
)
def test_doctor_names_what_a_proxy_does_wrong(
    proxied: tuple[ServerProcess, dict[str, str]], setting: str, check: str, advice: str
) -> None:
    """And what to write in nginx."""
    server, urls = proxied
    server.environment = {"SERVER__PUBLIC_URL": urls[setting], "TUS__CORS_ORIGINS": _ORIGIN}
    checks = _checks(server)
    assert check in checks, checks
    assert advice in checks[check]["advice"], checks


def test_doctor_is_content_with_a_good_proxy_by_tls(proxied: tuple[ServerProcess, dict[str, str]]) -> None:
    """The window is that of the whole upload, not only what it begins with; a page of no other origin may send."""
    server, urls = proxied
    server.environment = {"SERVER__PUBLIC_URL": urls["https, good"]}
    checks = _checks(server)
    assert [check for check in checks.values() if check["status"] == "problem"] == []
    assert checks["http2"]["status"] == "ok"
    assert "cors" not in checks
    server.environment = {"SERVER__PUBLIC_URL": urls["origin twice"]}
    assert "a proxy lets pages of other sites in" in _checks(server)["cors"]["detail"]


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


@pytest.mark.timeout(180)
def test_doctor_names_what_is_wrong_with_clock_files_and_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server two hours ahead with few open files, a renamed root identity, a file of somebody else's, a lost key."""
    server = ServerProcess(tmp_path)
    prlimit, faketime = require_program("prlimit"), require_program("faketime")
    server.prefix = [str(prlimit), "--nofile=300:300", str(faketime), "-f", "+2h"]
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    monkeypatch.setenv("NO_FAKE_STAT", "1")
    with server:
        (server.data / "root-identity.txt").rename(server.data / "secrets" / "old.txt")
        foreign = server.data / "store" / "uploads" / "left-by-somebody"
        foreign.touch()
        if os.geteuid() == 0:
            os.chown(foreign, 65534, 65534)
        checks = _checks(server)
        assert "are 7" in checks["clock"]["detail"]
        assert "a server ran at" in checks["time"]["detail"]
        assert "the system lets a process have 300" in checks["descriptors"]["detail"]
        assert "secrets/old.txt is still on this machine" in checks["root identity"]["detail"]
        if os.geteuid() == 0:
            assert f"such as {foreign}" in checks["owner"]["detail"]
            assert checks["owner"]["advice"] == f"as root: chown -R root {server.data / 'store'}"
    (server.data / "secrets" / "code-key").rename(tmp_path / "lost")
    checks = _checks(server)
    assert "so `serve` does not start" in checks["keys"]["detail"]
    assert checks["keys"]["status"] == "problem"
    (tmp_path / "lost").rename(server.data / "secrets" / "code-key")
    (server.data / "secrets" / "code-key").chmod(0o644)
    assert "0644" in _checks(server)["keys"]["detail"]
    (server.data / "secrets" / "code-key").chmod(0o600)
    (server.data / "catalog.sqlite3").rename(tmp_path / "lost")
    assert _problems(server)["database"].startswith("start or migrate it")


@pytest.mark.timeout(180)
def test_doctor_reaches_mail_and_sites_only_when_asked_and_sends_nothing(tmp_path: Path) -> None:
    """A wrong password, a site that is gone, an address that is not allowed; then all is well."""
    certificate = make_certificate(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("a secret that is long enough")
    secret.chmod(0o600)
    server = ServerProcess(tmp_path)
    with MailServer(certificate) as mail, HookServer() as site:
        settings = {
            "MAIL__SERVER": f"localhost:{mail.port}",
            "MAIL__CA_FILE": str(certificate[0]),
            "MAIL__USERNAME": USER,
            "MAIL__PASSWORD": str(secret),
            "MAIL__SENDER": "drop@example.org",
            "WEBHOOK__URL": f"http://127.0.0.1:{free_port_pair()}/",
            "WEBHOOK__SECRET": str(secret),
            "WEBHOOK__ALLOW_PRIVATE_ADDRESSES": "127.0.0.1",
            "PRE_CREATE__WEBHOOK": f"http://localhost:{site.port}/",
            "PRE_CREATE__ALLOW_PRIVATE_ADDRESSES": "192.0.2.1",
        }
        server.environment = settings
        assert not {"mail", "webhook", "pre_create"} & _checks(server).keys()
        assert mail.greeted_by == []
        checks = _checks(server, "--outside")
        assert "refuses user or password (535)" in checks["mail"]["detail"]
        assert "cannot connect" in checks["webhook"]["detail"]
        assert "every creation is refused" in checks["pre_create"]["detail"]
        assert "allow_private_addresses" in checks["pre_create"]["detail"]
        secret.write_text(PASSWORD)
        allowed = {"PRE_CREATE__ALLOW_PRIVATE_ADDRESSES": "127.0.0.1,::1", "WEBHOOK__URL": site.url}
        server.environment = settings | allowed
        checks = _checks(server, "--outside")
        assert [checks[name]["status"] for name in ("mail", "webhook", "pre_create")] == ["ok"] * 3
        assert (mail.taken, site.received) == ([], [])
