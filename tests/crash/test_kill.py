"""Kill the real process in the middle of uploads: nothing acknowledged is ever lost.

Long runs: `DROPOFF_TUS_KILLS` is how many random kills there are, `DROPOFF_TUS_CRASH_SEED` repeats them, and
`DROPOFF_TUS_BYTE_STEP` is the distance of the bytes after which a small upload's server dies.
"""

import contextlib
import hashlib
import http.client
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.server_process import ProgramError, ServerProcess
from tests.support.warm import DIE_AT_BYTE


class _Server(ServerProcess):
    """The real server, killed and started again."""

    kills = 0
    dies_at_byte = 0

    def kill(self) -> None:
        """End it, if it has not ended by itself."""
        if self.is_running:
            self.kill9()
        self.kills += 1

    def start_to_die(self, byte: int) -> None:
        """Start a server that dies after a written byte, perhaps while it starts."""
        self.dies_at_byte = byte
        with contextlib.suppress(ProgramError):
            self.start()
        self.dies_at_byte = 0

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), **({DIE_AT_BYTE: str(self.dies_at_byte)} if self.dies_at_byte else {})}

    def request(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, body, {"Tus-Resumable": "1.0.0", **headers})
        response = connection.getresponse()
        response.read()
        connection.close()
        return response

    def create(self, length: int) -> str:
        path = urlsplit(self.drop.upload_url).path
        headers = {**self.drop.headers, "Upload-Length": str(length)}
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
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
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


def _round(server: _Server, chance: random.Random) -> None:
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
            # only a killed process must not lose it.
            pytest.fail("an upload vanished")
        offset = server.head(path)
        assert offset >= acknowledged
        acknowledged = offset
        if acknowledged == len(data):
            break
    if acknowledged < len(data):
        acknowledged = server.patch(path, acknowledged, data[acknowledged:])
    assert acknowledged == len(data)
    exported = server.export(path)
    assert hashlib.sha256(exported).digest() == hashlib.sha256(data).digest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[_Server]:
    """Make a server; whatever a test leaves must pass the store's check."""
    made = _Server(tmp_path)
    yield made
    made.kill()
    made.cli("store", "check")


@pytest.mark.timeout(120)
def test_kill_at_random_bytes_loses_nothing_acknowledged(server: _Server) -> None:
    """After every kill HEAD is not below what was acknowledged, and the export is what was sent."""
    chance = random.Random(7)
    server.start()
    for _ in range(2):
        _round(server, chance)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_kill_at_random_bytes_many_rounds(server: _Server) -> None:
    """The same, as often and from the seed that the environment says."""
    wanted = int(os.environ.get("DROPOFF_TUS_KILLS", "300"))
    seed = os.environ.get("DROPOFF_TUS_CRASH_SEED") or str(time.time_ns())
    print(f"seed {seed}")  # noqa: T201 - repeats the run
    chance = random.Random(seed)
    server.start()
    while server.kills < wanted:
        _round(server, chance)
        print(f"{server.kills} kills", flush=True)  # noqa: T201 - the figure a long run is for


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", ["before-data-sync", "after-data-sync", "after-log-write", "after-log-sync"])
def test_kill_at_a_step_of_the_commit_is_recovered(server: _Server, point: str) -> None:
    """After a death at any step of a commit, the upload resumes and ends whole."""
    server.start(failpoint=f"{point}:1")
    data = os.urandom(200_000)
    path = server.create(len(data))
    with pytest.raises((http.client.HTTPException, OSError)):
        server.patch(path, 0, data[:150_000])
    server.kill()
    server.start()
    offset = server.head(path)
    assert offset in {0, 150_000}
    server.patch(path, offset, data[offset:])
    assert server.export(path) == data


_SMALL = bytes(range(100))


def _die_at_byte(server: _Server, number: int) -> bool:
    """Send a small upload to a server that dies after a written byte; tell whether it lived to the end."""
    server.start_to_die(number)
    path, acknowledged = "", 0
    try:
        path = server.create(len(_SMALL))
        acknowledged = server.patch(path, 0, _SMALL[:60])
        acknowledged = server.patch(path, 60, _SMALL[60:])
    except (http.client.HTTPException, OSError):
        pass
    lived = acknowledged == len(_SMALL)
    server.kill()
    server.start()
    if path:
        offset = server.head(path)
        assert offset >= acknowledged, f"byte {number}: {offset} of {acknowledged}"
        if offset < len(_SMALL):
            assert server.patch(path, offset, _SMALL[offset:]) == len(_SMALL)
        assert server.export(path) == _SMALL, f"byte {number}"
    else:
        # Its creation died with it: the next one works.
        server.create(1)
    server.kill()
    return lived


@pytest.mark.timeout(180)
def test_kill_after_a_written_byte_is_recovered(server: _Server) -> None:
    """In the middle of an envelope, the create record, a segment, a log line and a receipt."""
    for number in (100, 2500, 6200, 6900, 7400):
        _die_at_byte(server, number)


@pytest.mark.slow
@pytest.mark.timeout(36000)
def test_kill_after_every_written_byte_is_recovered(server: _Server) -> None:
    """At each byte that a small upload writes, in steps of what the environment says."""
    step, number = int(os.environ.get("DROPOFF_TUS_BYTE_STEP", "1")), 1
    while not _die_at_byte(server, number):
        number += step
        print(f"byte {number}, {server.kills} kills", flush=True)  # noqa: T201 - the figure a long run is for
