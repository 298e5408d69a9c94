"""Kill the real process in the middle of uploads: nothing acknowledged is ever lost."""

import hashlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.server_process import free_port_pair

ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 30


def _program(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "server.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _answer(*arguments: str) -> str:
    process = _program(*arguments)
    output, _ = process.communicate(timeout=_START_SECONDS)
    assert process.returncode == 0, arguments
    return output


class _Server:
    """The real server, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.listen = f"127.0.0.1:{free_port_pair()}"
        made = json.loads(_answer("init", "--dir", str(folder / "data"), "--listen", self.listen, "--json"))
        self.config, self.drop = made["config"], made["drop"]
        self.identity = folder / "data" / "root-identity.txt"
        self.process: subprocess.Popen[str] | None = None

    def start(self, environment: dict[str, str] | None = None) -> None:
        self.process = _program("serve", "--config", self.config, environment=environment)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("ready "), "the server did not start"

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.communicate()
            self.process = None

    def request(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> http.client.HTTPResponse:
        host, _, port = self.listen.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request(method, path, body, {"Tus-Resumable": "1.0.0", **headers})
        response = connection.getresponse()
        response.read()
        connection.close()
        return response

    def create(self, length: int) -> str:
        path = urlsplit(self.drop["upload_url"]).path
        headers = {"Dropoff-Code": self.drop["code"], "Upload-Length": str(length)}
        response = self.request("POST", path, headers)
        assert response.status == 201
        return urlsplit(response.headers["Location"]).path

    def head(self, path: str) -> int:
        deadline = time.monotonic() + 10
        while True:
            response = self.request("HEAD", path, {})
            if response.status == 200:
                return int(response.headers["Upload-Offset"])
            assert response.status == 423, response.status
            assert time.monotonic() < deadline, "still locked"
            time.sleep(0.1)

    def send_part(self, path: str, offset: int, data: bytes, sent: int) -> None:
        """Begin a PATCH of all data, and stop after `sent` bytes of it."""
        host, _, port = self.listen.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            head = (
                f"PATCH {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: {offset}\r\n"
                f"Content-Type: application/offset+octet-stream\r\nContent-Length: {len(data)}\r\n\r\n"
            )
            connection.sendall(head.encode() + data[:sent])
            time.sleep(random.uniform(0, 0.05))
            self.kill()

    def patch(self, path: str, offset: int, data: bytes) -> int:
        headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        response = self.request("PATCH", path, headers, data)
        assert response.status == 204, response.status
        return int(response.headers["Upload-Offset"])

    def export(self, path: str, folder: Path) -> bytes:
        output = folder / "out.bin"
        _answer("upload", "export", path, "--output", str(output), "--force", "--config", self.config)
        return output.read_bytes()


def _round(server: _Server, folder: Path, chance: random.Random) -> None:
    """One upload with three kills, anywhere."""
    data = chance.randbytes(chance.choice([1, 70_000, 300_000, 3_000_000]))
    path = server.create(len(data))
    acknowledged = 0
    for _ in range(3):
        if len(data) - acknowledged > 1 and chance.random() < 0.7:
            step = chance.randrange(1, len(data) - acknowledged)
            acknowledged = server.patch(path, acknowledged, data[acknowledged : acknowledged + step])
        rest = data[acknowledged:]
        server.send_part(path, acknowledged, rest, chance.randrange(len(rest) + 1) if rest else 0)
        server.start()
        response = server.request("HEAD", path, {})
        if response.status == 404:
            # Nothing of it had been acknowledged but its creation, which needs no sync before a crash of the machine;
            # a killed process alone must not lose it.
            pytest.fail("an upload vanished")
        offset = server.head(path)
        assert offset >= acknowledged
        acknowledged = offset
        if acknowledged == len(data):
            break
    if acknowledged < len(data):
        acknowledged = server.patch(path, acknowledged, data[acknowledged:])
    assert acknowledged == len(data)
    exported = server.export(path, folder)
    assert hashlib.sha256(exported).digest() == hashlib.sha256(data).digest()


@pytest.mark.timeout(120)
def test_kill_at_random_bytes_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """After every kill HEAD is not below what was acknowledged, and the export is what was sent."""
    chance = random.Random(7)
    server = _Server(tmp_path)
    server.start()
    try:
        for _ in range(2):
            _round(server, tmp_path, chance)
    finally:
        server.kill()
    _answer("store", "check", "--config", server.config)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kill_at_random_bytes_a_hundred_rounds(tmp_path: Path) -> None:
    """The same, a hundred times."""
    chance = random.Random()
    server = _Server(tmp_path)
    server.start()
    try:
        for _ in range(100):
            _round(server, tmp_path, chance)
    finally:
        server.kill()
    _answer("store", "check", "--config", server.config)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", ["before-data-sync", "after-data-sync", "after-log-write", "after-log-sync"])
def test_kill_at_a_step_of_the_commit_is_recovered(tmp_path: Path, point: str) -> None:
    """Whatever step of a commit the process dies at, the upload resumes and ends whole."""
    server = _Server(tmp_path)
    server.start({"DROPOFF_TUS_FAILPOINT": f"{point}:1"})
    try:
        data = os.urandom(200_000)
        path = server.create(len(data))
        with pytest.raises((http.client.HTTPException, OSError)):
            server.patch(path, 0, data[:150_000])
        server.kill()
        server.start()
        offset = server.head(path)
        assert offset in {0, 150_000}
        server.patch(path, offset, data[offset:])
        assert server.export(path, tmp_path) == data
    finally:
        server.kill()
    _answer("store", "check", "--config", server.config)
