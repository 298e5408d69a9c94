"""How uploads fare beside a crowd that takes all that strangers can take.

    python -m tests.bench.crowd [--seconds N] [--idle N] [--half N] [--readers N] [--writers N]

The server runs as it is shipped, with a soft limit of 1024 descriptors. The crowd comes from 20 addresses of this
machine: silent connections, half-sent heads, clients that ask and do not read, and clients that send one byte a second
to uploads of their own. So many a second of those that the server closes come back. Beside them others upload, and
`/healthz` is asked all the time; then the server is stopped, started again, and asked for what it had acknowledged.
"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import random
import resource
import selectors
import socket
import tempfile
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

from tests.bench.processes import cpu, memory
from tests.support.server_process import ServerProcess
from tests.support.tus_raw import RawConnection, TusSite

_SOFT_LIMIT = 1024
_ADDRESSES = [f"127.0.0.{number}" for number in range(2, 22)]
_RETURNING = 100
_UPLOADERS = 4
_PATCH_BYTES = 8 << 20
_LENGTH = 64 << 20
_SLOW_LENGTH = 1 << 20
_ASKED = b"GET /d/x HTTP/1.1\r\nHost: a\r\n\r\n" * 1000
_GET_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@dataclass
class _Uploads:
    """Others, who upload as fast as they can; `acknowledged` has how far each URL had come for certain."""

    site: TusSite
    acknowledged: dict[str, int] = field(default_factory=dict)
    sent_bytes: int = 0
    failed: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, server: ServerProcess, seconds: float) -> tuple[float, float]:
        """Upload for a while; returns MiB a second, and the server's processor time for each of them in ms."""
        self.sent_bytes, self.stop = 0, threading.Event()
        began, used = time.monotonic(), _cpu_seconds(server.pid)
        threads = [threading.Thread(target=self._one) for _ in range(_UPLOADERS)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.stop.set()
        for thread in threads:
            thread.join()
        sent = self.sent_bytes / (1 << 20)
        return sent / (time.monotonic() - began), (_cpu_seconds(server.pid) - used) / max(sent, 1) * 1000

    def _one(self) -> None:
        content, url = os.urandom(_PATCH_BYTES), ""
        while not self.stop.is_set():
            try:
                if not url or self.acknowledged[url] == _LENGTH:
                    url = self.site.create(_LENGTH)
                    self.acknowledged[url] = 0
                self.acknowledged[url] = self.site.patch(url, self.acknowledged[url], content).offset
                self.sent_bytes += _PATCH_BYTES
            except (OSError, ValueError):
                self.failed += 1
                url = ""


class _Crowd:
    """Connections that are held; the bytes that each sends once, and whether it goes on with a byte a second."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._addresses = itertools.cycle(_ADDRESSES)
        self._gone: list[tuple[bytes, bool]] = []
        self._trickling: set[socket.socket] = set()
        self.refused = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def __len__(self) -> int:
        return len(self._selector.get_map())

    def come(self, sent: bytes, *, trickles: bool = False) -> None:
        """Connect, from one address after the other."""
        connected = socket.socket()
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connected.settimeout(5)
        try:
            connected.bind((next(self._addresses), 0))
            connected.connect(("127.0.0.1", self._port))
            connected.setblocking(False)
            connected.send(sent)
        except OSError:
            connected.close()
            self.refused += 1
            self._gone.append((sent, trickles))
            return
        # Of clients that do not read only the end is waited for.
        reads = selectors.EVENT_READ if sent is not _ASKED else 0
        self._selector.register(connected, reads or selectors.EVENT_WRITE, (sent, trickles))
        if trickles:
            self._trickling.add(connected)

    def look(self) -> None:
        """Notice who was closed; let some of them come back, and a byte trickle from each that sends."""
        for key, _ in self._selector.select(0):
            connected = key.fileobj
            assert isinstance(connected, socket.socket)
            try:
                ended = not connected.recv(4096, 0 if key.data[0] is not _ASKED else socket.MSG_PEEK)
            except BlockingIOError:
                ended = False
            except OSError:
                ended = True
            if ended:
                self._selector.unregister(connected)
                self._trickling.discard(connected)
                connected.close()
                self._gone.append(key.data)
        for connected in self._trickling:
            with contextlib.suppress(OSError):
                connected.send(b"x")
        returning, self._gone = self._gone[:_RETURNING], self._gone[_RETURNING:]
        for sent, trickles in returning:
            self.come(sent, trickles=trickles)


def _cpu_seconds(pid: int) -> float:
    used = cpu([pid])
    return used.user_seconds + used.system_seconds


def _costs(server: ServerProcess, crowd: int, seconds: float) -> tuple[float, float]:
    """Return how many processors the server and the crowd take while nobody uploads."""
    before = [_cpu_seconds(pid) for pid in (server.pid, crowd)]
    time.sleep(seconds)
    after = [_cpu_seconds(pid) for pid in (server.pid, crowd)]
    return (after[0] - before[0]) / seconds, (after[1] - before[1]) / seconds


def _hold(port: int, sent: list[tuple[bytes, bool]], pipe: "Connection[tuple[float, int, int], None]") -> None:
    """Be the crowd, in a process of its own, until the other end of the pipe is closed; tell how it went."""
    with _Crowd(port) as crowd:
        began = time.monotonic()
        for item, trickles in sent:
            crowd.come(item, trickles=trickles)
        pipe.send((time.monotonic() - began, len(crowd), crowd.refused))
        while not pipe.poll(1):
            crowd.look()


def _health(port: int) -> float:
    began = time.monotonic()
    with RawConnection("127.0.0.1", port, timeout_seconds=20) as connection:
        connection.send(_GET_HEALTH)
        connection.read_response()
    return time.monotonic() - began


@dataclass(frozen=True, slots=True)
class _Seen:
    """The figures of uploads and `/healthz` for a while."""

    speed: float
    cpu_ms: float
    health_seconds: list[float]
    most_bytes: int

    def __str__(self) -> str:
        """Say it in a line."""
        middle, most = sorted(self.health_seconds)[len(self.health_seconds) // 2], max(self.health_seconds)
        return (
            f"{self.speed:.0f} MiB/s, {self.cpu_ms:.1f} ms of CPU a MiB; {self.most_bytes >> 20} MiB at most; "
            f"/healthz {middle * 1e3:.0f} ms, at most {most * 1e3:.0f}"
        )


def _watch(server: ServerProcess, uploads: _Uploads, seconds: float) -> _Seen:
    """Upload for a while, and ask `/healthz` meanwhile."""
    health: list[float] = []
    came: list[tuple[float, float]] = []
    most_bytes = 0
    uploading = threading.Thread(target=lambda: came.append(uploads.run(server, seconds)))
    uploading.start()
    while uploading.is_alive():
        health.append(_health(server.port + 1))
        most_bytes = max(most_bytes, memory([server.pid])[1])
        time.sleep(0.05)
    speed, cpu_ms = came[0]
    return _Seen(speed, cpu_ms, health, most_bytes)


def _writers(site: TusSite, count: int) -> dict[str, bytes]:
    """Make uploads, and return what begins a PATCH of each."""
    urls = [site.create(_SLOW_LENGTH) for _ in range(count)]
    head = {"Content-Length": str(_SLOW_LENGTH)}
    return {url: site.message("PATCH", url, site.patch_headers(0, head)) for url in urls}


def main(options: argparse.Namespace) -> None:
    """Measure, and print what came out beside what is wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with tempfile.TemporaryDirectory(prefix="crowd-", dir=os.environ.get("DROPOFF_TUS_BENCH_DIR")) as folder:
        server = ServerProcess(Path(folder), forked=False)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_SOFT_LIMIT, hard), hard))
        server.start()
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        try:
            _measure(server, options)
        finally:
            server.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _measure(server: ServerProcess, options: argparse.Namespace) -> None:
    uploads = _Uploads(server.drop.site)
    uploads.run(server, 2)
    before = _watch(server, uploads, options.seconds)
    writers = _writers(server.drop.site, options.writers)
    sent = [(b"", False)] * options.idle + [(b"GET / HT", False)] * options.half + [(_ASKED, False)] * options.readers
    sent += [(begun, True) for begun in writers.values()]
    random.shuffle(sent)
    pipe, theirs = multiprocessing.get_context("spawn").Pipe()
    crowd = multiprocessing.get_context("spawn").Process(target=_hold, args=(server.port, sent, theirs), daemon=True)
    crowd.start()
    came_seconds, came, refused = pipe.recv()
    print(f"the crowd came in {came_seconds:.1f} s: {came} connected, {refused} not")
    costs = _costs(server, crowd.pid or 0, options.seconds / 2)
    print(f"it costs the server {costs[0]:.2f} CPUs, and is itself {costs[1]:.2f}, of {os.cpu_count()}")
    beside = _watch(server, uploads, options.seconds)
    began = time.monotonic()
    server.terminate()
    code = server.wait(timeout_seconds=60)
    stopped = time.monotonic() - began
    pipe.send(None)
    crowd.join(10)
    server.start()
    lost = [url for url, offset in uploads.acknowledged.items() if server.drop.site.head(url).offset < offset]
    unread = [url for url in writers if server.drop.site.head(url).status != 200]
    after = _watch(server, uploads, options.seconds)
    for when, seen in (("before", before), ("beside", beside), ("after", after)):
        print(f"{when} the crowd: {seen}")
    ratio = 2 * beside.speed / (before.speed + after.speed)
    print(f"uploads beside it have {ratio:.2f} of their speed (wanted: 0.80); {uploads.failed} requests failed")
    print("  (wanted: 400 MiB, 100 ms)")
    print(f"SIGTERM: {stopped:.1f} s, exit code {code} (wanted: 15)")
    print(f"acknowledged and lost: {len(lost)} of {len(uploads.acknowledged)} uploads (wanted: 0)")
    print(f"slow uploads that are not there: {len(unread)} of {len(writers)} (wanted: 0)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="how long each measurement takes")
    for kind, default in (("idle", 10_000), ("half", 1000), ("readers", 150), ("writers", 150)):
        parser.add_argument(f"--{kind}", type=int, default=default)
    main(parser.parse_args())
